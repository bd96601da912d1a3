"""Types of a torch model's inputs and of the parts of its loss."""

from collections.abc import Mapping

from torch import Tensor

type Inputs = dict[str, Tensor | list[str]]
"""A model's inputs, each [B, ...]."""
type Parts = Mapping[str, Tensor | float]
"""Scalars that a loss is made of, by name."""
