"""The densities are what they claim to be, and padding weighs nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from xp.models.octo.bins import Bins
from xp.models.octo.heads import (
    DiffusionActionHead,
    DiscreteActionHead,
    GaussianActionHead,
    L1ActionHead,
    MSEActionHead,
    TeleoperationActionHead,
    UNetDDPMActionHead,
)
from xp.models.octo.heads.base import gaussian_log_density, lower_triangular
from xp.models.octo.heads.denoising import cosine_betas
from xp.models.octo.network.tokenizers import TokenGroup

B, T, H, A, D = 3, 2, 4, 3, 16


def readouts():
    tokens = np.random.default_rng(0).normal(size=(B, T, 2, D)).astype(np.float32)
    return {"readout_action": TokenGroup(jnp.asarray(tokens), jnp.ones((B, T, 2), dtype=bool))}


class SmallUNet(UNetDDPMActionHead):
    down_features: tuple[int, ...] = (8, 16)
    time_features: int = 8
    timesteps: int = 10


class NormalBins(DiscreteActionHead):
    use_map: bool = True
    vocab_size: int = 32
    normalization_type: str = "normal"


def call(head, params, *arrays, **options):
    """`head.apply`, compiled: op by op it would take seconds."""
    return jax.device_get(jax.jit(lambda p, args: head.apply(p, *args, **options))(params, arrays))


@functools.cache
def made(kind):
    """A head with random weights, some way from its initialisation."""
    head = kind(action_horizon=H, action_dim=A)
    shapes = jax.eval_shape(head.init, jax.random.key(1), readouts())
    rng = np.random.default_rng(1)
    return head, jax.tree.map(lambda leaf: (0.25 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def targets(seed=3):
    return np.random.default_rng(seed).normal(size=(B, T, H, A)).astype(np.float32)


def all_true(*shape):
    return np.ones(shape, dtype=bool)


@functools.cache
def compiled_loss(kind):
    head, params = made(kind)
    rngs = {"dropout": jax.random.key(0)}
    return jax.jit(
        lambda a, real, mask: head.apply(params, readouts(), a, real, mask, train=False, method="loss", rngs=rngs)[0]
    )


def loss_of(kind, actions, real=None, mask=None):
    real = all_true(B, T) if real is None else real
    mask = all_true(B, T, H, A) if mask is None else mask
    return float(compiled_loss(kind)(actions, real, mask))


def negative_log_density(mean, covariance, action):
    return -multivariate_normal(mean, np.asarray(covariance, np.float64)).logpdf(action)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 6]))
def test_the_log_density_from_the_factor_is_scipys(seed, size):
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(size=(size, size))) + 2 * np.eye(size)
    residual = rng.normal(size=(5, size))
    ours = jax.jit(gaussian_log_density)(residual, factor)
    scipys = multivariate_normal(np.zeros(size), factor @ factor.T).logpdf(residual)
    np.testing.assert_allclose(ours, scipys, rtol=2e-4, atol=2e-4)


def test_the_triangle_is_filled_row_by_row():
    filled = lower_triangular(jnp.arange(1.0, 7.0), 3)
    assert np.array_equal(filled, [[1, 0, 0], [2, 3, 0], [4, 5, 6]])


def test_the_gaussian_loss_is_scipys_negative_log_likelihood():
    density, actions = call(*made(GaussianActionHead), readouts()), targets()
    covariance = density.scale_tril @ density.scale_tril.swapaxes(-1, -2)
    nll = [negative_log_density(density.mean[i], covariance[i[:2]], actions[i]) for i in np.ndindex(B, T, H)]
    assert loss_of(GaussianActionHead, actions) == pytest.approx(np.mean(nll), rel=1e-4)


def test_a_fresh_gaussian_head_says_one_deviation_in_normalised_units():
    head, params = made(GaussianActionHead)
    zeros = jax.tree.map(np.zeros_like, params)
    np.testing.assert_allclose(call(head, zeros, readouts()).scale_tril[0, 0], np.eye(A), atol=1e-5)


@pytest.mark.parametrize("kind", [GaussianActionHead, L1ActionHead, MSEActionHead, NormalBins])
def test_padded_steps_do_not_change_the_loss(kind):
    mask = all_true(B, T, H, A)
    mask[:, :, 2:] = False
    garbage = np.where(mask, targets(), 1e3)
    assert loss_of(kind, garbage, mask=mask) == pytest.approx(loss_of(kind, targets(), mask=mask), rel=1e-6)
    assert loss_of(kind, targets()) != pytest.approx(loss_of(kind, targets(), mask=mask), rel=1e-3)


KINDS = [
    GaussianActionHead,
    L1ActionHead,
    MSEActionHead,
    TeleoperationActionHead,
    DiffusionActionHead,
    NormalBins,
    SmallUNet,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_observation_does_not_change_the_loss(kind):
    real, other = all_true(B, T), targets()
    real[:, 0], other[:, 0] = False, 9.0
    assert loss_of(kind, other, real=real) == pytest.approx(loss_of(kind, targets(), real=real), rel=1e-5)


def test_with_trailing_dimensions_padded_the_gaussian_loss_is_the_marginals():
    density, actions = call(*made(GaussianActionHead), readouts()), targets()
    mask = all_true(B, T, H, A)
    mask[..., 2:] = False
    covariance = (density.scale_tril @ density.scale_tril.swapaxes(-1, -2))[..., :2, :2]
    nll = [negative_log_density(density.mean[i][:2], covariance[i[:2]], actions[i][:2]) for i in np.ndindex(B, T, H)]
    assert loss_of(GaussianActionHead, actions, mask=mask) == pytest.approx(np.mean(nll), rel=1e-4)


@pytest.mark.parametrize("kind", [GaussianActionHead, TeleoperationActionHead])
def test_samples_have_the_mean_and_covariance_of_the_density(kind):
    density = call(*made(kind), readouts(), method="density")
    options = {"sample_shape": (4000,), "argmax": False, "method": "predict_action"}
    draws = call(*made(kind), readouts(), jax.random.key(5), **options)
    for b, h in np.ndindex(B, H):
        covariance = density.scale_tril[b, -1] @ density.scale_tril[b, -1].T
        scale = float(np.abs(covariance).max())
        assert np.allclose(np.cov(draws[:, b, h].T), covariance, atol=0.12 * scale)
        assert np.allclose(draws[:, b, h].mean(0), density.mean[b, -1, h], atol=0.1 * scale**0.5)


def test_the_teleop_loss_keeps_the_originals_rules():
    sigma, actions = call(*made(TeleoperationActionHead), readouts(), method="covariance"), targets()
    real, mask = all_true(B, T), all_true(B, T, H, A)
    real[0, 0], mask[1, :, 3], mask[2, 0, 0, 1] = False, False, False
    counted = [i for i in np.ndindex(B, T, H) if real[i[:2]] and mask[i].any()]
    total = sum(negative_log_density(np.zeros(A), sigma[i[:2]], actions[i]) for i in counted)
    expected = A * total / H / real.sum()
    assert loss_of(TeleoperationActionHead, actions, real, mask) == pytest.approx(expected, rel=1e-4)


def test_a_head_without_a_density_says_so():
    head, params = made(MSEActionHead)
    assert head.apply(params, readouts(), method="density") is None


def test_diffusion_actions_stay_within_the_clip_and_differ_by_key():
    head, params = made(DiffusionActionHead)
    draw = jax.jit(lambda key: head.apply(params, readouts(), key, method="predict_action"))
    draws = [draw(jax.random.key(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1]) and not np.allclose(draws[0], draws[2])
    assert float(jnp.abs(draws[0]).max()) <= head.max_action


@functools.partial(jax.jit, static_argnums=0)
def binned(kind, array):
    bins = Bins.of(16, kind, -2.0, 2.0)
    return bins.thresholds(), bins.index(array), bins.centre(bins.index(array))


@given(st.lists(st.floats(-6, 6, width=32), min_size=8, max_size=8), st.sampled_from(["uniform", "normal"]))
@settings(max_examples=30, deadline=None)
def test_a_value_lies_in_its_bin_or_beyond_the_outermost_one(values, kind):
    array = np.array(values, np.float32)
    borders, index, centre = (np.asarray(found) for found in binned(kind, array))
    inside = np.clip(array, borders[0] + 1e-5, borders[-1] - 1e-5)
    assert np.all(borders[index] <= inside + 2e-5) and np.all(inside - 2e-5 <= borders[index + 1])
    np.testing.assert_allclose(centre, (borders[index] + borders[index + 1]) / 2, rtol=1e-5)


def test_the_discrete_loss_is_the_cross_entropy_of_the_true_bins():
    logits, actions = call(*made(NormalBins), readouts()), targets()
    head = made(NormalBins)[0]
    truth = np.asarray(Bins.of(head.vocab_size, "normal", None, None).index(jnp.asarray(actions)))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, truth[..., None], -1)
    assert logits.shape == (B, T, H, A, head.vocab_size)
    assert loss_of(NormalBins, actions) == pytest.approx(nll.mean(), rel=1e-5)


def test_discrete_draws_follow_the_logits_and_a_cold_draw_is_the_likeliest_bin():
    options = {"method": "predict_action"}
    likeliest = call(*made(NormalBins), readouts(), jax.random.key(0), argmax=True, **options)
    cold = call(*made(NormalBins), readouts(), jax.random.key(0), temperature=1e-4, **options)
    draws = call(*made(NormalBins), readouts(), jax.random.key(1), sample_shape=(3000,), **options)
    logits = call(*made(NormalBins), readouts())[:, -1]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    centres = np.asarray(Bins.of(32, "normal", None, None).centre(jnp.arange(32)))
    np.testing.assert_array_equal(cold, likeliest)
    np.testing.assert_allclose(likeliest, centres[logits.argmax(-1)], rtol=1e-6)
    np.testing.assert_allclose(draws.mean(0), p @ centres, atol=0.2)


@pytest.mark.parametrize("kind", [DiffusionActionHead, SmallUNet])
def test_a_sampler_that_is_told_the_noise_of_a_chunk_ends_at_that_chunk(kind):
    class Told(kind):
        def noise_in(self, embedding, noisy, time, train):
            kept = self.alpha_hats[time.astype(int)]
            kept = kept if noisy.shape[-1] != A else kept[..., None]
            return (noisy - jnp.sqrt(kept) * 0.7) / jnp.sqrt(1 - kept)

    head, params = Told(action_horizon=H, action_dim=A), made(kind)[1]
    draws = call(head, params, readouts(), jax.random.key(3), sample_shape=(5,), method="predict_action")
    np.testing.assert_allclose(draws, np.full((5, B, H, A), 0.7), atol=2e-3)


def test_a_unets_loss_over_fixed_draws_is_the_mean_over_them():
    rng = np.random.default_rng(4)
    noise, time = rng.normal(size=(B, 2, T, H, A)).astype(np.float32), rng.random((B, 2, T), np.float32)
    rest = (targets(), all_true(B, T), all_true(B, T, H, A))

    def loss(chosen):
        draws = {"noise": jnp.asarray(noise[:, chosen]), "time": jnp.asarray(time[:, chosen])}
        return call(*made(SmallUNet), readouts(), *rest, method="loss", train=False, **draws)[0]

    assert loss([0, 1]) == pytest.approx((loss([0]) + loss([1])) / 2, rel=1e-4)


def test_a_unet_takes_any_horizon_and_holds_unused_dimensions_at_their_noise():
    head = SmallUNet(action_horizon=3, action_dim=A)
    options = {"method": "predict_action", "embodiment_action_dim": 1}
    draws = call(head, made(SmallUNet)[1], readouts(), jax.random.key(3), sample_shape=(200,), **options)
    assert draws.shape == (200, B, 3, A)
    np.testing.assert_allclose(draws[..., 1:].std(), np.sqrt(float(cosine_betas(10)[0])), rtol=0.1)
