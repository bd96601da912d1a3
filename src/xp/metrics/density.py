# pyright: strict, reportMissingTypeStubs=false, reportUnknownVariableType=false
"""How well a Gaussian over action chunks fits what happened: likelihood, energy score, calibration.

The density of one step is N(mean, L L^T) with L lower triangular (`scale_tril`): [A, A] for all, [N, A, A] shared over
the horizon, or [N, H, A, A]. The diagonal of L may have either sign; only L L^T matters.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import gammainc, gammaincinv

from xp.array_types import Bools, Floats

LEVELS = (0.5, 0.8, 0.9, 0.95)

Chunks = Float[Floats, "windows horizon action"]
PerStep = Float[Floats, "windows horizon"]
Factor = (
    Float[Floats, "action action"]
    | Float[Floats, "windows action action"]
    | Float[Floats, "windows horizon action action"]
)
"""L of the covariance L L^T, for all steps, for each window or for each step."""


class CoverageCurve(TypedDict):
    """The observed share of steps inside the region of each nominal share."""

    nominal: list[float]
    observed: list[float]


class Calibration(TypedDict):
    """What `calibration` gives."""

    coverage: dict[str, float]
    curve: CoverageCurve
    error: float


def whiten(mean: Chunks, scale_tril: Factor, truth: Chunks) -> Chunks:
    """Residuals in units of the predicted spread, L^-1 (truth - mean), shape [N, H, A], float64.

    One forward substitution for all windows at once: A steps of vectorised arithmetic, no inverse and no second
    factorisation.
    """
    mean, truth = np.asarray(mean, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    tril = _per_step_tril(scale_tril)
    residual = truth - mean
    solved = np.zeros_like(residual)
    for row in range(residual.shape[-1]):
        known = np.einsum("...k,...k->...", tril[..., row, :row], solved[..., :row])
        solved[..., row] = (residual[..., row] - known) / tril[..., row, row]
    return solved


def mahalanobis_squared(mean: Chunks, scale_tril: Factor, truth: Chunks) -> PerStep:
    """(truth - mean)^T (L L^T)^-1 (truth - mean) per step [N, H]; chi-squared with A degrees if calibrated."""
    return np.square(whiten(mean, scale_tril, truth)).sum(axis=-1)


def gaussian_nll(mean: Chunks, scale_tril: Factor, truth: Chunks) -> PerStep:
    """-log N(truth; mean, L L^T) per step [N, H], in nats per step of the given units.

    1/2 |L^-1 r|^2 + sum_i log |L_ii| + A/2 log 2 pi.
    """
    diagonal = np.abs(np.diagonal(_per_step_tril(scale_tril), axis1=-2, axis2=-1))
    action_dim = np.shape(truth)[-1]
    constant = 0.5 * action_dim * np.log(2 * np.pi)
    return 0.5 * mahalanobis_squared(mean, scale_tril, truth) + np.log(diagonal).sum(axis=-1) + constant


def energy_score(mean: Chunks, scale_tril: Factor, truth: Chunks, *, num_draws: int = 64, seed: int = 0) -> PerStep:
    """E|X - y| - E|X - X'| / 2 per step [N, H], lower is better, in the units of the actions.

    Gneiting and Raftery (2007), "Strictly proper scoring rules", eq. 22, with `num_draws` seeded antithetic pairs of
    draws, the same for every window. For a Gaussian X - X' is sqrt(2) times a centred draw, so no second set is needed.
    """
    residual = np.asarray(truth, dtype=np.float64) - np.asarray(mean, dtype=np.float64)
    tril = _per_step_tril(scale_tril)
    total = np.zeros(residual.shape[:-1])
    for noise in np.random.default_rng(seed).standard_normal((num_draws, residual.shape[-1])):
        draw = np.einsum("...ij,j->...i", tril, noise)
        to_truth = np.linalg.norm(draw - residual, axis=-1) + np.linalg.norm(draw + residual, axis=-1)
        total += 0.5 * to_truth - np.linalg.norm(draw, axis=-1) / np.sqrt(2)
    return total / num_draws


def coverage(
    squared: PerStep, action_dim: int, valid: Bool[Bools, "windows horizon"], levels: Sequence[float] = LEVELS
) -> dict[str, float]:
    """Share of valid steps inside the central region of each nominal level: `{"0.5": ..., "0.95": ...}`.

    The region of level p is the ellipsoid Mahalanobis^2 <= the p quantile of chi-squared with A degrees of freedom,
    2 * inverse incomplete gamma(A/2, p).
    """
    inside = np.asarray(squared)[np.asarray(valid, dtype=bool)]
    edges = {level: 2 * float(gammaincinv(action_dim / 2, level)) for level in levels}
    return {f"{level:g}": float(np.mean(inside <= edge)) for level, edge in edges.items()}


def calibration(
    squared: PerStep, action_dim: int, valid: Bool[Bools, "windows horizon"], *, bins: int = 20
) -> Calibration:
    """Coverage at the usual levels, the whole coverage curve, and its mean distance from the diagonal.

    The probability integral transform F(Mahalanobis^2), F the distribution function of chi-squared with A degrees, is
    uniform for a calibrated density; `curve` is its distribution function at `nominal`, and `error` the mean
    |curve - nominal| (0 is perfect, 0.5 the worst).
    """
    transform = gammainc(action_dim / 2, np.asarray(squared)[np.asarray(valid, dtype=bool)] / 2)
    nominal = np.linspace(0, 1, bins + 1)
    observed = np.searchsorted(np.sort(transform), nominal, side="right") / max(len(transform), 1)
    return {
        "coverage": coverage(squared, action_dim, valid),
        "curve": {"nominal": nominal.round(12).tolist(), "observed": observed.tolist()},
        "error": float(np.abs(observed - nominal)[1:-1].mean()),
    }


def _per_step_tril(scale_tril: Factor) -> Float[Floats, "... action action"]:
    """The factor with a horizon axis to broadcast over: [A, A] stays, [N, A, A] becomes [N, 1, A, A]."""
    tril = np.asarray(scale_tril, dtype=np.float64)
    return tril[:, None] if tril.ndim == 3 else tril
