"""Values read from Hydra's override language, and the names that are made of them."""

import re

from xp.config.override_text import PLAIN, WORDS, text
from xp.json_types import JSONObject
from xp.nested import dotted

_WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")


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
    if word not in WORDS and PLAIN.fullmatch(written):
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
