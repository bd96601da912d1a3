"""Reads what stands beside a LeRobot policy's weights: its configuration, and xp's notes. Imports nothing heavy."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xp.checkpoints.peft_adapter import is_adapter
from xp.foreign.json_file import Fields, read_fields, read_object
from xp.foreign.paths import RefusedError, member
from xp.json_types import JSON, JSONObject

CONFIG, WEIGHTS, XP = "config.json", "model.safetensors", "xp.json"
"""LeRobot's configuration and weights, and xp's own notes, which LeRobot passes over."""
ACT_SMOOTH = "act_smooth.json"
"""What the plugin of act_smooth keeps beside config.json."""
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
_IMAGES = "observation.images."
_WHAT = "the configuration of a LeRobot policy"


@dataclass(frozen=True)
class Sidecar:
    """A policy's configuration as written, and what xp noted when it trained it.

    `images` maps each image input to (height, width, channels); `cameras` maps it to the dataset camera that fed it.
    """

    folder: Path
    config: JSONObject
    images: Mapping[str, tuple[int, int, int]]
    cameras: Mapping[str, str] = field(default_factory=dict)
    fps: float | None = None
    members: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of a mixture's policy: {dataset: {camera of the mixture: the dataset's own}}."""
    widths: tuple[int, int] | None = None
    """Dimensions of action and state in use, where one of its datasets was chosen."""

    @property
    def policy_type(self) -> str:
        """The name that the policy's configuration is registered under."""
        return str(self.config["type"])


def names_policy_type(folder: Path) -> bool:
    """Whether a folder holds weights beside a configuration that names a policy type, as a `pretrained_model` does.

    A configuration that cannot be read beside such weights counts as one, so that reading it says what is wrong. An
    adapter's folder is none, whatever stands beside it.
    """
    if is_adapter(folder) or not os.path.lexists(folder / WEIGHTS) or not os.path.lexists(folder / CONFIG):
        return False
    try:
        return "type" in read_object(folder / CONFIG, _WHAT)
    except RefusedError:
        return True


def read_sidecar(folder: Path) -> Sidecar:
    """Read the configuration of a `pretrained_model` folder, and xp's notes where it has any.

    Raises:
        RefusedError: the files are missing or damaged, or a feature or note is not what it should be.
    """
    config = read_fields(member(folder, CONFIG, _WHAT), _WHAT)
    config.text("type", most=256)
    images = {}
    for key, feature in config.object("input_features", Fields({}, config.source)).objects():
        if feature.text("type", most=64) == "VISUAL":
            images[key] = _pixels(feature)
    notes = Fields({}, "")
    if os.path.lexists(folder / XP):
        notes = read_fields(member(folder, XP, "xp's notes on a policy"), "xp's notes on a policy")
    fed = notes.object("cameras", Fields({}, notes.source))
    cameras = {key: fed.text(key) for key in fed.content} or _renamed(folder, images)
    return Sidecar(
        folder,
        _completed(folder, dict(config.content)),
        images,
        cameras,
        notes.number("fps", None, low=1e-3, high=1e6),
        _members(notes),
        _widths(notes),
    )


def _members(notes: Fields) -> dict[str, dict[str, str]]:
    none = Fields({}, notes.source)
    return {
        name: {camera: entry.text(camera) for camera in entry.content}
        for name, entry in notes.object("members", none).objects()
    }


def _widths(notes: Fields) -> tuple[int, int] | None:
    if "widths" not in notes.content:
        return None
    action, state = notes.integers("widths", low=0, high=1 << 20, count=2)
    return action, state


def _completed(folder: Path, config: dict[str, JSON]) -> dict[str, JSON]:
    """A configuration with what its file leaves out: of an act_smooth the mask, and settings of training beside it.

    The first ACT-smooth (the published plugin) has one mask, which is `original` here, and no field for it.
    """
    if config.get("type") != "act_smooth":
        return config
    training = read_act_smooth(folder).object("training", Fields({}, ""))
    training.refuse_others(("obs_dropout_rate", "loss_reduction", "relative_episodes"))
    return {"mask": "original", **config, **training.content}


def read_act_smooth(folder: Path) -> Fields:
    """What the plugin of act_smooth wrote beside config.json; empty where it wrote nothing."""
    if not os.path.lexists(folder / ACT_SMOOTH):
        return Fields({}, str(folder / ACT_SMOOTH))
    return read_fields(member(folder, ACT_SMOOTH, "act_smooth's notes"), "act_smooth's notes")


def _renamed(folder: Path, images: Collection[str]) -> dict[str, str]:
    """{image input: camera} as a preprocessor renames them (`lerobot-train --rename_map`); empty where it does not."""
    if not os.path.lexists(folder / PREPROCESSOR):
        return {}
    processor = read_fields(member(folder, PREPROCESSOR, "a policy's processor"), "a policy's processor")
    named: dict[str, str] = {}
    for step in processor.list_of_objects("steps", most=100):
        if step.content.get("registry_name") == "rename_observations_processor":
            none = Fields({}, step.source)
            names = step.object("config", none).object("rename_map", none)
            named |= {names.text(old): old.removeprefix(_IMAGES) for old in names.content if names.text(old) in images}
    return {key: named.get(key) or key.removeprefix(_IMAGES) for key in images} if named else {}


def _pixels(feature: Fields) -> tuple[int, int, int]:
    shape = feature.shape("shape", low=1, most_elements=100_000_000)
    if len(shape) != 3:
        raise feature.refusal("shape", "[channels, height, width]")
    channels, height, width = shape
    return height, width, channels
