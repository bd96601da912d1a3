"""Annotations of xp.models are checked in every call that tests make: shapes, types, and aliases at every depth."""

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from annotation_checks import check
from xp.json_types import JSON
from xp.models.octo.network.stems import PatchEncoder, expected_places
from xp.models.tree import Tree
from xp.pictures import resize


@check
def takes_arrays(tree: Tree[np.ndarray]) -> None:
    """A tree of arrays."""


@check
def takes_json(value: JSON) -> None:
    """A value of JSON."""


def nested(value, depth):
    for _ in range(depth):
        value = {"inside": value}
    return value


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_a_leaf_of_another_type_is_found_at_every_depth(depth):
    takes_arrays(nested(np.zeros(1), depth))
    takes_json(nested([None, 1.5], depth))
    with pytest.raises(BeartypeCallHintViolation):
        takes_arrays(nested("no array", depth))
    with pytest.raises(BeartypeCallHintViolation):
        takes_json(nested({1, 2}, depth))


def test_a_wrong_shape_is_found_in_functions_and_in_modules_of_flax():
    with pytest.raises(TypeCheckError, match="images"):
        resize(np.zeros((4, 4), np.uint8), 2, 2)
    with pytest.raises(TypeCheckError, match="maps"):
        expected_places(np.zeros((1, 4, 4, 2), np.float32))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeCheckError, match="image"):
        PatchEncoder().apply({"params": {}}, np.zeros((4, 4), np.uint8))
