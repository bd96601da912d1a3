"""Normalised actions as tokens and back: 256 bins over [-1, 1], the last ids of the vocabulary. Pure numpy.

Kim et al., "OpenVLA", 2024, section 3.2. Bin n (from 1) is the id `vocabulary` - n: with Llama-2's 32000 words -1 is
31999 and +1 is 31744. There are as many borders as ids, hence one bin fewer than ids: both of the last two ids mean the
last bin.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

BINS = 256


@dataclass(frozen=True)
class ActionTokens:
    """Bins over [-1, 1] at the end of a vocabulary of `vocabulary` words (padding of the embedding not counted)."""

    vocabulary: int
    count: int = BINS

    @cached_property
    def borders(self) -> Float64[np.ndarray, " {self.count}"]:
        """Borders of the bins, ascending."""
        return np.linspace(-1.0, 1.0, self.count)

    @cached_property
    def centres(self) -> Float64[np.ndarray, " {self.count}-1"]:
        """Middle of each bin."""
        return (self.borders[1:] + self.borders[:-1]) / 2

    @property
    def ids(self) -> range:
        """The ids that stand for actions."""
        return range(self.vocabulary - self.count, self.vocabulary)

    def encode(self, actions: Float[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
        """Ids of normalised actions; what is outside [-1, 1] counts as the end on its side."""
        inside = np.clip(actions.astype(np.float64), -1.0, 1.0)
        return self.vocabulary - np.digitize(inside, self.borders)

    def decode(self, ids: Int[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Normalised actions of ids; an id that stands for no action is taken for the nearest that does."""
        return self.centres[np.clip(self.vocabulary - ids - 1, 0, self.count - 2)]
