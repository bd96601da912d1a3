# pyright: strict
"""The one error type for what a user can cause, and how its messages list names, guess at a word and tell a size."""

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: the message says what was given, what is allowed and what to type next.

    The entry point prints the message alone (no traceback) and exits with `exit_code`.
    """

    exit_code = 2


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Say which allowed word `given` most resembles: `" (did you mean 'cosine'?)"`, or nothing."""
    names = {name.lower(): name for name in allowed}
    match = difflib.get_close_matches(given.lower(), list(names), n=1, cutoff=0.5)
    return f" (did you mean '{names[match[0]]}'?)" if match else ""


def join_names(words: Iterable[str]) -> str:
    """Join words for a message: `a, b, c`, or `(none)`."""
    return ", ".join(words) or "(none)"


def some(words: Iterable[str], most: int = 8) -> str:
    """`join_names` of the first few, and how many more there are: `a, b, c and 4997 more`."""
    known = list(words)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return join_names(known[:most]) + more


def disk_full(error: BaseException) -> UserError | None:
    """What to say of an error that means a full disk (or quota); None for any other."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    place = f" of {error.filename}" if error.filename else ""
    return UserError(
        f"The disk{place} is full: no bytes or no inodes are left (df and df -i show which). Make room there and give "
        "the same command again; what was begun is taken up."
    )


def human_size(count: float) -> str:
    """A number of bytes for people: in MB, from 100 MB on in GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
