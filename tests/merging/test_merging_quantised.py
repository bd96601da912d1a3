"""Codes and their scales are not averaged: whatever names a library gives them, the checkpoint is refused by them."""

import json

import ml_dtypes
import numpy as np
import pytest
from merging_made_up import made_arrays, read_arrays, tree_state, write_jax, write_torch

from xp.errors import UserError
from xp.merging import merge

FP8 = ml_dtypes.float8_e4m3fn


def codes(kind=np.int8, shape=(4, 4)):
    return np.full(shape, 100).astype(kind)


ONE = np.float32(0.25).reshape(())
ROW = np.ones(4, np.float32)
QUANTISED = {
    "transformers fp8": {"l.weight": codes(FP8), "l.weight_scale_inv": ONE},
    "fp8 per tensor": {"l.weight": codes(FP8), "l.weight_scale": ONE, "l.input_scale": ONE},
    "fp8 with a name of its own": {"l.w1": codes(FP8), "l.w1_scale": ONE},
    "fp8 of image models": {"l.weight": codes(FP8), "l.scale_weight": ONE, "scaled_fp8": np.zeros(2, FP8)},
    "bitsandbytes int8": {"l.weight": codes(), "l.SCB": ROW},
    "bitsandbytes int8, serialised": {"l.weight": codes(), "l.SCB": ROW, "l.weight_format": np.zeros((), np.uint8)},
    "bitsandbytes 4 bit": {
        "l.weight": codes(np.uint8, (8, 1)), "l.weight.absmax": codes(np.uint8, (1,)),
        "l.weight.quant_map": np.zeros(16, np.float32), "l.weight.nested_absmax": ROW,
        "l.weight.quant_state.bitsandbytes__nf4": np.zeros(20, np.uint8),
    },
    "GPTQ": {
        "l.qweight": codes(np.int32), "l.qzeros": codes(np.int32, (1, 4)), "l.scales": np.ones((1, 4), np.float16),
        "l.g_idx": np.zeros(4, np.int32),
    },
    "AWQ": {"l.qweight": codes(np.int32), "l.qzeros": codes(np.int32, (1, 4)), "l.scales": np.ones((1, 4), np.float16)},
    "compressed-tensors": {
        "l.weight_packed": codes(np.int32), "l.weight_scale": np.ones((4, 1), np.float16),
        "l.weight_shape": np.array([4, 32]),
    },
    "torchao": {"l.weight._data": codes(), "l.weight._scale": ROW},
    "HQQ": {"l.W_q": codes(np.uint8), "l.scale": ROW, "l.zero": ROW},
    "integers alone": {"l.weight": codes(np.uint8)},
    "a JAX kernel": {"l/kernel": codes(), "l/kernel_scale": ROW},
}  # fmt: skip


def refused(paths, tmp_path, match):
    before = tree_state(tmp_path)
    with pytest.raises(UserError, match=match) as caught:
        merge(paths, output=tmp_path / "out")
    assert tree_state(tmp_path) == before
    return str(caught.value)


@pytest.mark.parametrize("name", list(QUANTISED))
def test_codes_with_their_scales_are_refused_by_name(name, tmp_path):
    arrays = {**QUANTISED[name], "norm.weight": ROW}
    write = write_jax if name == "a JAX kernel" else write_torch
    paths = [write(tmp_path / f"c{k}", arrays) for k in range(2)]
    text = refused(paths, tmp_path, "c0 is quantised")
    assert any(leaf in text for leaf in QUANTISED[name])
    assert "Dequantise it first" in text
    assert "merge.checkpoints=[FOLDER" in text


def test_a_base_and_a_later_checkpoint_are_looked_at_too(tmp_path):
    plain = {"l.weight": np.ones((4, 4), np.float32)}
    paths = [write_torch(tmp_path / "a", plain), write_torch(tmp_path / "b", QUANTISED["bitsandbytes int8"])]
    refused(paths, tmp_path, "b is quantised: l.SCB")
    with pytest.raises(UserError, match="b is quantised"):
        merge([paths[0], paths[0]], "ties", base=paths[1], output=tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, r"quantization_config \(gptq\)"),
        ("config.json", {"text_config": {"quantization_config": {"load_in_8bit": True}}}, "text_config.quantization"),
        ("quantize_config.json", {"bits": 4}, "quantize_config.json"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "hf_quant_config.json"),
    ],
)
def test_a_configuration_that_speaks_of_quantisation_is_enough(tmp_path, file, content, match):
    paths = [write_torch(tmp_path / f"c{k}", {"l.weight": np.ones((4, 4), np.float32)}) for k in range(2)]
    (paths[1] / file).write_text(json.dumps(content))
    refused(paths, tmp_path, match)


def test_what_only_looks_like_codes_is_merged(tmp_path):
    """Counters, masks, indices, a norm's scale, plain fp8, and an empty quantization_config."""
    arrays = {
        "norm/scale": ROW, "norm/bias": ROW, "bn.num_batches_tracked": np.array(7), "position_ids": np.arange(8)[None],
        "attn.mask": np.ones((4, 4), bool), "relative_position_index": np.zeros((4, 4), np.int64), "logit_scale": ONE,
        "stored.weight": np.full((2, 2), 1.5).astype(FP8), "layer_scale.gamma": ROW, "scales": ROW,
    }  # fmt: skip
    paths = [write_torch(tmp_path / f"c{k}", arrays) for k in range(2)]
    for path in paths:
        (path / "config.json").write_text(json.dumps({"quantization_config": None}))
    merge(paths, output=tmp_path / "out")
    found = read_arrays(tmp_path / "out")
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_the_models_of_the_tests_are_none_of_it(tmp_path):
    merge([write_torch(tmp_path / f"c{k}", made_arrays(k)) for k in range(2)], output=tmp_path / "out")
