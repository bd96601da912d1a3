"""Folders of OpenVLA-OFT: what its formulas answer, key by key, and what is refused."""

import json
import shutil

import numpy as np
import oft_made_up as oft
import pytest
import torch
from openvla_made_up import NAMES, batch_for, made, statistics
from safetensors.torch import load_file, save_file

from xp.errors import UserError
from xp.merging.api import merge
from xp.models import load_policy
from xp.models.families import find_policy
from xp.models.family import BuildRequest
from xp.models.openvla.build import build
from xp.models.openvla.crop import center_crop
from xp.models.policy import DataTransforms

TOKENS = {"use_l1_regression": "false", "use_proprio": "false"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return oft.oft_folder(tmp_path_factory.mktemp("oft") / "libero")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "policy")


def loaded(folder, **options):
    return load_policy(folder, device="cpu", tower_heads=oft.HEADS, **options)


def refused(folder, **options) -> str:
    with pytest.raises(UserError) as error:
        loaded(folder, **options)
    return str(error.value)


def expected(policy, folder, robot="libero", *, cameras=("image", "wrist"), chunk=8, ends=("q01", "q99"), **how):
    """Chunks by OpenVLA-OFT's formulas, row by row, so without any padding."""
    action_dim, _ = oft.SIZES[robot]
    seen = oft.observation(robot, cameras=cameras)
    stats = json.loads((folder / "dataset_statistics.json").read_text())[oft.KEYS[robot]]
    head, projector = oft.head_weights(action_dim), oft.projector_weights(oft.SIZES[robot][1])
    found = []
    with torch.no_grad():
        for row, task in enumerate(seen["task"]):
            state = oft.projected(projector, stats["proprio"], seen["observation.state"][row], ends)
            words = policy.assembly.words.ids(task)
            prompt = oft.sequence_of(policy.module, words, seen, row, cameras=cameras, state=state)
            hidden, _ = oft.read_whole(policy.module, prompt, chunk * action_dim, **how)
            numbers = oft.l1_head(head, hidden, action_dim).numpy()
            found.append(oft.in_dataset_units(numbers, stats["action"], ends))
    chunks = np.stack(found)
    if robot == "libero":  # run_libero_eval.py's process_action: to -1 or 1, then the other way round
        chunks[..., -1] = -np.sign(2 * chunks[..., -1] - 1)
    return chunks


def test_a_folder_answers_what_the_formulas_give(saved):
    policy = loaded(saved)
    assert find_policy(saved).family.name == "openvla"
    assert (policy.spec.horizon, policy.spec.action_dim, policy.spec.state_dim) == (8, 7, 8)
    assert list(policy.spec.cameras) == ["image", "wrist"]
    answer, wanted = policy.predict(oft.observation()), expected(policy, saved)
    assert answer.shape == (2, 8, 7)
    np.testing.assert_allclose(answer, wanted, atol=2e-5)
    assert np.ptp(wanted, axis=1).max() > 0.05  # the actions of a chunk differ
    causal = expected(policy, saved, is_causal=True)
    assert np.abs(causal - wanted).max() > 1e-3  # whom a token sees matters
    plain = loaded(saved, gripper="as_trained").predict(oft.observation())
    assert np.array_equal(answer[..., -1], -np.sign(2 * plain[..., -1] - 1))
    assert np.array_equal(answer[..., :-1], plain[..., :-1])
    assert "gripper=open: allowed are as_trained" in refused(saved, gripper="open")


def test_the_way_back_adds_what_the_original_adds_and_a_turned_gripper_comes_back(saved):
    assembly = loaded(saved).assembly
    stats = json.loads((saved / "dataset_statistics.json").read_text())[oft.KEYS["libero"]]["action"]
    low, high = np.float32(stats["q01"]).astype(float), np.float32(stats["q99"]).astype(float)
    bounds = assembly.bounds()
    ends = bounds.unnormalize(np.stack([-np.ones(7), np.ones(7)]))
    assert bounds.eps_back == 1e-8 and np.array_equal(ends[0, :-1], low[:-1].astype(np.float32))
    assert np.array_equal(ends[1, :-1], (high + 1e-8)[:-1].astype(np.float32))
    actions = np.zeros((1, 8, 7), np.float32)
    actions[..., -1] = [1, -1, 1, 1, -1, -1, 1, -1]
    seen = {name: value[:1] for name, value in oft.observation().items()}
    batch = {name: value[:, None] if name != "task" else value for name, value in seen.items()}
    prepared = assembly.prepare({**batch, "action": actions, "action_is_pad": np.zeros((1, 8), bool)})
    assert np.array_equal(prepared["targets"][0, :, -1], [0, 1, 0, 0, 1, 1, 0, 1])
    assert np.array_equal(assembly.actions(prepared["targets"], None)[..., -1], actions[..., -1])


def test_every_weight_of_the_parts_is_in_its_place(saved):
    held = loaded(saved).weights()
    parts = {f"action_head.{n.removeprefix('module.')}": w for n, w in oft.head_weights(7).items()}
    parts |= {f"proprio_projector.{n.removeprefix('module.')}": w for n, w in oft.projector_weights(8).items()}
    for name, weight in parts.items():
        assert np.array_equal(held[name], weight.numpy()), name
    whole = oft.weights_of(saved)
    assert held.keys() == parts.keys() | whole.keys()
    assert all(np.array_equal(held[name], array) for name, array in whole.items())


def test_parts_without_ddp_and_in_half_precision_are_read_too(folder):
    file = folder / "action_head--150000_checkpoint.pt"
    plain = {name.removeprefix("module."): value.bfloat16() for name, value in oft.head_weights(7).items()}
    torch.save(plain, file)
    answer = loaded(folder).predict(oft.observation())
    wanted = expected(loaded(folder), folder)
    np.testing.assert_allclose(answer[..., :-1], wanted[..., :-1], atol=0.05)
    file.rename(folder / "action_head--latest_checkpoint.pt")
    (folder / "proprio_projector--150000_checkpoint.pt").rename(folder / "proprio_projector--latest_checkpoint.pt")
    assert np.array_equal(loaded(folder).predict(oft.observation()), answer)


def test_a_robot_whose_bounds_are_extremes(tmp_path):
    folder = oft.oft_folder(tmp_path / "policy", "aloha")
    policy, cameras = loaded(folder), ("image", "left_wrist", "right_wrist")
    assert (policy.spec.horizon, list(policy.spec.cameras)) == (25, list(cameras))
    answer = policy.predict(oft.observation("aloha", cameras=cameras))
    wanted = expected(policy, folder, "aloha", cameras=cameras, chunk=25, ends=("min", "max"))
    np.testing.assert_allclose(answer, wanted, atol=2e-5)


def test_tokens_in_one_pass(tmp_path):
    folder = oft.oft_folder(tmp_path / "policy", head=False, proprio=False)
    policy = loaded(folder, **TOKENS, num_images_in_input="1", center_crop="false")
    seen = oft.observation(cameras=("image",))
    stats = json.loads((folder / "dataset_statistics.json").read_text())[oft.KEYS["libero"]]["action"]
    edges = np.linspace(-1, 1, 256)
    wanted = []
    with torch.no_grad():
        for row, task in enumerate(seen["task"]):
            words = policy.assembly.words.ids(task)
            prompt = oft.sequence_of(policy.module, words, seen, row, cameras=["image"], state=None, crop=False)
            ids = oft.read_whole(policy.module, prompt, 56)[1].argmax(-1)[0].numpy()
            bins = np.clip(576 - 64 - ids - 1, 0, 254)
            wanted.append(oft.in_dataset_units(((edges[1:] + edges[:-1]) / 2)[bins].reshape(8, 7), stats))
            wanted[-1][..., -1] = -np.sign(2 * wanted[-1][..., -1] - 1)
    del seen["observation.state"]  # which it does not read
    np.testing.assert_allclose(policy.predict(seen), np.stack(wanted), atol=1e-6)
    assert loaded(folder).spec.horizon == 1  # unasked it is an OpenVLA that says one action token by token


def test_a_saved_one_is_the_same_policy_and_is_merged(saved, tmp_path):
    policy = loaded(saved)
    policy.save(tmp_path / "again")
    again = load_policy(tmp_path / "again", device="cpu")
    assert again.assembly.sidecar.notes == policy.assembly.sidecar.notes
    assert np.array_equal(again.predict(oft.observation()), policy.predict(oft.observation()))
    with pytest.raises(UserError, match="action_head--150000_checkpoint.pt.*load_policy.*save"):
        merge([saved, saved], "average", output=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge([tmp_path / "again", tmp_path / "again"], "average", output=tmp_path / "merged")
    merged = load_policy(tmp_path / "merged", device="cpu")
    assert np.array_equal(merged.predict(oft.observation()), policy.predict(oft.observation()))


def test_an_adapter_that_is_not_merged_answers_as_the_merged_model(saved, tmp_path):
    base = tmp_path / "base"
    made(data=oft.data_of("libero")).policy(None).save(base)
    trainable = made(pretrained=base, data=oft.data_of("libero"), lora={"r": 2, "alpha": 4, "base": "float32"})
    for name, weight in trainable.module.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.2)
    trainable.policy(None).save(tmp_path / "adapter")
    merge([tmp_path / "adapter"], "average", output=tmp_path / "merged", base=base)
    merged = shutil.copytree(saved, tmp_path / "whole")
    shutil.copy(tmp_path / "merged/model.safetensors", merged / "model.safetensors")
    alone = oft.unmerged(saved, tmp_path / "adapter", tmp_path / "alone")
    assert find_policy(alone).family.name == "openvla"
    answer = loaded(alone, base=str(base)).predict(oft.observation())
    np.testing.assert_allclose(answer, loaded(merged).predict(oft.observation()), atol=1e-5)
    assert np.abs(answer - loaded(saved).predict(oft.observation())).max() > 1e-3
    assert "load_policy(FOLDER, base=BASE)" in refused(alone)
    (alone / "dataset_statistics.json").unlink()
    assert "no dataset_statistics.json" in refused(alone, base=str(base))


def test_training_goes_on_from_a_folder_with_its_head_and_objective(saved):
    model = {**MODEL, "chunk_mode": "oft", "head": "l1", "proprio": True, "cameras": ["front", "wrist"]}
    trainable = build(
        BuildRequest(
            model, data=oft.data_of("libero"), statistics=statistics(7, 8), horizon=8, seed=0,
            pretrained=(saved, None), transforms=DataTransforms(action_names=NAMES),
        )
    )  # fmt: skip
    report = trainable.load_report
    assert not report.initialised and not report.dropped and "action_head.model.fc2.weight" in report.loaded
    batch = {**batch_for(trainable.spec, 2), "observation.state": np.zeros((2, 1, 8), np.float32)}
    batch |= {f"observation.images.{name}": np.full((2, 1, 28, 28, 3), 90, np.uint8) for name in ("front", "wrist")}
    inputs = trainable.prepare({**batch, "action_is_pad": np.zeros((2, 8), bool)})
    loss, _ = trainable.loss(inputs)
    loss.backward()
    with torch.no_grad():
        answer = trainable.module.answer(inputs)
    assert float(loss.detach()) == pytest.approx(float((answer - inputs["targets"]).abs().mean()), rel=1e-5)
    assert trainable.module.action_head.model.fc1.weight.grad.abs().sum() > 0


MODEL = {
    "name": "openvla_small", "family": "openvla", "lr_peak": 1e-3, "image_size": [28, 28], "patch": 14,
    "dino": {"width": 16, "layers": 3, "heads": 2, "mlp": 24},
    "siglip": {"width": 16, "layers": 3, "heads": 4, "mlp": 24},
    "language": {"vocabulary": 576, "width": 32, "layers": 2, "heads": 4, "kv_heads": None, "mlp": 48},
    "tokenizer": None, "unnorm_key": "toy", "rotation_unit": 1.0,
}  # fmt: skip


def test_the_middle_of_a_picture():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 28, 40, 3), np.uint8)
    wanted = np.stack([oft.cropped(picture) for picture in pictures]).astype(int)
    found = center_crop(pictures, 0.9).astype(int)
    off = np.abs(found - wanted)
    assert off.max() <= 1 and (off > 0).mean() < 1e-3  # where float32 falls on the other side of a whole number
    assert np.array_equal(center_crop(pictures, 1.0), pictures)


def test_what_no_file_says_is_asked_for(tmp_path):
    folder = oft.oft_folder(tmp_path / "policy", "other")
    assert "says its chunk_length" in refused(folder) and "libero" in refused(folder)
    assert "eval.load_options.num_images_in_input=2" in refused(folder, chunk_length="5")
    policy = loaded(folder, chunk_length="5", num_images_in_input="2", normalization="bounds", center_crop="false")
    notes = policy.assembly.sidecar.notes
    assert (policy.spec.horizon, notes.ends, notes.crop) == (5, "bounds", None)
    assert "normalization=q99: allowed are bounds_q99" in refused(
        folder, chunk_length="5", num_images_in_input="2", normalization="q99"
    )
    assert "chunk_length=many" in refused(folder, chunk_length="many")
    assert "center_crop=maybe" in refused(folder, chunk_length="5", num_images_in_input="2", center_crop="maybe")


def test_missing_parts_are_missed_unless_they_are_said_to_be(folder):
    head = (folder / "action_head--150000_checkpoint.pt").rename(folder.parent / "head")
    assert "no action_head--STEP_checkpoint.pt" in refused(folder)
    assert "use_l1_regression=false" in refused(folder)
    assert loaded(folder, use_l1_regression="false").assembly.sidecar.notes.plan.head == "token"
    shutil.copy(head, folder / "action_head--150000_checkpoint.pt")
    assert "holds action_head--150000" in refused(folder, use_l1_regression="false")
    (folder / "proprio_projector--150000_checkpoint.pt").unlink()
    assert "no proprio_projector--STEP_checkpoint.pt" in refused(folder)
    assert loaded(folder, use_proprio="false").spec.state_dim == 0


def change(file, **changed):
    """Some weights of a file of torch changed, by the ends of their names; None takes one out."""
    weights = torch.load(file, weights_only=True)
    for word, value in changed.items():
        name = f"module.{word.replace('__', '.')}"
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    torch.save(weights, file)


def test_weights_of_other_widths_or_names_are_refused_by_their_file(folder):
    head, projector = (folder / f"{name}--150000_checkpoint.pt" for name in ("action_head", "proprio_projector"))
    whole = head.read_bytes()
    change(head, model__fc2__weight=torch.zeros(6, 32))
    assert "another shape of model.fc2.weight [6, 32] for [7, 32]" in refused(folder)
    head.write_bytes(whole)
    change(head, model__fc1__weight=torch.zeros(32, 448))
    assert "action_head--150000_checkpoint.pt is not the action_head of these weights" in refused(folder)
    head.write_bytes(whole)
    change(head, model__layer_norm2__bias=None, model__extra=torch.zeros(2))
    assert "lacks model.layer_norm2.bias; has no place for model.extra" in refused(folder)
    head.write_bytes(whole)
    weights = torch.load(head, weights_only=True)
    torch.save({**weights, "model.fc2.bias": torch.zeros(7)}, head)
    assert "holds model.fc2.bias twice" in refused(folder)
    torch.save({f"module.noise_predictor.{name}": value for name, value in weights.items()}, head)
    assert "is a diffusion head" in refused(folder)
    head.write_bytes(whole)
    change(projector, fc1__weight=torch.zeros(32, 9))
    assert "reads 9 numbers, and dataset_statistics.json has statistics of 8" in refused(folder)
    change(projector, fc1__weight=torch.zeros(32))
    assert "reads 0 numbers" in refused(folder)


def test_other_parts_other_steps_and_options_of_others_are_refused(folder, tmp_path):
    made(horizon=2).policy(None).save(tmp_path / "plain")
    with pytest.raises(UserError, match="chunk_length=8: .* holds no part of an OpenVLA-OFT"):
        load_policy(tmp_path / "plain", device="cpu", chunk_length="8")
    with pytest.raises(UserError, match="=false: .* holds no part of an OpenVLA-OFT"):
        load_policy(tmp_path / "plain", device="cpu", **TOKENS)
    file = folder / "action_head--150000_checkpoint.pt"
    for name, words in (
        ("vision_backbone--150000_checkpoint.pt", "FiLM .use_film=True."),
        ("noisy_action_projector--150000_checkpoint.pt", "diffusion head .use_diffusion=True."),
        ("knowledge_router--150000_checkpoint.pt", "which no OpenVLA-OFT has"),
        ("action_head--50000_checkpoint.pt", "parts of several steps"),
    ):
        shutil.copy(file, folder / name)
        with pytest.raises(UserError, match=words):
            loaded(folder)
        (folder / name).unlink()
    file.rename(folder / "action_head--50000_checkpoint.pt")
    assert "parts of several steps" in refused(folder)
    (folder / "action_head--50000_checkpoint.pt").rename(file)
    shutil.copy(tmp_path / "plain/xp.json", folder / "xp.json")
    assert "xp.json of xp" in refused(folder)
    (folder / "xp.json").unlink()
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "action_head.model.fc2.bias": torch.zeros(7)}, folder / "model.safetensors")
    assert "twice, among its weights and in a part's file" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "no weights: model.safetensors" in refused(folder)
    assert not (folder / "action_head").exists()
