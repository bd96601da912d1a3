"""Hydra's and OmegaConf's errors in the user's words: what was given, what is allowed, what to type next."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from xp.errors import UserError, closest, listing

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra


@contextmanager
def explained(hydra: "Hydra", overrides: list[str]) -> Iterator[None]:
    """Turn whatever composing raises into one `UserError`."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if type(error) is ValueError and "Config group override" not in str(error):
            raise
        raise UserError(explain(error, hydra, overrides)) from error


def explain(error: Exception, hydra: "Hydra", overrides: list[str]) -> str:
    """One paragraph about a composition error."""
    text = _text(error)
    for look in (_unparsable, _number_as_option, _sweep_without_m, _unknown_option, _unknown_key):
        message = look(text, hydra, overrides)
        if message:
            return message
    return " ".join(text.split())


def _text(error: BaseException) -> str:
    cause = f" {error.__cause__}" if error.__cause__ is not None else ""
    return f"{error}{cause}"


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def _groups(hydra: "Hydra") -> list[str]:
    from hydra.core.object_type import ObjectType

    def walk(prefix: str) -> Iterator[str]:
        for name in hydra.config_loader.get_group_options(prefix, results_filter=ObjectType.GROUP):
            path = f"{prefix}/{name}" if prefix else name
            if path == "hydra" or path.startswith("hydra/") and path not in ("hydra/launcher", "hydra/sweeper"):
                continue
            yield path

    return [*walk(""), "hydra/launcher", "hydra/sweeper"]


def _options(hydra: "Hydra", group: str) -> list[str]:
    return list(hydra.config_loader.get_group_options(group))


def _unparsable(text: str, hydra: "Hydra", overrides: list[str]) -> str:
    given = next((override for override in overrides if not _parses(override)), None)
    if given is None:
        return ""
    if "=" not in given and not given.startswith("~"):
        return (
            f"'{given}' is not an override: overrides look like key=value or group=option. "
            f"A flag of xp starts with - (see xp --help){closest(given, _groups(hydra))}"
        )
    return (
        f"'{given}' cannot be read as an override. Quote values with spaces, commas or brackets for the shell and for "
        f"Hydra, as in 'data.tasks=[\"put the red cube on the target\"]'."
    )


def _parses(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _number_as_option(text: str, hydra: "Hydra", overrides: list[str]) -> str:
    match = re.search(r"Config group override must be a string or a list\. Got (\w+)", text)
    if not match:
        return ""
    for override in overrides:
        key, _, value = override.partition("=")
        if _key(key) in _groups(hydra) and re.fullmatch(r"[\d.eE+-]+(,[\d.eE+-]+)*", value):
            scalar = {"horizon": "train", "chunk_size": "steps", "lr": "peak", "obs_dropout": "rate"}.get(key, "...")
            return (
                f"{override}: '{key}' is a group of options, not a number. Options: {listing(_options(hydra, key))}. "
                f"To set the number itself type {key}.{scalar}={value}"
            )
    return ""


def _sweep_without_m(text: str, hydra: "Hydra", overrides: list[str]) -> str:
    match = re.search(r"Ambiguous value for argument '(.*?)'", text) or re.search(
        r"Sweep parameters '(.*?)' requires --multirun", text
    )
    if not match:
        return ""
    given = match.group(1)
    key, _, value = given.partition("=")
    return (
        f"{given} names several values. To sweep over them add -m: xp -m {given} ; "
        f"to set one list write {key}=[{value}]"
    )


def _unknown_option(text: str, hydra: "Hydra", overrides: list[str]) -> str:
    match = re.search(r"Could not find '(.+?)/([^/']+)'", text)
    if match:
        group, option = match.groups()
        allowed = _options(hydra, group)
        guess = closest(option, allowed)
        return f"{group}={option}: there is no such option. Options of {group}: {listing(allowed)}{guess}"
    match = re.search(r"Could not override '(.+?)'\.\s*No match in the defaults list", text)
    if match:
        group = match.group(1)
        if group == "experiment":
            return (
                f"experiment={_given(overrides, group)}: type +experiment={_given(overrides, group)} (with the plus)."
            )
        groups = _groups(hydra)
        return f"'{group}' is not a group of options. Groups: {listing(groups)}{closest(group, groups)}"
    match = re.search(r"Multiple values for ([\w/]+)", text)
    if match:
        return f"The group '{match.group(1)}' was given twice. Give it once."
    return ""


def _given(overrides: list[str], key: str) -> str:
    return next((o.partition("=")[2] for o in overrides if _key(o) == key), "NAME")


def _unknown_key(text: str, hydra: "Hydra", overrides: list[str]) -> str:
    match = re.search(r"Could not (?:override|append to config|delete from config).*?'([\w./@-]+)'", text)
    if not match and not re.search(r"Key '.*?' (?:is not in struct|not in)|Unknown override", text):
        return ""
    given = match.group(1) if match else ""
    known = _default_config(hydra)
    return unknown_key(given, known, plus=any(o.startswith("+" + given) for o in overrides))


def _default_config(hydra: "Hydra") -> dict[str, Any]:
    from hydra.types import RunMode

    from xp.config.compose import CONFIG_NAME

    config = hydra.compose_config(CONFIG_NAME, [], run_mode=RunMode.RUN, with_log_configuration=False)
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def unknown_key(given: str, known: dict[str, Any], *, plus: bool = False) -> str:
    """Say where a dotted key leaves the configuration, and what stands there."""
    node: Any = known
    walked: list[str] = []
    for part in given.split("."):
        if not isinstance(node, dict) or part not in node:
            break
        node = node[part]
        walked.append(part)
    where = ".".join(walked)
    if where == given:
        return f"{given} is there already: write {given}=VALUE{', without the plus' if plus else ''}."
    if not isinstance(node, dict):
        return f"There is no key '{given}': {where} holds one value ({node!r}). Set it with {where}=VALUE"
    names = [str(name) for name in node if name != "hydra"]
    missing = given.split(".")[len(walked)]
    guess = closest(missing, names) or closest(given, _dotted(known))
    return f"There is no key '{given}'. Keys {'of ' + where if where else 'and groups'}: {listing(names)}{guess}"


def _dotted(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, child in node.items():
        yield f"{prefix}{name}"
        if isinstance(child, dict) and name != "hydra":
            yield from _dotted(child, f"{prefix}{name}.")
