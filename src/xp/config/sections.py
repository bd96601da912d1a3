"""Checks of a configuration section by section: keys, types, allowed words and bounds."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from omegaconf import MISSING, Container, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from xp.config.hydra_errors import explain_interpolation
from xp.config.schema import FREE_SECTIONS, OF_EXPERIMENTS, OPEN_SECTIONS, SECTIONS, Top
from xp.config.unknown_keys import shown, unknown_key
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON

_ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_MANY = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts"}


def check_sections(config: DictConfig) -> None:
    """Refuse keys that nothing reads, sections and keys that are missing, and values of a wrong type or out of bounds.

    Args:
        config: one composed job, interpolations allowed; values that come from a finished stage may be unresolved.

    Raises:
        UserError: naming the key, the value given, what is allowed and the closest match.
    """
    plain: Any = OmegaConf.to_container(config, resolve=False)
    _check_names(plain)
    for name, shape in SECTIONS.items():
        _check_section(name, shape, config, plain[name], more=name in OPEN_SECTIONS)
    for key in _fields(Top):
        _check_field("", key, config, plain, Top)


def check_keys(config: DictConfig, keys: Sequence[str]) -> None:
    """`check_sections` for these keys alone, of a configuration that differs in their values from one that passed."""
    own = {tuple(key.split(".")[:2]) for key in keys}
    for name, shape in SECTIONS.items():
        mine = {path[1] for path in own if path[0] == name and len(path) > 1}
        if not mine:
            continue
        schema = _schema(shape, {"name": raw(config, f"{name}.name")})
        for key in _fields(schema):
            if key in mine:
                _check_field(f"{name}.", key, config[name], {key: raw(config, f"{name}.{key}")}, schema)
    for key in _fields(Top):
        if (key,) in own:
            _check_field("", key, config, {key: raw(config, key)}, Top)


def check_section(config: DictConfig, name: str, schema: type) -> None:
    """Refuse what a section of `OPEN_SECTIONS` may not hold once it is known whose keys it has.

    Raises:
        UserError: as `check_sections`.
    """
    hint = (
        f" They are those of {name}.name={raw(config, f'{name}.name')}; to have another one with its keys type "
        f"{name}=OPTION, not {name}.name."
    )
    _check_section(name, schema, config, raw(config, name), hint=hint)


def raw(config: DictConfig, key: str) -> JSON:
    """What stands under a dotted key, unresolved; None where there is nothing."""
    node: Any = config
    for part in key.split("."):
        node = node._get_node(part, validate_access=False) if isinstance(node, DictConfig) else None
    if isinstance(node, Container):
        content: Any = OmegaConf.to_container(node, resolve=False)
        return content
    return None if node is None else node._value()


def _check_names(plain: dict[str, Any]) -> None:
    needed = [*SECTIONS, *FREE_SECTIONS, *_fields(Top)]
    for name in plain:
        if name not in (*needed, *OF_EXPERIMENTS):
            raise UserError(unknown_key(name, dict.fromkeys(needed)))
    if missing := [name for name in needed if name not in plain]:
        raise UserError(f"'{missing[0]}' is missing from the configuration. Leave ~{missing[0]} out.")
    for name in FREE_SECTIONS:
        if not isinstance(plain[name], dict):
            raise UserError(f"{name}={shown(plain[name])}: '{name}' is a group of options. Type {name}=OPTION")


def _check_section(
    name: str, shape: type | Mapping[str, type], config: DictConfig, plain: Any, *, more: bool = False, hint: str = ""
) -> None:
    """Check one section. Keys that it does not know are left to whom they belong (`more`), or refused, with `hint`."""
    schema = _schema(shape, plain)
    if not isinstance(plain, dict):
        keys = join_names(_fields(schema))
        raise UserError(f"{name}={shown(plain)}: '{name}' is a section. Set one of its keys: {keys}")
    for key in plain:
        if key not in _fields(schema) and not more:
            raise UserError(unknown_key(f"{name}.{key}", {name: dict.fromkeys(_fields(schema))}) + hint)
    for key in _fields(schema):
        _check_field(f"{name}.", key, config[name], plain, schema)


def _schema(shape: type | Mapping[str, type], plain: Any) -> type:
    """The schema of a section; where it depends on the section's `name`, the first for a name that is not known."""
    if isinstance(shape, type):
        return shape
    name = plain.get("name") if isinstance(plain, dict) else None
    return shape.get(str(name)) or next(iter(shape.values()))


@cache
def _typed(schema: type) -> DictConfig:
    """An object that takes a value for each field of a schema and refuses one of a wrong type; made once."""
    return OmegaConf.structured(schema)


@cache
def _fields(schema: type) -> dict[str, dataclasses.Field]:
    return {spec.name: spec for spec in dataclasses.fields(schema)}


def _check_field(prefix: str, key: str, section: DictConfig, plain: dict[str, Any], schema: type) -> None:
    path, spec = f"{prefix}{key}", _fields(schema)[key]
    if key not in plain:
        if spec.default is MISSING:
            what = wanted(spec.type)
            raise UserError(f"{path} is missing: expected {what}. Leave ~{path} out, or give {path}=VALUE")
        return
    value = plain[key]
    if isinstance(value, str) and value.startswith("${"):
        if "${best:" in value:
            return
        value = _resolved(section, key, path, value)
    _check_value(path, value, _typed(schema), key, spec)


def _resolved(section: DictConfig, key: str, path: str, given: str) -> Any:
    """The value of an interpolation.

    Raises:
        UserError: it refers to what is not there.
    """
    try:
        return section[key]
    except InterpolationResolutionError as error:
        if isinstance(error.__cause__, UserError):
            raise
        message = explain_interpolation(f"{error} {error.__cause__ or ''}", path, f"{path}={given}")
        raise UserError(message or f"{path}={given}: {error}") from error


def _check_value(path: str, value: Any, typed: DictConfig, key: str, spec: dataclasses.Field) -> None:
    try:
        _refuse_mistaken(value, spec.type)
        typed[key] = value
        value = typed[key]
    except (OmegaConfBaseException, TypeError) as error:
        given, instead = shown(_bare(value)), _instead(path, value, spec)
        raise UserError(f"{path}={given}: expected {wanted(spec.type)}{instead}") from error
    allowed = spec.metadata.get("allowed")
    if allowed and value is not None and value not in allowed:
        raise UserError(f"{path}={value}: allowed are {join_names(allowed)}{did_you_mean(str(value), allowed)}")
    low, high = spec.metadata.get("min"), spec.metadata.get("max")
    if isinstance(value, int | float) and not _within(value, low, high):
        raise UserError(f"{path}={value}: must be {_bounds(value, low, high)}.")


def _refuse_mistaken(value: object, kind: object) -> None:
    """Refuse a number where text is expected, and text that spells a number: OmegaConf takes either for the other."""
    inner = _without_none(kind)
    if inner is str and isinstance(value, int | float) or inner in (int, float, bool) and isinstance(value, str):
        raise TypeError(value)


def _bounds(value: float, low: float | None, high: float | None) -> str:
    if low is None:
        return "finite"
    if high is None or (high > 10**6 and value < low):  # a far bound on the other side is no help
        return f"at least {_number(low)}"
    return f"between {_number(low)} and {_number(high)}"


def _within(value: float, low: float | None, high: float | None) -> bool:
    finite = value == value and abs(value) != float("inf")
    return finite and (low is None or value >= low) and (high is None or value <= high)


def _number(value: float | None) -> str:
    return str(int(value)) if value is not None and float(value).is_integer() else f"{value:g}"


def _bare(value: object) -> object:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _instead(path: str, value: object, spec: dataclasses.Field) -> str:
    """What to type for a value that is nearly right."""
    inner = _without_none(spec.type)
    if inner is int and isinstance(value, float) and value.is_integer():
        return f". Type {path}={int(value)}"
    if inner is str and isinstance(value, int | float) and not isinstance(value, bool):
        return f". For a folder or name that is a number type \"{path}='{value}'\""
    if inner in (int, float) and isinstance(value, str) and re.fullmatch(r"[\d.eE+-]+", value):
        return f". Type {path}={value}; from the environment: {path}=${{oc.decode:${{oc.env:NAME}}}}"
    if typing.get_origin(inner) is list and isinstance(value, str):
        return f". Type {path}=[{value}]"
    return "."


def wanted(kind: object) -> str:
    """A type in words: `list[str] | None` is "a list of texts, or null"."""
    inner = _without_none(kind)
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    if origin is list:
        words = f"a list of {_MANY.get(arguments[0], 'values')}"
    elif origin is dict:
        words = f"a mapping of names to {_many(arguments[1])}"
    else:
        words = _ONE.get(inner, "a value")
    return words if inner is kind else f"{words}, or null"


def _many(kind: object) -> str:
    if typing.get_origin(kind) is list:
        return f"lists of {_MANY[typing.get_args(kind)[0]]}"
    return _MANY.get(kind, "values")


def _without_none(kind: object) -> object:
    if isinstance(kind, types.UnionType):
        rest = [each for each in typing.get_args(kind) if each is not types.NoneType]
        return rest[0]
    return kind
