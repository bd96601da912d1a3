"""Observations whose pictures are drawn when somebody first looks at them, for suites where drawing is the cost."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from xp.array_types import Numbers

type Draw = Callable[[], UInt8[np.ndarray, "height width 3"]]


class LazyObservation(Mapping[str, Numbers | str]):
    """An `Observation` that knows how to draw its pictures.

    What is drawn is the moment that was observed, however far the episode has gone on since: each function draws from
    a copy of the scene. A picture is drawn once. Drawing happens in the thread that looks, so an env that draws with GL
    and its reader share a thread. A pickle (to another process) holds the pictures.

    Args:
        drawn: what is there already, by key.
        draw: key to a function that gives the picture [h, w, 3] uint8.
    """

    def __init__(self, drawn: Mapping[str, Numbers | str], draw: Mapping[str, Draw]):
        self._drawn, self._draw = dict(drawn), dict(draw)
        self._keys = (*self._draw, *(key for key in self._drawn if key not in self._draw))

    def __getitem__(self, key: str) -> Numbers | str:
        if key not in self._drawn:
            self._drawn[key] = self._draw[key]()
        return self._drawn[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)
