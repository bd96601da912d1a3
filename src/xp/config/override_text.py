"""Values as Hydra's override language writes them."""

import re
from collections.abc import Iterable, Mapping

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
"""Text that needs no quotes, unless it is one of `WORDS`."""
WORDS = ("null", "true", "false", "nan", "inf")
"""Words that mean something else than their letters, in any case."""


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
        return value if PLAIN.fullmatch(value) and value.lower() not in WORDS else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{text(inner)}" for key, inner in value.items()) + "}"
    assert isinstance(value, Iterable), f"the override language has no form for {value!r}"
    return "[" + ",".join(text(inner) for inner in value) + "]"


def _quoted(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=value, quote=Quote.single).with_quotes()
