"""The papers of a new Octo: what will stand beside its weights, in the form Octo reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xp.errors import UserError
from xp.models.octo.cameras import Slot, noted
from xp.models.octo.io.folder import OctoFolder
from xp.models.octo.io.spec import model_spec
from xp.models.octo.network.words import WordText
from xp.models.policy import DataSpec

FREEZE_PRESETS = {
    "none": (),
    "transformer": ("octo_transformer/BlockTransformer_0/*",),
    "language": ("octo_transformer/task_tokenizers_language/*", "octo_transformer/task_language_*"),
    "head_only": ("octo_transformer/*",),
}
"""What `trainer.freeze` may name: nothing, the transformer's layers, the way language comes in, all but the heads."""
_T5_TEXT = {"padding": "max_length", "truncation": True, "return_tensors": "np"}


def new_papers(
    model_cfg: Mapping[str, Any],
    data: DataSpec,
    slots: Mapping[str, Slot],
    statistics: Mapping[str, Any],
    horizon: int,
    seed: int,
) -> OctoFolder:
    """Configuration, example batch and statistics of a model that is yet to be made; our own notes under `xp`."""
    sizes = {"horizon": horizon, "action_dim": data.action_dim, "state_dim": data.state_dim}
    model = model_spec(model_cfg, slots=slots, **sizes)
    language = model_cfg.get("language") or {}
    length = int(language.get("max_length") or 16)
    config = {
        "model": model,
        "text_processor": _text_processor(model, length),
        "optimizer": {"frozen_keys": list(frozen_patterns(model))},
        "window_size": int(model_cfg.get("history", 1)),
        "seed": seed,
        "frame_transform_kwargs": {"resize_size": {name: [slot.height, slot.width] for name, slot in slots.items()}},
        "xp": {
            "name": model_cfg.get("name", "octo"),
            "cameras": noted(slots),
            "tokenizer": language.get("tokenizer"),
            "fps": data.fps,
        },
    }
    if int(model_cfg.get("history", 1)) > int(model_cfg["max_history"]):
        raise UserError(
            f"model.history={model_cfg['history']} is longer than model.max_history={model_cfg['max_history']}, for "
            f"which there are positions. Type model.max_history={model_cfg['history']}."
        )
    example = _example(model, slots, data, config["window_size"], horizon, length)
    return OctoFolder(config=config, example=example, statistics=dict(statistics), step=0)


def _text_processor(model: Mapping[str, Any], length: int) -> dict[str, Any] | None:
    language = model["task_tokenizers"].get("language")
    if language is None or language["name"] != "LanguageTokenizer":
        return None
    kwargs = {
        "tokenizer_name": language["kwargs"]["encoder"],
        "encode_with_model": False,
        "tokenizer_kwargs": {"max_length": length, **_T5_TEXT},
    }
    return {"module": "octo.data.utils.text_processing", "name": "HFTokenizer", "args": [], "kwargs": kwargs}


def _example(
    model: Mapping[str, Any], slots: Mapping[str, Slot], data: DataSpec, history: int, horizon: int, length: int
) -> dict[str, Any]:
    """A batch of one, all zeros, that shows every key and shape."""
    lead = (1, history)
    observation: dict[str, Any] = {
        f"image_{name}": np.zeros((*lead, slot.height, slot.width, 3), np.uint8) for name, slot in slots.items()
    }
    if "proprio" in model["observation_tokenizers"]:
        observation["proprio"] = np.zeros((*lead, data.state_dim), np.float32)
    observation["pad_mask_dict"] = {key: np.ones(lead, dtype=bool) for key in list(observation)}
    observation["timestep_pad_mask"] = np.ones(lead, dtype=bool)
    language = model["task_tokenizers"].get("language")
    shape = (1, length)
    task: dict[str, Any] = {}
    if language is not None:
        if language["name"] == "WordTokenizer":
            words = WordText(*(language["kwargs"][name] for name in ("buckets", "hashes", "max_length")))
            shape = (1, words.max_length, words.hashes)
        ids, mask = np.zeros(shape, np.int32), np.ones(shape[:2], np.int32)
        task["language_instruction"] = {"input_ids": ids, "attention_mask": mask}
        task["pad_mask_dict"] = {"language_instruction": np.ones(1, dtype=bool)}
    chunk = (*lead, horizon, data.action_dim)
    return {
        "observation": observation,
        "task": task,
        "action": np.zeros(chunk, np.float32),
        "action_pad_mask": np.ones(chunk, dtype=bool),
    }


def frozen_patterns(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Weights that are never trained: a language encoder that is fixed."""
    language = model["task_tokenizers"].get("language")
    if language is None:
        return ()
    if language["name"] == "LanguageTokenizer":
        return () if language["kwargs"].get("finetune_encoder") else ("*hf_model*",)
    return () if language["kwargs"].get("trainable", True) else ("*task_tokenizers_language*",)
