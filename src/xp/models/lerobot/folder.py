"""Reads and writes LeRobot's `pretrained_model` folder, every weight checked by its name and shape.

LeRobot's `from_pretrained` loads with `strict=False` and only logs what did not fit, so that a policy with half its
weights drawn at random passes for a loaded one. Nothing here goes through it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch

from xp.atomic import write_json
from xp.errors import UserError
from xp.foreign.bounds import allowance
from xp.foreign.paths import RefusedError, member
from xp.foreign.safetensors_header import Header, read_safetensors_header
from xp.models.lerobot.sidecar import CONFIG, WEIGHTS, XP
from xp.models.misfit import misfit
from xp.models.trainable import LoadReport

if TYPE_CHECKING:
    from lerobot.policies.pretrained import PreTrainedPolicy

    from xp.models.lerobot.processors import Processors

_WHAT = "a policy's weights"
STATISTICS = ("action_delta_mean", "action_delta_std")


def weights_header(folder: Path) -> Header:
    """The header of model.safetensors, checked against the file.

    Raises:
        UserError: the file is missing, damaged or a link out of the folder.
    """
    try:
        return read_safetensors_header(member(folder, WEIGHTS, _WHAT), _WHAT)
    except RefusedError as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read: {error}") from error


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of model.safetensors, on the CPU; raises as `weights_header` does."""
    from safetensors.torch import load_file

    weights_header(folder)
    try:
        return load_file(folder / WEIGHTS)
    except Exception as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({error}). Copy the file again.") from error


def check_shapes(module: torch.nn.Module, folder: Path) -> None:
    """Compare a module that may have no memory yet (device meta) with the header of the folder's weights.

    Raises:
        UserError: as `load_exactly`; or the module keeps more besides its weights than the size of the file explains.
    """
    header = weights_header(folder)
    _check_fit(module, {name: tensor.shape for name, tensor in header.tensors.items()}, folder)
    kept = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
    size = (folder / WEIGHTS).stat().st_size
    if kept > allowance(size):
        raise UserError(
            f"{folder / CONFIG} describes a policy with tables of {kept:,} bytes beside weights of {size:,} bytes, "
            "more than any policy has. Take the folder again from where it was trained."
        )


def load_exactly(module: torch.nn.Module, folder: Path) -> None:
    """Put the weights of a folder into a module, every one accounted for.

    Raises:
        UserError: a weight of the module that the file lacks, one too many, or one of another shape.
    """
    weights = read_weights(folder)
    _check_fit(module, {name: tuple(tensor.shape) for name, tensor in weights.items()}, folder)
    module.load_state_dict(weights, strict=not _shared(module.state_dict()))


def load_by_name(module: torch.nn.Module, folder: Path) -> LoadReport:
    """Start a module from the weights of a folder that fit by name and shape; what became of each is reported.

    Statistics of action differences, which act_smooth keeps among its buffers, stay those of the new dataset.
    """
    weights, wanted = read_weights(folder), module.state_dict()
    weights |= {name: wanted[name] for name in STATISTICS if name in weights and name in wanted}
    fits = {name: w for name, w in weights.items() if name in wanted and wanted[name].shape == w.shape}
    shared = _shared(wanted)
    module.load_state_dict(fits, strict=False)
    return LoadReport(
        source=str(folder),
        loaded=tuple(fits),
        initialised=tuple(n for n in wanted if n not in fits and not shared.get(n, set()) & fits.keys()),
        dropped=tuple(name for name in weights if name not in fits),
    )


class Notes(TypedDict):
    """What xp notes of a policy in xp.json: {image input: camera}, steps per second, the model's name."""

    cameras: Mapping[str, str]
    fps: float | None
    name: str
    members: NotRequired[Mapping[str, Mapping[str, str]]]
    """Of a mixture: {dataset: {camera of the mixture: the dataset's own}}."""
    widths: NotRequired[list[int]]
    """Dimensions of action and state in use, where a dataset of a mixture was chosen and the network is wider."""


def write_folder(folder: Path, module: "PreTrainedPolicy", processors: "Processors", notes: Notes) -> None:
    """Write what `lerobot-eval` and `lerobot-rollout` load: configuration, weights, both processors; and xp's notes."""
    folder.mkdir(parents=True, exist_ok=True)
    module.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    write_json(folder / XP, dict(notes))


def _check_fit(module: torch.nn.Module, weights: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    state = module.state_dict()
    shared = _shared(state)
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if name in weights or not shared.get(name, set()) & weights.keys()
    }
    said = misfit({name: tuple(shape) for name, shape in weights.items()}, wanted)
    if said:
        raise UserError(
            f"The weights in {folder} do not fit its own config.json: {WEIGHTS} {said}. The folder is damaged, or was "
            "written by another version of the policy: take it again from where it was trained."
        )


def _shared(tensors: Mapping[str, torch.Tensor]) -> dict[str, set[str]]:
    """For weights that share memory with others (tied embeddings), the others: safetensors stores one of them."""
    by_memory: dict[tuple[int, tuple[int, ...]], set[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            place = tensor.untyped_storage()._cdata if tensor.is_meta else tensor.data_ptr()
            by_memory.setdefault((place, tuple(tensor.shape)), set()).add(name)
    return {name: names - {name} for names in by_memory.values() if len(names) > 1 for name in names}
