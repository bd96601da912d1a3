"""What a test leaves behind in a process that others use after it: functions and classes put into xp's own modules."""

import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
OURS = ("xp", "hydra_plugins")
"""The packages whose attributes belong to them alone."""


def replaced() -> list[str]:
    """`module.attribute` of every function and class that a file of the tests defines, in modules and classes of xp."""
    of_tests = {name for name, module in list(sys.modules.items()) if _is_test(getattr(module, "__file__", None))}
    return sorted(
        where
        for where, found in _attributes()
        if isinstance(getattr(found, "__module__", None), str) and found.__module__ in of_tests and callable(found)
    )


def _is_test(file: object) -> bool:
    return isinstance(file, str) and Path(file).is_relative_to(TESTS)


def _attributes() -> Iterator[tuple[str, object]]:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in OURS:
            continue
        for attribute, found in list(vars(module).items()):
            yield f"{name}.{attribute}", found
            if isinstance(found, type) and found.__module__ == name:
                yield from ((f"{name}.{attribute}.{part}", inner) for part, inner in list(vars(found).items()))
