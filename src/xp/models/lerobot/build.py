"""Builds a LeRobot policy for training (`build`), and loads a saved one (`load`)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch

from xp.errors import UserError, did_you_mean
from xp.foreign.json_file import Fields
from xp.json_types import JSON
from xp.models.camera_maps import check_map
from xp.models.family import BuildRequest, LoadRequest
from xp.models.lerobot.cameras import camera_name, image_key, resolve_cameras
from xp.models.lerobot.cameras import camera_sizes as sizes_of
from xp.models.lerobot.catalog import config_class, missing_package, policy_class
from xp.models.lerobot.folder import Notes, check_shapes, load_by_name, load_exactly
from xp.models.lerobot.frozen_norms import FILLED, check_choice, fill, unfilled
from xp.models.lerobot.of_mixture import narrowed, of_member, of_mixture, saved_members
from xp.models.lerobot.options import LeRobotOptions
from xp.models.lerobot.policy import Assembly, LeRobotPolicy, objective
from xp.models.lerobot.processors import (
    FeatureStatistics,
    add_transform_steps,
    drop_camera_names,
    lerobot_statistics,
    move_to,
    new_processors,
    resize_pictures,
    saved_processors,
    takes_language,
)
from xp.models.lerobot.settings import chunk_of, native_transforms, policy_config, window_of
from xp.models.lerobot.sidecar import Sidecar, read_act_smooth, read_sidecar
from xp.models.lerobot.trust import check_folder
from xp.models.policy import DataSpec, PolicySpec
from xp.models.torch_device import torch_device
from xp.models.trainable import LoadReport, TorchTrainable

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
    from lerobot.optim import OptimizerConfig
    from lerobot.policies.pretrained import PreTrainedPolicy

    from xp.models.lerobot.processors import Processors


@runtime_checkable
class HasDeltaLags(Protocol):
    """A configuration of a policy that makes actions relative itself, as act_smooth's."""

    delta_lags: Sequence[tuple[int, int]]
    """Pairs (anchor step, predicted step) relative to the observed one, whose differences it is to learn."""


@runtime_checkable
class CanHold(Protocol):
    """A policy that can hold the robot in its place, as act_smooth can."""

    def set_hold(self, scale: Sequence[float], offset: Sequence[float]) -> None:
        """How a state becomes the action that holds it, each [A]."""
        ...


FITTED = ("pi0", "pi05", "pi0_fast")
"""Types that fit pictures into a square of `image_resolution` with openpi's port of its resizing."""


def build(request: BuildRequest) -> TorchTrainable:
    """A policy for a dataset and a horizon, optionally from the weights of a saved one; see `Family.build`.

    Raises:
        UserError: options that do not fit each other, the dataset or the pretrained policy.
    """
    options, data, pretrained = LeRobotOptions.from_config(request.model_cfg), request.data, request.pretrained
    sidecar = read_sidecar(pretrained[0]) if pretrained else None
    if sidecar is not None:
        check_folder(sidecar)
    _check_fps(options, data, sidecar)
    cameras = resolve_cameras(options, data.cameras, sidecar)
    sizes = sizes_of(options, data.cameras, sidecar.folder if sidecar else None)
    images = {key: (*sizes[camera], 3) for key, camera in cameras.items()}
    own = native_transforms(options, sidecar, request.transforms)
    with_own = replace(options, fields={**options.fields, **own})
    config = policy_config(with_own, data=data, images=images, horizon=request.horizon, sidecar=sidecar)
    stats: dict[str, Mapping[str, torch.Tensor | np.ndarray]] = {**lerobot_statistics(request.statistics, list(images))}
    if own.get("relative_actions"):
        assert request.transforms.deltas is not None and isinstance(config, HasDeltaLags)
        stats["action_delta"] = dict(request.transforms.deltas(config.delta_lags, "action", ()))
    module = new_module(config, request.seed, stats)
    report = _started(module, config, sidecar) if sidecar else LoadReport()
    processors = new_processors(config, stats, sidecar)
    if not own:
        add_transform_steps(processors, config, request.transforms)
    drop_camera_names(processors[0], list(images))
    is_resized = any(tuple(data.cameras[camera][:2]) != sizes[camera] for camera in cameras.values())
    is_resized = is_resized or bool(data.members)  # whose datasets need not be of one size
    resize_pictures(processors, {key: size[:2] for key, size in images.items()}, is_resized)
    notes: Notes = {"cameras": cameras, "fps": data.fps, "name": options.name or config.type}
    assembly = _assembly(config, processors, {key: (cameras[key], *size[:2]) for key, size in images.items()}, notes)
    if data.members:
        assembly = of_mixture(assembly, config, request)
    trainable = _trainable(assembly, module, config, report)
    norms = unfilled(module) if check_choice(options.frozen_norms) and sidecar is None else {}
    if not norms:
        return trainable
    buffers = [f"{name}.{buffer}" for name in norms for buffer in FILLED]
    return replace(
        trainable,
        filled_buffers=buffers,
        initialise=lambda inputs: fill(norms.values(), lambda: trainable.loss(inputs)),
    )


def load(request: LoadRequest) -> LeRobotPolicy:
    """A saved policy, every weight accounted for; see `Family.load`.

    Cameras that the request does not name keep what was noted in training, or their own name. The option `mask` is of
    an act_smooth its attention at inference; left out it is what its configuration says (without the field it is of the
    published plugin, whose mask is `original`).

    Raises:
        UserError: damaged files, weights that do not fit the configuration, an unknown device or camera.
    """
    folder, mask = request.folder, request.options.get("mask")
    sidecar = read_sidecar(folder)
    check_folder(sidecar)
    if mask is not None:
        sidecar = _masked(sidecar, mask)
    config = _saved_config(sidecar, torch_device(request.device))
    _check_without_memory(config, folder)
    module = new_module(config, 0)
    load_exactly(module, folder)
    if sidecar.policy_type == "act_smooth":
        _hold(module, read_act_smooth(folder), _action_dim(config))
    module.to(config.device)
    fed = _fed(sidecar, request.camera_map)
    images = {key: (fed[key], height, width) for key, (height, width, _) in sidecar.images.items()}
    notes: Notes = {"cameras": fed, "fps": sidecar.fps, "name": sidecar.policy_type}
    assembly = _assembly(config, saved_processors(config, folder), images, notes)
    key = request.options.get("unnorm_key")
    if sidecar.widths is not None:
        assembly = narrowed(assembly, sidecar.widths)
    elif sidecar.members:
        members = saved_members(sidecar, config, assembly.spec)
        if key is None:
            assembly = replace(assembly, members=members, notes={**notes, "members": sidecar.members})
        else:
            assembly = of_member(assembly, members, members.chosen(key), request.camera_map)
    return LeRobotPolicy(assembly, module)


def _hold(module: "PreTrainedPolicy", notes: Fields, width: int) -> None:
    """Give an act_smooth the action that holds the robot in its place, where its folder knows it."""
    hold = notes.object("hold", None)
    if hold is not None:
        assert isinstance(module, CanHold)
        module.set_hold(hold.numbers("scale", count=width), hold.numbers("offset", count=width))


def _action_dim(config: "PreTrainedConfig") -> int:
    feature = config.action_feature
    assert feature is not None, "`policy_config` gives every policy actions"
    return int(feature.shape[0])


def _masked(sidecar: Sidecar, mask: str) -> Sidecar:
    if sidecar.policy_type != "act_smooth":
        raise UserError(
            f"mask={mask}: the policy in {sidecar.folder} is of type '{sidecar.policy_type}', and only act_smooth has "
            "a choice of masks. Leave mask out."
        )
    if mask not in ("training", "original"):
        raise UserError(
            f"mask={mask}: allowed are training and original{did_you_mean(mask, ('training', 'original'))}."
        )
    return replace(sidecar, config={**sidecar.config, "mask": mask})


def new_module(config: "PreTrainedConfig", seed: int, stats: FeatureStatistics | None = None) -> "PreTrainedPolicy":
    """A policy of freshly drawn weights, a function of configuration and seed; torch's generator is left as it was.

    Raises:
        UserError: a package is missing, or weights that the configuration names cannot be fetched.
    """
    cls = policy_class(config.type)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            return cls(config, dataset_stats=stats)
        except ImportError as error:
            raise missing_package(config.type, error) from error
        except (ArithmeticError, AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"A policy of type '{config.type}' cannot be made with these options: {text.rstrip('.')}. "
                f"{_advice(config, error)}"
            ) from error


def _check_without_memory(config: "PreTrainedConfig", folder: Path) -> None:
    """Make the policy without memory for its weights and compare it with the header of those beside it.

    A configuration may describe any number of weights in a few bytes; those of another size than the file's are never
    made. A policy that looks at its weights while it is made cannot be made so; `trust` bounds its numbers.
    """
    cls = policy_class(config.type)
    try:
        with torch.device("meta"):
            shadow = cls(copy.deepcopy(config), dataset_stats=None)
    except Exception:  # whatever a policy raises here: it is made in earnest next, and says then what is wrong
        return
    check_shapes(shadow, folder)


def _advice(config: "PreTrainedConfig", error: Exception) -> str:
    """What to type where a policy's class refuses its configuration."""
    shapes = {camera_name(key): tuple(feature.shape[1:]) for key, feature in config.image_features.items()}
    if not shapes and config.env_state_feature is None:
        return (
            "It has no camera, and the dataset no observation.environment_state: let it see (model.cameras=null takes "
            "all of the dataset's), or record the suite with task=collect env.environment_state=true"
        )
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{camera} {height} x {width}" for camera, (height, width) in shapes.items())
        height, width = min(shapes.values())
        return f"Its cameras differ in size ({sizes}); for one size type model.image_size=[{height},{width}]"
    if isinstance(error, OSError):
        return (
            "If it is weights that cannot be downloaded, type model.pretrained_backbone_weights=null, or fetch them "
            "first."
        )
    return "An option NAME is set with model.NAME=VALUE; `xp --cfg job` shows what is set."


def _trainable(
    assembly: Assembly, module: "PreTrainedPolicy", config: "PreTrainedConfig", report: LoadReport
) -> TorchTrainable:
    copies: list[PreTrainedPolicy] = []

    def policy(weights: Mapping[str, torch.Tensor] | None) -> LeRobotPolicy:
        if weights is None:
            return LeRobotPolicy(assembly, module)
        if not copies:
            copies.append(copy.deepcopy(module))
        copies[0].load_state_dict(weights)
        return LeRobotPolicy(assembly, copies[0])

    def to_device(device: str) -> None:
        config.device = device
        move_to(assembly.processors, device)

    preset = config.get_optimizer_preset()
    return TorchTrainable(
        spec=assembly.spec,
        module=module,
        loss=lambda inputs: objective(module, assembly.preprocess(inputs, contiguous=False)),
        prepare=assembly.prepare,
        policy=policy,
        to_device=to_device,
        lr_multipliers=_lr_multipliers(module, preset),
        betas=_betas(preset),
        eps=float(getattr(preset, "eps", None) or 1e-8),
        load_report=report,
    )


def _betas(preset: "OptimizerConfig") -> tuple[float, float]:
    first, second = getattr(preset, "betas", None) or (0.9, 0.999)
    return float(first), float(second)


def _lr_multipliers(module: "PreTrainedPolicy", preset: "OptimizerConfig") -> dict[str, float]:
    """Factors on the learning rate of the groups to which the policy gives a rate of its own (ACT: the backbone)."""
    groups: object = module.get_optim_params()  # LeRobot says a dict; most policies give a list of groups
    if not isinstance(groups, list | tuple) or not all(isinstance(group, dict) for group in groups):
        return {}
    names = {id(weight): name for name, weight in module.named_parameters()}
    return {
        names[id(weight)]: float(group["lr"]) / float(preset.lr)
        for group in groups
        if group.get("lr") is not None and preset.lr and float(group["lr"]) != float(preset.lr)
        for weight in group["params"]
    }


def _started(module: "PreTrainedPolicy", config: "PreTrainedConfig", sidecar: Sidecar) -> LoadReport:
    """Start from a pretrained policy: weights that cannot fit for another reason than the data are an error."""
    report = load_by_name(module, sidecar.folder)
    if (report.initialised or report.dropped) and not _data_differs(config, sidecar):
        before = sidecar.config
        differing = [k for k, v in _encoded(config).items() if k in before and before[k] != v and k != "device"]
        raise UserError(
            f"The policy in {sidecar.folder} has another shape than this model: {len(report.initialised)} weights "
            f"would be freshly initialised and {len(report.dropped)} not be used. They differ in "
            f"{', '.join(differing) or 'weights'}. Type model=lerobot to take the whole configuration from the folder."
        )
    return report


def _data_differs(config: "PreTrainedConfig", sidecar: Sidecar) -> bool:
    """Whether chunk, action, state or cameras are others than the pretrained policy's: these change some shapes."""
    encoded = _encoded(config)
    keys = ("input_features", "output_features", "chunk_size", "horizon", "n_obs_steps")
    return any(_plain(encoded.get(key)) != _plain(sidecar.config.get(key)) for key in keys)


def _encoded(config: "PreTrainedConfig") -> dict[str, JSON]:
    import draccus

    return draccus.encode(config)


def _plain(value: JSON) -> JSON:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _assembly(
    config: "PreTrainedConfig", processors: "Processors", images: Mapping[str, tuple[str, int, int]], notes: Notes
) -> Assembly:
    history, before, ahead = window_of(config)
    state, around = config.robot_state_feature, config.env_state_feature
    spec = PolicySpec(
        horizon=chunk_of(config),
        action_dim=_action_dim(config),
        state_dim=int(state.shape[0]) if state is not None else 0,
        environment_dim=int(around.shape[0]) if around is not None else 0,
        cameras={camera: (height, width, 3) for camera, height, width in images.values() if camera},
        history=history,
        language=takes_language(processors[0]),
        prefix_past=int(getattr(config, "length_prefix_past", 0)),
        prefix_future=int(getattr(config, "length_prefix_future", 0)),
        actions_before=before,
        actions_ahead=ahead,
    )
    time = None if config.observation_delta_indices is None else history
    return Assembly(spec, processors, images, time, notes, _square(config))


def _square(config: "PreTrainedConfig") -> int | None:
    """Side of the square that a policy fits pictures into, black around them; None where it takes them as they are."""
    return int(getattr(config, "image_resolution")[0]) if config.type in FITTED else None  # noqa: B009


def _saved_config(sidecar: Sidecar, device: str) -> "PreTrainedConfig":
    import draccus

    cls = config_class(sidecar.policy_type)
    values: dict[str, JSON] = {key: value for key, value in sidecar.config.items() if key != "type"}
    values |= {"device": device, "pretrained_path": None}
    if "pretrained_backbone_weights" in values:
        values["pretrained_backbone_weights"] = None  # the folder's own weights follow: nothing is to be fetched
    try:
        return draccus.decode(cls, values)
    except ImportError as error:
        raise missing_package(sidecar.policy_type, error) from error
    except Exception as error:
        raise UserError(
            f"{sidecar.folder}/config.json does not fit the policy type '{sidecar.policy_type}' of this LeRobot: "
            f"{' '.join(str(error).split())} Load it with the version that wrote it."
        ) from error


def _fed(sidecar: Sidecar, camera_map: Mapping[str, str | None]) -> dict[str, str]:
    asked = {image_key(name): camera for name, camera in camera_map.items()}
    wanted = list(sidecar.images)
    named = {camera_name(key): camera for key, camera in asked.items()}
    check_map(named, [camera_name(key) for key in wanted], f"camera of the policy in {sidecar.folder}")
    unfed = [name for name, camera in camera_map.items() if camera is None]
    if unfed:
        raise UserError(
            f"The map of cameras leaves '{unfed[0]}' without a camera, and the policy in {sidecar.folder} needs "
            f"all of its cameras. Name the camera that feeds it, for instance {{{unfed[0]}: top}}"
        )
    own = {key: key.removeprefix("observation.images.").removeprefix("observation.") for key in wanted}
    return {key: asked.get(key) or sidecar.cameras.get(key, own[key]) for key in wanted}


def _check_fps(options: LeRobotOptions, data: DataSpec, sidecar: Sidecar | None) -> None:
    if sidecar is None or sidecar.fps is None or sidecar.fps == data.fps or options.allow_fps_change:
        return
    raise UserError(
        f"The policy in {sidecar.folder} was trained at {sidecar.fps:g} steps per second, the dataset has "
        f"{data.fps:g}: a chunk would last a different time, and every movement would be of a different size. Take a "
        f"dataset of {sidecar.fps:g} steps per second, or say that it is meant: +model.allow_fps_change=true"
    )
