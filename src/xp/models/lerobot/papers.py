"""What stands beside the weights in a LeRobot `pretrained_model` folder, read with the standard library alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xp.errors import UserError

CONFIG, WEIGHTS, XP = "config.json", "model.safetensors", "xp.json"
"""LeRobot's configuration and weights, and xp's own notes, which LeRobot passes over."""
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""PEFT's files: a folder that has one is a base's adapter, whatever stands beside it."""


@dataclass(frozen=True)
class Papers:
    """A policy's configuration as written, and what xp noted when it trained it.

    `images` maps each image input to (height, width, channels); `cameras` maps it to the dataset camera that fed it.
    """

    folder: Path
    config: Mapping[str, Any]
    images: Mapping[str, tuple[int, int, int]]
    cameras: Mapping[str, str] = field(default_factory=dict)
    fps: float | None = None

    @property
    def policy_type(self) -> str:
        """The name that the policy's configuration is registered under."""
        return str(self.config["type"])


def is_lerobot(folder: Path) -> bool:
    """Whether a folder is a LeRobot `pretrained_model`: weights, and a configuration that names a policy type."""
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        return False
    try:
        return "type" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder, or a step of LeRobot's training, that holds a PEFT adapter: its weights are its base's, changed.

    Raises:
        UserError: says how to write them as one policy.
    """
    for place in (folder, folder / "pretrained_model"):
        if any((place / name).exists() for name in ADAPTER):
            raise UserError(
                f"{place} holds a PEFT adapter, which is no policy without the base that it was trained on. Fold it "
                "into that base, and give the outcome: xp task=merge merge_method=interpolate merge_method.alpha=1 "
                f"merge.checkpoints=[{place}] merge.base=BASE merge.output=FOLDER"
            )


def read_papers(folder: Path) -> Papers:
    """Read the configuration of a `pretrained_model` folder, and xp's notes where it has any.

    Raises:
        UserError: the files are missing or damaged.
    """
    config = _json(folder / CONFIG)
    notes = _json(folder / XP) if (folder / XP).is_file() else {}
    features = config.get("input_features") or {}
    images = {key: _pixels(feature) for key, feature in features.items() if feature.get("type") == "VISUAL"}
    return Papers(folder, config, images, notes.get("cameras") or {}, notes.get("fps"))


def _pixels(feature: Mapping[str, Any]) -> tuple[int, int, int]:
    channels, height, width = feature["shape"]
    return int(height), int(width), int(channels)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Copy the folder again: a LeRobot pretrained_model folder holds "
            f"{CONFIG}, {WEIGHTS}, {PREPROCESSOR} and {POSTPROCESSOR}."
        ) from error
    return content
