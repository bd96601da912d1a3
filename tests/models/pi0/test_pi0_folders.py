"""openpi's folders are read and written; what is damaged, hostile or of the other model is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pi0_made_up import DATA, batch, observation, trainable
from pi0_reference_arrays import REFERENCE, Case, needs_reference

from xp.errors import UserError
from xp.models.families import find_policy, load_policy
from xp.models.pi0.io.folder import is_pi0, open_step, steps_of
from xp.models.policy import DataSpec
from xp.models.tree import flatten

PI05, PI0 = REFERENCE / "ckpt_pi05_orbax0.11.13", REFERENCE / "ckpt_pi0_orbax0.11.13_pure"


@pytest.fixture(scope="module")
def policy():
    made = trainable()
    return made.policy(made.weights)


@pytest.fixture(scope="module")
def saved(policy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pi0") / "policy"
    policy.save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("place", [PI05, PI05 / "10", PI05 / "10/params"])
def test_every_weight_that_openpi_saved_is_read(place):
    case = Case("pi05")
    assert is_pi0(place)
    found = open_step(place)
    assert set(found.leaves) == set(case.flat)
    for path, wanted in case.flat.items():
        np.testing.assert_array_equal(found.read(path), wanted)
    statistics, asset = found.statistics(None)
    assert asset == "tiny/robot" and statistics.state.width == 8


def test_a_tree_without_the_suffix_is_read_and_its_model_told_from_its_weights():
    needs_reference()
    assert is_pi0(PI0) and steps_of(PI05) == [10]
    assert len(open_step(PI0).leaves) == 50
    with pytest.raises(UserError, match="has no statistics, and without them its actions mean nothing"):
        load_policy(PI0)


def test_openpis_checkpoint_predicts_what_openpi_predicts():
    case = Case("pi05")
    policy = load_policy(PI05, horizon="10")
    assert policy.spec.horizon == 10 and find_policy(PI05).family.name == "pi0"
    inputs = dict(case.inputs)
    found = policy.assembly.sample(policy._weights, inputs, case.noise, 10)
    np.testing.assert_allclose(found, case.outputs["sample/steps10"], atol=1e-4)


def test_a_saved_policy_is_the_same_policy(policy, saved):
    again = load_policy(saved)
    assert again.spec == policy.spec and again.camera_slots == policy.camera_slots
    for path, array in policy.weights().items():
        np.testing.assert_array_equal(again.weights()[path], array)
    np.testing.assert_array_equal(again.predict(observation(), seed=3), policy.predict(observation(), seed=3))
    assert again.loss(batch(), seed=1) == policy.loss(batch(), seed=1)


def test_orbax_restores_what_was_saved(policy, saved):
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        found = flatten(checkpointer.restore((saved / "0/params").absolute()))
    weights = policy.weights()
    assert set(found) == {f"params/{path}/value" for path in weights}
    for path, array in weights.items():
        np.testing.assert_array_equal(found[f"params/{path}/value"], array)


def test_the_layout_is_openpis(saved):
    needs_reference()
    ours, theirs = (json.loads((place / "params/_METADATA").read_text()) for place in (saved / "0", PI05 / "10"))
    assert ours["tree_metadata"].keys() == theirs["tree_metadata"].keys()
    for key, entry in theirs["tree_metadata"].items():
        assert ours["tree_metadata"][key]["key_metadata"] == entry["key_metadata"]
    assert (saved / "0/assets/xp/norm_stats.json").is_file()


def test_pretrained_weights_are_taken_whole(saved, policy):
    started = trainable(horizon=4, pretrained=saved)
    assert len(started.load_report.loaded) == 51 and not started.load_report.initialised
    for path, array in flatten(started.weights).items():
        np.testing.assert_array_equal(array, policy.weights()[path])
    assert started.spec.horizon == 4


def test_weights_of_the_other_model_are_refused_both_ways(saved, tmp_path):
    with pytest.raises(UserError, match="its weights are of pi05, and the model asked for is pi0. Type model=pi05"):
        trainable("pi0_tiny", pretrained=saved)
    other = trainable("pi0_tiny")
    other.policy(other.weights).save(tmp_path / "pi0")
    with pytest.raises(UserError, match="its weights are of pi0, and the model asked for is pi05. Type model=pi0"):
        trainable("pi05_tiny", pretrained=tmp_path / "pi0")


def test_states_and_actions_wider_than_the_model_are_refused():
    wide = DataSpec(cameras=DATA.cameras, action_dim=4, state_dim=33, fps=10.0)
    with pytest.raises(UserError, match="The states of the dataset have 33 dimensions; the model takes at most 32"):
        trainable(data=wide)
    wide = DataSpec(cameras=DATA.cameras, action_dim=40, state_dim=5, fps=10.0)
    with pytest.raises(UserError, match="The actions of the dataset have 40 dimensions"):
        trainable(data=wide)


def test_missing_or_ambiguous_statistics_are_refused(copy):
    shutil.copytree(copy / "0/assets/xp", copy / "0/assets/lab/arm")
    (copy / "0/xp_pi0.json").unlink()
    with pytest.raises(UserError, match="has statistics of lab/arm, xp, and none was chosen.*asset_id=lab/arm"):
        load_policy(copy)
    assert load_policy(copy, asset_id="lab/arm").assembly.notes.asset_id == "lab/arm"
    with pytest.raises(UserError, match="'elsewhere' is none of them"):
        load_policy(copy, asset_id="elsewhere")
    shutil.rmtree(copy / "0/assets")
    with pytest.raises(UserError, match="has no statistics"):
        load_policy(copy)


def test_a_half_written_tree_is_refused(copy):
    pieces = sorted((copy / "0/params/d").iterdir(), key=lambda file: file.stat().st_size)
    pieces[-1].unlink()
    with pytest.raises(UserError, match="is damaged"):
        load_policy(copy)
    (copy / "0/params/manifest.ocdbt").unlink()
    with pytest.raises(UserError, match="is damaged"):
        load_policy(copy)


def _metadata(folder: Path, change) -> None:
    file = folder / "0/params/_METADATA"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_metadata_that_lead_elsewhere_are_refused(copy):
    """No driver or place is taken from it: only keys are, and none may leave the folder."""

    def elsewhere(content):
        entry = next(iter(content["tree_metadata"].values()))
        entry["key_metadata"][2]["key"] = "../../../../etc/passwd"

    _metadata(copy, elsewhere)
    with pytest.raises(UserError, match="leads out of"):
        load_policy(copy)


def test_a_driver_that_metadata_name_is_not_used(copy, policy):
    def driver(content):
        content["ts_context"] = {"kvstore": {"driver": "http", "base_url": "http://example.invalid"}}
        for entry in content["tree_metadata"].values():
            entry["value_metadata"]["driver"] = "http"

    _metadata(copy, driver)
    np.testing.assert_array_equal(
        load_policy(copy).weights()["action_out_proj/bias"], policy.weights()["action_out_proj/bias"]
    )


def test_a_zarr_header_of_another_driver_is_refused(copy):
    import tensorstore

    name = "params.action_out_proj.bias.value/.zarray"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{copy}/0/params/"}).result()
    header = json.loads(store.read(name).result().value)
    store.write(name, json.dumps({**header, "compressor": {"id": "pickle"}}).encode()).result()
    with pytest.raises(UserError):
        load_policy(copy)


def test_missing_and_unknown_weights_are_named(copy):
    def drop(content):
        key = next(key for key in content["tree_metadata"] if "time_mlp_out" in key and "bias" in key)
        del content["tree_metadata"][key]

    _metadata(copy, drop)
    with pytest.raises(UserError, match="the folder lacks time_mlp_out/bias"):
        load_policy(copy)


def test_notes_cannot_name_a_file_outside(copy):
    notes = json.loads((copy / "0/xp_pi0.json").read_text())
    (copy / "0/xp_pi0.json").write_text(json.dumps({**notes, "tokenizer": "/etc/passwd"}))
    with pytest.raises(UserError, match="tokenizer"):
        load_policy(copy)


def test_a_step_that_is_not_there_is_refused(saved):
    with pytest.raises(UserError, match="has no step 7: its steps are 0"):
        open_step(saved, 7)
