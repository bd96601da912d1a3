"""A LeRobot policy of a mixture: windows are normalised by their own dataset's statistics before LeRobot sees them.

LeRobot's processors hold statistics of one dataset. In training they hold such as change nothing (mean 0, deviation 1,
bounds -1 and 1), and each window comes to them as its own dataset's statistics make it. Once a dataset is chosen
(`unnorm_key`) its statistics stand in the processors and the folder that is saved is a plain one. Until then its
preprocessor has a step that no LeRobot knows, so that its tools refuse the folder instead of taking normalised numbers
for actions.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Shaped

from xp.atomic import write_json
from xp.errors import UserError
from xp.foreign.json_file import Fields, read_object
from xp.foreign.paths import member as member_file
from xp.foreign.statistics import FeatureStatistics, checked_statistics
from xp.models.lerobot.inputs import ACTION, STATE
from xp.models.members import MEMBER, MemberNormals, members_of, not_chosen
from xp.models.normal import Normal
from xp.models.policy import Batch

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig

STATISTICS = "dataset_statistics.json"
"""Beside the policy of a mixture: {dataset: its statistics}, in the form of Octo's file of that name."""
TO_BE_CHOSEN = "xp_dataset_to_be_chosen"
"""The step in the preprocessor of a mixture's policy."""
DIM_IS_PAD = "action_dim_is_pad"
"""[B, A] bool: dimensions of the action that a window's dataset does not have."""
_WHAT = "statistics of each dataset of a mixture"
_FEATURES = {ACTION: "action", STATE: "proprio"}
_ENDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("p01", "p99")}


@dataclass(frozen=True)
class Members:
    """The datasets of a mixture, by `member_index` of a batch."""

    names: tuple[str, ...]
    statistics: Mapping[str, Mapping[str, FeatureStatistics]]
    """{dataset: {action, proprio}}, as wide as its own numbers."""
    cameras: Mapping[str, Mapping[str, str]]
    """{dataset: {camera of the mixture: the dataset's own}}."""
    action: MemberNormals
    state: MemberNormals
    modes: Mapping[str, str]
    """How the policy normalises: {feature: a mode of LeRobot}."""

    def normalise(self, batch: Batch) -> Batch:
        """A batch in units of its datasets as a normalised one, with `action_dim_is_pad` where it has actions."""
        member = members_of(batch, self.names)
        found = {name: value for name, value in batch.items() if name != MEMBER}
        for key, normals in ((STATE, self.state), (ACTION, self.action)):
            if batch.get(key) is not None and normals.mean.shape[1]:
                found[key] = normals.normalize(np.asarray(batch[key], np.float32), member)
        if ACTION in batch and len(set(self.action.widths)) > 1:
            found[DIM_IS_PAD] = ~self.action.there(member)
        return found

    def actions(self, normalised: Shaped[np.ndarray, "batch horizon _"], name: str) -> np.ndarray:
        """Normalised actions in units of a dataset, of its width."""
        place = self.names.index(name)
        width = self.action.widths[place]
        normal = Normal(*(each[place, :width] for each in (self.action.mean, self.action.std, self.action.mask)))
        return normal.unnormalize(normalised[..., :width])

    def chosen(self, name: str | None) -> str:
        """The name, if it is one of them.

        Raises:
            UserError: it is none, or nothing was chosen.
        """
        if name is None or name not in self.names:
            raise UserError(not_chosen(name, self.names))
        return name

    def features_of(self, name: str) -> dict[str, dict[str, torch.Tensor]]:
        """Statistics of a dataset under LeRobot's names, padded: by each mode they do what training did."""
        place, found = self.names.index(name), {}
        for key, normals in ((STATE, self.state), (ACTION, self.action)):
            if normals.mean.shape[1]:
                middle, scale = torch.from_numpy(normals.mean[place]), torch.from_numpy(normals.std[place])
                low, high = middle - scale, middle + scale
                found[key] = {"mean": middle, "std": scale, "min": low, "max": high, "q01": low, "q99": high}
        return found


def members_from(
    statistics: Mapping[str, Mapping[str, FeatureStatistics]],
    cameras: Mapping[str, Mapping[str, str]],
    config: "PreTrainedConfig",
    widths: tuple[int, int],
) -> Members:
    """The members of a policy.

    Args:
        statistics: {dataset: {action, proprio}}; the order is that of `member_index`.
        cameras: {dataset: {camera of the mixture: the dataset's own}}.
        config: says how the policy normalises.
        widths: of the widest action and state.
    """
    mapping: Mapping[Any, Any] = getattr(config, "normalization_mapping")  # noqa: B009 - not every class declares it
    named = {str(getattr(kind, "value", kind)): str(getattr(mode, "value", mode)) for kind, mode in mapping.items()}
    modes = {ACTION: named.get("ACTION", "IDENTITY"), STATE: named.get("STATE", "IDENTITY")}
    for feature, mode in modes.items():
        if mode not in ("MEAN_STD", "IDENTITY", *_ENDS):
            raise UserError(
                f"data.mix: the policy type '{config.type}' normalises '{feature}' by {mode}, which xp cannot do for "
                "each dataset. Take one that uses MEAN_STD, MIN_MAX or QUANTILES (model=act, model=diffusion)."
            )
    action, state = (
        MemberNormals.of([_normal(entry[_FEATURES[key]], modes[key]) for entry in statistics.values()], width)
        for key, width in zip((ACTION, STATE), widths, strict=True)
    )
    return Members(tuple(statistics), statistics, cameras, action, state, modes)


def _normal(entry: FeatureStatistics, mode: str) -> Normal:
    """(x - middle) / scale as the mode does it; what never changes is 0, and comes back as it was."""
    mean = np.asarray(entry["mean"], np.float32)
    if mode == "IDENTITY":
        return Normal(0 * mean, np.ones_like(mean), np.zeros(mean.shape, bool))
    varies = np.asarray(entry.get("mask", np.ones(mean.shape, bool)), bool)
    middle, scale = mean, np.asarray(entry["std"], np.float32)
    if mode in _ENDS:
        low, high = (np.asarray(entry[end], np.float32) for end in _ENDS[mode])
        middle, scale = (low + high) / 2, (high - low) / 2
        varies = varies & (scale > 0)
    return Normal(middle, np.where(varies, scale, np.float32(1.0)), np.ones(mean.shape, bool))


def write_members(folder: Path, members: Members) -> None:
    """Write the statistics of all datasets beside the policy, and let LeRobot's own tools refuse it."""
    write_json(folder / STATISTICS, dict(members.statistics))
    path = folder / "policy_preprocessor.json"
    processor = json.loads(path.read_text(encoding="utf-8"))
    processor["steps"].insert(0, {"registry_name": TO_BE_CHOSEN, "config": {"datasets": list(members.names)}})
    write_json(path, processor)


def read_statistics(folder: Path) -> dict[str, dict[str, FeatureStatistics]]:
    """What `write_members` wrote, each entry checked.

    Raises:
        RefusedError: the file is missing or damaged.
    """
    path = member_file(folder, STATISTICS, _WHAT)
    found: dict[str, dict[str, FeatureStatistics]] = {}
    for name, entry in Fields(read_object(path, _WHAT), str(path)).objects():
        found[name] = {
            key: checked_statistics(entry.content.get(key), f"{key} of {name} in {path}")
            for key in ("action", "proprio")
        }
    return found


def know_step() -> None:
    """Tell LeRobot in this process of the step, so that a folder that has it can be read."""
    from lerobot.processor import ObservationProcessorStep, ProcessorStepRegistry

    if TO_BE_CHOSEN in ProcessorStepRegistry.list():
        return

    class DatasetToBeChosen(ObservationProcessorStep):
        """Stands where a dataset's statistics would; it is taken out when a policy is read."""

        def __init__(self, datasets: Sequence[str] = ()) -> None:
            self.datasets = list(datasets)

        def observation(self, observation: Any) -> Any:
            """Nothing that it could give would be right."""
            raise UserError(not_chosen(None, self.datasets))

        def transform_features(self, features: Any) -> Any:
            """As they are."""
            return features

        def get_config(self) -> dict[str, Any]:
            """What it was made with."""
            return {"datasets": self.datasets}

    ProcessorStepRegistry.register(TO_BE_CHOSEN)(DatasetToBeChosen)


@contextmanager
def padded_dimensions_left_out(is_pad: Bool[torch.Tensor, "batch action"], policy_type: str) -> Iterator[None]:
    """Meanwhile elementwise losses of actions are 0 where a dataset has no such dimension, and means are over the rest.

    LeRobot's policies compute `l1_loss` or `mse_loss` without reduction and then a mean over all dimensions; their
    values are multiplied by A over the mean number of real dimensions, so that it is one over these.

    Raises:
        UserError: the policy computed no such loss, so that nothing could be left out.
    """
    mode = _Masking(is_pad)
    with mode:
        yield
    if not mode.found:
        raise UserError(
            f"data.mix: the policy type '{policy_type}' computes its loss in a way from which xp cannot leave out the "
            "dimensions that a dataset does not have. Take datasets of one width, or another model (model=act, "
            "model=diffusion, model=octo_tiny)."
        )


class _Masking(torch.overrides.TorchFunctionMode):
    """Masks elementwise losses [B, H, A] of actions."""

    def __init__(self, is_pad: torch.Tensor) -> None:
        super().__init__()
        real = ~is_pad
        self._factor = (real * (real.numel() / real.sum()))[:, None]
        self.found = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in (torch.nn.functional.l1_loss, torch.nn.functional.mse_loss) and isinstance(found, torch.Tensor):
            batch, _, width = self._factor.shape
            if found.ndim == 3 and found.shape[0] == batch and found.shape[2] == width:
                self.found += 1
                return found * self._factor.to(found.dtype)
        return found
