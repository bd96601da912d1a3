"""The loop and the Octo family together: what is trained, saved and read back is one and the same policy."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from training_fakes import LR, run_in, trainer

from xp.config import compose
from xp.errors import UserError
from xp.models import build, load_policy
from xp.models.policy import DataSpec
from xp.runs import RunInterrupted
from xp.training import ActionLayout, make_validator, train

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


def go(folder, octo, stop_after=None, peak=1e-2, **options):
    validate = make_validator(
        lambda: [ArmBatches().at(1000)], layout=ActionLayout(tuple(range(ACTION))), statistics=STATISTICS
    )
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
    run, _ = go(tmp_path, octo, peak=2e-3, steps=300, val_every=100, log_every=100, checkpoint_every=None)
    losses = [row["loss"] for row in run.training_log.rows()]
    scores = [row["val_loss"] for row in run.validation_log.rows()]
    assert losses[-1] < 0.9 * losses[0] and scores[-1] < 0.9 * scores[0]


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


def test_accumulating_octos_batch_is_nearly_the_same_update(tmp_path, octo):
    go(tmp_path / "whole", octo, steps=2)
    go(tmp_path / "parts", octo, steps=2, accumulate=2)
    whole, parts = load_policy(tmp_path / "whole/final").weights(), load_policy(tmp_path / "parts/final").weights()
    # Adam's first steps are about the sign of the gradient: entries whose gradient is noise may go either way.
    differing = np.concatenate([np.abs(whole[n] - parts[n]).ravel() > 1e-3 for n in whole])
    assert differing.mean() < 0.01
