"""Octo for training (`build`) and for use (`load`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xp.errors import UserError
from xp.models.octo.assembly import Assembly, assemble
from xp.models.octo.cameras import Slot, resolve_slots
from xp.models.octo.folder import OctoFolder, read_folder
from xp.models.octo.initial import initial_weights
from xp.models.octo.match import take, verify
from xp.models.octo.policy import OctoPolicy
from xp.models.octo.spec import model_spec
from xp.models.octo.words import WordText
from xp.models.policy import DataSpec, JaxTrainable, LoadReport
from xp.models.tree import unflatten

_T5_TEXT = {"padding": "max_length", "truncation": True, "return_tensors": "np"}


def build(
    model_cfg: Mapping[str, Any],
    *,
    data: DataSpec,
    statistics: Mapping[str, Any],
    horizon: int,
    seed: int,
    pretrained: tuple[Path, int | None] | None = None,
) -> JaxTrainable:
    """A new Octo for a dataset and a horizon, optionally on the trunk of a saved one.

    Args:
        model_cfg: options of conf/model with `family: octo`.
        data: what the dataset offers.
        statistics: of the training episodes, in the form of dataset_statistics.json; they travel with the model.
        horizon: actions in a chunk.
        seed: of the initial weights.
        pretrained: an Octo folder and a step (None: newest) to start from, by name and shape.

    Raises:
        UserError: options that do not fit each other, the dataset or the pretrained model.
    """
    source = read_folder(*pretrained) if pretrained else None
    model_cfg = _filled(model_cfg, source[0] if source else None)
    slots = resolve_slots(model_cfg, data.cameras)
    papers = _papers(model_cfg, data, slots, statistics, horizon, seed)
    assembly = assemble(papers, source[1] if source else None)
    shapes = assembly.network.shapes(assembly.example_inputs())
    taken, report = {}, LoadReport(initialised=tuple(shapes))
    if source and pretrained:
        taken, report = take(shapes, source[1], str(pretrained[0]))
    fresh = initial_weights({path: shapes[path] for path in report.initialised}, seed)
    return JaxTrainable(
        spec=assembly.spec,
        weights=unflatten({path: taken[path] if path in taken else fresh[path] for path in shapes}),
        loss=assembly.network.loss,
        prepare=assembly.prepare,
        policy=lambda weights: OctoPolicy(assembly, weights),
        frozen=_frozen(papers.config["model"]),
        loaded=report,
    )


def load(path: Path, step: int | None = None, device: str | None = None) -> OctoPolicy:
    """A saved Octo, every weight accounted for; `device` is a jax platform such as "cpu" or "gpu"."""
    papers, weights = read_folder(path, step)
    assembly: Assembly = assemble(papers, weights)
    verify(assembly.network.shapes(assembly.example_inputs()), weights, str(path))
    return OctoPolicy(assembly, unflatten(weights), _device(device))


def _device(name: str | None) -> Any:
    if name is None:
        return None
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        raise UserError(
            f"device={name!r}: jax has no such device here ({error}). Allowed is for instance 'cpu'; type "
            "device=cpu, or leave it out."
        ) from error


def _filled(model_cfg: Mapping[str, Any], source: OctoFolder | None) -> dict[str, Any]:
    """Options left null follow the pretrained model: weights of Octo's first release need its attention mask."""
    filled = dict(model_cfg)
    for name in ("use_correct_attention", "repeat_task_tokens"):
        if filled.get(name) is None and source is not None:
            filled[name] = source.config["model"][name]
    return filled


def _frozen(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Weights that are never trained: a language encoder that is fixed."""
    language = model["task_tokenizers"].get("language")
    if language is None:
        return ()
    if language["name"] == "LanguageTokenizer":
        return () if language["kwargs"].get("finetune_encoder") else ("*hf_model*",)
    return () if language["kwargs"].get("trainable", True) else ("*task_tokenizers_language*",)


def _papers(
    model_cfg: Mapping[str, Any],
    data: DataSpec,
    slots: Mapping[str, Slot],
    statistics: Mapping[str, Any],
    horizon: int,
    seed: int,
) -> OctoFolder:
    """What will stand beside the weights, in the form Octo reads; our own notes under the key `xp`."""
    sizes = {"horizon": horizon, "action_dim": data.action_dim, "state_dim": data.state_dim}
    model = model_spec(model_cfg, slots=slots, **sizes)
    language = model_cfg.get("language") or {}
    length = int(language.get("max_length") or 16)
    config = {
        "model": model,
        "text_processor": _text_processor(model, length),
        "optimizer": {"frozen_keys": list(_frozen(model))},
        "window_size": int(model_cfg.get("history", 1)),
        "seed": seed,
        "xp": {
            "name": model_cfg.get("name", "octo"),
            "cameras": {name: {"camera": s.camera, "size": [s.height, s.width]} for name, s in slots.items()},
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
