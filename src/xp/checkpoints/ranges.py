"""How the elements of a leaf are cut into ranges."""

from collections.abc import Iterator


def rounded_up(count: int, grain: int) -> int:
    """The least multiple of `grain` that is at least `count`."""
    return -(-count // grain) * grain


def cut(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of `step` elements from `start` to `stop`; the last may be shorter."""
    for first in range(start, stop, step):
        yield first, min(first + step, stop)
