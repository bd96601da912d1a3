"""Overrides and commands as they are typed: quoted for Hydra's grammar and then for the shell."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_./@%+*-]*[A-Za-z0-9_./@%+*-]")
"""Text that Hydra reads as it stands, if it is no number or word of the grammar (which matters for no path)."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_WORDS = re.compile(r"(?i)null|true|false|nan|inf|[-+.\d_e]+")


def override(key: str, value: object) -> str:
    r"""`key=value` for pasting into a shell, such that Hydra gives `value` back: text, a path, number, list or null.

    >>> override("status.folder", "multirun/my sweep")
    '\'status.folder="multirun/my sweep"\''
    """
    return quoted(f"{key}={written(value)}")


def command(*words: str, **keys: object) -> str:
    """`xp WORDS KEY=VALUE...` for pasting; in `keys` a dot is two underscores: `status__folder=FOLDER`."""
    return " ".join(["xp", *map(quoted, words), *(override(k.replace("__", "."), v) for k, v in keys.items())])


def near(path: str | PathLike[str]) -> str:
    """A path as it is typed from here: relative where it is below the present folder."""
    given = Path(path)
    here = Path.cwd()
    return (
        str(given.relative_to(here))
        if given.is_absolute() and given != here and given.is_relative_to(here)
        else str(given)
    )


def quoted(word: str) -> str:
    r"""One word for the shell; control characters, which a terminal would obey, are written out as `$'\x1b'`."""
    if not _CONTROL.search(word):
        return shlex.quote(word)
    safe = _CONTROL.sub(lambda match: "".join(f"\\x{byte:02x}" for byte in match[0].encode()), _escape(word))
    return f"$'{safe}'"


def _escape(word: str) -> str:
    return word.replace("\\", "\\\\").replace("'", "\\'")


def written(value: object) -> str:
    """A value in Hydra's override grammar, for pasting: what looks like an interpolation is text."""
    return spelled(value, _text, _text)


def spelled(value: object, text: Callable[[str], str], key: Callable[[str], str]) -> str:
    """A value in Hydra's override grammar; `text` and `key` say how a text and a mapping's key are written."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PathLike):
        return text(fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key(str(name))}:{spelled(inner, text, key)}" for name, inner in value.items()) + "}"
    assert isinstance(value, Iterable), f"Hydra's grammar has no form for {value!r}"
    return "[" + ",".join(spelled(inner, text, key) for inner in value) + "]"


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text):
        return text
    literal = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)
    return '"' + re.sub(r'(\\*)("|\Z)', _escaped, literal) + '"'


def _escaped(match: re.Match[str]) -> str:
    """Backslashes count only before a quote or at the end, where each is doubled; a quote gets one of its own."""
    return match[1] * 2 + ('\\"' if match[2] else "")
