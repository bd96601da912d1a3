"""The loss of LeRobot policies on a dump: the policy's own, from the same draws for all weights, with its gradient."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from xp.config.compose import compose
from xp.data.dumps import Dump, draws
from xp.data.statistics import describe
from xp.merging.objective import Objective
from xp.models import build
from xp.models.policy import DataSpec

WINDOWS, SIZE, HORIZON, ACTION, STATE = 10, 32, 4, 3, 2


def model_config(*overrides):
    config = OmegaConf.to_container(compose([*overrides]).model, resolve=True)
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="module")
def policy():
    """An ACT with random weights: small, with its variational encoder."""
    rng = np.random.default_rng(0)
    statistics = {
        "action": describe(rng.normal(size=(50, ACTION)).astype(np.float32)),
        "proprio": describe(rng.normal(size=(50, STATE)).astype(np.float32)),
        "num_transitions": 50,
        "num_trajectories": 5,
    }
    config = model_config(
        "model=act_tiny", f"model.image_size=[{SIZE},{SIZE}]", "model.dim_model=16", "model.n_heads=2",
        "model.dim_feedforward=16", "model.n_encoder_layers=1", "model.n_vae_encoder_layers=1", "model.latent_dim=4",
    )  # fmt: skip
    data = DataSpec(cameras={"top": (SIZE, SIZE, 3)}, action_dim=ACTION, state_dim=STATE, fps=10, tasks=("go",))
    return build(config, data=data, statistics=statistics, horizon=HORIZON, seed=0).policy(None)


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    rng = np.random.default_rng(1)
    pad = np.zeros((WINDOWS, HORIZON), bool)
    pad[-1, 2:] = True
    arrays = {
        "observation.images.top": rng.integers(0, 255, (WINDOWS, 1, SIZE, SIZE, 3), np.uint8),
        "observation.state": rng.normal(size=(WINDOWS, 1, STATE)).astype(np.float32),
        "observation_is_pad": np.zeros((WINDOWS, 1), bool),
        "action": rng.normal(size=(WINDOWS, HORIZON, ACTION)).astype(np.float32),
        "action_is_pad": pad,
        "episode_index": np.arange(WINDOWS) // 4,
        "frame_index": np.arange(WINDOWS) % 4,
        "task_index": np.zeros(WINDOWS, np.int64),
        **draws(0, WINDOWS, 2, 1, HORIZON, ACTION),
    }
    return Dump(tmp_path_factory.mktemp("dump") / "made-up.npz", arrays, ("go",), {"seed": 3})


@pytest.fixture(scope="module")
def weights(policy):
    return {name: array.copy() for name, array in policy.weights().items()}


@pytest.fixture(scope="module")
def objective(policy, dump, weights):
    from xp.training.torch.policy_loss import PolicyLoss

    return PolicyLoss(policy, dump)


def test_the_loss_is_the_policys_own_over_the_draws(objective, policy, dump, weights):
    assert isinstance(objective, Objective)
    batch = dump.batch(np.arange(WINDOWS))
    own = [policy.loss(batch, seed=seed)["loss"] for seed in (3, 3 + 1_000_003)]
    assert own[0] != own[1]
    assert objective.loss(weights) == pytest.approx(np.mean(own), rel=1e-5)


def test_every_set_of_weights_meets_the_same_draws(objective, weights):
    assert objective.loss(weights) == objective.loss(weights)
    moved = {name: array + 0.01 if array.dtype == np.float32 else array for name, array in weights.items()}
    assert objective.loss(moved) != objective.loss(weights)


def test_the_gradient_predicts_what_a_small_step_changes(objective, weights):
    value, gradient = objective.loss_and_gradient(weights)
    assert value == pytest.approx(objective.loss(weights), rel=1e-5)
    assert set(gradient) <= set(weights)
    assert all(array.dtype == np.float32 and array.shape == weights[name].shape for name, array in gradient.items())
    chosen = "model.action_head.weight"
    step = 1e-3 * gradient[chosen] / np.linalg.norm(gradient[chosen])
    ahead, behind = (objective.loss({**weights, chosen: weights[chosen] + sign * step}) for sign in (1, -1))
    assert (ahead - behind) / 2e-3 == pytest.approx(np.linalg.norm(gradient[chosen]), rel=0.05)


def test_sums_by_episode_make_up_the_whole(objective, weights):
    sums = objective.by_episode(weights)
    assert sums.episodes.tolist() == [0, 1, 2]
    assert sums.counts.sum() == WINDOWS * HORIZON - 2


def test_a_policy_with_other_weights_is_a_policy_of_its_own(policy, weights, dump):
    other = policy.with_weights({n: a * 2 if a.dtype == np.float32 else a for n, a in weights.items()})
    batch = dump.batch(np.arange(2))
    assert not np.allclose(other.predict(batch), policy.predict(batch))
    name = "model.action_head.weight"
    assert np.array_equal(other.weights()[name], 2 * weights[name])
