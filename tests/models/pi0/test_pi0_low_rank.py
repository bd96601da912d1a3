"""Low-rank updates of a pi0: the same in JAX and in torch, trained alone, saved beside their weights, and folded."""

import json

import numpy as np
import pytest
from pi0_made_up import batch, observation, trainable

from xp import merge
from xp.checkpoints.flat_file import FlatReader
from xp.checkpoints.lora import folded_tensors
from xp.checkpoints.open import open_checkpoint
from xp.checkpoints.safetensors import open_folder
from xp.errors import UserError
from xp.models.families import load_policy
from xp.models.pi0.convert import JAX, LEROBOT, TORCH, convert, open_source
from xp.models.pi0.io.key_map import joined, parts
from xp.models.pi0_torch.converter import CONVERTER
from xp.models.tree import flatten
from xp.training.options import TrainerOptions
from xp.training.partition import split
from xp.training.policy_loss import refuse_other_names
from xp.training.torch.state import partition_of

UPDATES = {"language": "dummy_lora", "action": "dummy_lora"}


def leaves_of(tensors, shapes):
    """Arrays by the paths of JAX, from tensors by their names."""
    found = {leaf: np.zeros(shape, np.float32) for leaf, shape in shapes.items()}
    for part in parts(shapes):
        place = found[part.leaf] if part.layer is None else found[part.leaf][part.layer]
        place[...] = joined(part, tensors, place.shape)
    return found


@pytest.fixture(scope="module")
def made():
    """A pi0.5 with updates in torch, its weights moved from the start."""
    found = trainable("pi05_torch_tiny", **UPDATES)
    rng = np.random.default_rng(0)
    policy = found.policy(None)
    moved = {n: w + np.float32(0.05) * rng.standard_normal(w.shape, np.float32) for n, w in policy.weights().items()}
    return policy.with_weights(moved)


@pytest.fixture(scope="module")
def saved(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("low_rank") / "policy"
    made.save(folder)
    return folder


@pytest.mark.parametrize(
    "changed", [UPDATES, {"language": "dummy_lora"}, {"action": "dummy_lora"}], ids=["both", "language", "action"]
)
def test_both_frameworks_begin_with_the_same_weights_and_train_the_same_of_them(changed):
    first, second = trainable("pi0_tiny", seed=2, **changed), trainable("pi0_torch_tiny", seed=2, **changed)
    flat = flatten(first.weights)
    shapes = {path: array.shape for path, array in flat.items()}
    tensors = {name: tensor.numpy() for name, tensor in second.module.state_dict().items()}
    for path, array in leaves_of(tensors, shapes).items():
        np.testing.assert_array_equal(array, flat[path], err_msg=path)
    one = split(flat, model_frozen=first.frozen)
    other = partition_of(second, TrainerOptions(steps=1))
    wanted = {name for part in parts(shapes) if part.leaf in one.trained for name in part.tensors}
    assert set(other.trained) == wanted and any("lora_a" in name for name in wanted)
    if len(changed) == 2:
        assert not any("q_proj.weight" in name for name in wanted if "vision_tower" not in name)


def test_a_saved_policy_with_updates_is_the_same_policy_and_names_the_sizes_below_them(made, saved):
    again = load_policy(saved, device="cpu")
    assert again.sizes == made.sizes and again.sizes.action.lora_rank == 4
    np.testing.assert_array_equal(again.predict(observation(), seed=1), made.predict(observation(), seed=1))
    config = json.loads((saved / "config.json").read_text())
    assert config["paligemma_variant"] == config["action_expert_variant"] == "dummy"


def test_folded_by_a_conversion_or_a_merge_it_answers_as_it_did(made, saved, tmp_path):
    wanted = made.predict(observation(), seed=1, normalized=True)
    folders = {to: convert(open_source(saved, None, {}), to, tmp_path / to) for to in (TORCH, LEROBOT)}
    merged = merge([saved, saved], output=tmp_path / "merged").path
    found = [load_policy(folders[TORCH], device="cpu"), CONVERTER.load(folders[LEROBOT], None, {})]
    for policy in (*found, load_policy(merged, device="cpu")):
        assert not any("lora" in name for name in policy.weights())
        answer = policy.predict(observation(), seed=1, normalized=True)
        np.testing.assert_allclose(answer, wanted, atol=1e-4)
    plain = made.with_weights({n: w * ("lora" not in n) for n, w in made.weights().items()})
    assert np.abs(plain.predict(observation(), seed=1, normalized=True) - wanted).max() > 1e-3
    assert not any(
        "lora" in name
        for name in open_checkpoint(convert(open_source(saved, None, {}), JAX, tmp_path / "j")).reader.leaves
    )


def test_training_from_it_folds_its_updates_and_begins_new_ones(made, saved):
    started = trainable("pi05_torch_tiny", pretrained=saved, seed=5, **UPDATES)
    whole = trainable("pi05_torch_tiny", pretrained=saved)
    fresh = trainable("pi05_torch_tiny", seed=5, **UPDATES).module.state_dict()
    state = started.module.state_dict()
    assert set(started.load_report.initialised) == {name for name in state if "lora_" in name}
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor, fresh[name] if "lora_" in name else whole.module.state_dict()[name])
    given = {**batch(2), "noise": np.ones((2, 6, 32), np.float32), "time": np.full(2, 0.5, np.float32)}
    assert whole.policy(None).loss(given)["loss"] == pytest.approx(made.loss(given)["loss"], rel=1e-4)


def test_ranges_of_a_folded_tensor_are_those_of_the_whole(saved):
    reader = folded_tensors(open_folder(saved), 2.0)
    plain: FlatReader = open_folder(saved)
    for kind in ("q_proj", "k_proj", "o_proj", "up_proj"):
        place = "mlp" if kind == "up_proj" else "self_attn"
        name = f"paligemma_with_expert.gemma_expert.model.layers.1.{place}.{kind}."
        a, b, w = (plain.load([name + part])[name + part] for part in ("lora_a", "lora_b", "weight"))
        if kind == "up_proj":
            wanted = w + (a @ b).T
        elif kind == "o_proj":
            wanted = w + 2 * (a.reshape(-1, a.shape[-1]) @ b.sum(0)).T
        else:
            wanted = w + 2 * np.concatenate([(x @ y).T for x, y in zip(a, b)])
        size = wanted.size
        for start, stop in ((0, size), (7, 2100), (size - 5, size)):
            found = reader.read(name + "weight", start, stop)
            np.testing.assert_allclose(found, wanted.ravel()[start:stop], atol=1e-6)


def test_an_update_without_its_other_half_or_of_another_shape_is_refused(saved, tmp_path):
    from safetensors.numpy import load_file, save_file

    name = "paligemma_with_expert.gemma_expert.model.layers.0.self_attn.q_proj.lora_b"
    tensors = load_file(saved / "model.safetensors")
    for number, changed in enumerate((None, tensors[name][:, :2], tensors[name][:4])):
        folder = tmp_path / str(number)
        made = {n: t for n, t in tensors.items() if n != name} | ({} if changed is None else {name: changed.copy()})
        folder.mkdir()
        for file in ("config.json", "xp_pi0.json"):
            (folder / file).write_bytes((saved / file).read_bytes())
        save_file(made, folder / "model.safetensors")
        with pytest.raises(UserError, match=r"q_proj\.lora_"):
            load_policy(folder, device="cpu")
        with pytest.raises(UserError, match=r"q_proj\.lora_"):
            open_checkpoint(folder)


def test_a_merge_by_loss_says_to_fold_first(made):
    shapes = {name: array.shape for name, array in made.weights().items()}
    folded = {name: array for name, array in made.weights().items() if "lora" not in name}
    with pytest.raises(UserError, match="has low-rank updates.*xp task=convert"):
        refuse_other_names(folded, shapes)
