"""Types of NumPy arrays by the kind of their numbers, whatever the precision; jaxtyping or words tell their shapes."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Floats = np.ndarray[tuple[int, ...], np.dtype[np.floating[Any]]]
    Ints = np.ndarray[tuple[int, ...], np.dtype[np.integer[Any]]]
    Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool]]
    Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    Numbers = np.ndarray[tuple[int, ...], np.dtype[np.number[Any] | np.bool]]
else:
    Floats = Ints = Bools = Pixels = Numbers = np.ndarray
