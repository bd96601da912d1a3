"""openpi's norm_stats.json: what states and actions are normalised by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64

from xp import atomic
from xp.checkpoints.sidecar import statistics_files
from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import RefusedError, inside
from xp.foreign.statistics import checked_statistics
from xp.foreign.text import printable

FILE, ASSETS = "norm_stats.json", "assets"
WHAT = "a policy's statistics"
_EPSILON = 1e-6
_MOST = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Statistics of a vector by dimension; the quantiles are None where a file has none."""

    mean: Float64[np.ndarray, " dim"]
    std: Float64[np.ndarray, " dim"]
    q01: Float64[np.ndarray, " dim"] | None = None
    q99: Float64[np.ndarray, " dim"] | None = None

    @property
    def width(self) -> int:
        """How many dimensions they are of."""
        return len(self.mean)


@dataclass(frozen=True)
class Scale:
    """Normalises by quantiles (to -1..1 between q01 and q99), or by mean and deviation; further dimensions pass.

    The formulas are those of openpi's transforms.py: an epsilon of 1e-6 is added to the width of the range or to the
    deviation, both ways, nothing is clipped, and it is done in float64, since states then become whole numbers.
    """

    stats: Stats
    by_quantiles: bool

    def normalize(self, values: Float[np.ndarray, "*lead dim"]) -> Float64[np.ndarray, "*lead dim"]:
        """The first dimensions normalised."""
        known, rest = self._parts(values)
        low, width = self._line()
        scaled = (known - low) / width * 2 - 1 if self.by_quantiles else (known - low) / width
        return np.concatenate([scaled, rest], axis=-1)

    def unnormalize(self, values: Float[np.ndarray, "*lead dim"]) -> Float32[np.ndarray, "*lead dim"]:
        """Undo `normalize`; by deviations further dimensions have a deviation of 1, to which the epsilon is added."""
        known, rest = self._parts(values)
        low, width = self._line()
        found = (known + 1) / 2 * width + low if self.by_quantiles else known * width + low
        rest = rest if self.by_quantiles else rest * (1 + _EPSILON)
        return np.concatenate([found, rest], axis=-1).astype(np.float32)

    def _parts(self, values: Float[np.ndarray, "*lead dim"]) -> tuple[np.ndarray, np.ndarray]:
        assert values.shape[-1] >= self.stats.width, f"{values.shape[-1]} values by statistics of {self.stats.width}"
        wide = values.astype(np.float64)
        return wide[..., : self.stats.width], wide[..., self.stats.width :]

    def _line(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the normalised range begins, and how wide it is."""
        if not self.by_quantiles:
            return self.stats.mean, self.stats.std + _EPSILON
        assert self.stats.q01 is not None and self.stats.q99 is not None
        return self.stats.q01, self.stats.q99 - self.stats.q01 + _EPSILON


@dataclass(frozen=True, kw_only=True)
class NormStats:
    """The statistics of a policy; `state` is of the states that the model reads, `actions` of what it learns."""

    state: Stats
    actions: Stats

    def scales(self, by_quantiles: bool, where: str) -> tuple[Scale, Scale]:
        """How states and actions are normalised.

        Args:
            by_quantiles: as pi0.5 is, or by mean and deviation, as pi0 is.
            where: where the statistics come from, for the message.

        Raises:
            UserError: there are no quantiles.
        """
        for name, stats in (("state", self.state), ("actions", self.actions)):
            if by_quantiles and (stats.q01 is None or stats.q99 is None):
                raise UserError(
                    f"{where} has no q01 and q99 of '{name}', by which pi0.5 normalises. Compute the statistics again "
                    "from the dataset (`xp task=train` does, and openpi's compute_norm_stats.py), or give the file "
                    "that was saved with the policy."
                )
        return Scale(self.state, by_quantiles), Scale(self.actions, by_quantiles)

    def content(self) -> dict[str, object]:
        """As the file holds them."""
        both = {"state": self.state, "actions": self.actions}
        return {"norm_stats": {name: _lists(stats) for name, stats in both.items()}}

    def write(self, path: Path) -> None:
        """Write the file; the caller makes the folder atomic."""
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, self.content(), durable=False)


def write_assets(folder: Path, assets: Mapping[str, NormStats]) -> None:
    """Write `assets/ASSET_ID/norm_stats.json` of each {asset id: statistics}; the caller makes the folder atomic.

    Raises:
        RefusedError: an id that leads out of the folder.
    """
    for asset, statistics in assets.items():
        statistics.write(inside(folder / ASSETS, f"{asset}/{FILE}", "a policy's asset id"))


def read_norm_stats(path: Path) -> NormStats:
    """The statistics of a norm_stats.json.

    Raises:
        RefusedError: missing, damaged, without `state` or `actions`, or with numbers that nothing is normalised by.
    """
    entries = read_fields(path, WHAT).object("norm_stats")
    return NormStats(state=_read(entries.object("state")), actions=_read(entries.object("actions")))


def chosen_statistics(folder: Path, asset_id: str | None) -> tuple[NormStats, str]:
    """The statistics of an asset of a folder (None: the only one), and its id.

    Raises:
        UserError: there are none, not those that were asked for, or several and none was chosen.
    """
    files = statistics_files(folder)
    found = {name.removeprefix(f"{ASSETS}/").removesuffix(f"/{FILE}"): files[name] for name in files}
    found = {name: file for name, file in found.items() if file.name == FILE}
    if not found:
        raise UserError(
            f"The pi0 in {folder} has no statistics, and without them its actions mean nothing: looked for "
            f"{ASSETS}/ASSET_ID/{FILE}. Copy the folder {ASSETS} from where the checkpoint came from."
        )
    assets = [name for name in found if name != FILE] or [FILE]
    chosen = asset_id if asset_id is not None else assets[0] if len(assets) == 1 else None
    if chosen is None or chosen not in found:
        given = "none was chosen" if chosen is None else f"'{printable(chosen)}' is none of them"
        raise UserError(
            f"The pi0 in {folder} has statistics of {join_names(assets)}, and {given}"
            f"{did_you_mean(chosen or '', assets)}. Choose one of them: asset_id={assets[0]}"
        )
    return read_norm_stats(found[chosen]), chosen


def stats_of(entry: Mapping[str, object]) -> Stats:
    """One entry of a dataset's statistics (see `xp.models.policy.Statistics`), whose p01 and p99 are quantiles.

    A dimension that never changes has no width: 1 stands for its deviation.
    """
    mean, std = (np.asarray(entry[name], np.float64) for name in ("mean", "std"))
    mask = np.asarray(entry.get("mask", np.ones(mean.shape, bool)), bool)
    named = {"q01": entry.get("p01", entry.get("q01")), "q99": entry.get("p99", entry.get("q99"))}
    low, high = (None if each is None else np.asarray(each, np.float64) for each in named.values())
    if low is not None and high is not None:
        still = ~mask
        low, high = np.where(still, mean - 1, low), np.where(still, mean + 1, high)
    return Stats(mean=mean, std=np.where(mask, std, 1.0), q01=low, q99=high)


def _read(fields: Fields) -> Stats:
    given = {name: fields.content.get(name) for name in ("mean", "std", "q01", "q99")}
    checked_statistics({name: value for name, value in given.items() if value is not None}, fields.place("mean"))
    found = {name: np.asarray(value, np.float64) for name, value in given.items() if value is not None}
    shape = found["mean"].shape
    if len(shape) != 1 or not 1 <= shape[0] <= _MOST:
        raise RefusedError(f"{fields.place('mean')} has shape {list(shape)}: expected a list of numbers.")
    return Stats(mean=found["mean"], std=found["std"], q01=found.get("q01"), q99=found.get("q99"))


def _lists(stats: Stats) -> dict[str, list[float] | None]:
    values = {"mean": stats.mean, "std": stats.std, "q01": stats.q01, "q99": stats.q99}
    return {name: None if each is None else [float(number) for number in each] for name, each in values.items()}
