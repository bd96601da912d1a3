"""Likelihood and calibration against scipy's own density and against data drawn from the model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, multivariate_normal

from xp.metrics import density


def factors(rng, num, dim):
    tril = np.tril(rng.normal(size=(num, dim, dim)))
    tril[:, np.arange(dim), np.arange(dim)] = rng.uniform(0.3, 2.0, size=(num, dim))
    return tril


@given(st.integers(0, 2**31 - 1), st.integers(1, 6))
def test_nll_equals_scipys_density(seed, dim):
    rng = np.random.default_rng(seed)
    mean, truth, tril = rng.normal(size=(3, 2, dim)), rng.normal(size=(3, 2, dim)), factors(rng, 3, dim)
    nll = density.gaussian_nll(mean, tril, truth)
    for n in range(3):
        for h in range(2):
            expected = -multivariate_normal(mean[n, h], tril[n] @ tril[n].T).logpdf(truth[n, h])
            assert nll[n, h] == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_nll_of_a_standard_normal_at_its_mean_is_the_constant():
    nll = density.gaussian_nll(np.zeros((1, 1, 4)), np.eye(4), np.zeros((1, 1, 4)))
    assert nll[0, 0] == pytest.approx(2 * np.log(2 * np.pi))


def test_the_sign_of_the_factors_diagonal_does_not_matter():
    rng = np.random.default_rng(0)
    mean, truth, tril = np.zeros((2, 1, 3)), rng.normal(size=(2, 1, 3)), factors(rng, 2, 3)
    flipped = tril * np.array([1.0, -1.0, 1.0])
    np.testing.assert_allclose(density.gaussian_nll(mean, flipped, truth), density.gaussian_nll(mean, tril, truth))


def test_shared_per_window_and_per_step_factors_agree():
    rng = np.random.default_rng(1)
    mean, truth, tril = np.zeros((2, 3, 2)), rng.normal(size=(2, 3, 2)), factors(rng, 1, 2)[0]
    expected = density.gaussian_nll(mean, tril, truth)
    np.testing.assert_allclose(density.gaussian_nll(mean, np.broadcast_to(tril, (2, 2, 2)), truth), expected)
    np.testing.assert_allclose(density.gaussian_nll(mean, np.broadcast_to(tril, (2, 3, 2, 2)), truth), expected)


def test_coverage_uses_the_chi_squared_quantiles():
    edge = chi2.ppf(0.8, 3)
    squared = np.array([[edge * 0.999, edge * 1.001, 0.0, 1e9]])
    valid = np.array([[True, True, True, False]])
    assert density.coverage(squared, 3, valid)["0.8"] == pytest.approx(2 / 3)


def test_a_true_density_is_calibrated_and_an_overconfident_one_is_not():
    rng = np.random.default_rng(2)
    tril = factors(rng, 1, 4)[0]
    truth = rng.normal(size=(4000, 2, 4)) @ tril.T
    valid = np.ones((4000, 2), dtype=bool)
    honest = density.calibration(density.mahalanobis_squared(truth * 0, tril, truth), 4, valid)
    boastful = density.calibration(density.mahalanobis_squared(truth * 0, tril / 2, truth), 4, valid)
    for level, share in honest["coverage"].items():
        assert share == pytest.approx(float(level), abs=0.02)
    assert boastful["coverage"]["0.9"] < 0.5
    assert honest["error"] < 0.01 < 0.2 < boastful["error"]


def test_energy_score_of_one_dimension_equals_the_closed_form_crps():
    # CRPS of N(0, s^2) at y (Gneiting and Raftery 2007, eq. 21), z = y / s: s (z (2 Phi(z) - 1) + 2 phi(z) - pi^-1/2).
    from scipy.stats import norm

    scale, truth = 1.5, np.array([[[0.0]], [[1.0]], [[-4.0]]])
    z = truth[..., 0] / scale
    expected = scale * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    score = density.energy_score(truth * 0, np.array([[scale]]), truth, num_draws=20_000)
    np.testing.assert_allclose(score, expected, rtol=0.02)


def test_energy_score_is_proper_the_true_spread_wins():
    truth = np.random.default_rng(3).normal(size=(3000, 1, 2))
    scores = [density.energy_score(truth * 0, np.eye(2) * scale, truth).mean() for scale in (0.4, 1.0, 2.5)]
    assert scores[1] == min(scores)
