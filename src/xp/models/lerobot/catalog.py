"""Finds policy types by name: LeRobot's own and those of installed plugins, imported only when asked for."""

import importlib
import importlib.metadata
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from xp.errors import UserError, did_you_mean, join_names

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.pretrained import PreTrainedPolicy

ACT_SMOOTH = "lerobot_policy_act_smooth_xp"
"""The plugin of this repository that brings act_smooth."""
PREFIX = "lerobot_policy_"
"""What the name of a plugin's distribution, and of its module, begins with (LeRobot 0.6.1, utils/import_utils.py)."""


def config_class(policy_type: str) -> "type[PreTrainedConfig]":
    """The configuration class registered under a policy type's name.

    Raises:
        UserError: no such type; plugins that could not be imported, or are named so that LeRobot overlooks them, are
            said with their error.
    """
    registry, failures = _registry()
    known = sorted(registry.get_known_choices())
    if policy_type not in known:
        raise UserError(
            f"model.type={policy_type}: there is no such policy type. Types: {join_names(known)}"
            f"{did_you_mean(policy_type, known)}.{_plugin_trouble(failures)}"
        )
    found = registry.get_choice_class(policy_type)
    other = found.__module__.partition(".")[0]
    if policy_type == "act_smooth" and other != ACT_SMOOTH:
        raise UserError(
            f"model.type=act_smooth is brought by another plugin, {other}. An environment can have one of the two, and "
            f"xp's own, {ACT_SMOOTH}, loads the checkpoints of both. Type: uv pip uninstall {other}. Then install "
            f"{ACT_SMOOTH}, if it is not there (docs/models.md says how)."
        )
    return found


def policy_class(policy_type: str) -> "type[PreTrainedPolicy]":
    """The policy class of a type: imports its module.

    Raises:
        UserError: a package that the policy needs is not installed; says which extra brings it.
    """
    config_class(policy_type)
    from lerobot.policies.factory import get_policy_class

    try:
        return get_policy_class(policy_type)
    except ImportError as error:
        raise missing_package(policy_type, error) from error


def missing_package(policy_type: str, error: ImportError) -> UserError:
    """What to install when a policy's own requirements are not there."""
    extra = re.search(r"lerobot\[([\w-]+)\]", str(error))
    name = extra[1] if extra else policy_type
    return UserError(
        f"The policy type '{policy_type}' needs a package that is not installed ({_first_line(error)}). Install it "
        f"with `uv pip install 'lerobot[{name}]==0.6.1'`, then give the same command again."
    )


@lru_cache(maxsize=1)
def _registry() -> "tuple[type[PreTrainedConfig], dict[str, str]]":
    """LeRobot's registry with every plugin in it, and {plugin: error} of those that could not be imported.

    LeRobot's own `register_third_party_plugins` logs such an error and goes on, so that later the type is unknown.
    """
    os.environ.setdefault("USE_FLAX", "0")  # diffusers would import JAX beside torch, for nothing
    from lerobot.configs import PreTrainedConfig

    importlib.import_module("lerobot.policies")  # registers LeRobot's own
    failures = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.name or ""
        if name.replace("-", "_").startswith(PREFIX):
            failures |= _imported(name)
    return PreTrainedConfig, failures


def _imported(name: str) -> dict[str, str]:
    if "-" in name:
        return {name: f"LeRobot looks for distributions named {PREFIX}..., with underscores, and overlooks this one"}
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a plugin's code raises is the plugin's trouble, to be named as such
        return {name: f"{type(error).__name__}: {_first_line(error)}"}
    return {}


def _plugin_trouble(failures: dict[str, str]) -> str:
    if not failures:
        return ""
    said = "; ".join(f"{name} ({error})" for name, error in failures.items())
    return f" Plugins that could not be used: {said}. Mend or reinstall the plugin that brings the type."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
