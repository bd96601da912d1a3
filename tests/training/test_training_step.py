"""One update: the optimiser, frozen weights, accumulation, the moving average, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_fakes import TinyBatches, initial_weights, mlp_loss, plain_loss, prepare

from xp.errors import UserError
from xp.models.tree import flatten
from xp.training.jax.step import (
    deployed,
    initial_state,
    make_optimiser,
    make_step,
    named_arrays,
    seed_words,
    state_from_arrays,
)
from xp.training.options import TrainerOptions
from xp.training.partition import split

RATE = np.float32(1e-2)


def updated(steps=4, *, loss=plain_loss, batch_size=8, seed=0, freeze=(), **options):
    """State after some updates, and the partition it began with."""
    options = TrainerOptions.read({"steps": steps, **options})
    partition = split(flatten(initial_weights()), freeze=freeze)
    optimiser = make_optimiser(options, partition)
    state = initial_state(partition, optimiser, options)
    step = make_step(loss, optimiser, options)
    batches = TinyBatches(batch_size)
    for index in range(steps):
        inputs = prepare(batches.at(index))
        state, outcome = step(
            state, partition.frozen, inputs, seed_words(seed), np.uint32(index), RATE, np.bool_(index == 0)
        )
    return state, partition, outcome


def by_optax(optimiser, steps=4, batch_size=8):
    weights = flatten(jax.tree.map(jnp.asarray, initial_weights()))
    memory = optimiser.init(weights)
    batches = TinyBatches(batch_size)

    def loss(flat, inputs):
        return plain_loss({"trunk": {"dense": {"kernel": flat["trunk/dense/kernel"], "bias": flat["trunk/dense/bias"]}},
                           "head": {"kernel": flat["head/kernel"], "bias": flat["head/bias"]}},
                          inputs, None, True)[0]  # fmt: skip

    for index in range(steps):
        updates, memory = optimiser.update(jax.grad(loss)(weights, prepare(batches.at(index))), memory, weights)
        weights = optax.apply_updates(weights, updates)
    return weights


def assert_close(one, other, rtol=2e-5, atol=1e-7):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(np.asarray(one[name]), np.asarray(other[name]), rtol=rtol, atol=atol, err_msg=name)


def test_updates_are_those_of_optax_adamw_with_decay_on_kernels_only():
    mask = {path: "kernel" in path for path in flatten(initial_weights())}
    state, _, _ = updated(weight_decay=0.1, clip_norm=None)
    assert_close(state.weights, by_optax(optax.adamw(float(RATE), weight_decay=0.1, mask=mask)))


def test_decay_can_cover_all_weights_as_in_octos_fine_tuning_script():
    state, _, _ = updated(weight_decay=0.1, clip_norm=None, weight_decay_params=["*"])
    assert_close(state.weights, by_optax(optax.adamw(float(RATE), weight_decay=0.1)))


def test_clipping_is_by_the_global_norm():
    mask = {path: "kernel" in path for path in flatten(initial_weights())}
    chain = optax.chain(optax.clip_by_global_norm(0.05), optax.adamw(float(RATE), weight_decay=1e-4, mask=mask))
    state, _, outcome = updated(clip_norm=0.05)
    assert float(outcome.grad_norm) > 0.05
    assert_close(state.weights, by_optax(chain))


@pytest.mark.parametrize("parts", [2, 8])
def test_accumulating_parts_of_a_batch_gives_the_update_of_the_whole_batch(parts):
    whole, _, outcome = updated(batch_size=16, clip_norm=0.5)
    pieces, _, same = updated(batch_size=16, clip_norm=0.5, accumulate=parts)
    assert_close(pieces.weights, whole.weights, rtol=1e-4, atol=1e-6)
    assert float(same.loss) == pytest.approx(float(outcome.loss), rel=1e-5)
    assert float(same.parts["mse"]) == pytest.approx(float(outcome.parts["mse"]), rel=1e-5)


def test_frozen_weights_stay_and_take_no_optimiser_memory():
    state, partition, _ = updated(freeze=["trunk/*"])
    assert set(partition.frozen) == {"trunk/dense/kernel", "trunk/dense/bias"}
    assert not [name for name in named_arrays(state) if "trunk" in name]
    assert [name for name in named_arrays(state) if name.startswith("optimiser/") and "head/kernel" in name]
    after = flatten(deployed(state, partition.frozen))
    assert after["trunk/dense/kernel"].tobytes() == initial_weights()["trunk"]["dense"]["kernel"].tobytes()
    assert np.any(after["head/kernel"] != initial_weights()["head"]["kernel"])


def test_no_gradient_is_computed_for_frozen_weights():
    seen = []

    @jax.custom_vjp
    def watched(x):
        return x

    watched.defvjp(lambda x: (x, None), lambda _, g: (seen.append(g.shape), (g,))[1])

    def loss(weights, inputs, key, train):
        trunk = weights["trunk"]["dense"]
        weights = {**weights, "trunk": {"dense": {**trunk, "kernel": watched(trunk["kernel"])}}}
        return plain_loss(weights, inputs, key, train)

    updated(1, loss=loss)
    assert seen
    seen.clear()
    updated(1, loss=loss, freeze=["trunk/*"])
    assert not seen


def test_the_moving_average_follows_its_warm_up_rule():
    weights, average = [], {path: np.asarray(a) for path, a in flatten(initial_weights()).items()}
    for steps in range(1, 5):
        state, _, _ = updated(steps, ema_decay=0.25)
        weights.append({path: np.asarray(a) for path, a in state.weights.items()})
    for t, now in enumerate(weights, start=1):
        decay = min(0.25, (1 + t) / (10 + t))
        average = {path: decay * average[path] + (1 - decay) * now[path] for path in average}
    assert_close(state.ema, average)
    assert_close(flatten(deployed(state, {})), average)


def test_the_moving_average_without_warm_up_has_one_decay():
    average = {path: np.asarray(a) for path, a in flatten(initial_weights()).items()}
    for steps in range(1, 4):
        state, _, _ = updated(steps, ema_decay=0.75, ema_warmup=False)
        average = {path: 0.75 * average[path] + 0.25 * np.asarray(state.weights[path]) for path in average}
    assert_close(state.ema, average)


def test_the_betas_of_a_model_are_those_of_adam():
    partition = split(flatten(initial_weights()))
    options = TrainerOptions.read({"steps": 4, "clip_norm": 1.0, "weight_decay": 1e-10, "weight_decay_params": ["*"]})
    ours = make_optimiser(options, partition, betas=(0.9, 0.95), eps=1e-8)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(float(RATE), b1=0.9, b2=0.95, eps=1e-8, weight_decay=1e-10)
    )
    assert_close(by_optax(optax.chain(ours, optax.scale(-float(RATE)))), by_optax(theirs))


def test_without_a_moving_average_the_raw_weights_are_deployed():
    state, _, _ = updated()
    assert state.ema == {}
    assert_close(flatten(deployed(state, {})), state.weights, rtol=0, atol=0)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_master_weights():
    seen = []

    def loss(weights, inputs, key, train):
        seen.append(weights["head"]["kernel"].dtype)
        return mlp_loss(weights, inputs, key, train)

    state, _, _ = updated(loss=loss, precision="bfloat16")
    assert seen and all(dtype == jnp.bfloat16 for dtype in seen)
    assert {str(array.dtype) for name, array in named_arrays(state).items() if "count" not in name} == {"float32"}
    exact, _, _ = updated(loss=mlp_loss)
    assert_close(state.weights, exact.weights, rtol=0.2, atol=0.02)


def test_randomness_is_a_function_of_seed_and_step_alone():
    one, _, _ = updated(loss=mlp_loss, seed=5)
    again, _, _ = updated(loss=mlp_loss, seed=5)
    other, _, _ = updated(loss=mlp_loss, seed=6)
    assert one.weights["head/kernel"].tobytes() == again.weights["head/kernel"].tobytes()
    assert one.weights["head/kernel"].tobytes() != other.weights["head/kernel"].tobytes()


def test_runs_over_seeds_and_rates_share_one_compiled_program():
    traces = []

    def loss(weights, inputs, key, train):
        traces.append(1)
        return mlp_loss(weights, inputs, key, train)

    options = TrainerOptions.read({"steps": 1})
    partition = split(flatten(initial_weights()))
    optimiser = make_optimiser(options, partition)
    step = make_step(loss, optimiser, options)
    for seed, rate in [(0, 1e-2), (123456789012, 1e-3)]:
        state = initial_state(partition, optimiser, options)
        step(state, {}, prepare(TinyBatches().at(0)), seed_words(seed), np.uint32(0), np.float32(rate), np.bool_(True))
    assert len(traces) == 1


def test_the_callers_arrays_survive_training():
    weights = jax.tree.map(jnp.asarray, initial_weights())
    options = TrainerOptions.read({"steps": 1})
    partition = split(flatten(weights))
    optimiser = make_optimiser(options, partition)
    state = initial_state(partition, optimiser, options)
    make_step(plain_loss, optimiser, options)(
        state, {}, prepare(TinyBatches().at(0)), seed_words(0), np.uint32(0), RATE, np.bool_(True)
    )
    assert np.asarray(weights["head"]["kernel"]).tobytes() == initial_weights()["head"]["kernel"].tobytes()


def test_a_state_filled_from_its_own_arrays_is_the_same_state():
    state, partition, _ = updated(ema_decay=0.9)
    arrays = {name: np.asarray(array) for name, array in named_arrays(state).items()}
    options = TrainerOptions.read({"steps": 1, "ema_decay": 0.9})
    template = initial_state(partition, make_optimiser(options, partition), options)
    copy = named_arrays(state_from_arrays(template, arrays))
    assert {name: np.asarray(a).tobytes() for name, a in copy.items()} == {n: a.tobytes() for n, a in arrays.items()}


def test_the_running_loss_starts_anew_when_told():
    state, partition, _ = updated(3)
    assert int(state.loss_count) == 3
    options = TrainerOptions.read({"steps": 1})
    step = make_step(plain_loss, make_optimiser(options, partition), options)
    state, outcome = step(state, {}, prepare(TinyBatches().at(3)), seed_words(0), np.uint32(3), RATE, np.bool_(True))
    assert int(state.loss_count) == 1
    assert float(state.loss_sum) == float(outcome.loss)


def test_a_decay_pattern_that_matches_nothing_is_refused():
    options = TrainerOptions.read({"steps": 1, "weight_decay_params": ["*kernels"]})
    with pytest.raises(UserError, match="trainer.weight_decay_params"):
        make_optimiser(options, split(flatten(initial_weights())))
