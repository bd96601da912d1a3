"""Builds all of an Octo but its weights from its sidecar: the network, its inputs, the statistics, the spec."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from jaxtyping import Shaped

from xp.errors import UserError, did_you_mean, join_names
from xp.models.camera_maps import check_map
from xp.models.members import MemberNormals, not_chosen
from xp.models.normal import Normal, identity, normal_of
from xp.models.octo.cameras import Slot, camera_notes
from xp.models.octo.factory import build_module
from xp.models.octo.inputs import Members, Prepare
from xp.models.octo.io.folder import OctoSidecar
from xp.models.octo.io.matching_weights import HasShape
from xp.models.octo.io.spec import ModelSpec, ModuleSpec, Notes
from xp.models.octo.io.statistics import by_dataset
from xp.models.octo.network.network import Network
from xp.models.octo.network.t5 import sizes_from_weights
from xp.models.octo.network.text import text_inputs
from xp.models.policy import PolicySpec
from xp.models.tree import Tree, branch, flatten, leaf_at

_T5_PREFIX = "octo_transformer/task_tokenizers_language/hf_model/"


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A model without its weights: the network, the way in (`prepare`), the way out (`action_normal`), its sidecar."""

    network: Network
    prepare: Prepare
    spec: PolicySpec
    sidecar: OctoSidecar
    datasets: Mapping[str, Normal]
    """Un-normalisation of actions for each dataset the sidecar has statistics of."""

    def example_inputs(self) -> dict[str, Shaped[np.ndarray, "1 ..."]]:
        """One row of inputs of the right shapes, for making or checking weights."""
        kept = {name: self.sidecar.example[name] for name in ("observation", "task") if name in self.sidecar.example}
        return {path: np.asarray(leaf)[:1] for path, leaf in flatten(kept).items()}

    def action_normal(self, unnorm_key: str | None) -> Normal:
        """The statistics that bring actions back to dataset units."""
        if self.prepare.members is not None and unnorm_key not in self.datasets:
            raise UserError(not_chosen(unnorm_key, self.prepare.members.names))
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
    sidecar: OctoSidecar,
    weights: Mapping[str, HasShape] = MappingProxyType({}),
    *,
    remat: bool = False,
    camera_map: Mapping[str, str | None] = MappingProxyType({}),
    unnorm_key: str | None = None,
) -> Assembly:
    """Build the network and its surroundings.

    `weights` tell the size of the T5 encoder; `remat` as in `build_module`; `camera_map`
    and `unnorm_key` as in `xp.load_policy`.
    """
    model = sidecar.config["model"]
    inner = {path.removeprefix(_T5_PREFIX): leaf for path, leaf in weights.items()}
    module = build_module(model, sizes_from_weights(inner), remat=remat)
    if "action" not in module.heads:
        raise UserError(f"The model has the heads {join_names(module.heads)}; predicting needs one named 'action'.")
    head = module.heads["action"]
    _check_example(sidecar.example, head.action_horizon, head.action_dim)
    own: Notes = sidecar.config.get("xp", {})
    key = own.get("dataset") if unnorm_key is None else unnorm_key
    statistics = _chosen(by_dataset(sidecar.statistics), key)
    slots = _fed(_slots_of(sidecar, own, unnorm_key), camera_map)
    datasets = {name: normal_of(entry, "action") for name, entry in statistics.items()}
    for name, normal in datasets.items():
        _check_size(normal, head.action_dim, name)
    proprio = _proprio(model, sidecar, statistics)
    members = _members(own, statistics, head.action_dim, proprio) if key is None else None
    texts = text_inputs(model["task_tokenizers"].get("language"), own.get("tokenizer"), _max_length(sidecar))
    only = next(iter(datasets.values())) if len(datasets) == 1 else identity(head.action_dim)
    if members is not None:
        only = identity(members.action.mean.shape[1])
    prepare = Prepare(
        slots=slots,
        horizon=head.action_horizon,
        action_dim=head.action_dim,
        max_history=int(model["max_horizon"]),
        action=only,
        proprio=proprio,
        texts=texts,
        state_dim=_state_width(sidecar) if proprio is not None else 0,
        members=members,
    )
    spec = PolicySpec(
        horizon=head.action_horizon,
        action_dim=len(only.mean),
        state_dim=len(proprio.mean) if proprio is not None else 0,
        cameras={slot.camera: (slot.height, slot.width, 3) for slot in slots.values() if slot.camera},
        history=leaf_at(sidecar.example, "observation", "timestep_pad_mask").shape[1],
        language=texts is not None,
        optional_state=proprio is not None,
    )
    chosen = slots if camera_map or (unnorm_key is not None and own.get("members")) else None
    sidecar = _with_choices(sidecar, chosen, unnorm_key)
    return Assembly(network=Network(module), prepare=prepare, spec=spec, sidecar=sidecar, datasets=datasets)


def _with_choices(sidecar: OctoSidecar, slots: Mapping[str, Slot] | None, unnorm_key: str | None) -> OctoSidecar:
    """The sidecar with what was chosen in loading, so that a policy that is saved again is the same one."""
    chosen: Notes = {} if slots is None else {"cameras": camera_notes(slots)}
    if unnorm_key is not None and "action" not in sidecar.statistics:
        chosen["dataset"] = unnorm_key
    if not chosen:
        return sidecar
    return replace(sidecar, config={**sidecar.config, "xp": {**sidecar.config.get("xp", {}), **chosen}})


def _check_example(example: Tree[np.ndarray], horizon: int, action_dim: int) -> None:
    """The example batch shows the shapes of what the model was trained on: it must be a batch of this model."""
    if "timestep_pad_mask" not in branch(example, "observation"):
        raise UserError(
            f"example_batch.msgpack has no observation/timestep_pad_mask [B, T]; it has "
            f"{join_names(flatten(example))}. "
            "Give the example batch that was saved with the model."
        )
    shape = np.shape(leaf_at(example, "action")) if "action" in example else (1, 1, horizon, action_dim)
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


type _ByDataset = Mapping[str, Mapping[str, object]]


def _chosen(statistics: _ByDataset, unnorm_key: str | None) -> _ByDataset:
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


def _slots(sidecar: OctoSidecar, own: Notes) -> dict[str, Slot]:
    """Which dataset camera feeds which slot; a sidecar without our note names its cameras by the slots themselves."""
    if "cameras" in own:
        return {
            name: Slot(entry.get("camera"), entry["size"][0], entry["size"][1])
            for name, entry in own["cameras"].items()
        }
    slots, observation = {}, branch(sidecar.example, "observation")
    for tokenizer in sidecar.config["model"]["observation_tokenizers"].values():
        for pattern in _patterns(tokenizer, "obs_stack_keys"):
            for key in observation:
                if key.startswith("image_") and re.match(pattern, key):
                    name = key.removeprefix("image_")
                    slots[name] = Slot(name, *leaf_at(observation, key).shape[-3:-1])
    return slots


def _patterns(tokenizer: ModuleSpec, name: str) -> list[str]:
    """The keys of an observation that a tokenizer reads, as regular expressions."""
    given = tokenizer["kwargs"].get(name, ())
    if not isinstance(given, Sequence) or not all(isinstance(pattern, str) for pattern in given):
        raise UserError(
            f"config.json has {name}={given} of the tokenizer {tokenizer['name']}: expected a list of names. Give the "
            "config.json that was saved with the weights."
        )
    return [str(pattern) for pattern in given]


def _slots_of(sidecar: OctoSidecar, own: Notes, unnorm_key: str | None) -> dict[str, Slot]:
    """The slots; once a dataset of a mixture is chosen, fed by its cameras, and masked where it has none.

    Raises:
        UserError: another one was chosen and saved: its cameras feed the slots.
    """
    slots, members, before = _slots(sidecar, own), own.get("members", {}), own.get("dataset")
    if members and before is not None and unnorm_key not in (None, before):
        raise UserError(
            f"unnorm_key={unnorm_key}: this Octo was saved as that of the dataset '{before}', whose cameras feed it. "
            f"Give the folder that was trained on the mixture, or unnorm_key={before}."
        )
    if unnorm_key is None or unnorm_key not in members or before is not None:
        return slots
    cameras = members[unnorm_key]
    return {name: slot._replace(camera=cameras.get(slot.camera or "")) for name, slot in slots.items()}


def _members(own: Notes, statistics: _ByDataset, width: int, proprio: Normal | None) -> Members | None:
    """The normalisers of a mixture's datasets, by `member_index`; None for a policy of another kind."""
    names = tuple(own.get("members", ()))
    if len(names) < 2 or set(names) != set(statistics):
        return None
    action = [normal_of(statistics[name], "action") for name in names]
    state = [normal_of(statistics[name], "proprio") for name in names] if proprio is not None else []
    widest = max(len(normal.mean) for normal in action)
    return Members(
        names=names,
        action=MemberNormals.of(action, min(widest, width)),
        state=MemberNormals.of(state, max((len(normal.mean) for normal in state), default=0)),
    )


def _state_width(sidecar: OctoSidecar) -> int:
    return leaf_at(branch(sidecar.example, "observation"), "proprio").shape[-1]


def _proprio(model: ModelSpec, sidecar: OctoSidecar, statistics: _ByDataset) -> Normal | None:
    """Normaliser of the state where the model reads it."""
    tokenizers = model["observation_tokenizers"].values()
    reads = any(
        re.match(pattern, "proprio")
        for tokenizer in tokenizers
        if tokenizer["name"] in ("LowdimObsTokenizer", "StateTokenizer")
        for pattern in _patterns(tokenizer, "obs_keys")
    )
    observation = branch(sidecar.example, "observation")
    if not reads or "proprio" not in observation:
        return None
    if len(statistics) == 1:
        return normal_of(next(iter(statistics.values())), "proprio")
    return identity(leaf_at(observation, "proprio").shape[-1])


def _max_length(sidecar: OctoSidecar) -> int:
    task = branch(sidecar.example, "task") if "task" in sidecar.example else {}
    instruction = task.get("language_instruction")
    return leaf_at(instruction, "input_ids").shape[1] if isinstance(instruction, Mapping) else 16
