"""A policy's configuration object from the `model` section, checked against the policy's own configuration class."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from xp.errors import UserError, did_you_mean, join_names
from xp.models.lerobot.catalog import config_class, missing_package
from xp.models.lerobot.sidecar import Papers
from xp.models.policy import DataSpec, DataTransforms

OURS = ("name", "family", "lr_peak", "type", "cameras", "image_size", "allow_fps_change")
"""Keys of the section that are xp's, not the policy's."""
CHUNKS = {"chunk_size": "horizon.train", "horizon": "horizon.train"}
"""Fields that xp sets from another key of the configuration."""
SET_BY_XP = ("input_features", "output_features", "device", "push_to_hub", "repo_id", "pretrained_path")


def policy_config(
    model_cfg: Mapping[str, Any],
    *,
    data: DataSpec,
    images: Mapping[str, tuple[int, int, int]],
    horizon: int,
    papers: Papers | None,
) -> Any:
    """The configuration object of a policy for a dataset and a horizon.

    The policy's own defaults, over them those of a pretrained policy, over them what the section says.

    Args:
        model_cfg: the `model` section.
        data: what the dataset offers.
        images: image inputs of the policy, (height, width, channels).
        horizon: actions in a chunk.
        papers: of the pretrained policy, if one is started from.

    Raises:
        UserError: an unknown type or field, a value the policy refuses, or a policy that needs data that xp's windows
            do not hold.
    """
    policy_type = _type(model_cfg, papers)
    cls = config_class(policy_type)
    given = _given(model_cfg, policy_type, cls)
    base = {} if papers is None else {k: v for k, v in papers.config.items() if k != "type" and k not in SET_BY_XP}
    values = {**base, **given, "device": "cpu", "push_to_hub": False}
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


def native_transforms(
    model_cfg: Mapping[str, Any], papers: Papers | None, transforms: DataTransforms
) -> dict[str, Any]:
    """Observation dropout and action space as fields of the policy's own configuration, where it has them; else {}.

    A policy has them when its class knows `obs_dropout_rate` and `relative_actions`, as act_smooth's does.
    """
    if not {"obs_dropout_rate", "relative_actions"} <= set(_fields(config_class(_type(model_cfg, papers)))):
        return {}
    if transforms.is_relative and (transforms.exclude or transforms.anchor == "observation.state"):
        raise UserError(
            f"action_space.anchor={transforms.anchor} action_space.exclude={list(transforms.exclude)}: "
            f"model.type={_type(model_cfg, papers)} takes all its actions relative to a committed one. Type "
            "action_space.anchor=a_t0 or last_prefix, and action_space.exclude=[]"
        )
    fields: dict[str, Any] = {"obs_dropout_rate": transforms.obs_dropout, "relative_actions": transforms.is_relative}
    return fields | ({"relative_anchor": transforms.anchor or "a_t0"} if transforms.is_relative else {})


def window_of(config: Any) -> tuple[int, int, int]:
    """(history, actions before the present step, actions from it on) that a policy is trained on."""
    observed = list(config.observation_delta_indices or [0])
    asked = list(config.action_delta_indices)
    return 1 - min(observed), max(0, -min(asked)), max(asked) + 1


def chunk_of(config: Any) -> int:
    """How many actions from the present step on the policy gives."""
    fields = _fields(type(config))
    if "chunk_size" in fields:
        return int(config.chunk_size)
    return int(config.n_action_steps if "n_action_steps" in fields else max(config.action_delta_indices) + 1)


def _type(model_cfg: Mapping[str, Any], papers: Papers | None) -> str:
    given = model_cfg.get("type")
    if given is None and papers is None:
        raise UserError(
            "model.type is not given: which LeRobot policy? Type for instance model=act, or model=lerobot "
            "model.type=diffusion, or pretrained_path=FOLDER to take the type from there."
        )
    if given is not None and papers is not None and str(given) != papers.policy_type:
        raise UserError(
            f"model.type={given}, but {papers.folder} holds a policy of type '{papers.policy_type}'. Type "
            f"model=lerobot model.type={papers.policy_type}"
        )
    return str(given) if given is not None else papers.policy_type  # type: ignore[union-attr]


def _fields(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _given(model_cfg: Mapping[str, Any], policy_type: str, cls: type) -> dict[str, Any]:
    """The policy's fields that the section sets."""
    allowed = [name for name in _fields(cls) if name not in SET_BY_XP and name not in CHUNKS]
    given = {key: value for key, value in model_cfg.items() if key not in OURS}
    for key in given:
        if key in CHUNKS and key in _fields(cls):
            raise UserError(
                f"model.{key}={given[key]}: how many actions a chunk has is said once, for every model. Type "
                f"{CHUNKS[key]}={given[key]} instead."
            )
        if key not in allowed:
            raise UserError(
                f"model.{key}: the policy type '{policy_type}' has no such "
                f"option{did_you_mean(key, allowed)}. Its options: "
                f"{join_names(sorted(allowed))}"
            )
    return given


def _chunk(cls: type, values: Mapping[str, Any], horizon: int) -> dict[str, Any]:
    """The fields that say how many actions a chunk has, in the policy's own words.

    ACT and the like have `chunk_size`, actions from the present step on. Diffusion policies have `horizon`, counted
    from the first observed step and a multiple of what their U-Net halves, of which `n_action_steps` are used.
    """
    fields = _fields(cls)
    if "chunk_size" in fields:
        chunk = {"chunk_size": horizon}
        steps = values.get("n_action_steps")
        return chunk if "n_action_steps" not in fields else {**chunk, "n_action_steps": min(steps or horizon, horizon)}
    if {"horizon", "n_action_steps", "n_obs_steps"} <= set(fields):
        history = int(values.get("n_obs_steps", _default(cls, "n_obs_steps")))
        stages = values.get("down_dims", _default(cls, "down_dims")) if "down_dims" in fields else ()
        step = 2 ** len(stages)
        return {"n_action_steps": horizon, "horizon": -(-(horizon + history - 1) // step) * step}
    return {}


def _default(cls: type, name: str) -> Any:
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return field.default_factory() if callable(field.default_factory) else field.default


def _inputs(data: DataSpec, images: Mapping[str, tuple[int, int, int]]) -> dict[str, Any]:
    seen = {key: {"type": "VISUAL", "shape": [c, height, width]} for key, (height, width, c) in images.items()}
    state = {"observation.state": {"type": "STATE", "shape": [data.state_dim]}} if data.state_dim else {}
    around = {"type": "ENV", "shape": [data.environment_dim]}
    environment = {"observation.environment_state": around} if data.environment_dim else {}
    return {**state, **environment, **seen}


def _outputs(data: DataSpec) -> dict[str, Any]:
    return {"action": {"type": "ACTION", "shape": [data.action_dim]}}


def _decoded(cls: type, policy_type: str, values: Mapping[str, Any]) -> Any:
    import draccus

    known = {key: _plain(value) for key, value in values.items() if key in _fields(cls)}
    try:
        return draccus.decode(cls, known)
    except ImportError as error:
        raise missing_package(policy_type, error) from error
    except Exception as error:  # draccus and the policies' own checks raise many kinds; all are about these values
        chunk = ", chunk_size is horizon.train" if "chunk_size" in _fields(cls) else ""
        raise UserError(
            f"The options of model.type={policy_type} do not fit: {_said(error)} An option NAME is typed "
            f"model.NAME=VALUE{chunk}; `xp --cfg job` shows what is set."
        ) from error


def _said(error: BaseException) -> str:
    """What was wrong, in the policy's own words where draccus only says that it could not be made."""
    cause = error.__cause__ or error.__context__
    own = [] if cause is None else [str(cause)]
    said = own if own and str(error).startswith("Couldn't instantiate class") else [str(error), *own]
    text = " ".join(" ".join(said).split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value


def _check_windows(policy_type: str, config: Any) -> None:
    """Refuse a policy whose data are not windows of past observations and actions around them."""
    try:
        observed, asked = config.observation_delta_indices or [0], config.action_delta_indices
    except (NotImplementedError, TypeError) as error:
        raise UserError(f"model.type={policy_type} says not which steps it is trained on ({error}).") from error
    needs = []
    if config.reward_delta_indices:
        needs.append("rewards")
    if not asked or list(asked) != list(range(min(asked), max(asked) + 1)):
        needs.append("actions that are no run of steps")
    if max(observed) > 0 or list(observed) != list(range(min(observed), 1)):
        needs.append("observations other than the last few")
    if needs:
        raise UserError(
            f"model.type={policy_type} is trained on {' and '.join(needs)}, which a window of a demonstration does not "
            "hold. Take another type, for instance model=act; `lerobot-train` trains this one."
        )
