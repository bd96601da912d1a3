"""Makes, loads and extends the processors around a policy, which normalise its inputs and its actions."""

import importlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Shaped

from xp.errors import UserError
from xp.foreign.statistics import checked_statistics
from xp.foreign.text import printable
from xp.models.lerobot.cameras import PREFIX
from xp.models.lerobot.catalog import missing_package
from xp.models.lerobot.inputs import ACTION, ENVIRONMENT, STATE, HostBatch, Processed
from xp.models.lerobot.members import know_step
from xp.models.lerobot.settings import action_steps
from xp.models.lerobot.sidecar import POSTPROCESSOR, PREPROCESSOR, Sidecar
from xp.models.policy import DataTransforms, Statistics

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
    from lerobot.processor import PolicyProcessorPipeline, ProcessorStep, RenameObservationsProcessorStep

    type Preprocessor = PolicyProcessorPipeline[HostBatch, Processed]
    type Postprocessor = PolicyProcessorPipeline[torch.Tensor, torch.Tensor]
    type Processors = tuple[Preprocessor, Postprocessor]

type FeatureStatistics = Mapping[str, Mapping[str, torch.Tensor | np.ndarray]]
"""Statistics by feature under LeRobot's names: mean, std, min, max, q01, q99, each [dim] (of images [3, 1, 1])."""

QUANTILES = {"p01": "q01", "p99": "q99"}
"""Names of quantiles in xp's statistics and in LeRobot's."""
_MODES, _PLANNED = "normalization_mapping", "n_action_steps"
"""Fields that every policy's configuration has, though their base class does not."""


def lerobot_statistics(statistics: Statistics, images: list[str]) -> dict[str, dict[str, Shaped[torch.Tensor, "..."]]]:
    """Xp's statistics of the training episodes under LeRobot's names.

    A dimension that never changes gets a deviation of 1: LeRobot would divide it by 1e-8. Images get ImageNet's mean
    and deviation, as LeRobot's own training gives them (`dataset.use_imagenet_stats`).
    """
    from lerobot.utils.constants import IMAGENET_STATS

    found = {}
    names = {"proprio": STATE, "environment_state": ENVIRONMENT, "action": ACTION}
    for ours, theirs in names.items():
        entry = statistics.get(ours)
        if not isinstance(entry, Mapping) or not len(entry["mean"]):
            continue
        varies = np.asarray(entry.get("mask", np.ones(len(entry["mean"]), bool)))
        values = {QUANTILES.get(name, name): np.asarray(value) for name, value in entry.items() if name != "mask"}
        values["std"] = np.where(varies, values["std"], 1.0)
        found[theirs] = {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}
    for key in images:
        found[key] = {name: torch.tensor(value, dtype=torch.float32) for name, value in IMAGENET_STATS.items()}
    return found


def new_processors(config: "PreTrainedConfig", stats: FeatureStatistics, sidecar: Sidecar | None) -> "Processors":
    """(preprocessor, postprocessor) for training: those of a pretrained policy with new statistics, or new ones."""
    from lerobot.policies.factory import make_pre_post_processors

    know_step()
    if sidecar is None or not (sidecar.folder / PREPROCESSOR).is_file():
        return make_pre_post_processors(config, dataset_stats=dict(stats))  # type: ignore[arg-type]
    features = {**(config.input_features or {}), **(config.output_features or {})}
    norm_map = getattr(config, _MODES)
    made = make_pre_post_processors(
        config,
        pretrained_path=str(sidecar.folder),
        preprocessor_overrides={
            "device_processor": {"device": config.device},
            "normalizer_processor": {"features": features, "norm_map": norm_map, "stats": stats},
        },
        postprocessor_overrides={
            "unnormalizer_processor": {"features": config.output_features, "norm_map": norm_map, "stats": stats}
        },
    )
    _take_out_choice(made[0])
    return made


def add_transform_steps(processors: "Processors", config: "PreTrainedConfig", transforms: DataTransforms) -> None:
    """Put observation dropout and relative actions into the processors of a policy that has no such thing itself.

    The steps are those of the plugin `lerobot_policy_act_smooth_xp`; they are saved with the processors, and LeRobot's
    commands load them where the plugin is installed. A pretrained policy that has them gets the new statistics.

    Raises:
        UserError: the plugin is missing, an anchor that only act_smooth can take, a policy without the state that is
            its anchor, or a pretrained policy of another action space.
    """
    present = {type(step).__name__ for step in processors[0].steps}
    is_relative = "RelativeToAnchorStep" in present
    if is_relative and not transforms.is_relative:
        raise UserError("The pretrained policy's actions are relative to the state. Type action_space=relative.")
    if not transforms.obs_dropout and not transforms.is_relative:
        return
    plugin = _plugin("pipelines", "obs_dropout=none action_space=absolute")
    if transforms.obs_dropout and "ObservationDropoutStep" not in present:
        plugin.add_observation_dropout(processors[0], rate=transforms.obs_dropout)
    if not transforms.is_relative:
        return
    _check_anchor(config, transforms)
    indices = action_steps(config)
    assert transforms.deltas is not None
    excluded = [
        i
        for i, name in enumerate(transforms.action_names)
        if any(part.lower() in name.lower() for part in transforms.exclude)
    ]
    deltas = transforms.deltas([(0, index) for index in indices], "observation.state", excluded)
    if is_relative:
        _use_deltas(processors, deltas)
        return
    plugin.add_relative_actions(
        *processors,
        deltas=deltas,
        anchor="observation.state",
        index_t0=-min(indices),
        n_action_steps=int(getattr(config, _PLANNED)),
        exclude_joints=list(transforms.exclude),
        action_names=list(transforms.action_names),
    )


def resize_pictures(processors: "Processors", sizes: Mapping[str, tuple[int, int]], is_resized: bool) -> None:
    """Let the preprocessor bring pictures to the sizes of training, as the frame cache did, where it did.

    `sizes` are (height, width) by image input. Without the step LeRobot's tools would hand the policy pictures of the
    cameras' own size without a word; with it they do what xp does, or refuse a step that they do not know.

    Raises:
        UserError: the plugin that has the step is missing.
    """
    present = any(type(step).__name__ == "LanczosResizeStep" for step in processors[0].steps)
    if is_resized or present:
        resize = _plugin("resize", "model.image_size=null (pictures of the cameras' own size)")
        resize.set_picture_sizes(processors[0], {key: list(size) for key, size in sizes.items()})


@contextmanager
def camera_names_in(preprocessor: "Preprocessor", cameras: Mapping[str, str]) -> Iterator[None]:
    """Meanwhile the preprocessor takes pictures by the names of the cameras that feed it, as LeRobot's tools have them.

    `cameras` gives for each image input the camera's name. xp names them itself before it asks the preprocessor. One
    camera that feeds two inputs cannot be said so: LeRobot then refuses for want of the second.
    """
    own = {key: key.removeprefix(PREFIX).removeprefix("observation.") for key in cameras}
    renamed = {PREFIX + camera: key for key, camera in cameras.items() if camera not in ("", own[key], key)}
    before = [(step, step.rename_map) for step in _renamers(preprocessor)]
    for step, names in before[:1]:
        step.rename_map = {**names, **renamed}
    try:
        yield
    finally:
        for step, names in before:
            step.rename_map = names


def drop_camera_names(preprocessor: "Preprocessor", keys: Collection[str]) -> None:
    """Undo `camera_names_in` in a preprocessor that was read; the names are kept in `Sidecar.cameras`."""
    for step in _renamers(preprocessor):
        step.rename_map = {old: new for old, new in step.rename_map.items() if new not in keys}


def _renamers(preprocessor: "Preprocessor") -> "list[RenameObservationsProcessorStep]":
    from lerobot.processor import RenameObservationsProcessorStep

    return [step for step in preprocessor.steps if isinstance(step, RenameObservationsProcessorStep)]


def _plugin(module: str, instead: str) -> ModuleType:
    try:
        return importlib.import_module(f"lerobot_policy_act_smooth_xp.{module}")
    except ImportError as error:
        raise UserError(
            "obs_dropout, action_space=relative and pictures of another size than the cameras' are processor steps of "
            f"the LeRobot plugin lerobot_policy_act_smooth_xp, which cannot be imported ({error}). Install it "
            f"(docs/models.md says how), or type {instead}"
        ) from error


def _use_deltas(processors: "Processors", deltas: Mapping[str, np.ndarray]) -> None:
    """Normalise actions by the statistics of differences in processors that already take differences."""
    from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

    for processor in processors:
        for step in _of_kind(processor.steps, NormalizerProcessorStep, UnnormalizerProcessorStep):
            step.stats = {**(step.stats or {}), "action": dict(deltas)}
            step.to(device=step.device)


def _of_kind(steps: "Sequence[ProcessorStep]", *kinds: type) -> list[Any]:
    """The steps of some classes. LeRobot's register hides what a class is from type checkers, hence Any."""
    return [step for step in steps if isinstance(step, kinds)]


def _check_anchor(config: "PreTrainedConfig", transforms: DataTransforms) -> None:
    if transforms.anchor not in (None, "observation.state"):
        raise UserError(
            f"action_space.anchor={transforms.anchor}: the policy type '{config.type}' is not told which actions are "
            "committed, so it cannot be relative to one. Type action_space.anchor=observation.state, or take "
            "model=act_smooth."
        )
    state, action = config.robot_state_feature, config.action_feature
    assert action is not None
    if state is None or (state.shape[0] < action.shape[0] and not transforms.exclude):
        raise UserError(
            f"action_space=relative: the anchor is the state, which has {0 if state is None else state.shape[0]} "
            f"dimensions here, for {action.shape[0]} of the action. Type action_space=absolute, or model=act_smooth."
        )


def saved_processors(config: "PreTrainedConfig", folder: Path) -> "Processors":
    """(preprocessor, postprocessor) as saved in a `pretrained_model` folder.

    Raises:
        UserError: the folder has none (it is older than LeRobot 0.4), so how to normalise is unknown; or its statistics
            cannot be right.
    """
    from lerobot.policies.factory import make_pre_post_processors

    for name in (PREPROCESSOR, POSTPROCESSOR):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}, so how its observations and actions are normalised is unknown. It was "
                "written by LeRobot before 0.4: convert it with `python -m "
                f"lerobot.processor.migrate_policy_normalization --pretrained-path={folder}`."
            )
    know_step()
    try:
        processors = make_pre_post_processors(
            config,
            pretrained_path=str(folder),
            preprocessor_overrides={"device_processor": {"device": config.device}},
        )
    except ImportError as error:
        raise missing_package(config.type, error) from error
    except Exception as error:  # steps raise many kinds; all are about what the files say
        said = printable(" ".join(str(error).split()))
        raise UserError(
            f"The processors in {folder} cannot be made ({said}). Copy {PREPROCESSOR} and {POSTPROCESSOR} again from "
            "where the policy was trained."
        ) from error
    _take_out_choice(processors[0])
    _check_statistics(processors, folder)
    drop_camera_names(processors[0], config.image_features)
    return processors


def _take_out_choice(preprocessor: "Preprocessor") -> None:
    """Take out the step by which LeRobot's tools refuse a policy of a mixture."""
    preprocessor.steps = [step for step in preprocessor.steps if type(step).__name__ != "DatasetToBeChosen"]


def use_statistics(processors: "Processors", stats: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Normalise by these statistics, features that are not named as before."""
    from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

    for processor in processors:
        for step in _of_kind(processor.steps, NormalizerProcessorStep, UnnormalizerProcessorStep):
            step.stats = {**(step.stats or {}), **{name: dict(each) for name, each in stats.items()}}
            step.to(device=step.device)


def _check_statistics(processors: "Processors", folder: Path) -> None:
    """Refuse saved statistics that cannot be right, by the rule for all statistics from outside."""
    for step in (step for processor in processors for step in processor.steps):
        for feature, entry in (getattr(step, "stats", None) or {}).items():
            arrays = {
                name: np.asarray(torch.as_tensor(value).cpu()) for name, value in entry.items() if name != "count"
            }
            if {"mean", "std"} <= set(arrays):
                checked_statistics(arrays, f"of '{feature}' in {folder}")


def move_to(processors: "Processors", device: str) -> None:
    """Let the preprocessor move its tensors to `device`; the postprocessor's device stays the CPU."""
    from lerobot.processor import DeviceProcessorStep

    for step in _of_kind(processors[0].steps, DeviceProcessorStep):
        step.device = device
        step.__post_init__()


def takes_language(preprocessor: "Preprocessor") -> bool:
    """Whether a preprocessor reads the task's words: it has a step that tokenises."""
    return any("token" in type(step).__name__.lower() for step in preprocessor.steps)
