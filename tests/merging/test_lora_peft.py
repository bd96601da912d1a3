"""PEFT adapter folders give what peft's own merge gives: peft makes, saves, loads and merges them here."""

import json

import numpy as np
import pytest
import torch
from merging_made_up import BF16
from peft_made_up import Mixed, Turned, Zoo, adapter_of, agree, base_of, merged_by_peft, merged_by_xp
from safetensors.torch import load_file, save_file

from xp.errors import UserError
from xp.merging import merge

CASES = {
    "linear": {"target_modules": ["wide", "square"]},
    "rslora": {"target_modules": ["wide", "square"], "use_rslora": True},
    "embedding": {"target_modules": ["embed", "wide"]},
    "convolutions": {"target_modules": ["conv1", "conv2", "conv3", "point"]},
    "attention": {"target_modules": ["attention"]},
    "modules_to_save": {"target_modules": ["square"], "modules_to_save": ["head", "norm"]},
    "bias_all": {"target_modules": ["square", "conv2"], "bias": "all"},
    "bias_lora_only": {"target_modules": ["square", "wide"], "bias": "lora_only"},
    "lora_bias": {"target_modules": ["square", "conv2"], "lora_bias": True},
    "lora_bias_and_trained_biases": {"target_modules": ["square"], "lora_bias": True, "bias": "all"},
    "patterns": {
        "target_modules": ["proj", "up", "wide"],
        "rank_pattern": {"proj": 3, r"^layers\.1\.up": 1, r"layers\..*\.up": 5},
        "alpha_pattern": {r"layers\.[02]\.proj": 32, "layers.1": 7, "up": 5, "^wide$": 3},
    },
    "patterns_and_rslora": {
        "target_modules": ["proj"],
        "rank_pattern": {r"layers\.\d\.proj": 3},
        "alpha_pattern": {r"0\.proj|2\.proj": 9},
        "use_rslora": True,
    },
    "layers_to_transform": {"target_modules": ["proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "one_layer": {"target_modules": ["proj"], "layers_to_transform": 1, "layers_pattern": ["blocks", "layers"]},
    "exclude_modules": {"target_modules": ["proj", "square"], "exclude_modules": ["layers.1.proj"]},
    "a_regular_expression": {"target_modules": r".*layers\.(0|2)\.(proj|up)", "exclude_modules": r".*2\.up"},
    "all_linear": {"target_modules": "all-linear"},
    "dora_linear": {"target_modules": ["wide", "square"], "use_dora": True},
    "dora_embedding": {"target_modules": ["embed"], "use_dora": True},
    "dora_convolutions": {"target_modules": ["conv1", "conv2", "conv3", "point"], "use_dora": True},
    "dora_rslora": {"target_modules": ["proj"], "use_dora": True, "use_rslora": True, "rank_pattern": {"0.proj": 1}},
    "tokens": {"target_modules": ["square"], "trainable_token_indices": {"embed": [1, 5]}},
    "gaussian": {"target_modules": ["square"], "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ["square"], "init_lora_weights": "orthogonal"},
    "mica": {"target_modules": ["square"], "init_lora_weights": "mica"},
}  # fmt: skip
TURNED = {
    "linear": {"target_modules": ["turned", "turned_square"]},
    "square_alone": {"target_modules": ["turned_square"]},
    "lora_bias": {"target_modules": ["turned", "turned_square"], "lora_bias": True, "bias": "lora_only"},
    "dora": {"target_modules": ["turned", "turned_square", "embed"], "use_dora": True},
}


@pytest.mark.parametrize("case", [*CASES, *(f"turned_{case}" for case in TURNED)])
def test_an_adapter_is_folded_as_peft_merges_it(case, tmp_path):
    make = Zoo if case in CASES else Turned
    options = {"r": 2, "lora_alpha": 6, **(CASES.get(case) or TURNED[case.removeprefix("turned_")])}
    before = {name: value.numpy() for name, value in base_of(make, tmp_path / "base").state_dict().items()}
    folder = adapter_of(make, tmp_path / "adapter", tmp_path / "base", **options)
    got = merged_by_xp(folder)
    agree(got, merged_by_peft(make, folder))
    agree(got, merged_by_peft(make, folder, torch.float64))
    assert any(not np.array_equal(got[name], before[name]) for name in before), "nothing was folded"


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 11,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=1, tie_word_embeddings=False))


def gpt2(tie=True):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11, n_positions=6, tie_word_embeddings=tie)
    )


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (llama, {"target_modules": ["q_proj", "o_proj", "down_proj"], "layers_to_transform": 1}),
        (llama, {"target_modules": "all-linear", "exclude_modules": ["k_proj"], "modules_to_save": ["lm_head"]}),
        (llama, {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True}),
        (llama, {"target_modules": ["q_proj"], "trainable_token_indices": [0, 10]}),
        (gpt2, {"target_modules": ["c_attn", "c_proj"], "bias": "all"}),
        (gpt2, {"target_modules": r".*attn\.c_proj", "use_dora": True}),
        (gpt2, {"target_modules": ["wte", "c_proj"]}),
    ],
)
def test_transformers_models_are_folded_as_peft_merges_them(make, options, tmp_path):
    names = ["lm_head.weight"] if make is gpt2 else []
    base = base_of(make, tmp_path / "base", leave=names)
    folder = adapter_of(make, tmp_path / "adapter", tmp_path / "base", r=2, lora_alpha=6, **options)
    got = merged_by_xp(folder)
    assert got.keys() == base.state_dict().keys() - {*names}
    agree(got, merged_by_peft(make, folder))
    agree(got, merged_by_peft(make, folder, torch.float64))


def test_mixed_models_say_which_way_a_square_matrix_lies_or_are_refused(tmp_path):
    """GPT-2's square c_proj beside a Linear: the saved flag is that of the last module, the others' shapes tell."""
    base_of(lambda: gpt2(tie=False), tmp_path / "base")
    folder = adapter_of(
        lambda: gpt2(tie=False), tmp_path / "adapter", tmp_path / "base", target_modules=r".*attn\.c_proj|lm_head"
    )
    assert json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"] is False
    agree(merged_by_xp(folder), merged_by_peft(lambda: gpt2(tie=False), folder))
    base_of(Mixed, tmp_path / "mixed")
    folder = adapter_of(Mixed, tmp_path / "two", tmp_path / "mixed", target_modules=["turned_square", "square"])
    with pytest.raises(UserError, match="fan_in_fan_out.*matrices of both kinds.*square.weight"):
        merged_by_xp(folder)


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
def test_weights_of_16_bits_are_rounded_once(saved, dora, tmp_path):
    base_of(Zoo, tmp_path / "base", torch.bfloat16)
    folder = adapter_of(Zoo, tmp_path / "adapter", tmp_path / "base", target_modules=["wide", "embed"], use_dora=dora)
    file = folder / "adapter_model.safetensors"
    save_file({name: value.to(saved) for name, value in load_file(file).items()}, file)
    got = merged_by_xp(folder)
    theirs, exact = merged_by_peft(Zoo, folder, torch.bfloat16), merged_by_peft(Zoo, folder, torch.bfloat16, exact=True)
    assert got["wide.weight"].dtype == got["embed.weight"].dtype == BF16
    assert all(_places(got[name], exact[name].astype(BF16)) == 0 for name in ("wide.weight", "embed.weight"))
    assert _places(got["wide.weight"], theirs["wide.weight"].astype(BF16)) <= 1
    if dora:  # without it PEFT rounds the update of an embedding, and then the sum
        assert _places(got["embed.weight"], theirs["embed.weight"].astype(BF16)) <= 1


def _places(one, other):
    """The largest distance of two bfloat16 arrays in units of the last place."""
    numbers = [array.view(np.int16).astype(np.int64) for array in (one, other)]
    return int(np.abs(np.subtract(*[np.where(n < 0, -32768 - n, n) for n in numbers])).max())


def test_adapters_of_other_ranks_are_merged_as_their_folded_weights(tmp_path):
    base_of(Zoo, tmp_path / "base")
    folders = [
        adapter_of(
            Zoo, tmp_path / f"a{r}", tmp_path / "base", seed=r, r=r, lora_alpha=3 * r, use_rslora=r == 3, **options
        )
        for r, options in (
            (1, {"target_modules": ["wide"]}),
            (3, {"target_modules": ["square", "conv2"], "bias": "all"}),
        )
    ]
    base_folder = tmp_path / "base"
    merge([*folders, base_folder], output=tmp_path / "out")
    from safetensors.numpy import load_file as load

    got, base = load(tmp_path / "out/model.safetensors"), load(base_folder / "model.safetensors")
    one, two = (merged_by_peft(Zoo, folder) for folder in folders)
    agree(got, {name: (one[name] + two[name] + base[name]) / 3 for name in base})
    record = json.loads((tmp_path / "out/merge.json").read_text())
    assert [entry.get("folded_into") for entry in record["checkpoints"]] == [str(base_folder), str(base_folder), None]


def test_a_single_adapter_is_written_as_one_policy_by_the_command_that_messages_give(tmp_path):
    base_of(Zoo, tmp_path / "base")
    folder = adapter_of(Zoo, tmp_path / "adapter", tmp_path / "base", target_modules=["wide"])
    merge([folder], "interpolate", base=tmp_path / "base", alpha=1, output=tmp_path / "out")
    from safetensors.numpy import load_file as load

    agree(load(tmp_path / "out/model.safetensors"), merged_by_peft(Zoo, folder))


def test_names_with_the_adapters_name_in_them_mean_the_same(tmp_path):
    base_of(Zoo, tmp_path / "base")
    options = {"target_modules": ["wide", "embed"], "modules_to_save": ["head"], "use_dora": True}
    folder = adapter_of(Zoo, tmp_path / "adapter", tmp_path / "base", **options)
    wanted = merged_by_peft(Zoo, folder)
    file, renamed = folder / "adapter_model.safetensors", {}
    for name, value in load_file(file).items():
        name = name.replace("lora_A.weight", "lora_A.default.weight").replace("lora_B.weight", "lora_B.default.weight")
        name = name.replace("head.", "head.modules_to_save.default.")
        if name.endswith(("embedding_A", "embedding_B", "magnitude_vector")):
            name += ".default"
        renamed[name.removeprefix("base_model.model.")] = value
    renamed["head.original_module.weight"] = torch.zeros(3, 4)
    save_file(renamed, file)
    agree(merged_by_xp(folder), wanted)
    save_file(
        renamed | {"square.lora_A.other.weight": torch.zeros(8, 4), "square.lora_B.other.weight": torch.zeros(4, 8)},
        file,
    )
    with pytest.raises(UserError, match="several adapters.*default, other"):
        merged_by_xp(folder)


@pytest.mark.parametrize("way", ["pissa", "olora", "corda", "loftq", "pissa_niter_2", "lora_ga", "tomorrow"])
def test_initialisations_that_change_the_base_are_refused(way, tmp_path):
    base_of(Zoo, tmp_path / "base")
    folder = adapter_of(
        Zoo, tmp_path / "adapter", tmp_path / "base", target_modules=["wide"], change={"init_lora_weights": way}
    )
    with pytest.raises(UserError, match="init_lora_weights is '" + way):
        merged_by_xp(folder)


def test_every_field_of_peft_is_known(tmp_path):
    """A field that a later PEFT adds is met here first."""
    from dataclasses import fields

    from peft import LoraConfig

    from xp.checkpoints.peft_config import HONOURED, REFUSED, WITHOUT_EFFECT

    names = {field.name for field in fields(LoraConfig)}
    assert names == names & (HONOURED | REFUSED.keys() | WITHOUT_EFFECT)
    assert not HONOURED & REFUSED.keys() and not HONOURED & WITHOUT_EFFECT and not REFUSED.keys() & WITHOUT_EFFECT
