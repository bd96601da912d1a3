"""Tensors of torch as arrays of numpy, and back, of the same bits."""

import ml_dtypes
import numpy as np
import torch
from jaxtyping import Shaped


def as_array(tensor: Shaped[torch.Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """A tensor as an array of the same bits on the host; bfloat16 by ml_dtypes, since numpy has none."""
    tensor = tensor.detach().contiguous().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def as_tensor(array: Shaped[np.ndarray, "*shape"]) -> Shaped[torch.Tensor, "*shape"]:
    """Undo `as_array`, without a copy."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """The type of `as_array`."""
    return as_array(torch.empty(0, dtype=dtype)).dtype
