"""Arrays of merging by what they hold: the elements of a leaf's range, or numbers of N models and U units.

The annotations are jaxtyping's: within one call, axes of one name have one length. Tests check that.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from numpy.typing import NDArray

Values = Float[NDArray[np.floating[Any]], " elements"]
"""A range of a leaf, flattened, in any float type."""
Entries = Float64[NDArray[np.float64], " elements"]
"""A range of a task vector, or a factor on each of its entries."""
Magnitudes = Float32[NDArray[np.float32], " elements"]
"""Values whose magnitudes are ranked."""
Counts = Int64[NDArray[np.int64], " bins"]
"""How many values fall into each bin of a histogram."""
Indices = Int64[NDArray[np.int64], " rows"]
"""The unit of each row of a leaf, or of the whole leaf."""
Shares = Float64[NDArray[np.float64], " models"]
"""A number for each model."""
Table = Float64[NDArray[np.float64], "units models"]
"""Mixing weights: a row for each part of the model that has weights of its own."""
Products = Float64[NDArray[np.float64], "models models"]
"""Inner products of the models' values, or of their task vectors: a Gram matrix."""
Numbers = Sequence[float] | Shares
"""A number for each model, as a list or an array."""
