"""Folders on disk: what is written is what is read, by us and by Flax; what is wrong is said in one paragraph."""

import json
import shutil

import numpy as np
import pytest
from flax import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from octo_made_up import DATA, STATISTICS, made_batch, model_cfg

from xp.checkpoints.flax_msgpack import read_tree, write_tree
from xp.errors import UserError
from xp.models import build, load_policy
from xp.models.families import locate
from xp.models.tree import flatten, unflatten


@pytest.fixture(scope="module")
def policy():
    trainable = build(model_cfg(), data=DATA, statistics=STATISTICS, horizon=2, seed=0)
    return trainable.policy(trainable.weights)


@pytest.fixture
def saved(policy, tmp_path):
    policy.save(tmp_path / "octo", step=7)
    return tmp_path / "octo"


names = st.text(st.characters(codec="ascii", exclude_characters="/"), min_size=1, max_size=40)
shapes = st.lists(st.integers(0, 40), max_size=3)
dtypes = st.sampled_from(["float32", "uint8", "bool", "int64", "float16"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaves=st.dictionaries(names, st.tuples(shapes, dtypes), min_size=1, max_size=5))
def test_what_we_write_flax_reads_and_what_flax_writes_we_read(leaves, tmp_path):
    rng = np.random.default_rng(0)
    tree = {"top": {name: rng.integers(0, 2, shape).astype(kind) for name, (shape, kind) in leaves.items()}}
    write_tree(tmp_path / "ours", tree)
    assert (tmp_path / "ours").read_bytes() == serialization.msgpack_serialize(tree)
    read = read_tree(tmp_path / "ours")
    for name, leaf in tree["top"].items():
        assert np.array_equal(read["top"][name], leaf) and read["top"][name].dtype == leaf.dtype


@pytest.mark.parametrize("cut", [1, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named_with_what_to_do(saved, cut):
    path = saved / "7/default/checkpoint"
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else len(data) - cut])
    with pytest.raises(UserError, match=r"checkpoint \([\d,]+ bytes\) is damaged .*too early.*Copy it again"):
        load_policy(saved)


@pytest.mark.parametrize("junk", [b"", b"not a checkpoint at all", b"\xc1", b"\x81\x90\x01", b"\xdd\xff\xff\xff\xff"])
def test_junk_is_no_checkpoint(saved, junk):
    (saved / "7/default/checkpoint").write_bytes(junk)
    with pytest.raises(UserError, match="damaged or is not|holds no tree"):
        load_policy(saved)


def test_a_checkpoint_of_another_model_lists_all_differences_at_once(saved):
    path = saved / "7/default/checkpoint"
    flat = flatten(read_tree(path))
    flat["octo_transformer/readout_action_pos_embedding"] = np.zeros((1, 4, 9, 32), np.float32)
    flat["heads_action/extra/kernel"] = flat.pop("heads_action/mean_proj/kernel")
    write_tree(path, unflatten(flat))
    with pytest.raises(UserError) as error:
        load_policy(saved)
    for part in (
        "1 missing (heads_action/mean_proj/kernel)",
        "1 unknown (heads_action/extra/kernel)",
        "readout_action_pos_embedding (1, 4, 9, 32) instead of (1, 4, 1, 32)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "example_batch.msgpack", "dataset_statistics.json"])
def test_a_folder_that_lacks_a_file_says_which(saved, name):
    (saved / name).unlink()
    with pytest.raises(UserError, match=f"lacks {name}"):
        load_policy(saved)


def changed(folder, name, change):
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def test_an_unknown_module_is_named_and_never_imported(saved):
    def change(config):
        config["model"]["heads"]["action"].update(module="os", name="system")

    changed(saved, "config.json", change)
    with pytest.raises(UserError, match="action head 'system' .* allowed are .*GaussianActionHead"):
        load_policy(saved)


def test_statistics_without_the_action_are_refused(saved):
    changed(saved, "dataset_statistics.json", lambda value: value.pop("action"))
    with pytest.raises(UserError, match="lack 'action'|no statistics"):
        load_policy(saved)


def test_statistics_of_another_action_size_are_refused(saved):
    changed(
        saved,
        "dataset_statistics.json",
        lambda value: value["action"].update(mean=[0] * 9, std=[1] * 9, mask=[True] * 9),
    )
    with pytest.raises(UserError, match="have 9 dimensions, the model's head has 3"):
        load_policy(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(action=np.zeros((1, 1, 2, 7), np.float32)), r"\(1, 1, 2, 7\).*2 actions of 3 dimensions"),
        (lambda e: e["observation"].pop("timestep_pad_mask"), "no observation/timestep_pad_mask"),
        (
            lambda e: e["observation"].update(image_primary=np.zeros((1, 1, 64, 64, 3), np.uint8)),
            "example_batch.msgpack .*obs_primary_pos_embedding",
        ),
        (lambda e: e["observation"].pop("image_wrist"), "unknown .*tokenizers_wrist"),
        (lambda e: e["observation"].update(proprio=np.zeros((1, 1, 9), np.float32)), "obs_proprio_projection"),
    ],
)
def test_an_example_batch_of_other_data_is_refused(saved, change, message):
    example = read_tree(saved / "example_batch.msgpack")
    change(example)
    write_tree(saved / "example_batch.msgpack", example)
    with pytest.raises(UserError, match=message):
        load_policy(saved)


def test_a_batch_of_other_data_than_the_example_is_refused(saved):
    batch = made_batch(1)
    with pytest.raises(UserError, match=r"observation.state has shape \(1, 1, 5\); the policy wants .*\(B, T, 2\)"):
        load_policy(saved).predict({**batch, "observation.state": np.zeros((1, 1, 5), np.float32)})


def test_arrays_are_read_to_where_jax_needs_no_copy(saved):
    tree = read_tree(saved / "7/default/checkpoint")
    assert all(leaf.ctypes.data % 64 == 0 for leaf in flatten(tree).values())


def test_several_datasets_need_a_choice(saved):
    one = json.loads((saved / "dataset_statistics.json").read_text())
    other = {**one, "action": {**one["action"], "mean": [1.1, -2.0, 0.0]}}
    (saved / "dataset_statistics.json").write_text(json.dumps({"bridge": one, "fractal": other}))
    policy, batch = load_policy(saved), made_batch(1)
    with pytest.raises(UserError, match="bridge, fractal"):
        policy.predict(batch)
    shift = policy.predict(batch, unnorm_key="fractal") - policy.predict(batch, unnorm_key="bridge")
    np.testing.assert_allclose(shift[..., 0], 1.0, atol=1e-5)


def test_a_dataset_chosen_in_loading_needs_no_choice_later(saved):
    one = json.loads((saved / "dataset_statistics.json").read_text())
    other = {**one, "proprio": {"mean": [0.0, 0.0], "std": [1.0, 1.0]}}
    (saved / "dataset_statistics.json").write_text(json.dumps({"bridge": one, "fractal": other}))
    with pytest.raises(UserError, match="unnorm_key=bridg: .* bridge, fractal.*bridge"):
        load_policy(saved, unnorm_key="bridg")
    policy, batch = load_policy(saved, unnorm_key="bridge"), made_batch(1)
    policy.predict(batch)
    np.testing.assert_allclose(policy.assembly.prepare.proprio.mean, [1.0, 0.0])
    policy.save(saved.parent / "again")
    again = load_policy(saved.parent / "again")
    assert np.array_equal(again.predict(batch), policy.predict(batch))
    assert set(load_policy(saved.parent / "again", unnorm_key="fractal").assembly.datasets) == {"fractal"}
    assert set(json.loads((saved.parent / "again/dataset_statistics.json").read_text())) == {"bridge", "fractal"}


def test_cameras_of_other_names_are_mapped_to_the_image_slots(saved):
    batch = made_batch(1)
    renamed = {name.replace("images.top", "images.oblique"): value for name, value in batch.items()}
    plain, mapped = load_policy(saved), load_policy(saved, camera_map={"primary": "oblique"})
    assert set(mapped.spec.cameras) == {"oblique", "wrist"}
    assert np.array_equal(plain.predict(batch), mapped.predict(renamed))
    masked = load_policy(saved, camera_map={"primary": "oblique", "wrist": None})
    assert set(masked.spec.cameras) == {"oblique"}
    without = {name: value for name, value in renamed.items() if name != "observation.images.wrist"}
    assert np.array_equal(masked.predict(renamed), mapped.predict(without))
    assert not np.array_equal(masked.predict(renamed), mapped.predict(renamed))
    masked.save(saved.parent / "again")
    again = load_policy(saved.parent / "again")
    assert again.camera_slots == {"primary": "oblique"} and again.spec == masked.spec
    assert np.array_equal(again.predict(renamed), masked.predict(renamed))
    with pytest.raises(UserError, match="'top', which is no image slot.*primary, wrist.*{primary: oblique}"):
        load_policy(saved, camera_map={"top": "oblique"})


def test_the_sizes_of_pictures_are_said_where_octo_looks_for_them_and_answers_follow_its_own_resizing(saved):
    """Octo resizes in its data loading (`frame_transform_kwargs.resize_size`) and compares shapes with its example."""
    from PIL import Image

    sizes = json.loads((saved / "config.json").read_text())["frame_transform_kwargs"]["resize_size"]
    assert sizes == {"primary": [32, 32], "wrist": [16, 16]}
    example = read_tree(saved / "example_batch.msgpack")["observation"]
    policy = load_policy(saved)
    names = {slot: f"observation.images.{camera}" for slot, camera in policy.camera_slots.items()}
    state = {"observation.state": np.ones(2, np.float32), "task": "lift"}
    rng = np.random.default_rng(0)
    for height, width in ((48, 64), (24, 20), (32, 32)):
        raw = {slot: rng.integers(0, 256, (height, width, 3), np.uint8) for slot in sizes}
        sized = {
            slot: np.asarray(Image.fromarray(raw[slot]).resize(size[::-1], Image.Resampling.LANCZOS))
            for slot, size in sizes.items()
        }
        assert all(example[f"image_{slot}"].shape[-3:] == sized[slot].shape for slot in sizes)
        answers = [policy.predict({**state, **{names[s]: seen[s] for s in sizes}}) for seen in (raw, sized)]
        assert np.array_equal(*answers) and np.abs(answers[0]).max() > 0.01


@pytest.mark.parametrize("head", ["gaussian", "diffusion"])
def test_statistics_of_fewer_dimensions_than_the_head_give_as_many(head, tmp_path):
    cfg = model_cfg(head={"type": head, "pooling": "map"})
    trainable = build(cfg, data=DATA, statistics=STATISTICS, horizon=2, seed=0)
    trainable.policy(trainable.weights).save(tmp_path / "octo")
    full, batch = load_policy(tmp_path / "octo"), made_batch(2)
    statistics = json.loads((tmp_path / "octo/dataset_statistics.json").read_text())
    statistics["action"] = {name: values[:2] for name, values in statistics["action"].items() if name != "mask"}
    (tmp_path / "octo/dataset_statistics.json").write_text(json.dumps(statistics))
    policy = load_policy(tmp_path / "octo")
    assert policy.spec.action_dim == 2
    actions = policy.predict(batch)
    assert actions.shape == (2, 2, 2)
    asked = {} if head == "gaussian" else {"embodiment_action_dim": 2}
    np.testing.assert_allclose(actions, full.predict(batch, **asked)[..., :2], rtol=1e-5, atol=1e-6)
    if head == "gaussian":
        mine, whole = policy.predict_distribution(batch), full.predict_distribution(batch)
        covariance = whole.scale_tril @ np.swapaxes(whole.scale_tril, -1, -2)
        found = mine.scale_tril @ np.swapaxes(mine.scale_tril, -1, -2)
        np.testing.assert_allclose(found, covariance[:, :2, :2], rtol=1e-5)
    loss = policy.loss({**batch, "action": batch["action"][..., :2]})
    assert np.isfinite(loss["loss"])


def test_names_of_the_first_release_are_understood_in_a_batch(saved):
    policy = load_policy(saved)
    inputs = unflatten(policy.assembly.prepare(made_batch(1)))
    old = {"observation": dict(inputs["observation"]), "tasks": inputs["task"]}
    old["observation"]["pad_mask"] = old["observation"].pop("timestep_pad_mask")
    assert np.array_equal(policy.predict(old), policy.predict({k: inputs[k] for k in ("observation", "task")}))


def test_the_newest_step_is_taken_and_at_chooses_another(saved):
    shutil.copytree(saved / "7", saved / "12")
    assert load_policy(saved).assembly.sidecar.step == 12
    assert load_policy(f"{saved}@7").assembly.sidecar.step == 7
    with pytest.raises(UserError, match="no step 8: its steps are 7, 12"):
        load_policy(f"{saved}@8")


def test_a_run_folder_gives_final_then_best_then_the_newest_checkpoint(policy, tmp_path):
    run = tmp_path / "run"
    for name in ("checkpoints/checkpoint-5", "checkpoints/checkpoint-10/policy", "best", "final"):
        policy.save(run / name)
    assert locate(run)[0] == run / "final"
    shutil.rmtree(run / "final")
    assert locate(run)[0] == run / "best"
    assert locate(f"{run}@5")[0] == run / "checkpoints/checkpoint-5"
    shutil.rmtree(run / "best")
    assert locate(run)[0] == run / "checkpoints/checkpoint-10/policy"


def test_what_is_no_policy_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="looked for STEP/default/checkpoint .*final/, best/.*notes.txt"):
        load_policy(tmp_path)
    with pytest.raises(UserError, match="There is no folder"):
        load_policy(tmp_path / "nowhere")


def test_a_failed_save_leaves_the_old_folder_whole(policy, saved, monkeypatch):
    before = (saved / "7/default/checkpoint").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xp.models.octo.io.folder.write_tree", full)
    with pytest.raises(OSError, match="No space left"):
        policy.save(saved, step=8)
    assert (saved / "7/default/checkpoint").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["octo"]


def test_a_folder_of_the_first_release_gets_its_own_attention_and_names(saved):
    def old(config):
        model = config["model"]
        model["heads"]["action"]["kwargs"]["pred_horizon"] = model["heads"]["action"]["kwargs"].pop("action_horizon")
        del model["use_correct_attention"], model["repeat_task_tokens"]

    changed(saved, "config.json", old)
    example = read_tree(saved / "example_batch.msgpack")
    example["tasks"] = example.pop("task")
    example["observation"]["pad_mask"] = example["observation"].pop("timestep_pad_mask")
    write_tree(saved / "example_batch.msgpack", example)
    loaded = load_policy(saved)
    assert loaded.spec.horizon == 2
    assert not loaded.assembly.network.module.octo_transformer.use_correct_attention
    with_old_trunk = build(model_cfg(), data=DATA, statistics=STATISTICS, horizon=2, seed=0, pretrained_path=str(saved))
    again = with_old_trunk.policy(with_old_trunk.weights)
    assert not again.assembly.network.module.octo_transformer.use_correct_attention
