"""The policy folder of families of one network: xp_policy.json, dataset_statistics.json and model.safetensors.

xp_policy.json says the family, its options, what the policy takes and gives, and its rate; the statistics have the form
that merging pools; the weights are float arrays by name. Reading checks every field, and every weight against the
network's before any memory is taken for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xp import atomic
from xp.errors import UserError
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import member
from xp.json_types import JSONObject
from xp.models.misfit import misfit
from xp.models.policy import PolicySpec
from xp.models.trainable import LoadReport

if TYPE_CHECKING:
    import numpy as np

POLICY, STATISTICS, WEIGHTS = "xp_policy.json", "dataset_statistics.json", "model.safetensors"
_WHAT, _WEIGHTS, _STATISTICS = "a policy's description", "a policy's weights", "a policy's statistics"
_MOST = 1_000_000
"""The most steps or dimensions of anything."""
_SIDE = 1 << 14
"""The most pixels along a side of a picture."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """All that a policy is but its weights. The cameras of `spec` have the policy's own names."""

    family: str
    options: JSONObject
    spec: PolicySpec
    fed: Mapping[str, str]
    """{the policy's own name of a camera: the camera that feeds it}."""
    fps: float
    statistics: Mapping[str, object]

    def write(self, folder: Path) -> None:
        """Write xp_policy.json and dataset_statistics.json."""
        spec = self.spec
        content = {
            "family": self.family,
            "options": dict(self.options),
            "fps": self.fps,
            "horizon": spec.horizon,
            "action_dim": spec.action_dim,
            "state_dim": spec.state_dim,
            "environment_dim": spec.environment_dim,
            "history": spec.history,
            "language": spec.language,
            "cameras": {
                name: {"size": list(size[:2]), "fed_by": self.fed[name]} for name, size in spec.cameras.items()
            },
        }
        atomic.write_json(folder / POLICY, content)
        atomic.write_json(folder / STATISTICS, self.statistics)


def family_in(folder: Path) -> str | None:
    """The family that a folder's xp_policy.json names; None where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    if not (folder / POLICY).exists():
        return None
    return read_fields(member(folder, POLICY, _WHAT), _WHAT).text("family", most=200)


def read_description(folder: Path) -> Description:
    """What the policy in a folder is but its weights; the options are not yet checked.

    Raises:
        UserError: a file is missing or damaged, or a field is not what it should be.
    """
    fields = read_fields(member(folder, POLICY, _WHAT), _WHAT)
    cameras = {name: entry for name, entry in fields.object("cameras").objects()}
    sizes = {name: entry.integers("size", count=2, low=1, high=_SIDE) for name, entry in cameras.items()}
    return Description(
        family=fields.text("family", most=200),
        options=fields.object("options").content,
        spec=PolicySpec(
            horizon=_count(fields, "horizon", 1),
            action_dim=_count(fields, "action_dim", 1),
            state_dim=_count(fields, "state_dim", 0),
            environment_dim=_count(fields, "environment_dim", 0),
            cameras={name: (size[0], size[1], 3) for name, size in sizes.items()},
            history=_count(fields, "history", 1),
            language=fields.flag("language"),
            actions_before=0,
        ),
        fed={name: entry.text("fed_by", most=200) for name, entry in cameras.items()},
        fps=fields.number("fps", low=1e-6, high=1e6),
        statistics=read_fields(member(folder, STATISTICS, _STATISTICS), _STATISTICS).content,
    )


def _count(fields: Fields, name: str, low: int) -> int:
    return fields.integer(name, low=low, high=_MOST)


def write_weights(folder: Path, arrays: "Mapping[str, np.ndarray]") -> None:
    """Write model.safetensors; the caller makes the folder atomic."""
    from xp.checkpoints.safetensors import write_arrays

    write_arrays(folder / WEIGHTS, arrays)


def read_weights(folder: Path, wanted: Mapping[str, tuple[int, ...]] | None) -> "dict[str, np.ndarray]":
    """The arrays of model.safetensors.

    Args:
        folder: the policy's folder.
        wanted: shape by name of the network's weights, which must be those of the file, each and no other; None reads
            what there is.

    Raises:
        UserError: a missing or damaged file; or, before its data is read, weights that the file lacks, has too many, or
            has in another shape.
    """
    from xp.checkpoints.arrays import CorruptFileError
    from xp.checkpoints.safetensors import open_safetensors

    place = member(folder, WEIGHTS, _WEIGHTS)
    try:
        reader = open_safetensors((place,), what=_WEIGHTS)
        if wanted is not None:
            check_fit(folder, {name: leaf.shape for name, leaf in reader.leaves.items()}, wanted)
        return reader.load()
    except CorruptFileError as error:
        raise UserError(f"{place} is damaged: {error}. Copy the file again from where it came from.") from error


def read_fitting_weights(
    folder: Path, wanted: Mapping[str, tuple[int, ...]]
) -> "tuple[dict[str, np.ndarray], LoadReport]":
    """The weights of a folder that a new network can start from, and what became of each of both.

    Args:
        folder: the folder of a policy of the same family.
        wanted: shape by name of the new network's weights.

    Returns:
        The arrays whose name and shape are those of a wanted one, and the report: these are loaded, the other wanted
        ones stay as they were drawn, the other arrays of the file are dropped.

    Raises:
        UserError: a missing or damaged file.
    """
    found = read_weights(folder, None)
    fits = {name: array for name, array in found.items() if wanted.get(name) == array.shape}
    report = LoadReport(
        source=str(folder),
        loaded=tuple(fits),
        initialised=tuple(name for name in wanted if name not in fits),
        dropped=tuple(name for name in found if name not in fits),
    )
    return fits, report


def check_fit(
    folder: Path,
    found: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    described: str = POLICY,
    weights: str = WEIGHTS,
) -> None:
    """Refuse weights that are not those of the network.

    Args:
        folder: where they lie.
        found: shape by name of the weights in the file.
        wanted: shape by name of the network's.
        described: the file that says what the network is.
        weights: the file of the weights.

    Raises:
        UserError: one is missing, too many, or of another shape.
    """
    said = misfit(found, wanted)
    if said:
        raise UserError(
            f"The weights in {folder} do not fit its own {described}: {weights} {said}. The folder is "
            "damaged, or was written by another version of the policy: take it again from where it was trained."
        )
