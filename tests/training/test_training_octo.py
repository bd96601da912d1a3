"""The loop and the Octo family together: what is trained, saved and read back is one and the same policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from training_fakes import LR, run_in, trainer

from xp.config import compose
from xp.errors import UserError
from xp.models import build, load_policy
from xp.models.policy import DataSpec
from xp.runs import RunInterrupted
from xp.training import ActionLayout, make_validator, train
from xp.training.jax.step import State, make_optimiser, make_step, named_arrays, seed_words
from xp.training.options import TrainerOptions
from xp.training.partition import split

pytestmark = pytest.mark.slow

CAMERAS, ACTION, STATE, HORIZON = {"top": (16, 16, 3)}, 6, 6, 2
SMALL = {
    "embed_dim": 16, "layers": 1, "num_heads": 2, "mlp_dim": 32,
    "stem": {"type": "small16", "features": [8, 8, 8, 8], "groups": 4, "tokens_dim": 8},
    "cameras": {"primary": {"camera": None, "size": [16, 16]}},
}  # fmt: skip
UNIT = {"mean": [0.0] * 6, "std": [1.0] * 6, "min": [-1.0] * 6, "max": [1.0] * 6, "p01": [-1.0] * 6, "p99": [1.0] * 6}
UNIT = {name: np.asarray(values, np.float32) for name, values in UNIT.items()} | {"mask": np.ones(6, bool)}
STATISTICS = {"action": UNIT, "proprio": UNIT, "num_transitions": 100, "num_trajectories": 4}


class ArmBatches:
    def at(self, step):
        rng = np.random.default_rng([5, step])
        state = rng.normal(size=(4, 1, STATE)).astype(np.float32)
        return {
            "observation.images.top": rng.integers(0, 256, (4, 1, 16, 16, 3), dtype=np.uint8),
            "observation.state": state,
            "observation_is_pad": np.zeros((4, 1), bool),
            "action": np.repeat(0.5 * state, HORIZON, axis=1),
            "action_is_pad": np.zeros((4, HORIZON), bool),
            "task": ["put the red cube on the target"] * 4,
            "episode_index": np.arange(4, dtype=np.int64),
            "frame_index": np.zeros(4, np.int64),
        }

    def epoch(self, step):
        return step / 10


@pytest.fixture(scope="module")
def octo():
    model = OmegaConf.to_container(compose(["model=octo_tiny"]).model, resolve=True)
    assert isinstance(model, dict)
    data = DataSpec(cameras=CAMERAS, action_dim=ACTION, state_dim=STATE, fps=10.0, tasks=["put the red cube"])
    return build({**model, **SMALL}, data=data, statistics=STATISTICS, horizon=HORIZON, seed=0, pretrained_path=None)


def held_out(batches):
    return make_validator(
        lambda: [ArmBatches().at(1000 + number) for number in range(batches)],
        layout=ActionLayout(tuple(range(ACTION))),
        statistics=STATISTICS,
    )


def go(folder, octo, stop_after=None, peak=1e-2, validation_batches=1, **options):
    validate = held_out(validation_batches)
    options = trainer(**{"val_every": 4, "steps": 8, "checkpoint_every": 3, "weight_decay": 0.01, **options})
    run = run_in(folder, stop_after=stop_after)
    return run, train(run, octo, ArmBatches(), validate=validate, trainer=options, lr={**LR, "peak": peak}, seed=0)


def weights_of(path):
    return {name: np.asarray(array).tobytes() for name, array in load_policy(path).weights().items()}


def test_every_saved_folder_is_a_policy_and_final_is_the_one_returned(tmp_path, octo):
    _, policy = go(tmp_path, octo, ema_decay=0.9)
    returned = {name: np.asarray(array).tobytes() for name, array in policy.weights().items()}
    assert weights_of(tmp_path / "final") == returned
    assert weights_of(tmp_path / "checkpoints" / "checkpoint-8") == returned
    load_policy(tmp_path / "best")
    batch = ArmBatches().at(77)
    assert load_policy(tmp_path / "final").predict(batch).tobytes() == policy.predict(batch).tobytes()


def test_an_interrupted_octo_ends_with_the_same_bytes(tmp_path, octo):
    go(tmp_path / "straight", octo)
    for stop in (2, 3):
        with pytest.raises(RunInterrupted):
            go(tmp_path / "stopped", octo, stop_after=stop)
    go(tmp_path / "stopped", octo)
    assert weights_of(tmp_path / "stopped" / "final") == weights_of(tmp_path / "straight" / "final")


def test_octos_objective_falls_on_training_and_on_held_out_windows(tmp_path, octo):
    """The loss at a drawn time of the diffusion, of few windows, says little: 64 windows, and before any training."""
    schedule = {"peak": 2e-3, "steps": 300, "val_every": 100, "log_every": 100, "checkpoint_every": None}
    run, _ = go(tmp_path, octo, validation_batches=16, **schedule)
    untrained = held_out(16)(octo.policy(octo.weights), 0)["val_loss"]
    losses = [row["loss"] for row in run.training_log.rows()]
    scores = [row["val_loss"] for row in run.validation_log.rows()]
    assert losses[-1] < 0.9 * losses[0] and scores[-1] < 0.9 * untrained


def test_freezing_octos_transformer_needs_the_whole_path(tmp_path, octo):
    with pytest.raises(UserError, match=r"'\*BlockTransformer_0\*' matches"):
        go(tmp_path, octo, freeze=["BlockTransformer_0"])
    go(tmp_path, octo, freeze=["*BlockTransformer_0*"])
    frozen = [name for name in octo_names(octo) if "BlockTransformer_0" in name]
    before, after = flat(octo), load_policy(tmp_path / "final").weights()
    assert frozen and all(np.asarray(after[n]).tobytes() == np.asarray(before[n]).tobytes() for n in frozen)


def flat(octo):
    from xp.models.tree import flatten

    return flatten(octo.weights)


def octo_names(octo):
    return list(flat(octo))


def test_octo_trains_in_bfloat16_close_to_float32(tmp_path, octo):
    exact, _ = go(tmp_path / "f32", octo, steps=20, log_every=20)
    rough, _ = go(tmp_path / "bf16", octo, steps=20, log_every=20, precision="bfloat16")
    assert rough.training_log.rows()[-1]["loss"] == pytest.approx(exact.training_log.rows()[-1]["loss"], rel=0.1)


def updates_in_float64(octo, accumulate=1):
    """The step's own two updates in float64: after each the state's arrays, the loss and the gradient's norm."""
    options = TrainerOptions.read(trainer(steps=2, weight_decay=0.01, accumulate=accumulate))
    partition = split(flat(octo), model_frozen=octo.frozen)
    optimiser = make_optimiser(options, partition)
    found = []
    with jax.enable_x64(True):
        weights = {path: jnp.asarray(array, jnp.float64) for path, array in partition.trained.items()}
        zero = jnp.zeros((), jnp.float32)
        state = State(weights, optimiser.init(weights), {}, zero, jnp.zeros((), jnp.int32))
        step = make_step(octo.loss, optimiser, options)
        for index in range(options.steps):
            inputs = octo.prepare(ArmBatches().at(index))
            inputs = {path: x.astype(np.float64) if x.dtype == np.float32 else x for path, x in inputs.items()}
            state, outcome = step(
                state, partition.frozen, inputs, seed_words(0), np.uint32(index), np.float32(1e-2), np.bool_(True)
            )
            arrays = {name: np.asarray(array) for name, array in named_arrays(state).items()}
            found.append((arrays, float(outcome.loss), float(outcome.grad_norm)))
    return found


@pytest.fixture(scope="module")
def exact(octo):
    return updates_in_float64(octo)


def test_accumulating_octos_batch_is_the_same_update_in_float64(octo, exact):
    """Adam's first updates are about the gradient's sign, which rounding decides where there is hardly a gradient.

    Here that is in the stem: it ends in groups of two numbers, which a group normalisation makes +-1 whatever they
    are. In float32 the order of the sums moves up to half of its weights by a tenth of the rate and more. In float64
    it moves none by more than 3e-11 (one rounding of the weights: 4e-11); parts that weigh 0.505 and 0.495 instead
    move some by 2e-2.
    """
    for (whole, loss, norm), (parts, same_loss, same_norm) in zip(exact, updates_in_float64(octo, 2), strict=True):
        weights = [name for name in whole if name.startswith("weights/")]
        assert len(weights) == len(octo_names(octo)) and {whole[name].dtype for name in weights} == {np.dtype("f8")}
        for name in whole:
            atol = 1e-8 if name in weights else 1e-12  # moments of gradients that are 1e-7 count too
            np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6, atol=atol, err_msg=name)
        assert same_norm == pytest.approx(norm, rel=1e-9)  # clipping hides it from the weights
        assert same_loss == pytest.approx(loss, rel=1e-6)  # logged in float32


def test_accumulating_octos_batch_is_the_same_gradient_up_to_its_rounding(tmp_path, octo, exact):
    """In the loop and in float32: as near to float64's gradient as the whole batch's is on this processor."""
    remembered = {}
    for name, accumulate in (("whole", 1), ("parts", 2)):
        go(tmp_path / name, octo, steps=1, accumulate=accumulate)
        state = load_file(tmp_path / name / "checkpoints/checkpoint-1/training_state/state.safetensors")
        remembered[name] = momentum(state)
    expected = momentum(exact[0][0])
    whole, parts = (np.linalg.norm(remembered[name] - expected) for name in ("whole", "parts"))
    assert parts <= 1e-5 * np.linalg.norm(expected) + 3 * whole


def momentum(arrays):
    """Adam's mean of gradients, which after one update is a tenth of the clipped gradient, as one vector."""
    found = [arrays[name].astype(np.float64).ravel() for name in sorted(arrays) if "/mu/" in name]
    assert len(found) == 66
    return np.concatenate(found)
