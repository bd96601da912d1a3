"""What LeRobot keeps beside the weights of its pi0 and pi05: config.json, and the processors with the statistics.

LeRobot 0.6.1 normalises by the same numbers as openpi with other epsilons (none beside the width of the quantiles, 1e-8
beside a deviation; openpi: 1e-6 beside both), so what it computes differs where a dimension hardly moves. Its
processors hold float32. `assets/ASSET_ID/norm_stats.json` is written beside them with all digits, and both must agree.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xp import atomic
from xp.checkpoints.safetensors import open_safetensors, write_arrays
from xp.errors import UserError
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import member
from xp.foreign.statistics import checked_statistics
from xp.json_types import JSON, JSONObject
from xp.models.pi0.cameras import SLOTS
from xp.models.pi0.io.norm_stats import ASSETS, NormStats, Stats, chosen_statistics
from xp.models.pi0.io.notes import Notes
from xp.models.pi0.network.sizes import EXPERTS, Sizes

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
_WHAT = "a policy's processor"
_TOKENIZER = "google/paligemma-3b-pt-224"
"""The name by which LeRobot loads PaliGemma's tokeniser."""
_NUMBERS = ("mean", "std", "q01", "q99")


def foreign_notes(config: Fields) -> Notes:
    """Notes of a policy that LeRobot trained, from its configuration; its loss counts the robot's dimensions alone.

    Raises:
        UserError: more image inputs than a pi0 has, or a field of another form.
    """
    features = dict(config.object("input_features").objects())
    pictures = {key: feature for key, feature in features.items() if feature.text("type", most=64) == "VISUAL"}
    if len(pictures) > len(SLOTS):
        raise config.refusal("input_features", f"at most {len(SLOTS)} pictures")
    slots = dict(zip(SLOTS, pictures))
    action_dim = config.object("output_features").object(ACTION).shape("shape", low=1)[0]
    names, excluded = _texts(config, "action_feature_names"), _texts(config, "relative_exclude_joints")
    absolute = tuple(i for i, name in enumerate(names) if any(part.lower() in name.lower() for part in excluded))
    return Notes(
        horizon=config.integer("chunk_size", low=1, high=65_536),
        action_dim=action_dim,
        state_dim=features[STATE].shape("shape", low=1)[0] if STATE in features else 0,
        cameras={slot: key.removeprefix(IMAGES) for slot, key in slots.items()},
        sizes={slot: _pixels(pictures[key]) for slot, key in slots.items()},
        asset_id="xp",
        tokenizer=None,
        prompt_length=config.integer("tokenizer_max_length", low=1, high=4096),
        sample_steps=config.integer("num_inference_steps", low=1, high=1000),
        count_filled_dims=False,
        absolute=absolute if config.flag("use_relative_actions", False) else None,
    )


def _texts(config: Fields, name: str) -> list[str]:
    found = config.content.get(name)
    return [str(text) for text in found] if isinstance(found, list) else []


def _pixels(feature: Fields) -> tuple[int, int]:
    shape = feature.shape("shape", low=1, most_elements=100_000_000)
    if len(shape) != 3:
        raise feature.refusal("shape", "[channels, height, width]")
    return shape[1], shape[2]


def statistics(folder: Path, asset_id: str | None) -> tuple[NormStats, str]:
    """The statistics of a LeRobot folder, with all their digits where `assets` has them, and the asset's id.

    Raises:
        UserError: none, or processors and `assets` that do not agree.
    """
    own = _from_processor(folder)
    if not (folder / ASSETS).is_dir():
        return own, asset_id or "xp"
    exact, asset = chosen_statistics(folder, asset_id)
    for name in ("state", "actions"):
        for number in _NUMBERS:
            kept, said = (getattr(getattr(each, name), number) for each in (own, exact))
            if kept is not None and (said is None or not np.array_equal(kept, said.astype(np.float32))):
                raise UserError(
                    f"{folder} has two statistics of '{name}' that differ in {number}: those of {PREPROCESSOR}.json "
                    f"and those below {ASSETS}/{asset}. One of them was changed: remove the folder {ASSETS} where the "
                    "processors are right, or convert the checkpoint again."
                )
    return exact, asset


def _from_processor(folder: Path) -> NormStats:
    processor = read_fields(member(folder, f"{PREPROCESSOR}.json", _WHAT), _WHAT)
    for step in processor.list_of_objects("steps", most=100):
        if step.content.get("registry_name") == "normalizer_processor" and "state_file" in step:
            file = step.text("state_file", pattern=r"[\w.-]+\.safetensors")
            arrays = open_safetensors((member(folder, file, "a processor's state"),)).load()
            return NormStats(state=_stats(arrays, STATE, folder), actions=_stats(arrays, ACTION, folder))
    raise UserError(
        f"{folder / PREPROCESSOR}.json has no normalizer_processor with statistics, and without them the policy's "
        "actions mean nothing. Copy the processors again from where the policy was trained."
    )


def _stats(arrays: Mapping[str, np.ndarray], feature: str, folder: Path) -> Stats:
    found = {name: arrays[f"{feature}.{name}"] for name in _NUMBERS if f"{feature}.{name}" in arrays}
    if not {"mean", "std"} <= found.keys():
        raise UserError(f"The processors in {folder} have no mean and std of '{feature}'. Copy them again.")
    checked_statistics({name: array.tolist() for name, array in found.items()}, f"of '{feature}' in {folder}")
    return Stats(**{name: np.asarray(array, np.float64) for name, array in found.items()})


def write(folder: Path, sizes: Sizes, stats: NormStats, notes: Notes, precision: str) -> None:
    """Write config.json and both processors, as LeRobot's `save_pretrained` does; the caller makes the folder."""
    names = {value: name for name, value in EXPERTS.items()}
    modes = {"VISUAL": "IDENTITY"} | dict.fromkeys(("STATE", "ACTION"), "QUANTILES" if sizes.is_pi05 else "MEAN_STD")
    seen: dict[str, JSON] = {
        f"{IMAGES}{camera}": {"type": "VISUAL", "shape": [3, *notes.sizes[slot]]} for slot, camera in notes.fed.items()
    }
    seen[STATE] = {"type": "STATE", "shape": [stats.state.width]}
    done: dict[str, JSON] = {ACTION: {"type": "ACTION", "shape": [stats.actions.width]}}
    dims = [f"dim_{number:02d}" for number in range(stats.actions.width)]
    relative: dict[str, JSON] = {
        "enabled": notes.absolute is not None,
        "exclude_joints": [dims[number] for number in notes.absolute or ()],
        "action_names": dims,
    }
    config: dict[str, JSON] = {
        "type": sizes.name,
        "n_obs_steps": 1,
        "input_features": seen,
        "output_features": done,
        "device": "cpu",
        "push_to_hub": False,
        "paligemma_variant": names.get(sizes.language, "custom"),
        "action_expert_variant": names.get(sizes.action, "custom"),
        "dtype": precision,
        "chunk_size": notes.horizon,
        "n_action_steps": notes.horizon,
        "max_state_dim": sizes.action_dim,
        "max_action_dim": sizes.action_dim,
        "num_inference_steps": notes.sample_steps,
        "use_relative_actions": relative["enabled"],
        "relative_exclude_joints": relative["exclude_joints"],
        "action_feature_names": dims,
        "image_resolution": [sizes.vision.side, sizes.vision.side],
        "tokenizer_max_length": notes.prompt_length,
        "normalization_mapping": modes,
    }
    atomic.write_json(folder / "config.json", config, durable=False)
    state = _state(stats)
    for name, steps in (
        (PREPROCESSOR, _before(sizes, notes, {**seen, **done}, modes, relative)),
        (POSTPROCESSOR, _after(done, modes, bool(relative["enabled"]))),
    ):
        _write_processor(folder, name, steps, state)


def _state(stats: NormStats) -> dict[str, np.ndarray]:
    """The state of a normalising step, as LeRobot names it."""
    found: dict[str, np.ndarray] = {}
    for feature, each in ((ACTION, stats.actions), (STATE, stats.state)):
        numbers = {name: getattr(each, name) for name in _NUMBERS}
        found |= {f"{feature}.{name}": value.astype(np.float32) for name, value in numbers.items() if value is not None}
    return found


def _before(
    sizes: Sizes, notes: Notes, features: JSONObject, modes: Mapping[str, str], relative: JSONObject
) -> list[tuple[str, JSONObject]]:
    normal = ("normalizer_processor", {"eps": 1e-8, "features": features, "norm_map": dict(modes)})
    tokens = ("tokenizer_processor", {
        "max_length": notes.prompt_length, "task_key": "task", "padding_side": "right", "padding": "max_length",
        "truncation": True, "tokenizer_name": _TOKENIZER,
    })  # fmt: skip
    front: list[tuple[str, JSONObject]] = [
        ("rename_observations_processor", {"rename_map": {}}),
        ("to_batch_processor", {}),
    ]
    changed = ("relative_actions_processor", relative)
    device = ("device_processor", {"device": "cpu", "float_dtype": None})
    if sizes.is_pi05:
        text = ("pi05_prepare_state_tokenizer_processor_step", {})
        return [*front, changed, normal, text, tokens, device]
    return [*front, ("pi0_new_line_processor", {}), tokens, device, changed, normal]


def _after(done: JSONObject, modes: Mapping[str, str], is_relative: bool) -> list[tuple[str, JSONObject]]:
    return [
        ("unnormalizer_processor", {"eps": 1e-8, "features": done, "norm_map": dict(modes)}),
        ("absolute_actions_processor", {"enabled": is_relative}),
        ("device_processor", {"device": "cpu", "float_dtype": None}),
    ]


def _write_processor(
    folder: Path, name: str, steps: list[tuple[str, JSONObject]], state: Mapping[str, np.ndarray]
) -> None:
    listed: list[JSON] = []
    for number, (step, config) in enumerate(steps):
        entry: dict[str, JSON] = {"registry_name": step, "config": config}
        if step.endswith("normalizer_processor"):
            entry["state_file"] = f"{name}_step_{number}_{step}.safetensors"
            write_arrays(folder / str(entry["state_file"]), state)
        listed.append(entry)
    atomic.write_json(folder / f"{name}.json", {"name": name, "steps": listed}, durable=False)
