# pyright: strict
"""How the elements of an array are cut into ranges."""

from collections.abc import Iterator


def rounded_up(count: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `count`."""
    return -(-count // multiple) * multiple


def cut(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of `step` elements from `start` to `stop`; the last may be shorter."""
    for first in range(start, stop, step):
        yield first, min(first + step, stop)
