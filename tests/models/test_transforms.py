"""Hidden states and relative actions around a toy model of either framework: the same as if the data were so."""

import json
from pathlib import Path

import numpy as np
import pytest

from xp.errors import UserError
from xp.models import build, load_policy
from xp.models import families as known
from xp.models.family import Family
from xp.models.policy import DataSpec, DataTransforms, Distribution, PolicySpec
from xp.models.trainable import JaxTrainable, TorchTrainable

HORIZON, ACTION, STATE = 3, 3, 4
DATA = DataSpec(cameras={}, action_dim=ACTION, state_dim=STATE, fps=10.0)
STATISTICS = {"action": {"mean": np.full(ACTION, 9.0)}, "proprio": {"mean": np.arange(STATE) + 0.5}}


class Constant:
    """A policy that always gives the mean action of its statistics, and remembers what it was prepared with."""

    def __init__(self, mean, framework, spec):
        self.mean, self.framework, self.spec, self.module = np.asarray(mean, np.float32), framework, spec, "module"
        self.camera_slots = {}

    def predict(self, observation, *, seed=0, **options):
        rows = np.asarray(observation["observation.state"]).shape[0]
        return np.broadcast_to(self.mean, (rows, HORIZON, ACTION)) + np.float32(seed)

    def predict_distribution(self, observation):
        return Distribution(mean=self.predict(observation), scale_tril=np.eye(ACTION, dtype=np.float32)[None])

    def prepare(self, batch):
        return dict(batch)

    def loss(self, batch, *, seed=0):
        return {"loss": float(np.abs(batch["action"] - self.mean).mean())}

    def loss_inputs(self, batch, rows):
        return dict(batch), rows

    def loss_function(self):
        return lambda weights, inputs: np.abs(inputs["action"] - weights["mean"]).mean()

    def loss_with_graph(self, inputs, seed):
        return np.abs(inputs["action"] - self.mean).mean(), {}

    def weights(self):
        return {"mean": self.mean}

    def with_weights(self, weights):
        return Constant(weights["mean"], self.framework, self.spec)

    def save(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "constant.json").write_text(json.dumps(self.mean.tolist()))


class ConstantFamily(Family):
    name = "constant"
    folder_layout = "constant.json"
    wraps_transforms = True

    def __init__(self, framework, history=1):
        self.framework = framework
        self.spec = PolicySpec(horizon=HORIZON, action_dim=ACTION, state_dim=STATE, cameras={}, history=history)

    def build(self, request):
        statistics = request.statistics
        assert not request.transforms.is_relative and not request.transforms.obs_dropout
        made = {"spec": self.spec, "loss": lambda *_: (0.0, {}), "prepare": dict}
        made["policy"] = lambda weights: Constant(statistics["action"]["mean"], self.framework, self.spec)
        return JaxTrainable(weights={}, **made) if self.framework == "jax" else TorchTrainable(module=None, **made)

    def load(self, request):
        return Constant(json.loads((request.folder / "constant.json").read_text()), self.framework, self.spec)

    def owns(self, folder):
        return (folder / "constant.json").is_file()

    def camera_sizes(self, model_cfg, cameras, pretrained=None):
        return {}


def _install(monkeypatch, found):
    """That family, and no other."""
    monkeypatch.setattr(known, "installed", lambda: {"constant": found})
    monkeypatch.setattr(known, "family_named", lambda name: {"constant": found}[name])


@pytest.fixture(params=["jax", "torch"])
def family(request, monkeypatch):
    found = ConstantFamily(request.param)
    _install(monkeypatch, found)
    return found


def deltas(lags, anchor, exclude):
    """Differences of one half, and of as much as is excluded where an action stays absolute."""
    assert list(lags) == [(0, step) for step in range(HORIZON)] and anchor == "observation.state"
    mean = np.full(ACTION, 0.5)
    mean[list(exclude)] = 9.0
    return {"mean": mean, "std": np.ones(ACTION), "min": mean - 1, "max": mean + 1, "count": np.array([7])}


def made(pretrained_path=None, **transforms):
    given = {"action_names": ("x", "y", "gripper"), "deltas": deltas, **transforms}
    return build(
        {"family": "constant"}, data=DATA, statistics=STATISTICS, horizon=HORIZON, seed=0,
        pretrained_path=pretrained_path, transforms=DataTransforms(**given),
    )  # fmt: skip


def batch(rows=2):
    rng = np.random.default_rng(0)
    return {
        "observation.state": rng.normal(size=(rows, 1, STATE)).astype(np.float32),
        "action": rng.normal(size=(rows, HORIZON, ACTION)).astype(np.float32),
    }


RELATIVE = {"action_space": "relative", "exclude": ["grip"]}


def test_a_model_of_differences_gives_actions_that_follow_the_state(family):
    policy, seen = made(**RELATIVE).policy(None), batch()
    assert policy.framework == family.framework
    state = seen["observation.state"][:, -1, :2]
    for given in (seen, {"observation.state": seen["observation.state"][:, 0]}):
        actions = policy.predict(given)
        assert actions.shape == (2, HORIZON, ACTION) and np.all(actions[..., 2] == 9.0)
        np.testing.assert_allclose(actions[..., :2], np.repeat(state[:, None] + 0.5, HORIZON, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(policy.predict_distribution(seen).mean, policy.predict(seen))


def test_training_and_every_loss_see_differences_and_the_batch_stays_as_it_was(family):
    trainable, seen = made(**RELATIVE), batch()
    before = {name: array.copy() for name, array in seen.items()}
    state = np.pad(seen["observation.state"][:, :, :2], ((0, 0), (0, 0), (0, 1)))
    expected = seen["action"] - state
    policy = trainable.policy(None)
    np.testing.assert_array_equal(trainable.prepare(seen)["action"], expected)
    np.testing.assert_array_equal(policy.prepare(seen)["action"], expected)
    loss = np.abs(expected - policy.weights()["mean"]).mean()
    assert policy.loss(seen)["loss"] == pytest.approx(loss)
    if family.framework == "jax":
        inputs, _ = policy.loss_inputs(seen, 2)
        assert policy.loss_function()(policy.weights(), inputs) == pytest.approx(loss)
    else:
        assert policy.module == "module"
        assert policy.loss_with_graph(policy.prepare(seen), 0)[0] == pytest.approx(loss)
    assert all(np.array_equal(seen[name], before[name]) for name in before)


def test_relative_actions_travel_with_the_saved_policy(family, tmp_path):
    policy, seen = made(**RELATIVE).policy(None), batch()
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict(seen), policy.predict(seen))
    moved = again.with_weights({"mean": policy.weights()["mean"] + 1})
    np.testing.assert_allclose(moved.predict(seen), policy.predict(seen) + 1, rtol=1e-6)
    with pytest.raises(UserError, match="actions are relative to the state. Type action_space=relative"):
        made(str(tmp_path / "saved"))
    assert made(str(tmp_path / "saved"), **RELATIVE).policy(None).predict(seen).shape == (2, HORIZON, ACTION)
    notes = json.loads((tmp_path / "saved/xp_transforms.json").read_text())
    notes["relative_actions"]["excluded"] = [7]
    (tmp_path / "saved/xp_transforms.json").write_text(json.dumps(notes))
    with pytest.raises(UserError, match="excluded"):
        load_policy(tmp_path / "saved")


def test_hidden_states_are_the_mean_state_in_training_and_nothing_is_saved(family, tmp_path):
    trainable = made(obs_dropout=0.5)
    seen = {**batch(), "observation_is_dropped": np.array([True, False])}
    shown = trainable.prepare(seen)
    np.testing.assert_array_equal(shown["observation.state"][0, 0], STATISTICS["proprio"]["mean"])
    np.testing.assert_array_equal(shown["observation.state"][1], seen["observation.state"][1])
    np.testing.assert_array_equal(shown["action"], seen["action"])
    assert "observation_is_dropped" not in shown and isinstance(trainable.policy(None), Constant)
    trainable.policy(None).save(tmp_path / "saved")
    assert isinstance(load_policy(tmp_path / "saved"), Constant)


def test_a_state_hidden_from_the_model_is_still_the_anchor_of_its_actions(family):
    seen = {**batch(), "observation_is_dropped": np.array([True, True])}
    both, relative = made(obs_dropout=0.5, **RELATIVE).prepare(seen), made(**RELATIVE).prepare(seen)
    np.testing.assert_array_equal(both["action"], relative["action"])


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ({"action_space": "relative", "anchor": "a_t0"}, "action_space.anchor=a_t0: .*Type action_space.anchor=obs"),
        ({"action_space": "relative", "history": 2}, "actions before the present step too.*history=1"),
        ({"action_space": "relative", "state_dim": 2}, "the state, which has 2 dimensions here, for 3 of the action"),
    ],
)
def test_actions_that_cannot_be_relative_to_the_state_are_refused(transforms, message, monkeypatch):
    given = dict(transforms)
    found = ConstantFamily("torch", given.pop("history", 1))
    _install(monkeypatch, found)
    data = DataSpec(cameras={}, action_dim=ACTION, state_dim=given.pop("state_dim", STATE), fps=10.0)
    with pytest.raises(UserError, match=message):
        build(
            {"family": "constant"}, data=data, statistics=STATISTICS, horizon=HORIZON, seed=0,
            transforms=DataTransforms(deltas=deltas, **given),
        )  # fmt: skip


def test_an_observation_without_its_state_or_with_a_narrow_one_is_refused(family):
    policy = made(**RELATIVE).policy(None)
    with pytest.raises(UserError, match="relative to 'observation.state', and the observation has task"):
        policy.predict({"task": "go"})
    with pytest.raises(UserError, match="in 2 dimensions; 'observation.state' has 1"):
        policy.predict({"observation.state": np.zeros((2, 1), np.float32)})
