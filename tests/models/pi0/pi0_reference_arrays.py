"""The arrays that openpi computed, as xp's network takes them."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from xp.models.pi0.network.flow import Network
from xp.models.pi0.network.sizes import Sizes, sizes_from_shapes
from xp.models.tree import unflatten

REFERENCE = Path(__file__).parents[3].parent / "shared/reference/openpi"


def needs_reference() -> None:
    if not REFERENCE.is_dir():
        pytest.skip("the arrays of openpi are not beside this checkout (../shared/reference/openpi)")


class Case:
    """One model of the reference: weights, inputs and what openpi computed."""

    def __init__(self, name: str) -> None:
        needs_reference()
        self.name = name
        self.flat = _arrays(f"{name}.params.npz")
        self.outputs = _arrays(f"{name}.outputs.npz")
        given = _arrays("inputs.npz")
        pictures = {path: array for path, array in given.items() if path.startswith("image")}
        self.inputs = {
            **pictures,
            "tokens": given["tokenized_prompt"],
            "token_mask": given["tokenized_prompt_mask"],
            "state": given["state"],
            "action": given["actions"],
        }
        self.noise, self.time = given["noise"], given["time"]

    @cached_property
    def sizes(self) -> Sizes:
        return sizes_from_shapes({path: array.shape for path, array in self.flat.items()}, self.name)

    @cached_property
    def network(self) -> Network:
        return Network(sizes=self.sizes)

    @property
    def weights(self):
        return unflatten(self.flat)


def _arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / file) as found:
        return dict(found)


def listed_shapes(file: str) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a parameter tree of the real size."""
    needs_reference()
    listed = json.loads((REFERENCE / file).read_text())
    return {path: tuple(entry[0]) if isinstance(entry[0], list) else tuple(entry) for path, entry in listed.items()}


def furthest(found, wanted) -> float:
    """The largest absolute difference."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max())
