"""Values as Hydra's override language writes them, and back."""

import re
from collections.abc import Iterable, Mapping

from xp.json_types import JSONObject
from xp.nested import dotted

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")
_WORDS = ("null", "true", "false", "nan", "inf")


def text(value: object) -> str:
    """A value in the override language, such that parsing gives it back.

    Not `xp.shell.written`, which is for pasting: here interpolations stay interpolations, and what records hold as a
    job's overrides keeps its form.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{text(inner)}" for key, inner in value.items()) + "}"
    assert isinstance(value, Iterable), f"the override language has no form for {value!r}"
    return "[" + ",".join(text(inner) for inner in value) + "]"


def quick_value(written: str) -> tuple[bool, int | float | bool | str | None]:
    """(True, value) of a plain number or word of the override language; (False, None) where its grammar is needed."""
    if _WHOLE.fullmatch(written):
        return True, int(written)
    if _DECIMAL.fullmatch(written):
        return True, float(written)
    word = written.lower()
    if word in ("true", "false"):
        return True, word == "true"
    if word == "null":
        return True, None
    if word not in _WORDS and _PLAIN.fullmatch(written):
        return True, written
    return False, None


def flat(node: JSONObject) -> dict[str, str]:
    """A nested mapping of an experiment file as {dotted key: text}; lists and empty mappings stay values."""
    return {key: text(value) for key, value in dotted(node, keep_empty=True).items()}


def bare(key: str) -> str:
    """A key without the signs that Hydra puts before it (+ ++ ~)."""
    return key.lstrip("+~")


def safe_name(name: str, limit: int = 100) -> str:
    """A folder name that every file system and shell takes; long ones are cut and told apart by a hash."""
    import hashlib

    clean = re.sub(r"[^A-Za-z0-9._+-]+", "_", name).strip("_.") or "job"
    if len(clean) <= limit:
        return clean
    return f"{clean[: limit - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _quoted(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=value, quote=Quote.single).with_quotes()
