"""Hydra's and OmegaConf's errors in the user's words: what was given, what is allowed, what to type next."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from xp.config.unknown_keys import shown, unknown_key
from xp.errors import UserError, did_you_mean, join_names
from xp.shell import quoted

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.override_parser.types import Override

SCALARS = {"horizon": "train", "chunk_size": "steps", "lr": "peak", "obs_dropout": "rate", "trainer": "steps"}
"""The key of a group that somebody means who gives the group a number."""


@contextmanager
def hydra_errors_as_user_errors(hydra: "Hydra", overrides: list[str], config_name: str) -> Iterator[None]:
    """Turn whatever composing `config_name` with these overrides raises into one `UserError`."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        refuse_misspelt_groups(hydra, overrides)
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if type(error) is ValueError and "Config group override" not in str(error):
            raise
        said = explain(error, hydra, overrides, config_name)
        stage, given = getattr(error, "composed_of", ("", overrides))  # of a job of a sweep, by the sweeper
        if given != overrides and (own := explain(error, hydra, given, config_name)) != said:
            said = f"In the stage {stage}: {own}"
        raise UserError(said) from error


def refuse_misspelt_groups(hydra: "Hydra", overrides: list[str]) -> None:
    """Refuse choices of groups that Hydra takes for files elsewhere, such as `model=../data/mine`.

    Raises:
        UserError: naming the override and the options of its group.
    """
    for given in overrides:
        group, _, option = given.lstrip("+").partition("=")
        if ".." in option.split("/") and group in _groups(hydra):
            raise UserError(
                f"{given}: there is no such option. Options of {group}: {join_names(_options(hydra, group))}"
            )


@dataclass
class _Mistake:
    """An error of composing, with what helps to explain it."""

    text: str
    full_key: str
    hydra: "Hydra"
    overrides: list[str]
    config_name: str

    @cached_property
    def groups(self) -> list[str]:
        return _groups(self.hydra)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What stands there without the overrides of single keys; the default configuration where that fails too."""
        chosen = [each for each in self.overrides if _key(each) in [*self.groups, "experiment"]]
        for overrides in (chosen, []):
            try:
                return _composed(self.hydra, overrides, self.config_name)
            except Exception:  # noqa: BLE001 - the mistake that is being explained may lie in these overrides
                continue
        return {}

    def about(self, key: str) -> str:
        """The override that sets a key (the last one counts), as typed; '' if none does."""
        return next((each for each in reversed(self.overrides) if _key(each) == key), "")


def explain(error: Exception, hydra: "Hydra", overrides: list[str], config_name: str) -> str:
    """One paragraph about a composition error."""
    mistake = _Mistake(_text(error), getattr(error, "full_key", "") or "", hydra, overrides, config_name)
    looks: tuple[Callable[[_Mistake], str], ...] = (
        _unparsable, _not_an_option, _sweep_without_m, _deleted, _interpolation, _unknown_option, _unknown_key,
        _wrong_shape,
    )  # fmt: skip
    for look in looks:
        if message := look(mistake):
            return message
    return " ".join(mistake.text.split("Config search path")[0].split())


def explain_interpolation(text: str, key: str, given: str = "") -> str:
    """What is wrong with a value that refers to another one; '' if it is not about that.

    Args:
        text: OmegaConf's message.
        key: the key whose value could not be resolved.
        given: the override or value, as typed.
    """
    start = f"{given or key}: "
    if match := re.search(r"Environment variable '(.+?)' not found", text):
        name = match[1]
        return f"{start}the environment variable {name} is not set. Type export {name}=VALUE before, or {key}=VALUE"
    if match := re.search(r"Interpolation key '(.+?)' not found", text):
        return f"{start}there is no key '{match[1]}' that ${{{match[1]}}} could take its value from. Give {key}=VALUE"
    if match := re.search(r"Unsupported interpolation type (\S+)", text):
        return f"{start}there is no resolver '{match[1]}'. To take the value of another key write ${{section.key}}"
    if "Recursive interpolation" in text:
        return f"{start}the value refers to itself. Give {key}=VALUE"
    if match := re.search(r"raised while resolving interpolation: (.*?)(?: full_key|$)", text, re.S):
        return f"{start}its value cannot be worked out ({' '.join(match[1].split())}). Give {key}=VALUE"
    return ""


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


def _composed(hydra: "Hydra", overrides: list[str], config_name: str) -> dict[str, Any]:
    from hydra.types import RunMode

    config = hydra.compose_config(config_name, overrides, run_mode=RunMode.RUN, with_log_configuration=False)
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _unparsable(mistake: _Mistake) -> str:
    given = next((each for each in mistake.overrides if _parsed(each) is None), None)
    if given is None:
        empty = next((each for each in mistake.overrides if each.startswith(("=", "+=", "~="))), None)
        return f"'{empty}' names no key. Overrides look like key=value or group=option." if empty else ""
    if "=" not in given and not given.startswith("~"):
        return (
            f"'{given}' is not an override: overrides look like key=value or group=option. "
            f"A flag of xp starts with - (see xp --help){did_you_mean(given, mistake.groups)}"
        )
    return (
        f"'{given}' cannot be read as an override. Quote values with spaces, commas or brackets for the shell and for "
        f"Hydra, as in 'data.tasks=[\"put the red cube on the target\"]'; close every bracket and quote."
    )


def _parsed(override: str) -> "Override | None":
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _not_an_option(mistake: _Mistake) -> str:
    """A group was given what is no name of an option: a number, null, true, a mapping, nothing."""
    for given in mistake.overrides:
        group = _key(given)
        if given.startswith("~") or group not in [*mistake.groups, "experiment"]:
            continue
        if given.startswith("+") and group not in ("experiment", "debug") and group in mistake.config:
            return f"{given}: one option of '{group}' is chosen already. Write {given.lstrip('+')}, without the plus."
        for value in _choices(given):
            if not isinstance(value, str | list) or not value:
                return _say_option(given, group, value, mistake)
    return ""


def _choices(given: str) -> list[object]:
    """The value of an override, or all those that a sweep names."""
    override = _parsed(given)
    if override is None:
        return []
    value: Any = override.value()
    return list(value.list) if override.is_choice_sweep() else [] if override.is_sweep_override() else [value]


def _say_option(given: str, group: str, value: Any, mistake: _Mistake) -> str:
    plus = "+" if group == "experiment" else ""
    options = f"Options: {join_names(_options(mistake.hydra, group))}."
    if value in ("", None):
        return f"{given}: '{group}' is a group of options, and one is expected. {options} Type {plus}{group}=OPTION"
    what = {bool: "true or false", dict: "a mapping"}.get(type(value), "a number")
    scalar = SCALARS.get(group) if what == "a number" else None
    advice = (
        f"To set the number type {group}.{scalar}={given.partition('=')[2]}" if scalar else f"Type {plus}{group}=OPTION"
    )
    if what == "a mapping":
        advice = f"To set keys of it type {group}.KEY=VALUE, one by one"
    return f"{given}: '{group}' is a group of options, not {what}. {options} {advice}"


def _sweep_without_m(mistake: _Mistake) -> str:
    match = re.search(r"Ambiguous value for argument '(.*?)'", mistake.text) or re.search(
        r"Sweep parameters '(.*?)' requires --multirun", mistake.text
    )
    if not match:
        return ""
    given = match.group(1)
    key, _, value = given.partition("=")
    return (
        f"{given} names several values. To sweep over them add -m: xp -m {quoted(given)} ; "
        f"to set one list write {quoted(f'{key}=[{value}]')}"
    )


def _deleted(mistake: _Mistake) -> str:
    """A section or group that something else refers to was taken out."""
    for given in mistake.overrides:
        key = _key(given)
        if (
            given.startswith("~")
            and key.split(".")[0] in mistake.config
            and re.search(rf"(?:Missing key|Interpolation key|Key) '?{re.escape(key)}\b", mistake.text)
        ):
            return f"{given}: xp needs '{key}', so it cannot be deleted. Leave {given} out."
    return ""


def _interpolation(mistake: _Mistake) -> str:
    return explain_interpolation(mistake.text, mistake.full_key, mistake.about(mistake.full_key))


def _unknown_option(mistake: _Mistake) -> str:
    text, hydra = mistake.text, mistake.hydra
    if match := re.search(r"Cannot find primary config '(.+?)'", text):
        name = match[1]
        return f"--config-name={name}: there is no {name}.yaml in conf/. xp's own is 'config': leave --config-name out."
    if match := re.search(r"Could not find '(.+?)/([^/']+)'", text):
        group, option = match.groups()
        allowed = _options(hydra, group)
        guess = did_you_mean(option, allowed)
        return f"{group}={option}: there is no such option. Options of {group}: {join_names(allowed)}{guess}"
    if match := re.search(r"Could not override '(.+?)'\.\s*No match in the defaults list", text):
        group = match.group(1)
        if group == "experiment":
            option = mistake.about(group).partition("=")[2] or "NAME"
            return f"experiment={option}: type +experiment={option} (with the plus)."
        return (
            f"'{group}' is not a group of options. Groups: {join_names(mistake.groups)}"
            f"{did_you_mean(group, mistake.groups)}"
        )
    if match := re.search(r"Multiple values for ([\w/]+)|^([\w/]+) appears more than once", text):
        return f"The group '{match.group(1) or match.group(2)}' was given twice. Give it once."
    return ""


def _unknown_key(mistake: _Mistake) -> str:
    match = re.search(r"Could not (?:override|append to config|delete from config).*?'([\w./@-]+)'", mistake.text)
    if not match and not re.search(r"Key '.*?' (?:is not in struct|not in)|Unknown override", mistake.text):
        return ""
    given = match.group(1) if match else ""
    return unknown_key(given, mistake.config, override=mistake.about(given))


def _wrong_shape(mistake: _Mistake) -> str:
    """A value that cannot stand where it was put: a mapping for a list, null where nothing else will do."""
    match = re.search(r"Error merging override (\S+)", mistake.text)
    if not match:
        return ""
    given = next((each for each in mistake.overrides if each.startswith(match[1])), match[1])
    key, node = _key(given), mistake.config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return f"{given}: this value does not fit here, where {key} is {shown(node)}. Give {key}=VALUE of the same form."
