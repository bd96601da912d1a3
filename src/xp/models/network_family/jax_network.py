"""A JAX network as pure functions. Imports no framework."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JaxNetwork:
    """Pure, jit-able functions. Weights are a nested dict of float32 arrays."""

    init: Callable[[Any, Mapping[str, Any]], Any]
    """`init(key, inputs)` draws the weights for inputs of such shapes."""
    chunk: Callable[[Any, Mapping[str, Any], Any], Any]
    """`chunk(weights, inputs, key)` gives [B, H, A] in normalised units, in evaluation mode."""
    loss: Callable[[Any, Mapping[str, Any], Any, bool], tuple[Any, dict[str, Any]]] | None = None
    """`loss(weights, inputs, key, train)` gives the scalar objective and scalar parts, means over actions that are no
    padding; None: the mean absolute error of `chunk`."""
