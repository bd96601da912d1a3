"""Makes the sidecar of a new Octo, in the form Octo reads: configuration, example batch, statistics."""

from collections.abc import Mapping

import numpy as np

from xp.errors import UserError
from xp.json_types import JSON
from xp.models.octo.cameras import Slot, camera_notes
from xp.models.octo.io.folder import OctoSidecar
from xp.models.octo.io.spec import ModelSpec, ModuleSpec, OctoConfig, model_spec
from xp.models.octo.io.statistics import by_name
from xp.models.octo.network.text import word_text
from xp.models.octo.options import OctoOptions
from xp.models.policy import DataSpec, Statistics
from xp.models.tree import Tree

FREEZE_PRESETS = {
    "none": (),
    "transformer": ("octo_transformer/BlockTransformer_0/*",),
    "language": ("octo_transformer/task_tokenizers_language/*", "octo_transformer/task_language_*"),
    "head_only": ("octo_transformer/*",),
}
"""What `trainer.freeze` may name: nothing, the transformer's layers, the way language comes in, all but the heads."""
_T5_TEXT = {"padding": "max_length", "truncation": True, "return_tensors": "np"}


def new_sidecar(
    options: OctoOptions,
    data: DataSpec,
    slots: Mapping[str, Slot],
    statistics: Statistics,
    horizon: int,
    seed: int,
) -> OctoSidecar:
    """Configuration, example batch and statistics of a model that is yet to be made; our own notes under `xp`."""
    model = model_spec(options, slots=slots, horizon=horizon, action_dim=data.action_dim, state_dim=data.state_dim)
    length = options.language.max_length or 16
    config: OctoConfig = {
        "model": model,
        "text_processor": _text_processor(model, length),
        "optimizer": {"frozen_keys": list(frozen_patterns(model))},
        "window_size": options.history,
        "seed": seed,
        "frame_transform_kwargs": {"resize_size": {name: [slot.height, slot.width] for name, slot in slots.items()}},
        "xp": {
            "name": options.name,
            "cameras": camera_notes(slots),
            "tokenizer": options.language.tokenizer,
            "fps": data.fps,
        },
    }
    if data.members:
        config["xp"]["members"] = {member.name: dict(member.cameras) for member in data.members}
    if options.history > options.max_history:
        raise UserError(
            f"model.history={options.history} is longer than model.max_history={options.max_history}, the number of "
            f"steps that have position embeddings. Type model.max_history={options.history}."
        )
    example = _example(model, slots, data, options.history, horizon, length)
    return OctoSidecar(config=config, example=example, statistics=by_name(statistics), step=0)


def _text_processor(model: ModelSpec, length: int) -> ModuleSpec | None:
    language = model["task_tokenizers"].get("language")
    if language is None or language["name"] != "LanguageTokenizer":
        return None
    kwargs: dict[str, JSON] = {
        "tokenizer_name": language["kwargs"]["encoder"],
        "encode_with_model": False,
        "tokenizer_kwargs": {"max_length": length, **_T5_TEXT},
    }
    return {"module": "octo.data.utils.text_processing", "name": "HFTokenizer", "args": [], "kwargs": kwargs}


def _example(
    model: ModelSpec, slots: Mapping[str, Slot], data: DataSpec, history: int, horizon: int, length: int
) -> dict[str, np.ndarray | Tree[np.ndarray]]:
    """A batch of one, all zeros, that shows every key and shape."""
    lead = (1, history)
    observation: dict[str, np.ndarray | Tree[np.ndarray]] = {
        f"image_{name}": np.zeros((*lead, slot.height, slot.width, 3), np.uint8) for name, slot in slots.items()
    }
    if "proprio" in model["observation_tokenizers"]:
        observation["proprio"] = np.zeros((*lead, data.state_dim), np.float32)
    observation["pad_mask_dict"] = {key: np.ones(lead, dtype=bool) for key in list(observation)}
    observation["timestep_pad_mask"] = np.ones(lead, dtype=bool)
    language = model["task_tokenizers"].get("language")
    shape = (1, length)
    task: dict[str, Tree[np.ndarray]] = {}
    if language is not None:
        if language["name"] == "WordTokenizer":
            words = word_text(language)
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


def frozen_patterns(model: ModelSpec) -> tuple[str, ...]:
    """Weights that are never trained: a language encoder that is fixed."""
    language = model["task_tokenizers"].get("language")
    if language is None:
        return ()
    if language["name"] == "LanguageTokenizer":
        return () if language["kwargs"].get("finetune_encoder") else ("*hf_model*",)
    return () if language["kwargs"].get("trainable", True) else ("*task_tokenizers_language*",)
