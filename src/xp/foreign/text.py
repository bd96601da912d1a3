"""Words from outside as they may stand in a message or a terminal."""

import reprlib

_LONGEST = 200


def printable(text: object, most: int = _LONGEST, *, lines: bool = False) -> str:
    r"""A text without anything that a terminal would obey: control characters, escape sequences and marks that turn the
    direction of writing become visible (`\x1b`, `\u202e`); printable text stays as it is.

    Args:
        text: the text; anything else is shown as `str` writes it.
        most: characters of `text` that are kept; where it is longer, the answer ends with how many are missing.
        lines: keep newlines and tabs.
    """
    text = text if isinstance(text, str) else _written(text)
    kept = text[:most]
    if not kept.isprintable():
        kept = "".join(_visible(letter, lines) for letter in kept)
    return kept if len(text) <= most else f"{kept}... ({len(text) - most:,} more characters)"


def shown(value: object, most: int = 80) -> str:
    """A value from a file as a message quotes it: short whatever its size and depth, on one line."""
    if isinstance(value, dict):
        value = {key: _Other() if isinstance(child, dict | list) else child for key, child in list(value.items())[:5]}
    return printable(_SHORT.repr(value), most)


def _visible(letter: str, lines: bool) -> str:
    if letter.isprintable() or (lines and letter in "\n\t"):
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def _written(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes out
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else type(value).__name__


class _Other:
    """What stands for a nested value."""

    def __repr__(self) -> str:
        return "..."


_SHORT = reprlib.Repr(maxlevel=2, maxdict=4, maxlist=6, maxstring=60, maxlong=30, maxother=60)
