"""From what an Octo folder says (config, example batch, statistics) to everything around the weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from xp.errors import UserError, did_you_mean, join_names
from xp.models.camera_maps import check_map
from xp.models.octo.cameras import Slot, noted
from xp.models.octo.factory import build_module
from xp.models.octo.inputs import Prepare
from xp.models.octo.io.folder import OctoFolder
from xp.models.octo.io.statistics import Normal, by_dataset, identity, normal_of
from xp.models.octo.network.network import Network
from xp.models.octo.network.t5 import sizes_from_weights
from xp.models.octo.network.text import text_inputs
from xp.models.policy import PolicySpec
from xp.models.tree import flatten

_T5_PREFIX = "octo_transformer/task_tokenizers_language/hf_model/"


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A model without its weights: the network, the way in (`prepare`), the way out (`action`), and its papers."""

    network: Network
    prepare: Prepare
    spec: PolicySpec
    folder: OctoFolder
    datasets: Mapping[str, Normal]
    """Un-normalisation of actions for each dataset the folder has statistics of."""

    def example_inputs(self) -> dict[str, np.ndarray]:
        """One row of inputs of the right shapes, for making or checking weights."""
        kept = {name: self.folder.example[name] for name in ("observation", "task") if name in self.folder.example}
        return {path: np.asarray(leaf)[:1] for path, leaf in flatten(kept).items()}

    def action_normal(self, unnorm_key: str | None) -> Normal:
        """The statistics that bring actions back to dataset units."""
        if unnorm_key is None and len(self.datasets) == 1:
            return next(iter(self.datasets.values()))
        if unnorm_key is None or unnorm_key not in self.datasets:
            given = "none was chosen" if unnorm_key is None else f"'{unnorm_key}' is none of them"
            raise UserError(
                f"This Octo has action statistics of {len(self.datasets)} datasets ({join_names(self.datasets)}) and "
                f"{given}{did_you_mean(unnorm_key or '', self.datasets)}. Choose one: predict(..., unnorm_key='NAME'), "
                "or predict.unnorm_key=NAME, eval.unnorm_key=NAME on the command line."
            )
        return self.datasets[unnorm_key]


def assemble(
    folder: OctoFolder,
    weights: Mapping[str, Any] = MappingProxyType({}),
    *,
    remat: bool = False,
    camera_map: Mapping[str, str | None] = MappingProxyType({}),
    unnorm_key: str | None = None,
) -> Assembly:
    """Build the network and its surroundings.

    `weights` (anything with `.shape`) tell the size of the T5 encoder; `remat` as in `build_module`; `camera_map`
    and `unnorm_key` as in `xp.load_policy`.
    """
    model = folder.config["model"]
    inner = {path.removeprefix(_T5_PREFIX): leaf for path, leaf in weights.items()}
    module = build_module(model, sizes_from_weights(inner), remat=remat)
    if "action" not in module.heads:
        raise UserError(f"The model has the heads {join_names(module.heads)}; predicting needs one named 'action'.")
    head = module.heads["action"]
    _check_example(folder.example, head.action_horizon, head.action_dim)
    own = folder.config.get("xp", {})
    slots = _fed(_slots(folder, own), camera_map)
    statistics = _chosen(by_dataset(folder.statistics), own.get("dataset") if unnorm_key is None else unnorm_key)
    datasets = {name: normal_of(entry, "action") for name, entry in statistics.items()}
    for name, normal in datasets.items():
        _check_size(normal, head.action_dim, name)
    proprio = _proprio(model, folder, statistics)
    texts = text_inputs(model["task_tokenizers"].get("language"), own.get("tokenizer"), _max_length(folder))
    only = next(iter(datasets.values())) if len(datasets) == 1 else identity(head.action_dim)
    prepare = Prepare(
        slots=slots,
        horizon=head.action_horizon,
        action_dim=head.action_dim,
        max_history=int(model["max_horizon"]),
        action=only,
        proprio=proprio,
        texts=texts,
    )
    spec = PolicySpec(
        horizon=head.action_horizon,
        action_dim=len(only.mean),
        state_dim=len(proprio.mean) if proprio is not None else 0,
        cameras={slot.camera: (slot.height, slot.width, 3) for slot in slots.values() if slot.camera},
        history=int(folder.example["observation"]["timestep_pad_mask"].shape[1]),
        language=texts is not None,
    )
    folder = _noted(folder, slots if camera_map else None, unnorm_key)
    return Assembly(network=Network(module), prepare=prepare, spec=spec, folder=folder, datasets=datasets)


def _noted(folder: OctoFolder, slots: Mapping[str, Slot] | None, unnorm_key: str | None) -> OctoFolder:
    """The folder with what was chosen in loading, so that a policy that is saved again is the same one."""
    chosen: dict[str, Any] = {} if slots is None else {"cameras": noted(slots)}
    if unnorm_key is not None and "action" not in folder.statistics:
        chosen["dataset"] = unnorm_key
    if not chosen:
        return folder
    return replace(folder, config={**folder.config, "xp": {**folder.config.get("xp", {}), **chosen}})


def _check_example(example: Mapping[str, Any], horizon: int, action_dim: int) -> None:
    """The example batch shows the shapes of what the model was trained on: it must be a batch of this model."""
    if "timestep_pad_mask" not in example["observation"]:
        raise UserError(
            f"example_batch.msgpack has no observation/timestep_pad_mask [B, T]; it has "
            f"{join_names(flatten(example))}. "
            "Give the example batch that was saved with the model."
        )
    shape = np.shape(example.get("action", np.zeros((1, 1, horizon, action_dim))))
    wanted = (horizon, action_dim)[-(len(shape) - 2) :]  # the first release saved no axis of chunks
    if shape[2:] != wanted:
        raise UserError(
            f"example_batch.msgpack holds actions of shape {shape}; the head in config.json gives chunks of {horizon} "
            f"actions of {action_dim} dimensions. Give the example batch that was saved with the model."
        )


def _check_size(normal: Normal, size: int, dataset: str) -> None:
    """Statistics may have fewer dimensions than the head (the rest is filling), never more."""
    given = len(normal.mean)
    if given > size:
        raise UserError(
            f"The action statistics {f'of {dataset} ' if dataset else ''}have {given} dimensions, the model's head has "
            f"{size}. Give the dataset_statistics.json that was saved with this model."
        )


def _chosen(statistics: Mapping[str, Mapping[str, Any]], unnorm_key: str | None) -> Mapping[str, Mapping[str, Any]]:
    if unnorm_key is None or set(statistics) == {""}:
        return statistics
    if unnorm_key not in statistics:
        raise UserError(
            f"unnorm_key={unnorm_key}: this Octo has statistics of "
            f"{join_names(statistics)}{did_you_mean(unnorm_key, statistics)}. "
            "Name one of these."
        )
    return {unnorm_key: statistics[unnorm_key]}


def _fed(slots: dict[str, Slot], camera_map: Mapping[str, str | None]) -> dict[str, Slot]:
    """The slots with the cameras that `camera_map` names for them; slots it leaves out keep theirs."""
    check_map(camera_map, slots, "image slot of the policy")
    return {name: slot._replace(camera=camera_map.get(name, slot.camera)) for name, slot in slots.items()}


def _slots(folder: OctoFolder, own: Mapping[str, Any]) -> dict[str, Slot]:
    """Which dataset camera feeds which slot; a folder without our note names its cameras by the slots themselves."""
    if "cameras" in own:
        return {name: Slot(entry["camera"], *entry["size"]) for name, entry in own["cameras"].items()}
    slots = {}
    for tokenizer in folder.config["model"]["observation_tokenizers"].values():
        for pattern in tokenizer["kwargs"].get("obs_stack_keys", ()):
            for key, leaf in folder.example["observation"].items():
                if key.startswith("image_") and re.match(pattern, key):
                    name = key.removeprefix("image_")
                    slots[name] = Slot(name, *np.shape(leaf)[-3:-1])
    return slots


def _proprio(
    model: Mapping[str, Any], folder: OctoFolder, statistics: Mapping[str, Mapping[str, Any]]
) -> Normal | None:
    """Normaliser of the state where the model reads it."""
    tokenizers = model["observation_tokenizers"].values()
    reads = any(
        re.match(pattern, "proprio")
        for tokenizer in tokenizers
        if tokenizer["name"] in ("LowdimObsTokenizer", "StateTokenizer")
        for pattern in tokenizer["kwargs"].get("obs_keys", ())
    )
    if not reads or "proprio" not in folder.example["observation"]:
        return None
    if len(statistics) == 1:
        return normal_of(next(iter(statistics.values())), "proprio")
    return identity(int(np.shape(folder.example["observation"]["proprio"])[-1]))


def _max_length(folder: OctoFolder) -> int:
    instruction = folder.example.get("task", {}).get("language_instruction")
    return int(np.shape(instruction["input_ids"])[1]) if isinstance(instruction, Mapping) else 16
