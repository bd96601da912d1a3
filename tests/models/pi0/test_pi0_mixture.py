"""A pi0 of a mixture: each row is prepared as a policy of its dataset alone prepares it, and any can be chosen."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pi0_made_up import DATA, batch, config, entry

from xp import merge
from xp.config.model_families import learner, refuse_mixture
from xp.errors import UserError
from xp.models import load_policy, recorded_answer
from xp.models.families import build
from xp.models.pi0.convert import JAX, LEROBOT, TORCH, convert, open_source
from xp.models.pi0.inputs.mixed import DIM_IS_PAD
from xp.models.pi0.interface import new_interface
from xp.models.pi0.io.notes import read_notes
from xp.models.pi0.network.flow import Network
from xp.models.pi0.options import Pi0Options
from xp.models.pi0_torch.network import loss as torch_loss
from xp.models.policy import DataTransforms, MemberSpec

ARM = MemberSpec(name="arm", action_dim=4, state_dim=5, cameras={"top": "top", "wrist": "hand"})
EYE = MemberSpec(name="eye", action_dim=2, state_dim=3, cameras={"top": "eye"})
MIXED = replace(DATA, members=(ARM, EYE))
HORIZON = 6
COUNTS = {"num_transitions": 100, "num_trajectories": 3}


def own_statistics(member):
    """As wide as the dataset's own numbers, and other ones for each dataset."""
    seed = len(member.name) + member.action_dim
    return {"action": entry(member.action_dim, seed), "proprio": entry(member.state_dim, seed + 9), **COUNTS}


def statistics(data=MIXED):
    return {
        "action": entry(data.action_dim),
        "proprio": entry(data.state_dim),
        "members": {each.name: own_statistics(each) for each in data.members},
        **COUNTS,
    }


def data_of(member):
    """The dataset alone, its cameras by the mixture's names."""
    return replace(DATA, action_dim=member.action_dim, state_dim=member.state_dim)


def interface_of(name, data, own, transforms=DataTransforms(), **changed):  # noqa: B008 - frozen
    options = Pi0Options.from_config(config(name, **changed))
    return new_interface(
        options, options.sizes(), None, data=data, statistics=own, horizon=HORIZON, transforms=transforms
    )


def mixed_batch(whose, seed=0):
    """Windows of datasets by `member_index`, filled up as a mixture's are; without a camera where one has none."""
    whose = np.asarray(whose)
    found = batch(len(whose), HORIZON, seed=seed)
    for row, place in enumerate(whose):
        member = MIXED.members[place]
        found["observation.state"][row, :, member.state_dim :] = 0
        found["action"][row, :, member.action_dim :] = 0
    dark = (whose == 1)[:, None]
    found["observation.images.wrist"][dark[:, 0]] = 0
    dropped = np.random.default_rng(seed).random(len(whose)) < 0.3
    return {
        **found,
        "observation.images.wrist_is_pad": dark,
        "observation_is_dropped": dropped,
        "task": [f"task {row}" for row in range(len(whose))],
        "member_index": whose,
    }


def rows_of(given, place):
    """The rows of one dataset, in its own widths."""
    rows, member = np.flatnonzero(given["member_index"] == place), MIXED.members[place]
    found = {key: [value[row] for row in rows] if key == "task" else value[rows] for key, value in given.items()}
    found["observation.state"] = found["observation.state"][..., : member.state_dim]
    found["action"] = found["action"][..., : member.action_dim]
    return {key: value for key, value in found.items() if key != "member_index"}


@pytest.fixture(scope="module", params=["pi05_tiny", "pi0_tiny"])
def ways(request):
    """The way in of a mixture, and of each of its datasets alone."""
    alone = [interface_of(request.param, data_of(each), own_statistics(each)).prepare for each in MIXED.members]
    return interface_of(request.param, MIXED, statistics()).prepare, alone


@given(st.lists(st.integers(0, 1), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_each_row_is_prepared_as_a_policy_of_its_dataset_alone_prepares_it(ways, whose, seed):
    mixed, alone = ways
    given = mixed_batch(whose, seed)
    found = mixed(given)
    for place in set(whose):
        rows = np.flatnonzero(np.asarray(whose) == place)
        wanted = alone[place](rows_of(given, place))
        assert wanted.keys() == found.keys()
        for key, value in wanted.items():
            np.testing.assert_array_equal(found[key][rows], value, err_msg=key)
            assert found[key].dtype == value.dtype


def test_the_prompt_of_pi05_holds_as_many_numbers_as_the_rows_dataset_has():
    seen = []
    prepare = interface_of("pi05_tiny", MIXED, statistics()).prepare

    def encode(text, begins):
        seen.append(text)
        return [1]

    reader = replace(next(iter(prepare.each.values())).prompts, encode=encode)
    replace(prepare, each={name: replace(one, prompts=reader) for name, one in prepare.each.items()})(
        mixed_batch([0, 1])
    )
    numbers = [len(text.partition("State: ")[2].partition(";")[0].split()) for text in seen]
    assert numbers == [5, 3]


@pytest.mark.parametrize("counts_filled", [True, False])
def test_dimensions_that_count_are_openpis_or_those_of_each_row(counts_filled):
    made = interface_of("pi05_tiny", MIXED, statistics(), count_filled_dims=counts_filled)
    inputs = made.prepare(mixed_batch([0, 1]))
    assert made.counted_dims is None and (DIM_IS_PAD in inputs) != counts_filled
    if not counts_filled:
        np.testing.assert_array_equal((~inputs[DIM_IS_PAD]).sum(1), [4, 2])
    narrow = replace(MIXED, members=(replace(ARM, action_dim=2), EYE), action_dim=2)
    same = interface_of("pi05_tiny", narrow, statistics(narrow), count_filled_dims=False)
    assert same.counted_dims == 2  # one width: no mask is needed


SQUARES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(SQUARES, st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_mean_over_dimensions_is_each_rows_own_in_both_frameworks(widths, seed):
    rng = np.random.default_rng(seed)
    values = rng.random((len(widths), 3, 4)).astype(np.float32)
    is_pad = np.arange(4) >= np.asarray(widths)[:, None]
    wanted = np.stack([row[:, :width].mean(-1) for row, width in zip(values, widths, strict=True)])
    from xp.models.pi0_torch.network import _over_dims

    sizes = Pi0Options.from_config(config()).sizes()
    found = Network(sizes=sizes)._over_dims(jax.numpy.asarray(values), {DIM_IS_PAD: is_pad})
    other = _over_dims(torch.from_numpy(values), {DIM_IS_PAD: torch.from_numpy(is_pad)}, None)
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-6)
    np.testing.assert_allclose(other.numpy(), wanted, rtol=1e-6)


def made(name="pi05_tiny", data=MIXED, own=None, **changed):
    own = statistics(data) if own is None else own
    return build(config(name, **changed), data=data, statistics=own, horizon=HORIZON, seed=0)


def moved(weights):
    """Weights away from the start, where the gates of pi0.5 are shut."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + np.float32(0.05) * rng.standard_normal(leaf.shape, np.float32), weights)


@pytest.fixture(scope="module")
def model():
    return made(count_filled_dims=False)


@pytest.fixture(scope="module")
def policy(model):
    return model.policy(moved(model.weights))


@pytest.fixture(scope="module")
def saved(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture") / "policy"
    policy.save(folder)
    recorded_answer.write(folder, recorded_answer.recorded(policy))
    return folder


def observed(member, rows=2):
    """An observation of a dataset in its own widths, its cameras by its own names."""
    seen = {key: value for key, value in batch(rows, seed=4).items() if not key.startswith("action")}
    seen["observation.state"] = seen["observation.state"][..., : member.state_dim]
    pictures = {name: seen.pop(f"observation.images.{name}") for name in DATA.cameras}
    return seen | {f"observation.images.{own}": pictures[camera] for camera, own in member.cameras.items()}


def asked(place, rows=2):
    """The same as the mixture's policy is asked: filled up, by the mixture's cameras, with `member_index`."""
    member, seen = MIXED.members[place], {k: v for k, v in batch(rows, seed=4).items() if not k.startswith("action")}
    seen["observation.state"][..., member.state_dim :] = 0
    for camera in DATA.cameras:
        if camera not in member.cameras:
            seen.pop(f"observation.images.{camera}")
    return {**seen, "member_index": np.full(rows, place)}


@pytest.mark.parametrize("place", [0, 1])
def test_a_saved_policy_acts_as_the_dataset_that_is_chosen(policy, saved, place):
    member = MIXED.members[place]
    answer = policy.predict(asked(place), seed=3)
    assert answer.shape == (2, HORIZON, member.action_dim)
    again = load_policy(saved, device="cpu")
    assert again.spec == policy.spec and again.interface.notes == policy.interface.notes
    np.testing.assert_array_equal(again.predict(asked(place), seed=3), answer)
    for option in ("unnorm_key", "asset_id"):
        chosen = load_policy(saved, device="cpu", **{option: member.name})
        assert chosen.spec.action_dim == member.action_dim and chosen.spec.state_dim == member.state_dim
        assert set(chosen.spec.cameras) == set(member.cameras.values())
        np.testing.assert_array_equal(chosen.predict(observed(member), seed=3), answer)


def test_a_chosen_policy_is_saved_as_a_plain_one(saved, tmp_path):
    chosen = load_policy(saved, device="cpu", unnorm_key="eye")
    chosen.save(tmp_path / "plain")
    notes = json.loads((tmp_path / "plain/0/xp_pi0.json").read_text())
    assert "members" not in notes and notes["asset_id"] == "eye" and notes["action_dim"] == 2
    assets = tmp_path / "plain/0/assets"
    assert [path.name for path in assets.iterdir()] == ["eye"]
    assert (assets / "eye/norm_stats.json").read_bytes() == (saved / "0/assets/eye/norm_stats.json").read_bytes()
    plain = load_policy(tmp_path / "plain", device="cpu")
    np.testing.assert_array_equal(plain.predict(observed(EYE), seed=3), chosen.predict(observed(EYE), seed=3))


def test_each_dataset_has_the_asset_that_a_policy_of_it_alone_has(saved, tmp_path):
    assert sorted(path.name for path in (saved / "0/assets").iterdir()) == ["arm", "eye"]
    for member in MIXED.members:
        alone = interface_of("pi05_tiny", data_of(member), own_statistics(member))
        alone.statistics.write(tmp_path / member.name)
        written = saved / "0/assets" / member.name / "norm_stats.json"
        assert (tmp_path / member.name).read_bytes() == written.read_bytes()
    notes = json.loads((saved / "0/xp_pi0.json").read_text())
    assert notes["members"] == {
        "arm": {"base_0_rgb": "top", "left_wrist_0_rgb": "hand"},
        "eye": {"base_0_rgb": "eye"},
    }


def test_a_choice_that_is_missing_unknown_or_double_is_refused(policy, saved):
    seen = {key: value for key, value in asked(0).items() if key != "member_index"}
    with pytest.raises(UserError, match=r"arm, eye.*none was chosen.*unnorm_key='NAME'"):
        load_policy(saved, device="cpu").predict(seen)
    with pytest.raises(UserError, match="arm, eye.*did you mean 'eye'"):
        load_policy(saved, unnorm_key="eyes")
    with pytest.raises(UserError, match="unnorm_key=eye and asset_id=arm: both say"):
        load_policy(saved, unnorm_key="eye", asset_id="arm")
    with pytest.raises(UserError, match="Ask about one dataset at a time"):
        policy.predict({**seen, "member_index": np.array([0, 1])})
    with pytest.raises(UserError, match="none was chosen"):
        policy.loss(batch(2, HORIZON))


def test_a_map_of_cameras_counts_before_the_datasets_own(saved):
    chosen = load_policy(saved, device="cpu", unnorm_key="eye", camera_map={"base_0_rgb": "front"})
    assert set(chosen.spec.cameras) == {"front"}


def test_the_loss_of_a_datasets_rows_is_that_of_its_own_policy_in_both_frameworks(policy, saved, tmp_path):
    given = mixed_batch([0, 1, 1])
    rng = np.random.default_rng(0)
    given |= {"noise": rng.standard_normal((3, HORIZON, 32)).astype(np.float32), "time": rng.random(3, np.float32)}
    whole = policy.loss(given)["loss"]
    each = []
    for place, member in enumerate(MIXED.members):
        chosen, rows = load_policy(saved, device="cpu", unnorm_key=member.name), rows_of(given, place)
        for camera, own in member.cameras.items():
            rows[f"observation.images.{own}"] = rows[f"observation.images.{camera}"]
        each.append(chosen.loss(rows)["loss"])
    assert whole == pytest.approx((each[0] + 2 * each[1]) / 3, rel=1e-5)
    convert(open_source(saved, None, {}), TORCH, tmp_path / "torch")
    other = load_policy(tmp_path / "torch", device="cpu")
    assert other.loss(given)["loss"] == pytest.approx(whole, rel=5e-5)
    inputs = {key: value for key, value in other.prepare(given).items() if key != DIM_IS_PAD}
    with torch.no_grad():
        assert float(torch_loss(other.module, inputs, None)) != pytest.approx(whole, rel=1e-2)  # the mask matters
    for place in (0, 1):
        wanted = policy.predict(asked(place), noise=given["noise"][:2])
        np.testing.assert_allclose(other.predict(asked(place), noise=given["noise"][:2]), wanted, atol=1e-3)


def test_a_mixture_of_one_dataset_is_the_policy_of_that_dataset():
    one = replace(DATA, members=(replace(ARM, cameras={"top": "top", "wrist": "wrist"}),))
    own = own_statistics(ARM)
    mixture, alone = made(data=one, own=statistics(one)), made(data=DATA, own=own)
    given = batch(3, HORIZON)
    first, second = (each.policy(moved(each.weights)) for each in (mixture, alone))
    assert first.loss({**given, "member_index": np.zeros(3, int)}) == second.loss(given)
    seen = {key: value for key, value in given.items() if not key.startswith("action")}
    np.testing.assert_array_equal(first.predict(seen, seed=2), second.predict(seen, seed=2))


def test_what_is_recorded_tells_of_a_change_to_any_dataset(policy, saved, tmp_path):
    answer = recorded_answer.read(saved)
    assert answer is not None and answer.actions.shape == (4, HORIZON, 4)
    assert recorded_answer.compare(policy, answer, "the policy") == 0
    copy = shutil.copytree(saved, tmp_path / "copy")
    file = copy / "0/assets/eye/norm_stats.json"
    content = json.loads(file.read_text())
    content["norm_stats"]["actions"]["q01"][0] -= 1
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no longer answers as it did"):
        recorded_answer.compare(load_policy(copy, device="cpu"), answer, "the copy")


def test_a_conversion_keeps_all_datasets_and_lerobots_form_wants_one(saved, tmp_path):
    convert(open_source(saved, None, {}), TORCH, tmp_path / "torch")
    convert(open_source(tmp_path / "torch", None, {}), JAX, tmp_path / "jax")
    for name in ("arm", "eye"):
        file = f"assets/{name}/norm_stats.json"
        kept = (saved / "0" / file).read_bytes()
        assert (tmp_path / "torch" / file).read_bytes() == (tmp_path / "jax/0" / file).read_bytes() == kept
    first, second = read_notes(tmp_path / "torch"), read_notes(tmp_path / "jax/0")
    assert first == second and list(first.members) == ["arm", "eye"]
    with pytest.raises(UserError, match=r"2 datasets \(arm, eye\).*'convert.load_options=\{unnorm_key: arm\}'"):
        convert(open_source(saved, None, {}), LEROBOT, tmp_path / "robot")
    source = open_source(saved, None, {"unnorm_key": "eye"})
    assert source.is_chosen and not open_source(saved, None, {}).is_chosen
    robot = open_source(convert(source, LEROBOT, tmp_path / "robot"), None, {})
    assert robot.interface.statistics.actions.width == 2 and not robot.interface.notes.members
    assert json.loads((tmp_path / "robot/config.json").read_text())["output_features"]["action"]["shape"] == [2]


def test_a_merge_keeps_all_datasets(policy, saved, tmp_path):
    policy.with_weights({name: array + 0.5 for name, array in policy.weights().items()}).save(tmp_path / "other")
    merge([saved, tmp_path / "other"], "average", output=tmp_path / "merged")
    merged = load_policy(tmp_path / "merged", device="cpu", unnorm_key="eye")
    assert merged.interface.notes == load_policy(saved, device="cpu", unnorm_key="eye").interface.notes
    assert load_policy(tmp_path / "merged", device="cpu").datasets == ("arm", "eye")
    plain = tmp_path / "plain"
    load_policy(saved, device="cpu", unnorm_key="eye").save(plain)
    with pytest.raises(UserError, match="do not carry the same statistics files"):
        merge([saved, plain], "average", output=tmp_path / "never")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"state_dim": 0}, "data.mix.eye: the dataset has no observation.state"),
        ({"cameras": {"side": "eye"}}, "data.mix.eye has none of the cameras.*data.mix.eye.cameras.top=CAMERA"),
        ({"action_dim": 40}, r"The actions of the dataset \(eye\) have 40 dimensions"),
    ],
)
def test_a_dataset_that_a_pi0_cannot_learn_from_is_refused(changed, said):
    data = replace(MIXED, members=(ARM, replace(EYE, **changed)))
    with pytest.raises(UserError, match=said):
        interface_of("pi05_tiny", data, statistics(data))


def test_relative_actions_are_not_for_mixtures():
    with pytest.raises(UserError, match="Type action_space=absolute"):
        interface_of("pi05_tiny", MIXED, statistics(), DataTransforms(action_space="relative"))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"arm": {"ear_0": "top"}}, "base_0_rgb, left_wrist_0_rgb"),
        ({"arm": {"base_0_rgb": 3}}, "base_0_rgb"),
        (["arm"], "members"),
        ({"arm": {}, "../../../x": {}}, r"and '../../../x' is none of them"),
    ],
)
def test_notes_that_name_what_is_not_there_are_refused(saved, tmp_path, members, said):
    copy = shutil.copytree(saved, tmp_path / "copy")
    file = copy / "0/xp_pi0.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "members": members}))
    with pytest.raises(UserError, match=said):
        load_policy(copy)


def test_the_notes_of_a_policy_of_one_dataset_have_no_members(tmp_path):
    notes = interface_of("pi0_tiny", DATA, own_statistics(ARM)).notes
    notes.write(tmp_path)
    assert "members" not in json.loads((tmp_path / "xp_pi0.json").read_text())
    assert read_notes(tmp_path) == notes


def test_a_family_that_learns_from_one_dataset_names_the_models_that_take_a_mixture():
    refuse_mixture(learner("pi0"))
    refuse_mixture(learner("pi0_torch"))
    with pytest.raises(UserError, match="family vintix learn from one dataset.*pi05_tiny.*pi05_torch_tiny"):
        refuse_mixture(learner("vintix"))
