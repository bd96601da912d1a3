"""Merged checkpoints are loaded by those they are for: Orbax, xp, LeRobot, and PEFT's arithmetic."""

import json

import numpy as np
import pytest
from merging_made_up import OCTO, OPENPI, copy_of, needs_reference, read_arrays, write_torch

from xp.errors import UserError
from xp.merging import merge


def shifted(folder, target, by):
    """A copy of an openpi JAX checkpoint with every weight moved."""
    from xp.checkpoints.open import create_like, open_checkpoint

    source = open_checkpoint(folder)
    writer = create_like(source, target, source.reader.leaves)
    for name, leaf in source.reader.leaves.items():
        writer.write(name, 0, source.reader.read(name, 0, leaf.size) + np.float32(by))
    writer.close()
    if (folder / "assets").is_dir():
        copy_of(folder / "assets", target / "0/assets")
    return target


@needs_reference
@pytest.mark.parametrize("source", ["ckpt_pi05_orbax0.11.13/10", "ckpt_pi0_orbax0.11.13_pure/params"])
def test_orbax_restores_a_merged_openpi_checkpoint(source, tmp_path):
    import jax
    import orbax.checkpoint as ocp

    other = shifted(OPENPI / source, tmp_path / "other", 2.0)
    merge([OPENPI / source, other], output=tmp_path / "out")
    params = OPENPI / source if source.endswith("params") else OPENPI / source / "params"
    before = ocp.PyTreeCheckpointer().restore(params.resolve())
    after = ocp.PyTreeCheckpointer().restore(tmp_path / "out/0/params")
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for one, two in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
        np.testing.assert_allclose(np.asarray(two), np.asarray(one) + 1.0, atol=1e-6)
    manager = ocp.CheckpointManager(tmp_path / "out", item_names=("params",))
    assert manager.all_steps() == [0]
    if source.endswith("10"):
        stats = json.loads((tmp_path / "out/0/assets/tiny/robot/norm_stats.json").read_text())
        assert stats == json.loads((OPENPI / source / "assets/tiny/robot/norm_stats.json").read_text())


@needs_reference
def test_every_way_to_name_an_openpi_checkpoint_means_the_same():
    root = OPENPI / "ckpt_pi05_orbax0.11.13"
    first = read_arrays(root / "10")
    for path in (root / "10/params", root, f"{root}@10"):
        found = read_arrays(path)
        assert all(np.array_equal(found[name], array) for name, array in first.items())


@needs_reference
def test_an_openpi_torch_checkpoint_keeps_its_sidecar(tmp_path):
    merge([OPENPI / "torch_pi05"] * 2, output=tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file()
    assert (tmp_path / "out/assets/tiny/robot/norm_stats.json").is_file()
    assert (tmp_path / "out/config.json").read_bytes() == (OPENPI / "torch_pi05/config.json").read_bytes()
    from safetensors.numpy import load_file

    one, two = (load_file(folder / "model.safetensors") for folder in (OPENPI / "torch_pi05", tmp_path / "out"))
    assert all(np.array_equal(one[name], two[name]) for name in one.keys() | two.keys())


@needs_reference
def test_a_merged_octo_is_a_policy(tmp_path):
    import xp
    from xp.checkpoints.flax_msgpack import create_msgpack, open_msgpack

    source = OCTO / "ckpt_diffusion_h4"
    other = copy_of(source, tmp_path / "other")
    (other / "300000/default/checkpoint").unlink()
    (other / "300000/default/_METADATA").unlink()
    (other / "300000/default").rmdir()
    reader = open_msgpack(source / "300000/default/checkpoint")
    writer = create_msgpack(other / "300000/default", reader.leaves)
    for name, leaf in reader.leaves.items():
        writer.write(name, 0, reader.read(name, 0, leaf.size) * np.float32(3))
    writer.close()
    merged = xp.merge([source, other], output=tmp_path / "out")
    one, two = xp.load_policy(source), xp.load_policy(merged.path)
    assert one.weights().keys() == two.weights().keys()
    for name, array in one.weights().items():
        np.testing.assert_allclose(two.weights()[name], 2 * array, rtol=1e-6)


@needs_reference
def test_openpis_lora_leaves_are_folded_as_its_forward_pass_has_them(tmp_path):
    from merging_made_up import write_jax

    arrays = dict(np.load(OPENPI / "pi05_lora.params.npz"))
    folder = write_jax(tmp_path / "lora", arrays)
    merge([folder, folder], lora_scale=2.0, output=tmp_path / "out")
    merged = read_arrays(tmp_path / "out")
    assert not any("lora" in name for name in merged)
    attention, feed_forward = "PaliGemma/llm/layers/attn/", "PaliGemma/llm/layers/mlp/"
    a, b = (arrays[f"{attention}q_einsum/lora_{part}"] for part in "ab")
    np.testing.assert_allclose(
        merged[attention + "q_einsum/w"], arrays[attention + "q_einsum/w"] + 2 * a @ b, atol=1e-5
    )
    a, b = (arrays[f"{attention}attn_vec_einsum/lora_{part}"] for part in "ab")
    expected = arrays[attention + "attn_vec_einsum/w"] + 2 * a @ b.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(merged[attention + "attn_vec_einsum/w"], expected, atol=1e-5)
    a, b = (arrays[f"{feed_forward}linear_lora_{part}"] for part in "ab")
    np.testing.assert_allclose(merged[feed_forward + "linear"], arrays[feed_forward + "linear"] + a @ b, atol=1e-5)


def test_lora_adapters_are_folded_into_their_base(tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    weights = {"layer.weight": rng.standard_normal((6, 5)).astype(np.float32), "bias": np.zeros(6, np.float32)}
    base = write_torch(tmp_path / "base", weights)
    updates, paths = [], []
    for k in range(2):
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 5), (6, 2)))
        folder = tmp_path / f"adapter{k}"
        folder.mkdir()
        prefix = "base_model.model.layer.lora_"
        save_file({f"{prefix}A.weight": a, f"{prefix}B.weight": b}, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "base_model_name_or_path": "somewhere/else"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        updates.append(4 * b @ a)
        paths.append(folder)
    with pytest.raises(UserError, match="merge.base=FOLDER"):
        merge(paths, output=tmp_path / "out")
    merge(paths, base=base, output=tmp_path / "out")
    merged = read_arrays(tmp_path / "out")
    np.testing.assert_allclose(merged["layer.weight"], weights["layer.weight"] + sum(updates) / 2, rtol=1e-5, atol=1e-6)
    assert set(merged) == {"layer.weight", "bias"}


def test_lerobot_loads_a_merged_policy_with_its_processors(tmp_path):
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    state = PolicyFeature(type=FeatureType.STATE, shape=(4,))
    environment = PolicyFeature(type=FeatureType.ENV, shape=(3,))
    action = PolicyFeature(type=FeatureType.ACTION, shape=(2,))
    config = ACTConfig(
        input_features={"observation.state": state, "observation.environment_state": environment},
        output_features={"action": action},
        chunk_size=4, n_action_steps=4, dim_model=16, n_heads=2, dim_feedforward=16, n_encoder_layers=1,
        n_decoder_layers=1, use_vae=False, device="cpu", push_to_hub=False,
    )  # fmt: skip
    policies, paths = [], []
    for seed in range(2):
        torch.manual_seed(seed)
        policy, path = ACTPolicy(config), tmp_path / f"p{seed}"
        keys = {"observation.state": 4, "observation.environment_state": 3, "action": 2}
        stats = {key: {"mean": np.zeros(n) + seed, "std": np.ones(n)} for key, n in keys.items()}
        policy.save_pretrained(path)
        for processor in make_pre_post_processors(config, dataset_stats=stats):
            processor.save_pretrained(path)
        policies.append(policy)
        paths.append(path)
    record = merge(paths, output=tmp_path / "out").record
    assert record["statistics"]["how"] == "pooled"
    merged = ACTPolicy.from_pretrained(tmp_path / "out", strict=True)
    one, two = (dict(policy.state_dict()) for policy in policies)
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2)
    before, _ = make_pre_post_processors(merged.config, pretrained_path=str(tmp_path / "out"))
    batch = before({"observation.state": torch.zeros(4), "observation.environment_state": torch.zeros(3)})
    expected = -0.5 / np.sqrt(1 + 0.25)  # zero in the statistics of both parts together: mean 0.5, variance 1.25
    np.testing.assert_allclose(batch["observation.state"].numpy(), np.full((1, 4), expected), atol=1e-5)
