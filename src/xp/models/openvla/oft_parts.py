"""The parts of an OpenVLA-OFT that lie beside its weights: read from files of torch, every weight by its name."""

from collections.abc import Mapping
from pathlib import Path

from xp.checkpoints.arrays import AnyArray
from xp.checkpoints.torch_archive import load_floats
from xp.errors import UserError
from xp.foreign.paths import member
from xp.foreign.text import printable
from xp.models.misfit import misfit
from xp.models.openvla.oft import PARTS
from xp.models.openvla.sizes import Shapes

_PREFIX = "module."
"""What torch's DDP puts before each name."""
_NOISE = "noise_predictor."
"""How the names of a diffusion head begin."""


def read_parts(folder: Path, files: Mapping[str, str]) -> dict[str, AnyArray]:
    """The weights of the parts by their names here, in their own types.

    Args:
        folder: an OpenVLA-OFT's.
        files: {part: its file}, see `oft.component_files`.

    Raises:
        UserError: a file that is no weights (see `load_floats`), a diffusion head, or a name that stands twice.
    """
    found: dict[str, AnyArray] = {}
    for part, file in files.items():
        what = f"the {part} of an OpenVLA-OFT"
        arrays = load_floats(member(folder, file, what), what, "Copy it again from where it was trained.")
        for given, array in arrays.items():
            plain = given.removeprefix(_PREFIX)
            if plain.startswith(_NOISE):
                raise UserError(
                    f"{folder / file} is a diffusion head ({printable(given, 200)}; use_diffusion=True), which xp's "
                    "OpenVLA does not have. Give a policy with the L1 head or with tokens."
                )
            if PARTS[part] + plain in found:
                raise UserError(f"{folder / file} holds {printable(plain, 200)} twice, with {_PREFIX} and without it.")
            found[PARTS[part] + plain] = array
    return found


def check_parts(folder: Path, files: Mapping[str, str], found: Shapes, wanted: Shapes) -> None:
    """Refuse a part whose weights are not those that the network has in its place, each and no other.

    Args:
        folder: an OpenVLA-OFT's.
        files: {part: its file}.
        found: the weights of all parts.
        wanted: the weights of the network.

    Raises:
        UserError: the file, and what is missing, too many or of another shape.
    """
    for part, file in files.items():
        begin = PARTS[part]
        own, there = (
            {name.removeprefix(begin): shape for name, shape in shapes.items() if name.startswith(begin)}
            for shapes in (found, wanted)
        )
        said = misfit(own, there)
        if said:
            raise UserError(
                f"{folder / file} is not the {part} of these weights and statistics: it {said}. Give the file that was "
                "saved with them."
            )
