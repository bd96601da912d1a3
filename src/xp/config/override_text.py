"""Values as Hydra's override language writes them."""

import re

from xp.shell import spelled

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
"""Text that needs no quotes, unless it is one of `WORDS`."""
WORDS = ("null", "true", "false", "nan", "inf")
"""Words that mean something else than their letters, in any case."""


def text(value: object) -> str:
    """A value in the override language, such that parsing gives it back.

    Not `xp.shell.written`, which is for pasting: here interpolations stay interpolations, and what records hold as a
    job's overrides keeps its form.
    """
    return spelled(value, _kept, str)


def _kept(value: str) -> str:
    return value if PLAIN.fullmatch(value) and value.lower() not in WORDS else _quoted(value)


def _quoted(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=value, quote=Quote.single).with_quotes()
