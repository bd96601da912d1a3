"""Vintix models of xp: windows, groups, folders, starting from others, caches, and what is refused."""

import dataclasses
import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vintix_models import data_spec, moved, new, reference, statistics_of, windows

from xp.errors import UserError
from xp.models import build, load_policy
from xp.models.families import find_policy
from xp.models.vintix import rollout as rollouts
from xp.models.vintix.attention import BLOCK, AlibiAttention, alibi_slopes, causal_biases
from xp.models.vintix.options import read_section
from xp.models.vintix.rollout import Rollout


def made(**options):
    trainable = new(**options)
    moved(trainable.module)
    return trainable


@pytest.fixture
def saved(tmp_path):
    policy = made().policy(None)
    policy.save(tmp_path / "policy")
    return tmp_path / "policy"


def test_a_saved_model_loads_again_and_names_its_family(saved):
    assert sorted(path.name for path in saved.iterdir()) == [
        "config.json",
        "metadata.json",
        "model.pth",
        "xp_vintix.json",
    ]
    policy, again = made().policy(None), load_policy(saved, device="cpu")
    np.testing.assert_array_equal(policy.predict(windows()), again.predict(windows()))
    assert find_policy(saved).family.name == "vintix" and find_policy(saved).family.trained_fps(saved) == 50
    assert again.spec == policy.spec and again.loss(windows()) == policy.loss(windows())
    with pytest.raises(UserError, match="says that this model is of upstream"):
        load_policy(saved, origin="fork")


def test_what_is_saved_has_the_originals_fields_and_statistics(saved):
    config, metadata = (json.loads((saved / name).read_text()) for name in ("config.json", "metadata.json"))
    theirs = json.loads(reference("dunno/0000_epoch/config.json").read_text())
    assert set(config) <= set(theirs) and config["hidden_dim"] == 16
    entry = json.loads(reference("dunno/0000_epoch/metadata.json").read_text())["leg"]
    assert set(metadata["go1"]) == set(entry) and metadata["go1"]["group_name"] == "go1"
    own = statistics_of()["groups"]["go2"]["proprio"]
    np.testing.assert_allclose(metadata["go2"]["obs_mean"], own["mean"], rtol=1e-6)
    np.testing.assert_allclose(metadata["go2"]["obs_std"], own["std"] * np.sqrt(50 / 49), rtol=1e-6)


def test_a_folder_of_the_original_is_saved_with_all_that_it_held(tmp_path):
    folder = reference("fork/0000_epoch")
    with pytest.raises(UserError, match="by whose code it was trained.*xp_vintix.json"):
        load_policy(folder)
    policy = load_policy(folder, device="cpu", origin="fork")
    policy.save(tmp_path / "again")
    for name in ("config.json", "metadata.json"):
        old, again = (json.loads((place / name).read_text()) for place in (folder, tmp_path / "again"))
        assert json.dumps(again, sort_keys=True) == json.dumps(_plain(old), sort_keys=True)
    states = [torch.load(place / "model.pth", weights_only=True) for place in (folder, tmp_path / "again")]
    assert list(states[0]) == list(states[1]) and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )
    assert load_policy(tmp_path / "again", device="cpu").described.origin == "fork"


def _plain(content):
    """A dropout of 0 is written 0.0."""
    return {key: float(value) if key.endswith("_dropout") else value for key, value in content.items()}


@given(begin=st.integers(0, 8), first=st.sampled_from([0, 3]), seed=st.integers(0, 5))
def test_a_window_that_begins_before_its_history_is_the_short_trajectory(begin, first, seed):
    """Padding changes neither the action nor the loss; a first step whose past is unknown is left out."""
    policy = POLICY
    batch = windows(rows=2, seed=seed)
    batch["step"] = np.maximum(np.arange(9) - begin, 0)[None].repeat(2, 0) + first
    batch["action_is_pad"] = np.broadcast_to(np.arange(9) < begin, (2, 9)).copy()
    short = {
        key: value if key in ("task", "group_index") else value[:, max(begin - 1, 0) :] for key, value in batch.items()
    }
    known = policy.prepare(batch)["count"]
    assert known.tolist() == [min(8, 9 - begin - (first > 0 and begin > 0)) if begin else 8] * 2
    if short["action"].shape[1] > 1 and known[0] > 0:
        np.testing.assert_allclose(policy.predict(batch), policy.predict(short), atol=1e-5)
        assert policy.loss(batch)["loss"] == pytest.approx(policy.loss(short)["loss"], abs=1e-5)
    for key in ("observation.state", "action", "reward"):
        batch[key][:, : max(begin - 1, 0)] = 1e3
    if known[0] > 0:
        assert policy.loss(batch)["loss"] == pytest.approx(policy.loss(short)["loss"], abs=1e-5)


POLICY = made().policy(None)


def test_rows_of_a_batch_do_not_see_each_other_nor_groups_their_padding():
    policy, batch = POLICY, windows(rows=4)
    together = policy.predict(batch)
    for row in range(4):
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        np.testing.assert_allclose(policy.predict(alone)[0], together[row], atol=1e-6)
    swapped = {**batch, "group_index": 1 - batch["group_index"]}
    assert np.abs(policy.predict(swapped) - together).max() > 1e-3


def test_groups_of_other_widths_share_the_transformer():
    groups = data_spec(("go1",)).groups[0], dataclasses.replace(data_spec(("bug",), (9, 3)).groups[0], reward_scale=2.0)
    data = dataclasses.replace(data_spec(), groups=groups, state_dim=9, action_dim=3)
    statistics = statistics_of(("go1",))
    statistics["groups"] |= statistics_of(("bug",), (9, 3))["groups"]
    from vintix_models import SIZES

    trainable = build({"family": "vintix", **SIZES}, data=data, statistics=statistics, horizon=1, seed=0)
    moved(trainable.module)
    batch = windows(widths=(9, 3))
    first = trainable.policy(None).predict(batch)
    assert first.shape == (3, 1, 3) and not first[0, 0, 2] and first[1, 0, 2]
    batch["observation.state"][0, :, 5:], batch["action"][0, :, 2:] = 7.0, 7.0  # beyond go1's own widths
    changed = trainable.policy(None).predict(batch)
    np.testing.assert_array_equal(changed[0], first[0])


def test_a_constant_dimension_does_not_explode_when_it_moves():
    statistics = statistics_of()
    for group in statistics["groups"].values():
        group["proprio"]["std"][2], group["proprio"]["mask"][2] = 0.0, False
    from vintix_models import SIZES

    trainable = build({"family": "vintix", **SIZES}, data=data_spec(), statistics=statistics, horizon=1, seed=0)
    assert (trainable.module.obs_std[:, 2] == 1).all()


def test_training_lowers_the_loss_and_dropout_draws_from_the_global_generator():
    trainable = new(attn_dropout=0.2, residual_dropout=0.2)
    inputs = trainable.prepare(windows(rows=6))
    optimiser = torch.optim.AdamW(trainable.module.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        torch.manual_seed(step)
        loss, _ = trainable.loss(inputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    torch.manual_seed(3)
    one = float(trainable.loss(inputs)[0].detach())
    torch.manual_seed(3)
    assert float(trainable.loss(inputs)[0].detach()) == one != float(trainable.loss(inputs)[0].detach())


def test_starting_from_another_model_keeps_its_tasks_and_adds_new_ones(saved):
    trainable = new(groups=("go2", "a1"), pretrained_path=saved)
    module, source = trainable.module, load_policy(saved, device="cpu").module
    assert module.tasks.names == ("go1", "go2", "a1")
    state, there = module.state_dict(), source.state_dict()
    assert all(torch.equal(state[name], there[name]) for name in there)
    assert trainable.load_report.loaded == tuple(there) and not trainable.load_report.dropped
    assert set(trainable.load_report.initialised) == {name for name in state if ".a1." in name}
    np.testing.assert_array_equal(module.obs_mean[:2], source.obs_mean)
    with pytest.raises(UserError, match="have? 5 and 2|has 5 and 2"):
        new(groups=("go2",), widths=(6, 2), pretrained_path=saved)
    with pytest.raises(UserError, match="model.origin=fork.*is of upstream"):
        new(pretrained_path=saved, origin="fork")
    with pytest.raises(UserError, match="model.transformer_depth=3.*has 2"):
        new(pretrained_path=saved, transformer_depth=3)
    longer = new(pretrained_path=saved, context_len=12, attn_dropout=0.5).module.options
    assert longer == dataclasses.replace(module.options, context_len=12, attn_dropout=0.5)
    with pytest.raises(UserError, match="by whose code it was trained"):
        new(pretrained_path=reference("dunno/0000_epoch"))


def test_with_weights_gives_a_policy_of_its_own():
    policy = POLICY
    weights = {name: array * 0.5 for name, array in policy.weights().items()}
    other = policy.with_weights(weights)
    assert np.abs(other.predict(windows()) - policy.predict(windows())).max() > 1e-4
    for name, array in other.weights().items():
        np.testing.assert_array_equal(array, weights[name])


@pytest.mark.parametrize(
    "options",
    [
        {"parallel_residual": True, "mlp_class": "LLaMAMLP", "norm_class": "RMSNorm"},
        {"parallel_residual": True, "shared_attention_norm": True},
        {"inner_ep_pos_enc": True},
        {"norm_acs": True, "norm_obs": False},
        {"normalize_qk": False, "bias": False},
    ],
    ids=str,
)
def test_every_variant_is_saved_loads_again_and_is_cached_right(options, tmp_path):
    policy = made(**options).policy(None)
    policy.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy", device="cpu")
    np.testing.assert_array_equal(policy.predict(windows()), again.predict(windows()))
    _assert_cached(again, steps=8)


def _trajectory(rows, steps, seed=0):
    draw = np.random.default_rng(seed)
    begins = draw.random((rows, steps)) < 0.2
    begins[:, 0] = True
    return draw.normal(size=(rows, steps, 5)).astype(np.float32), draw.normal(size=(rows, steps)), begins


def _assert_cached(policy, steps, mode="sliding", rows=3):
    """Each cached step against the whole window computed anew by `predict`."""
    observation, reward, begins = _trajectory(rows, steps)
    rollout, tasks = Rollout(policy, ["go1", "go2", "go1"][:rows], mode=mode), ["go1", "go2", "go1"][:rows]
    actions, step = [], np.zeros((rows, steps), np.int64)
    for t in range(steps):
        step[:, t] = np.where(begins[:, t], 0, step[:, t - 1] + 1)
        actions.append(rollout.act(observation[:, t], reward[:, t], begins[:, t]))
        first = max(t - policy.module.options.context_len + 1, 0)
        done = np.stack([*actions[:-1], np.zeros_like(actions[0])], axis=1)
        if first == 0:  # a step that only gives what stood before the first one: nothing
            window = [np.concatenate([v[:, :1], v[:, : t + 1]], 1) for v in (observation, done, step)]
            brought = np.concatenate([reward[:, : t + 1], np.zeros((rows, 1))], 1)
        else:
            window = [v[:, first - 1 : t + 1] for v in (observation, done, step)]
            brought = np.concatenate([reward[:, first : t + 1], np.zeros((rows, 1))], 1)
        batch = {
            "observation.state": window[0],
            "action": window[1],
            "step": window[2],
            "reward": brought,
            "task": tasks,
        }
        np.testing.assert_allclose(policy.predict(batch)[:, 0], actions[-1], atol=1e-5, err_msg=str(t))


def test_exact_steps_are_the_recomputed_window_far_beyond_the_context():
    _assert_cached(POLICY, steps=20, mode="exact")


def test_an_executed_action_stands_in_the_context_instead_of_the_policys_own():
    observation, reward, begins = _trajectory(2, 3)
    given, told = (Rollout(POLICY, ["go1", "go2"]) for _ in range(2))
    mine = other = None
    for t in range(3):
        mine = given.act(observation[:, t], reward[:, t], np.full(2, t == 0), executed=mine)
        other = told.act(observation[:, t], reward[:, t], np.full(2, t == 0), executed=None if t == 0 else other + 1)
    assert np.abs(mine - other).max() > 1e-4


@pytest.mark.parametrize("mode", ["sliding", "exact"])
def test_a_forgotten_context_is_a_new_one(mode):
    observation, reward, _ = _trajectory(3, 30)
    rollout, fresh = Rollout(POLICY, ["go1", "go2", "go1"], mode=mode), Rollout(POLICY, ["go2"], mode=mode)
    whole = Rollout(POLICY, ["go1", "go2", "go1"], mode=mode)
    for t in range(30):
        begins = np.array([t == 0, t in (0, 13), t == 0])
        if t == 13:
            rollout.forget(np.array([False, True, False]))
        found = rollout.act(observation[:, t], reward[:, t], begins)
        untouched = whole.act(observation[:, t], reward[:, t], begins)
        np.testing.assert_allclose(found[[0, 2]], untouched[[0, 2]], atol=1e-5)
        if t >= 13:
            alone = fresh.act(observation[1:2, t], reward[1:2, t], np.array([t == 13]))
            np.testing.assert_allclose(found[1], alone[0], atol=1e-5)


def test_blocks_of_queries_are_the_dense_attention():
    torch.manual_seed(0)
    layer, length = AlibiAttention(8, 2, dropout=0.0, normalize_qk=True, bias=True), BLOCK + 37
    x, slopes = torch.randn(1, length, 8), torch.tensor(alibi_slopes(2))
    q, k, v = layer._heads(x)
    age = torch.arange(length)[:, None] - torch.arange(length)
    scores = q @ k.transpose(-1, -2) / 2 - slopes[:, None, None] * age
    dense = layer._joined(scores.masked_fill(age < 0, -torch.inf).softmax(-1) @ v)
    np.testing.assert_allclose(layer(x, causal_biases(slopes, length, x.dtype)).detach(), dense.detach(), atol=1e-5)


BAD = {
    "horizon": ({"horizon": 4}, {}, "horizon=h1"),
    "key": ({}, {"context": 8}, "model.context.*context_len"),
    "heads": ({}, {"transformer_heads": 3}, "does not divide the token's width 16"),
    "norm": ({}, {"shared_attention_norm": True}, "needs model.parallel_residual=true"),
    "origin": ({}, {"origin": "dunno"}, "model.origin=dunno.*upstream"),
    "zero": ({}, {"context_len": 0}, "must be at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_options_that_do_not_fit_are_refused(name):
    from vintix_models import SIZES

    more, options, said = BAD[name]
    with pytest.raises(UserError, match=said):
        build(
            {"family": "vintix", **SIZES, **options},
            **{"data": data_spec(), "statistics": statistics_of(), "horizon": 1, "seed": 0, **more},
        )


def test_batches_that_do_not_fit_are_refused():
    batch = windows()
    with pytest.raises(UserError, match="has no 'reward'"):
        POLICY.predict({key: value for key, value in batch.items() if key != "reward"})
    with pytest.raises(UserError, match="Rollout"):
        POLICY.predict({**batch, "observation.state": batch["observation.state"][:, 0]})
    loaded = POLICY.with_weights(POLICY.weights())
    loaded.inputs.group_names = ()
    with pytest.raises(UserError, match="knows no task 'ant': it has encoders for go1 and go2|knows no task 'ant'"):
        loaded.predict({**batch, "task": ["ant"] * 3})
    with pytest.raises(UserError, match="know no groups"):
        given = {key: value for key, value in statistics_of().items() if key != "groups"}
        build({"family": "vintix"}, data=data_spec(), statistics=given, horizon=1, seed=0)


def test_a_model_of_one_task_takes_no_other_for_it():
    policy = new(groups=("go1",)).policy(None)
    policy.inputs.group_names = ()
    batch = {key: value for key, value in windows(groups=1).items() if key != "task"}
    unnamed, named = policy.predict(batch), policy.predict({**batch, "task": ["go1"] * 3})
    np.testing.assert_array_equal(unnamed, named)
    with pytest.raises(UserError, match="knows no task 'go2': it has encoders for go1"):
        policy.predict({**batch, "task": ["go2"] * 3})
    with pytest.raises(UserError, match="knows no task 'go2'"):
        policy.acting_in(["go2"])


def test_a_model_of_data_without_groups_takes_any_text_for_its_one_task():
    policy = new(groups=("robot",)).policy(None)
    policy.inputs.group_names = ()
    policy.predict({**windows(groups=1), "task": ["walk", "stand", "walk"]})


def test_a_context_longer_than_memory_allows_is_refused(monkeypatch):
    for room, said in (
        (10_000, "at most 4 environments at once\\."),
        (80_000, "at most 39 .* or a context of at most 6"),
    ):
        monkeypatch.setattr(rollouts, "available_memory", lambda room=room: room)
        with pytest.raises(UserError, match=said):
            Rollout(POLICY, ["go1"] * 50)


class _Touch:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def _packed(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new_zip:
        for entry in old.infolist():
            new_zip.writestr(entry.filename, old.read(entry))
    return out.getvalue()


def _torch_saved(content) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


HOSTILE = {
    "pickle": (lambda old: pickle.dumps(_Touch()), "no archive of torch.save"),
    "pickle_in_an_archive": (
        lambda old: _torch_saved({"a": _Touch()}),
        "cannot be read.*exec, which could run anything",
    ),
    "packed": (_packed, "is packed and would take"),
    "a_list": (lambda old: _torch_saved([1, 2]), "holds a list"),
    "texts": (lambda old: _torch_saved({"a": "b"}), "no dense tensor"),
    "one_missing": (
        lambda old: _torch_saved(
            {k: v for k, v in torch.load(io.BytesIO(old), weights_only=True).items() if not k.endswith("ln_f.bias")}
        ),
        "model.pth lacks transformer.ln_f.bias",
    ),
    "cut": (lambda old: old[: len(old) // 2], "no archive of torch.save|cannot be read"),
    "empty": (lambda old: b"", "no archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_model_pth_that_is_no_state_dict_is_refused(name, saved):
    change, said = HOSTILE[name]
    (saved / "model.pth").write_bytes(change((saved / "model.pth").read_bytes()))
    with pytest.raises(UserError, match=said):
        load_policy(saved, device="cpu")


def test_descriptions_that_are_damaged_are_refused(saved, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    for changed, said in (
        ({"hidden_dim": 17}, "hidden_dim is 17"),
        ({"transformer_heads": 3}, "does not divide"),
        ({"context_len": 10**9}, "context_len"),
        ({"norm_class": "Other"}, "norm_class"),
    ):
        place = tmp_path / "copy"
        shutil.copytree(saved, place)
        (place / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(UserError, match=said):
            load_policy(place)
        shutil.rmtree(place)
    metadata = json.loads((saved / "metadata.json").read_text())
    for changed, said in (
        ({"obs_std": [1.0] * 4}, "obs_mean|mean"),
        ({"group_name": "a.b"}, "without a dot"),
        ({"action_type": "discrete"}, "action_type"),
    ):
        (saved / "metadata.json").write_text(json.dumps({**metadata, "go1": {**metadata["go1"], **changed}}))
        with pytest.raises(UserError, match=said):
            load_policy(saved)


def test_hidden_states_and_images_are_refused():
    from xp.models.policy import DataTransforms
    from xp.models.vintix.family import FAMILY

    with pytest.raises(UserError, match="obs_dropout=none"):
        FAMILY.check({"family": "vintix"}, DataTransforms(obs_dropout=0.1))
    assert FAMILY.camera_sizes({}, {"top": (8, 8, 3)}) == {} and read_section({"family": "vintix"}).origin is None
