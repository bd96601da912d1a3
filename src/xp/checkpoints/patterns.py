"""The regular expressions in an adapter's configuration, matched as Python does, within limits of time and memory.

PEFT matches names of modules with `re`, and a pattern from a stranger can keep `re` at work for ever. Patterns without
repetition are matched here, all others in a process of their own under limits of time and memory.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from xp.foreign.paths import RefusedError
from xp.foreign.text import printable

SECONDS = 10
"""CPU time for all patterns of a file."""
_LONGEST = 2000
_HARMLESS = re.compile(r"\^?(?:[\w.-]|\\[.dw])*\$?")
"""One letter after another: nothing is repeated, so nothing is tried again."""
_CHILD = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
patterns, names = json.load(sys.stdin)
found = []
for pattern in patterns:
    try:
        compiled = re.compile(pattern)
    except Exception as error:
        found.append(str(error))
        continue
    matches = [compiled.match(name) for name in names]
    found.append([None if m is None else m.groupdict().get("idx") or "" for m in matches])
json.dump(found, sys.stdout)
"""


def matches(wrapped: Sequence[tuple[str, str]], names: Sequence[str], field: str) -> list[list[str | None]]:
    """What `re.match` finds for each pattern in each name.

    Args:
        wrapped: (a pattern as the file has it, the regular expression that PEFT makes of it).
        names: of modules.
        field: the field of the file, for messages.

    Returns:
        For each pattern and name None where it does not match, else the text of its group `idx` ("" without one).

    Raises:
        RefusedError: a pattern is no regular expression, is too long, or takes longer than `SECONDS`.
    """
    for given, _ in wrapped:
        if len(given) > _LONGEST:
            raise RefusedError(f"{field} has a pattern of {len(given):,} characters: expected at most {_LONGEST:,}.")
    if all(_HARMLESS.fullmatch(given) for given, _ in wrapped):
        return [[_idx(re.match(pattern, name)) for name in names] for _, pattern in wrapped]
    found = _in_a_process([pattern for _, pattern in wrapped], names, field)
    for (given, _), answer in zip(wrapped, found):
        if isinstance(answer, str):
            raise RefusedError(f"{field}: {printable(repr(given), 80)} is no regular expression ({printable(answer)}).")
    return found


def _idx(match: re.Match[str] | None) -> str | None:
    return None if match is None else match.groupdict().get("idx") or ""


def _in_a_process(patterns: list[str], names: Sequence[str], field: str) -> list:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", limit + _CHILD],
            input=json.dumps([patterns, list(names)]).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30 * SECONDS,  # on a busy machine; the limit of CPU time is what counts
            check=False,
        )
        return json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise RefusedError(
            f"{field}: its patterns are not matched within {SECONDS} seconds. Write simpler ones, without repetitions "
            "inside repetitions, or the names of the modules."
        ) from error
