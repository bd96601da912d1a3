"""PEFT adapter folders give what peft's own merge gives: peft makes, saves, loads and merges them here."""

import numpy as np
import pytest
import torch
from peft_made_up import Turned, Zoo, adapter_of, agree, base_of, merged_by_peft, merged_by_xp

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
