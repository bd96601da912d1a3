"""Noise on actions for the sake of exploring: Vintix's continuous annealing, and a search around a policy.

Every draw is a function of (the run's seed, the attempt's seed, the step), so that an attempt does not depend on what
is made beside it. Letters: N envs, A action.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32

from xp.errors import UserError


@dataclass
class Annealed:
    """Actions mixed with uniform ones, less and less: a history of learning made from an expert.

    a = (1 - eps) expert + eps U(-span, span) with eps(n) = (1 - (n / ((1 - rest) N))^power)^(1/power), and 0 in the
    last share `rest` of a history (Polubarov et al. 2025, "Vintix: action model via in-context reinforcement learning",
    arXiv:2501.19400, continuous noise distillation).

    Raises:
        UserError: a power or span that is not above 0, or a rest outside [0, 1).
    """

    count: int
    """N."""
    seed: int
    power: float = 0.6
    rest: float = 0.05
    span: float = 1.0
    first: float = 1.0
    """What eps begins with, as a factor on all of it."""
    _draws: list[np.random.Generator] = field(init=False)

    def __post_init__(self) -> None:
        if self.power <= 0 or self.span <= 0 or not 0 <= self.rest < 1 or not 0 <= self.first <= 1:
            raise UserError(
                f"Annealing with power {self.power:g}, span {self.span:g}, rest {self.rest:g}, first {self.first:g}: "
                "expected power and span above 0, rest from 0 to below 1, first 0 to 1."
            )
        self._draws = [np.random.default_rng(0)] * self.count

    def begin(self, row: int, seed: int, progress: float) -> None:
        """See `xp.envs.batch.Noise`."""
        self._draws[row] = np.random.default_rng([self.seed, seed, 2])

    def share(self, progress: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Eps at each row's progress in 0..1."""
        passed = np.minimum(np.asarray(progress) / (1 - self.rest), 1.0)
        return self.first * (1 - passed**self.power) ** (1 / self.power)

    def applied(self, actions: Float32[np.ndarray, "N A"], progress: Float[np.ndarray, " N"]) -> np.ndarray:
        """See `xp.envs.batch.Noise`."""
        share = self.share(progress)[:, None]
        uniform = np.stack([draws.uniform(-self.span, self.span, actions.shape[1]) for draws in self._draws])
        return (1 - share) * actions + share * uniform


@dataclass
class Search:
    """A constant shift for each attempt and noise at each step, both Gaussian: a search around what a policy does.

    The shift makes attempts differ by something that their returns can tell of, and that a policy can learn.
    """

    count: int
    """N."""
    seed: int
    shift: float
    """Standard deviation of an attempt's constant shift."""
    step: float
    """Standard deviation of each step's noise."""
    _draws: list[np.random.Generator] = field(init=False)
    _shifts: dict[int, float | np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.shift < 0 or self.step < 0:
            raise UserError(f"Noise with standard deviations {self.shift:g} and {self.step:g}: must be at least 0.")
        self._draws = [np.random.default_rng(0)] * self.count

    def begin(self, row: int, seed: int, progress: float) -> None:
        """See `xp.envs.batch.Noise`."""
        self._draws[row] = np.random.default_rng([self.seed, seed, 3])
        self._shifts.pop(row, None)

    def applied(self, actions: Float32[np.ndarray, "N A"], progress: Float[np.ndarray, " N"]) -> np.ndarray:
        """See `xp.envs.batch.Noise`."""
        width, noisy = actions.shape[1], actions.copy()
        for row, draws in enumerate(self._draws):
            if row not in self._shifts:
                self._shifts[row] = draws.normal(0.0, 1.0, width)
            noisy[row] += self.shift * self._shifts[row] + self.step * draws.normal(0.0, 1.0, width)
        return noisy
