"""Draws of a torch network by row: each row of a batch has random numbers of its own, wherever it stands.

A network draws for its whole batch from torch's global generator, so what a row gets depends on its place and on the
batch's size. Here every random function of torch is run once for each row, with that row's own generator and that row
moved to the first place, and its first place is what the row gets.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch.overrides import TorchFunctionMode

RANDOM = frozenset((
    "rand", "randn", "randint", "normal", "rand_like", "randn_like", "randint_like", "multinomial", "bernoulli",
    "poisson", "normal_", "uniform_", "exponential_", "random_", "bernoulli_", "cauchy_", "log_normal_", "geometric_",
))  # fmt: skip
"""Functions of torch that draw for each element, by their names."""


class DrawsTogether(Exception):  # noqa: N818 - no mistake: whoever asks falls back to single rows
    """The network draws what is no row's own: its rows have to be asked one by one."""


class DrawsByRow(TorchFunctionMode):
    """While it is active, row i of whatever is drawn comes from a generator seeded with `seeds[i]`.

    Args:
        seeds: a number for each row [B].
    """

    def __init__(self, seeds: Int64[np.ndarray, " batch"]) -> None:
        super().__init__()
        self._seeds = seeds.tolist()
        self._states: dict[tuple[int, torch.device], torch.Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function of torch; see `TorchFunctionMode`."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in RANDOM:
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None or kwargs.get("out") is not None:
            raise DrawsTogether
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        device = given[0].device if given else torch.device(kwargs.get("device") or torch.get_default_device())
        deepest = max((value.dim() for value in given), default=0)
        target = args[0] if name.endswith("_") else None
        parts = []
        for row in range(len(self._seeds)):
            moved = [self._moved(value, row, deepest, target is not None) for value in args]
            named = {key: self._moved(value, row, deepest, False) for key, value in kwargs.items()}
            with _Stream(self._states, row, self._seeds[row], device):
                parts.append(self._first(func(*moved, **named)))
        drawn = torch.cat(parts)
        return drawn if target is None else target.copy_(drawn)

    def _moved(self, value: Any, row: int, deepest: int, copied: bool) -> Any:
        """A tensor of rows with `row` in the first place; anything else as it is."""
        if not isinstance(value, torch.Tensor) or not value.dim() or value.dim() < deepest:
            return value
        if len(value) % len(self._seeds):
            return value.clone() if copied else value
        return value.roll(-row * (len(value) // len(self._seeds)), 0)

    def _first(self, drawn: torch.Tensor) -> torch.Tensor:
        """The first row of what was drawn."""
        if not drawn.dim() or not len(drawn) or len(drawn) % len(self._seeds):
            raise DrawsTogether
        return drawn[: len(drawn) // len(self._seeds)]


class _Stream:
    """The device's global generator as one row's, for the time of one draw."""

    def __init__(self, states: dict[tuple[int, torch.device], torch.Tensor], row: int, seed: int, device: torch.device):
        self._states, self._row, self._seed, self._device = states, row, seed, device

    def __enter__(self) -> None:
        key = (self._row, self._device)
        if key not in self._states:
            self._states[key] = torch.Generator(self._device).manual_seed(self._seed).get_state()
        self._before = self._get()
        self._set(self._states[key])

    def __exit__(self, *_: object) -> None:
        self._states[(self._row, self._device)] = self._get()
        self._set(self._before)

    def _get(self) -> torch.Tensor:
        return torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else torch.get_rng_state()

    def _set(self, state: torch.Tensor) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state, self._device)
        else:
            torch.set_rng_state(state)


def predict_by_row(
    predict: Callable[..., Float32[np.ndarray, "batch horizon action"]],
    observation: Mapping[str, object],
    seeds: Int64[np.ndarray, " batch"],
    options: Mapping[str, object],
) -> Float32[np.ndarray, "batch horizon action"]:
    """Actions of a policy whose every row draws by its own number.

    Args:
        predict: asks the policy: (observation, seed=, **options).
        observation: B observations, each key with an axis of rows.
        seeds: a number for each row.
        options: of `predict`; arrays have an axis of rows.
    """
    try:
        with DrawsByRow(seeds):
            return predict(observation, seed=0, **options)
    except DrawsTogether:
        rows = [
            predict(_row(observation, row), seed=int(number), **_row(options, row)) for row, number in enumerate(seeds)
        ]
        return np.concatenate(rows)


def _row(batch: Mapping[str, object], row: int) -> dict[str, Any]:
    """One row of a batch, as a batch."""
    return {
        key: value[row : row + 1] if isinstance(value, np.ndarray | list | tuple) else value
        for key, value in batch.items()
    }
