"""Objectives: the training loss of named weights on a dump, the same for the same weights, with its exact gradient."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from xp.data import Split
from xp.data.dumps import draws, open_dump, save_dump
from xp.errors import UserError
from xp.merging.objective import Objective
from xp.models import load_policy
from xp.tasks._lib.objectives import make_objective


@pytest.fixture(scope="module")
def dump(tmp_path_factory, cache, trained):
    """Forty held-out windows of the trained run."""
    from tasks_setup import Xp

    folder = tmp_path_factory.mktemp("dump")
    Xp(folder, cache)("task=dump", f"dump.checkpoint={trained}", "dump.samples=40", "hydra.run.dir=run")
    return folder / "run/dump.safetensors"


def config(cache, **merge):
    return OmegaConf.create({"paths": {"cache": str(cache)}, "merge": merge})


@pytest.fixture(scope="module")
def objective(dump, trained, cache):
    return make_objective(config(cache, validation=str(dump), objective="loss"), trained)


@pytest.fixture(scope="module")
def weights(trained):
    return dict(load_policy(trained).weights())


def test_the_loss_is_the_policys_own_on_the_same_windows(objective, weights, dump, trained):
    assert isinstance(objective, Objective)
    opened = open_dump(dump)
    whole = load_policy(trained).loss(opened.batch(np.arange(len(opened))))["loss"]
    assert objective.loss(weights) == pytest.approx(whole, rel=1e-5)


def test_equal_weights_have_equal_losses_and_others_have_others(objective, weights):
    assert objective.loss(weights) == objective.loss({name: array.copy() for name, array in weights.items()})
    moved = {name: array + 0.05 for name, array in weights.items()}
    assert objective.loss(moved) != objective.loss(weights)


def test_the_gradient_predicts_what_a_small_step_changes(objective, weights):
    value, gradient = objective.loss_and_gradient(weights)
    assert value == pytest.approx(objective.loss(weights), rel=1e-6)
    assert set(gradient) == set(weights)
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradient.values()))
    step = 1e-3 / norm
    ahead, behind = (
        objective.loss({name: array + sign * step * gradient[name] for name, array in weights.items()})
        for sign in (1, -1)
    )
    assert (ahead - behind) / (2 * step) == pytest.approx(norm**2, rel=0.02)


def test_the_callers_arrays_may_be_reused_after_a_call(objective, weights):
    buffers = {name: array.copy() for name, array in weights.items()}
    _, gradient = objective.loss_and_gradient(buffers)
    kept = {name: array.copy() for name, array in gradient.items()}
    for array in buffers.values():
        array[...] = 7.0
    assert all(np.array_equal(gradient[name], kept[name]) for name in kept)
    assert objective.loss(weights) == objective.loss(weights)


def test_weights_of_another_model_are_named(objective, weights):
    name = next(iter(weights))
    other = {**weights, "new/kernel": np.zeros(3, np.float32), name: np.zeros((1, 2, 3), np.float32)}
    with pytest.raises(UserError, match="1 unknown .new/kernel.; 1 of another shape"):
        objective.loss(other)


def test_a_diffusion_head_takes_the_draws_of_the_dump(cache):
    """Fixed noise and times stand for random ones: the loss no longer depends on the key."""
    import jax
    import jax.numpy as jnp

    from xp.models.octo.heads import DiffusionActionHead
    from xp.models.octo.network.tokenizers import TokenGroup

    head = DiffusionActionHead(action_horizon=4, action_dim=3, time_dim=8, hidden_dim=16, num_blocks=1)
    groups = {"readout_action": TokenGroup(jnp.ones((5, 1, 1, 8)), jnp.ones((5, 1, 1), bool))}
    variables = head.init(jax.random.key(0), groups)
    fixed = draws(0, 5, 6, 1, 4, 3)
    actions, real = jnp.zeros((5, 1, 4, 3)), jnp.ones((5, 1), bool)
    mask = jnp.ones((5, 1, 4, 3), bool)

    @jax.jit
    def compiled(key, given):
        rngs = {"dropout": key}
        return head.apply(variables, groups, actions, real, mask, False, method="loss", rngs=rngs, **given)[0]

    def loss(number, **given):
        return float(compiled(jax.random.key(number), given))

    assert loss(0, **fixed) == loss(1, **fixed)
    assert loss(0) != loss(1)
    mean = np.mean([loss(number) for number in range(200)])
    assert loss(0, **draws(1, 5, 300, 1, 4, 3)) == pytest.approx(mean, rel=0.15)


def test_a_dump_of_other_dimensions_is_refused(dump, trained, cache, tmp_path):
    opened = open_dump(dump)
    narrow = {**opened.arrays, "action": opened.arrays["action"][..., :3]}
    save_dump(tmp_path / "narrow.npz", narrow, opened.tasks, opened.about)
    with pytest.raises(UserError, match="actions of 3 dimensions .the policy has .*xp task=dump dump.checkpoint="):
        make_objective(config(cache, validation=str(tmp_path / "narrow.npz")), trained)


def test_a_dump_with_episodes_that_a_checkpoint_was_trained_on_is_refused(dump, trained, cache, tmp_path):
    opened = open_dump(dump)
    seen = {**opened.about, "episodes": [Split.load(trained / "split.json").train[0]]}
    save_dump(tmp_path / "seen.npz", opened.arrays, opened.tasks, seen)
    with pytest.raises(UserError, match="was trained on"):
        make_objective(config(cache, validation=str(tmp_path / "seen.npz")), trained)
    save_dump(tmp_path / "told.npz", opened.arrays, opened.tasks, {**seen, "part": "train"})
    assert make_objective(config(cache, validation=str(tmp_path / "told.npz")), trained)


def test_without_a_validation_set_it_says_how_to_make_one(trained, cache):
    with pytest.raises(UserError, match="merge.validation is not given.*task=dump dump.checkpoint="):
        make_objective(config(cache), trained)
    with pytest.raises(UserError, match="did you mean 'success'"):
        make_objective(config(cache, objective="succes"), trained)


def test_success_is_counted_from_fixed_states_and_has_no_gradient(trained, cache, weights):
    section = OmegaConf.create(
        {
            **config(cache, objective="success"),
            "env": {
                **{"name": "arm", "tasks": ["red_to_target"], "cameras": {}, "environment_state": False},
                **{"fps": 10, "renderer": "raycast", "max_steps": 3},
            },
            "chunk_size": {"steps": 4, "execution": "receding", "delay": 0},
            "eval": {"episodes": 2},
            "seed": 0,
        }
    )
    success = make_objective(section, trained)
    assert isinstance(success, Objective)
    assert success.loss(weights) == 1.0
    with pytest.raises(UserError, match="has no gradient"):
        success.loss_and_gradient(weights)
