"""Bins for numbers: the discretisation of Octo's discrete head and of its low-dimensional observations."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int, Int32

EDGE = 1e-6
"""How far from the outermost thresholds the range ends (Octo's constant)."""


@dataclass(frozen=True)
class Bins:
    """`count` bins: of equal width over [low, high] (`uniform`), or of equal probability under N(0, 1) (`normal`).

    Values outside the range fall into the outermost bin on their side. (The original puts values beyond the normal
    bins, |x| > 4.75, into bin 0 whichever side they are on.)
    """

    count: int
    kind: str
    low: float
    high: float

    @classmethod
    def of(cls, count: int, kind: str, low: float | None, high: float | None) -> "Bins":
        """Bins as Octo's modules name their options; the range of uniform bins is 0..1 where it is not given."""
        return cls(count, kind, 0.0 if low is None else low, 1.0 if high is None else high)

    def thresholds(self) -> Float[Array, " {self.count}+1"]:
        """Borders of the bins, ascending, float32."""
        if self.kind == "uniform":
            return jnp.linspace(self.low, self.high, self.count + 1)
        return norm.ppf(jnp.linspace(EDGE, 1 - EDGE, self.count + 1))

    def index(self, values: Float[Array, "*shape"]) -> Int32[Array, "*shape"]:
        """Bin of each value."""
        inside = jnp.clip(values, self.low + EDGE, self.high - EDGE) if self.kind == "uniform" else values
        place = jnp.searchsorted(self.thresholds(), inside, side="right") - 1
        return jnp.clip(place, 0, self.count - 1).astype(jnp.int32)

    def centre(self, index: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Middle of each bin, float32."""
        borders = self.thresholds()
        return ((borders[1:] + borders[:-1]) / 2)[index]
