"""A family gives a network and its options; folders, batches, losses, errors come from `xp.models.network_family`."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from xp.errors import UserError
from xp.models.family import BuildRequest, LoadRequest
from xp.models.network_family import Choice, JaxFamily, JaxNetwork, Number, TorchFamily
from xp.models.policy import DataSpec, DataTransforms
from xp.models.transforms import build_transformed

DATA = DataSpec(cameras={"top": (12, 16, 3), "side": (8, 8, 3)}, action_dim=2, state_dim=3, fps=5.0)
OPTIONS = {"width": Number(6, low=1, high=64, whole=True), "kind": Choice("plain", ("plain", "bold"))}
RANDOM = np.random.default_rng(0)


def entry(size):
    values = RANDOM.normal(3, 2, (50, size)).astype(np.float32)
    return {"mean": values.mean(0), "std": values.std(0), "mask": np.ones(size, bool), "min": values.min(0),
            "max": values.max(0)}  # fmt: skip


STATISTICS = {"action": entry(2), "proprio": entry(3), "num_transitions": 50, "num_trajectories": 5}


def hashed(texts):
    return {"words": np.array([[len(text), text.count(" ")] for text in texts], np.float32)}


class Linear(torch.nn.Module):
    def __init__(self, spec, width, kind):
        super().__init__()
        self.spec = spec
        self.first = torch.nn.Linear(_features(spec), width)
        self.drop = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(width, spec.horizon * spec.action_dim)

    def forward(self, inputs):
        seen = torch.cat([inputs[f"observation.images.{name}"].mean((-1, -2)).flatten(1) for name in self.spec.cameras]
                         + [inputs["observation.state"].flatten(1), inputs["words"]], 1)  # fmt: skip
        return self.last(self.drop(self.first(seen))).unflatten(1, (self.spec.horizon, self.spec.action_dim))


def _features(spec):
    return spec.history * (3 * len(spec.cameras) + spec.state_dim) + 2


class OfTorch(TorchFamily):
    name = "of_torch"
    options = OPTIONS
    reads_language = True

    def encode_texts(self, texts):
        return hashed(texts)

    def network(self, options, spec):
        return Linear(spec, **options)


class OfJax(JaxFamily):
    name = "of_jax"
    options = OPTIONS
    reads_language = True

    def encode_texts(self, texts):
        return hashed(texts)

    def network(self, options, spec):
        def init(key, inputs):
            kernel = jax.random.normal(key, (_features(spec), spec.horizon * spec.action_dim))
            return {"first": {"kernel": kernel * 0.1}, "bias": jnp.zeros(spec.action_dim)}

        def chunk(weights, inputs, key):
            seen = [inputs[f"observation.images.{name}"].mean((2, 3)).reshape(len(inputs["words"]), -1)
                    for name in spec.cameras]  # fmt: skip
            seen += [inputs["observation.state"].reshape(len(inputs["words"]), -1), inputs["words"]]
            flat = jnp.concatenate(seen, 1) @ weights["first"]["kernel"]
            return flat.reshape(len(flat), spec.horizon, spec.action_dim) + weights["bias"]

        return JaxNetwork(init, chunk)


FAMILIES = [OfTorch(), OfJax()]
pytestmark = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def config(family, **options):
    return {"name": family.name, "family": family.name, "lr_peak": 1e-3, **options}


def built(family, *, horizon=4, seed=1, data=DATA, pretrained=None, **options):
    given = {"data": data, "statistics": STATISTICS, "horizon": horizon, "seed": seed, "pretrained": pretrained}
    return family.build(BuildRequest(config(family, **options), **given))


def policy_of(trainable):
    return trainable.policy(trainable.weights if trainable.framework == "jax" else None)


def batch(rows=5, history=1, horizon=4, before=None):
    before = history - 1 if before is None else before
    pad = np.zeros((rows, before + horizon), bool)
    pad[:, -1] = True
    return {
        "observation.images.top": RANDOM.integers(0, 256, (rows, history, 12, 16, 3), dtype=np.uint8),
        "observation.images.side": RANDOM.integers(0, 256, (rows, history, 8, 8, 3), dtype=np.uint8),
        "observation.state": RANDOM.normal(3, 2, (rows, history, 3)).astype(np.float32),
        "observation_is_pad": np.zeros((rows, history), bool),
        "task": [f"do {'it ' * row}" for row in range(rows)],
        "action": RANDOM.normal(3, 2, (rows, before + horizon, 2)).astype(np.float32),
        "action_is_pad": pad,
        "episode_index": np.arange(rows),
        "frame_index": np.arange(rows),
    }


@pytest.fixture
def saved(family, tmp_path):
    policy = policy_of(built(family))
    policy.save(tmp_path / "policy")
    return policy, tmp_path / "policy"


def test_a_saved_policy_comes_back_exactly(family, saved):
    policy, folder = saved
    assert family.owns(folder) and family.trained_fps(folder) == 5.0 and family.name in family.folder_layout
    loaded, given = family.load(LoadRequest(folder, device="cpu")), batch()
    assert loaded.spec == policy.spec
    np.testing.assert_array_equal(loaded.predict(given), policy.predict(given))
    assert loaded.loss(given) == policy.loss(given)
    loaded.save(folder.with_name("again"))
    for name in ("model.safetensors", "xp_policy.json", "dataset_statistics.json"):
        assert (folder / name).read_bytes() == (folder.with_name("again") / name).read_bytes()


def test_actions_are_in_dataset_units_and_do_not_depend_on_the_rows_beside_them(family, saved):
    policy, _ = saved
    given = batch(rows=40)
    actions = policy.predict(given)
    assert actions.shape == (40, 4, 2) and actions.dtype == np.float32
    alone = policy.predict({key: value[7:8] for key, value in given.items()})
    np.testing.assert_allclose(alone[0], actions[7], rtol=1e-5, atol=1e-5)
    still = policy.with_weights({name: np.zeros_like(array) for name, array in policy.weights().items()})
    np.testing.assert_allclose(still.predict(given), np.broadcast_to(STATISTICS["action"]["mean"], (40, 4, 2)))
    assert not np.array_equal(policy.predict(given), still.predict(given))


def test_a_loss_counts_no_padding_and_is_the_same_through_every_door(family, saved):
    policy, _ = saved
    given = batch(rows=3)
    padded = {**given, "action": np.where(given["action_is_pad"][..., None], 1e6, given["action"])}
    assert policy.loss(padded)["loss"] == policy.loss(given)["loss"]
    actions = (given["action"] - policy.predict(given)) / STATISTICS["action"]["std"]
    expected = np.abs(actions[~given["action_is_pad"]]).mean()
    assert policy.loss(given)["loss"] == pytest.approx(expected, rel=1e-4)
    if policy.framework == "jax":
        inputs, count = policy.loss_inputs(given, 8)
        value = policy.loss_function()(policy.weights(), inputs)
        assert count == 3 * 3 * 2 and len(inputs["action"]) == 8
    else:
        value, _ = policy.loss_with_graph(policy.prepare(given), 0)
        assert value.requires_grad
        value = value.detach()
    assert float(value) == pytest.approx(policy.loss(given)["loss"], rel=1e-6)


def test_history_and_actions_before_the_present_are_cut_to_what_the_network_takes(family):
    trainable = built(family, history=2)
    given = batch(history=2)
    assert trainable.spec.window == (0, 4)  # a dump's windows hold actions before the present step nevertheless
    inputs = trainable.prepare(given)
    assert inputs["action"].shape == (5, 4, 2) and inputs["observation.state"].shape == (5, 2, 3)
    assert inputs["observation.images.top"].shape[:2] == (5, 2)
    one = {"observation.images.top": given["observation.images.top"][0, 0], "task": "go",
           "observation.images.side": given["observation.images.side"][0, 0],
           "observation.state": given["observation.state"][0, 0]}  # fmt: skip
    assert policy_of(trainable).predict(one).shape == (1, 4, 2)


def test_cameras_are_chosen_resized_and_fed_by_others(family, tmp_path):
    assert family.camera_sizes(config(family), DATA.cameras) == {"top": (12, 16), "side": (8, 8)}
    assert family.camera_sizes(config(family, image_size=[9, 10], cameras=["side"]), DATA.cameras) == {"side": (9, 10)}
    with pytest.raises(UserError, match=r"model.cameras=\[tap\].*did you mean 'top'"):
        family.camera_sizes(config(family, cameras=["tap"]), DATA.cameras)
    with pytest.raises(UserError, match="model.image_size=3: give"):
        family.camera_sizes(config(family, image_size=3), DATA.cameras)
    policy = policy_of(built(family, cameras=["side"], image_size=[9, 10]))
    policy.save(tmp_path / "p")
    loaded, given = family.load(LoadRequest(tmp_path / "p", camera_map={"side": "front"})), batch()
    assert loaded.spec.cameras == {"front": (9, 10, 3)} and loaded.camera_slots == {"side": "front"}
    renamed = {**given, "observation.images.front": given["observation.images.side"]}
    np.testing.assert_array_equal(loaded.predict(renamed), policy.predict(given))
    loaded.save(tmp_path / "q")
    assert family.load(LoadRequest(tmp_path / "q")).camera_slots == {"side": "front"}
    with pytest.raises(UserError, match="names 'sidd'.*did you mean 'side'"):
        family.load(LoadRequest(tmp_path / "p", camera_map={"sidd": "front"}))
    with pytest.raises(UserError, match="cannot go without a camera"):
        family.load(LoadRequest(tmp_path / "p", camera_map={"side": None}))
    with pytest.raises(UserError, match="lacks 'observation.images.side'"):
        policy.predict({key: value for key, value in given.items() if "images" not in key})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widht": 3}, "model.widht: the family .* has no such option.*did you mean 'width'.*kind"),
        ({"width": 0}, "model.width=0: must be at least 1 and at most 64"),
        ({"width": 2.5}, "model.width=2.5: expected a whole number"),
        ({"kind": "bald"}, "model.kind=bald: allowed are plain, bold.*did you mean 'bold'"),
        ({"history": 0}, "model.history=0: expected how many observed steps"),
    ],
)
def test_options_are_checked_by_the_table(family, options, words):
    with pytest.raises(UserError, match=words):
        family.check(config(family, **options), DataTransforms())


def test_training_starts_from_what_fits_and_says_so(family, saved):
    policy, folder = saved
    again = built(family, seed=2, pretrained=(folder, None))
    assert not again.load_report.initialised and not again.load_report.dropped
    given = batch()
    np.testing.assert_array_equal(policy_of(again).predict(given), policy.predict(given))
    longer = built(family, seed=2, horizon=6, pretrained=(folder, None)).load_report
    last = "first/kernel" if family.framework == "jax" else "last.weight"
    assert last in longer.initialised and last in longer.dropped and longer.loaded


def test_relative_actions_and_hidden_states_are_done_around_it(family):
    deltas = {name: np.full(2, value) for name, value in (("mean", 0), ("std", 1), ("min", -9), ("max", 9))}
    transforms = DataTransforms(
        action_space="relative", anchor=None, action_names=("a", "b"), deltas=lambda *_: deltas, obs_dropout=0.5
    )
    made = build_transformed(family, BuildRequest(config(family), DATA, STATISTICS, 4, 0, transforms=transforms))
    given = {**batch(), "observation_is_dropped": np.array([True, False, True, False, False])}
    state = np.asarray(made.prepare(given)["observation.state"])
    assert np.abs(state[[0, 2]]).max() < 1e-6 < np.abs(state[1]).max()
    zero = policy_of(made).with_weights({name: array * 0 for name, array in policy_of(made).weights().items()})
    expected = np.repeat(given["observation.state"][:, -1:, :2], 4, axis=1)
    np.testing.assert_allclose(zero.predict(given), expected, rtol=1e-6)


def test_every_weight_is_accounted_for(family, saved):
    _, folder = saved
    whole = load_file(folder / "model.safetensors")
    some = next(iter(whole))
    for changed, words in (
        ({name: array for name, array in whole.items() if name != some}, f"lacks {some}"),
        ({**whole, "more": np.zeros(2, np.float32)}, "has no place for more"),
        ({**whole, some: np.zeros((3, 3, 3), np.float32)}, rf"has another shape of {some} \[3, 3, 3\] for"),
    ):
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(UserError, match=f"do not fit its own xp_policy.json: model.safetensors {words}"):
            family.load(LoadRequest(folder))
    (folder / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(UserError, match="model.safetensors"):
        family.load(LoadRequest(folder))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("horizon", 0, "horizon is 0: expected a whole number from 1"),
        ("fps", "fast", "fps is 'fast': expected a number"),
        ("cameras", {"top": {"size": [-1, 5], "fed_by": "top"}}, "cameras.top.size"),
        ("options", {"width": 10**9, "kind": "plain"}, "model.width=1000000000: must be at least 1 and at most 64"),
        ("options", {"width": 6, "kind": "plain", "exec": "x"}, "model.exec: the family"),
        ("state_dim", 2, "statistics of 'proprio' have 3 dimensions, the policy 2|another shape|do not fit"),
        ("language", None, "language is None: expected true or false"),
    ],
)
def test_a_damaged_description_is_refused_by_its_field(family, saved, field, value, words):
    _, folder = saved
    content = json.loads((folder / "xp_policy.json").read_text())
    (folder / "xp_policy.json").write_text(json.dumps({**content, field: value}))
    with pytest.raises(UserError, match=words):
        family.load(LoadRequest(folder))


def test_missing_statistics_devices_and_options_are_refused(family, saved):
    _, folder = saved
    with pytest.raises(UserError, match="device='abacus'"):
        family.load(LoadRequest(folder, device="abacus"))
    with pytest.raises(UserError, match="unnorm_key=x.*no such option"):
        family.refuse_options(folder, {"unnorm_key": "x"})
    policy = family.load(LoadRequest(folder))
    with pytest.raises(UserError, match="predict has no option 'prefix'"):
        policy.predict(batch(), prefix=np.zeros((5, 1, 2)))
    with pytest.raises(UserError, match="A loss needs a batch with actions"):
        policy.loss({key: value for key, value in batch().items() if not key.startswith("action")})
    bare = shutil.copytree(folder, folder.with_name("bare"))
    (bare / "dataset_statistics.json").unlink()
    with pytest.raises(UserError, match="There is no file .*dataset_statistics.json"):
        family.load(LoadRequest(bare))
