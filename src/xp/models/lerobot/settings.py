"""Makes a policy's configuration object from the `model` section, checked against the policy's own class."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON, JSONObject
from xp.models.lerobot.catalog import config_class, missing_package
from xp.models.lerobot.options import LeRobotOptions
from xp.models.lerobot.sidecar import Sidecar
from xp.models.policy import DataSpec, DataTransforms

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig

HORIZON_FIELDS = {"chunk_size": "horizon.train", "horizon": "horizon.train"}
"""Fields that xp sets from another key of the configuration."""
SET_BY_XP = ("input_features", "output_features", "device", "push_to_hub", "repo_id", "pretrained_path")


def policy_config(
    options: LeRobotOptions,
    *,
    data: DataSpec,
    images: Mapping[str, tuple[int, int, int]],
    horizon: int,
    sidecar: Sidecar | None,
) -> "PreTrainedConfig":
    """The configuration object of a policy for a dataset and a horizon.

    The policy's own defaults, over them those of a pretrained policy, over them what the section says.

    Args:
        options: the `model` section.
        data: what the dataset offers.
        images: image inputs of the policy, (height, width, channels).
        horizon: actions in a chunk.
        sidecar: of the pretrained policy, if one is started from.

    Raises:
        UserError: an unknown type or field, a value the policy refuses, or a policy that needs data that xp's windows
            do not hold.
    """
    policy_type = _type(options, sidecar)
    cls = config_class(policy_type)
    _check_fields(options.fields, policy_type, cls)
    base = {} if sidecar is None else {k: v for k, v in sidecar.config.items() if k != "type" and k not in SET_BY_XP}
    values: dict[str, JSON] = {**base, **options.fields, "device": "cpu", "push_to_hub": False}
    values |= {"input_features": _inputs(data, images), "output_features": _outputs(data)}
    _check_windows(policy_type, _decoded(cls, policy_type, {"device": "cpu"}))
    config = _decoded(cls, policy_type, values | _chunk(cls, values, horizon))
    _check_windows(policy_type, config)
    if chunk_of(config) != horizon:
        raise UserError(
            f"horizon.train={horizon}: the policy type '{policy_type}' gives {chunk_of(config)} actions with these "
            f"options. Type horizon.train={chunk_of(config)}, or change them."
        )
    return config


def native_transforms(options: LeRobotOptions, sidecar: Sidecar | None, transforms: DataTransforms) -> dict[str, JSON]:
    """Observation dropout and action space as fields of the policy's own configuration, where it has them; else {}.

    A policy has them when its class knows `obs_dropout_rate` and `relative_actions`, as act_smooth's does.
    """
    if not {"obs_dropout_rate", "relative_actions"} <= set(_fields(config_class(_type(options, sidecar)))):
        return {}
    if transforms.is_relative and (transforms.exclude or transforms.anchor == "observation.state"):
        raise UserError(
            f"action_space.anchor={transforms.anchor} action_space.exclude={list(transforms.exclude)}: "
            f"model.type={_type(options, sidecar)} takes all its actions relative to a committed one. Type "
            "action_space.anchor=a_t0 or last_prefix, and action_space.exclude=[]"
        )
    fields: dict[str, JSON] = {"obs_dropout_rate": transforms.obs_dropout, "relative_actions": transforms.is_relative}
    return fields | ({"relative_anchor": transforms.anchor or "a_t0"} if transforms.is_relative else {})


def window_of(config: "PreTrainedConfig") -> tuple[int, int, int]:
    """(history, actions before the present step, actions from it on) that a policy is trained on."""
    observed = list(config.observation_delta_indices or [0])
    asked = action_steps(config)
    return 1 - min(observed), max(0, -min(asked)), max(asked) + 1


def action_steps(config: "PreTrainedConfig") -> list[int]:
    """The steps of a training window's actions, relative to the observed one; `policy_config` has checked them."""
    steps = config.action_delta_indices
    assert steps
    return [int(step) for step in steps]


def chunk_of(config: "PreTrainedConfig") -> int:
    """How many actions from the present step on the policy gives."""
    fields = _fields(type(config))
    for name in ("chunk_size", "n_action_steps"):
        if name in fields:
            return int(getattr(config, name))
    return max(action_steps(config)) + 1


def _type(options: LeRobotOptions, sidecar: Sidecar | None) -> str:
    given = options.policy_type
    if given is None and sidecar is None:
        raise UserError(
            "model.type is not given: which LeRobot policy? Type for instance model=act, or model=lerobot "
            "model.type=diffusion, or pretrained_path=FOLDER to take the type from there."
        )
    if given is not None and sidecar is not None and given != sidecar.policy_type:
        raise UserError(
            f"model.type={given}, but {sidecar.folder} holds a policy of type '{sidecar.policy_type}'. Type "
            f"model=lerobot model.type={sidecar.policy_type}"
        )
    if given is not None:
        return given
    assert sidecar is not None
    return sidecar.policy_type


def _fields(cls: "type[PreTrainedConfig]") -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _check_fields(given: JSONObject, policy_type: str, cls: "type[PreTrainedConfig]") -> None:
    """Refuse fields that the policy has not, or that are set otherwise."""
    allowed = [name for name in _fields(cls) if name not in SET_BY_XP and name not in HORIZON_FIELDS]
    for key in given:
        if key in HORIZON_FIELDS and key in _fields(cls):
            raise UserError(
                f"model.{key}={given[key]}: how many actions a chunk has is set once, for every model. Type "
                f"{HORIZON_FIELDS[key]}={given[key]} instead."
            )
        if key not in allowed:
            raise UserError(
                f"model.{key}: the policy type '{policy_type}' has no such "
                f"option{did_you_mean(key, allowed)}. Its options: "
                f"{join_names(sorted(allowed))}"
            )


def _chunk(cls: "type[PreTrainedConfig]", values: JSONObject, horizon: int) -> dict[str, JSON]:
    """The fields that say how many actions a chunk has, in the policy's own words.

    ACT and the like have `chunk_size`, actions from the present step on. Diffusion policies have `horizon`, counted
    from the first observed step and a multiple of what their U-Net halves, of which `n_action_steps` are used.
    """
    fields = _fields(cls)
    if "chunk_size" in fields:
        chunk: dict[str, JSON] = {"chunk_size": horizon}
        steps = values.get("n_action_steps") or horizon
        fewest = min(steps, horizon) if isinstance(steps, int) else steps
        return chunk if "n_action_steps" not in fields else {**chunk, "n_action_steps": fewest}
    if {"horizon", "n_action_steps", "n_obs_steps"} <= set(fields):
        history = _whole(values.get("n_obs_steps", _default(cls, "n_obs_steps")))
        stages = values.get("down_dims", _default(cls, "down_dims")) if "down_dims" in fields else ()
        step = 2 ** len(stages if isinstance(stages, Sequence) else ())
        return {"n_action_steps": horizon, "horizon": -(-(horizon + history - 1) // step) * step}
    return {}


def _whole(value: object) -> int:
    """A number of steps; what is none counts as 0, and the policy's own class refuses it."""
    return int(value) if isinstance(value, int | float) else 0


def _default(cls: "type[PreTrainedConfig]", name: str) -> object:
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return field.default_factory() if callable(field.default_factory) else field.default


def _inputs(data: DataSpec, images: Mapping[str, tuple[int, int, int]]) -> dict[str, JSON]:
    seen: dict[str, JSON] = {
        key: {"type": "VISUAL", "shape": [c, height, width]} for key, (height, width, c) in images.items()
    }
    if data.environment_dim:
        seen = {"observation.environment_state": {"type": "ENV", "shape": [data.environment_dim]}, **seen}
    if data.state_dim:
        seen = {"observation.state": {"type": "STATE", "shape": [data.state_dim]}, **seen}
    return seen


def _outputs(data: DataSpec) -> dict[str, JSON]:
    return {"action": {"type": "ACTION", "shape": [data.action_dim]}}


def _decoded(cls: "type[PreTrainedConfig]", policy_type: str, values: JSONObject) -> "PreTrainedConfig":
    import draccus

    known = {key: _plain(value) for key, value in values.items() if key in _fields(cls)}
    try:
        return draccus.decode(cls, known)
    except ImportError as error:
        raise missing_package(policy_type, error) from error
    except Exception as error:  # draccus and the policies' own checks raise many kinds; all are about these values
        chunk = ", chunk_size is horizon.train" if "chunk_size" in _fields(cls) else ""
        raise UserError(
            f"The options of model.type={policy_type} do not fit: {_reason(error)} An option NAME is typed "
            f"model.NAME=VALUE{chunk}; `xp --cfg job` shows what is set."
        ) from error


def _reason(error: BaseException) -> str:
    """What was wrong, in the policy's own words where draccus only says that it could not be made."""
    cause = error.__cause__ or error.__context__
    own = [] if cause is None else [str(cause)]
    said = own if own and str(error).startswith("Couldn't instantiate class") else [str(error), *own]
    text = " ".join(" ".join(said).split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _plain(value: JSON) -> JSON:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value


def _check_windows(policy_type: str, config: "PreTrainedConfig") -> None:
    """Refuse a policy whose data are not windows of past observations and actions around them."""
    try:
        observed, asked = config.observation_delta_indices or [0], config.action_delta_indices
    except (NotImplementedError, TypeError) as error:
        raise UserError(
            f"model.type={policy_type} does not say which steps it is trained on ({error}). Take another type, for "
            "instance model=act."
        ) from error
    needs = []
    if config.reward_delta_indices:
        needs.append("rewards")
    if not asked or list(asked) != list(range(min(asked), max(asked) + 1)):
        needs.append("actions that are not consecutive steps")
    if max(observed) > 0 or list(observed) != list(range(min(observed), 1)):
        needs.append("observations other than the last few")
    if needs:
        raise UserError(
            f"model.type={policy_type} is trained on {' and '.join(needs)}, which a window of a demonstration does not "
            "hold. Take another type, for instance model=act; `lerobot-train` trains this one."
        )
