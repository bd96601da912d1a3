"""LoRA and DoRA on an OpenVLA, by peft: small trained matrices beside the weights of a base that stands still.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; Liu et al., "DoRA: Weight-Decomposed Low-Rank
Adaptation", 2024. What is written is a folder of peft's (adapter_config.json, adapter_model.safetensors). Weights that
are none of the base's, as an L1 head, are trained whole and lie beside it (`xp.checkpoints.peft_adapter.ADDED`).
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import nn

from xp.atomic import write_json
from xp.checkpoints.peft_adapter import ADAPTER, ADDED, HELD_BASE
from xp.errors import UserError, did_you_mean, join_names
from xp.models.openvla.network import OpenVLANetwork
from xp.models.openvla.options import ALL_LINEAR, Adaptation
from xp.models.openvla.quantised import KINDS, QuantisedLinear, quantise

_HEAD = "language_model.lm_head"
_NAME = "default"
"""peft's name of the one adapter."""
_PREFIX = "base_model.model."
"""What stands before each name in peft's files."""
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BASE_TYPES = {"float32": np.dtype(np.float32), "bfloat16": _BFLOAT16, **dict.fromkeys(KINDS, _BFLOAT16)}
"""`model.lora.base` -> the type in which the base's numbers are held, those that are quantised before they are."""


def adapt(module: OpenVLANetwork, wanted: Adaptation, base: Path, whole: Sequence[str]) -> None:
    """Put an adapter on a network that has the base's weights; its matrices are drawn from torch's global generator.

    Args:
        module: the network; all of it stands still afterwards but the adapter and `whole`.
        wanted: which adapter.
        base: the folder of the base's weights, noted in the adapter's configuration.
        whole: beginnings of names of weights that are trained whole, in float32.

    Raises:
        UserError: a target that no layer has, or a base that cannot be quantised here.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = _targets(module, wanted.targets, whole)
    if wanted.base in KINDS:
        quantise(module, wanted.base)
    inject_adapter_in_model(
        LoraConfig(
            r=wanted.rank,
            lora_alpha=int(wanted.alpha) if wanted.alpha == int(wanted.alpha) else wanted.alpha,  # pyright: ignore
            lora_dropout=wanted.dropout,
            target_modules=names,
            init_lora_weights=wanted.init if wanted.init == "gaussian" else True,
            use_dora=wanted.is_dora,
            base_model_name_or_path=str(base.resolve()),
        ),
        module,
        _NAME,
    )
    for name, weight in module.named_parameters():
        is_trained = ".lora_" in name or name.startswith(tuple(whole))
        weight.requires_grad_(is_trained)
        if is_trained:  # peft makes them of the base's type, in which small updates are lost
            weight.data = weight.data.float()


def is_adapted(module: nn.Module) -> bool:
    """Whether a network has an adapter."""
    return hasattr(module, "peft_config")


def write_adapter(folder: Path, module: OpenVLANetwork, whole: Sequence[str]) -> None:
    """Write the adapter of a network as peft does it, and what is trained whole; the caller makes it atomic."""
    from peft import get_peft_model_state_dict

    config: Any = copy.copy(module.peft_config[_NAME])  # pyright: ignore - peft puts it there
    config.target_modules, config.inference_mode = sorted(config.target_modules), True  # a set has no order
    found = get_peft_model_state_dict(module, adapter_name=_NAME, save_embedding_layers=False)
    _write(folder / ADAPTER, {f"{_PREFIX}{name}": tensor for name, tensor in found.items()})
    config.save_pretrained(str(folder))
    kinds = {layer.kind for layer in module.modules() if isinstance(layer, QuantisedLinear)}
    for kind in kinds:
        write_json(folder / HELD_BASE, {"base": kind})
    added = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(tuple(whole))}
    if added:
        _write(folder / ADDED, added)


def _write(file: Path, tensors: Mapping[str, Shaped[torch.Tensor, "..."]]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, file, metadata={"format": "pt"})


def _targets(module: nn.Module, wanted: str | Sequence[str], whole: Sequence[str]) -> list[str]:
    """Names of the linear layers that get an adapter: of those that are computed, all or the named ones.

    The language model's head is none of them where all are wanted, as peft has it.
    """
    layers = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad and not name.startswith(tuple(whole))
    ]
    if wanted == ALL_LINEAR:
        return [name for name in layers if name != _HEAD]
    words = [wanted] if isinstance(wanted, str) else list(wanted)
    for word in words:
        if not any(_is_meant(name, word) for name in layers):
            there = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
            raise UserError(
                f"model.lora.targets=[{','.join(words)}]: no linear layer that is computed is called '{word}'"
                f"{did_you_mean(word, there)}. Their names end in {join_names(there)}. Type "
                f"model.lora.targets={ALL_LINEAR}, or for instance model.lora.targets=[q_proj,v_proj]"
            )
    return [name for name in layers if _any_meant(name, words)]


def _any_meant(name: str, words: Iterable[str]) -> bool:
    return any(_is_meant(name, word) for word in words)


def _is_meant(name: str, word: str) -> bool:
    """Whether a word names a layer, as peft reads its lists: the whole name or its end."""
    return name == word or name.endswith(f".{word}")
