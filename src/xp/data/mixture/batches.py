"""Training batches of a mixture: a pure function of (mixture, seed, step), with exact shares."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, UInt64

from xp.data.batches import Batches
from xp.data.mixture.draw import Draws
from xp.data.mixture.members import Mixture
from xp.data.mixture.weights import Stratum, strata
from xp.data.mixture.windows import MixtureWindows
from xp.json_types import JSONObject

_ORDER, _PHASE = 0, 3
"""Streams of random numbers; those of `xp.data.batches` are other sequences, since they have no name's words."""


class MixtureBatches(Batches):
    """An endless sequence of training batches of a mixture.

    Batch k holds places kB .. kB+B-1 of one sequence. Whose a place is `Draws` says: a dataset's, or one of its tasks'
    where tasks have weights (a stratum). The windows of a stratum come in shuffled epochs: each once, or, where its
    episodes have weights, as often as these ask, to within one. Nothing depends on what was asked before.

    Args:
        windows: the training windows of all datasets.
        batch_size: as of `Batches`; also the others.
        seed: see there.
        drop_rate: see there.
        augment: see there.
    """

    def __init__(
        self,
        windows: MixtureWindows,
        *,
        batch_size: int,
        seed: int,
        drop_rate: float = 0.0,
        augment: bool = False,
    ) -> None:
        super().__init__(windows, batch_size=batch_size, seed=seed, drop_rate=drop_rate, augment=augment)
        self._names = windows.names
        self._whose, self._strata = _all_strata(windows)
        mass = np.bincount(self._whose, [each.mass for each in self._strata], len(self._names))
        weights = [member.options.weight for member in windows.mixture.members]
        shares = [
            weights[whose] * each.mass / mass[whose] for whose, each in zip(self._whose, self._strata, strict=True)
        ]
        self._draws = Draws(shares, int(_words(seed, _PHASE, 0, "", 1)[0]))
        self._first = windows.first
        self._of_epoch = lru_cache(maxsize=2 * len(self._strata))(self._epoch_of)

    def indices(self, step: int) -> Int[np.ndarray, " batch"]:
        """The window numbers [B] int64 of the batch at `step` (from 0)."""
        if step < 0:
            raise IndexError(f"steps count from 0, asked for {step}")
        parts, numbers = self._draws.numbered(step * self.batch_size, (step + 1) * self.batch_size)
        found = np.empty(self.batch_size, np.int64)
        for part in np.unique(parts):
            rows = np.flatnonzero(parts == part)
            epoch, place = np.divmod(numbers[rows], len(self._strata[part].windows))
            for number in np.unique(epoch):
                own = epoch == number
                found[rows[own]] = self._of_epoch(int(part), int(number))[place[own]]
        return found

    def shares(self, steps: int) -> dict[str, JSONObject]:
        """Of each dataset the share that was asked for and that of the samples of `steps` batches, and of its tasks
        where these have weights.
        """
        counts, total = self._draws.before(steps * self.batch_size), max(steps * self.batch_size, 1)
        found: dict[str, JSONObject] = {}
        for place, name in enumerate(self._names):
            own = [number for number, whose in enumerate(self._whose) if whose == place]
            entry = _share(sum(self._draws.shares[n] for n in own), sum(counts[n] for n in own), total)
            tasks = {
                self._strata[n].name: _share(self._draws.shares[n], counts[n], total)
                for n in own
                if self._strata[n].name
            }
            found[name] = {**entry, "tasks": tasks} if tasks else entry
        return found

    def _epoch_of(self, part: int, epoch: int) -> Int[np.ndarray, " windows"]:
        """Window numbers of one epoch of a stratum, in their order."""
        stratum, whose = self._strata[part], self._whose[part]
        name = f"{self._names[whose]}\0{stratum.name}"
        count = len(stratum.windows)
        words = _words(self.seed, _ORDER, epoch, name, count + 1)
        order = np.argsort(words[:count], kind="stable")
        if stratum.weights is not None:
            order = systematic(stratum.weights, (int(words[count]) >> 11) * 2.0**-53)[order]
        return self._first[whose] + stratum.windows[order]


def systematic(weights: Float[np.ndarray, " windows"], offset: float) -> Int[np.ndarray, " windows"]:
    """As many places as there are weights, each weight's number of times among them within one of its due.

    Systematic sampling (Madow and Madow, "On the theory of systematic sampling", 1944): what the running sum of the
    weights, scaled to n, passes at offset, offset + 1, ..., offset + n - 1. A weight of 0 is never passed.

    Args:
        weights: [n], 0 or more, one at least above 0.
        offset: in [0, 1).
    """
    ends = np.cumsum(weights)
    ends *= len(weights) / ends[-1]
    found = np.searchsorted(ends, np.arange(len(weights)) + offset, side="right")
    return np.minimum(found, np.flatnonzero(weights)[-1])


def _all_strata(windows: MixtureWindows) -> tuple[list[int], list[Stratum]]:
    """Whose each stratum is, and the strata, dataset after dataset."""
    whose: list[int] = []
    found: list[Stratum] = []
    for place, member in enumerate(windows.mixture.members):
        own = strata(member.options, member.dataset, windows.parts[place].episodes, member.weights)
        whose += [place] * len(own)
        found += own
    return whose, found


def _share(asked: float, count: int, total: int) -> JSONObject:
    return {"asked": asked, "realised": count / total, "samples": count}


def _words(seed: int, stream: int, number: int, name: str, count: int) -> UInt64[np.ndarray, " {count}"]:
    """`count` uniform words, a pure function of the arguments; see `xp.data.batches.random_words`."""
    key: Sequence[int] = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4").tolist()
    return np.random.Philox(np.random.SeedSequence([seed, stream, number, *key])).random_raw(count)


def unused_mixture(mixture: Mixture) -> list[str]:
    """What some datasets have and a batch of the mixture has not, in words for the log."""
    found = []
    for member in mixture.members:
        data = member.dataset
        left = [*data.columns, *(["groups of dimensions"] if data.groups is not None else [])]
        if data.environment_dim and not mixture.environment_dim:
            left.append("observation.environment_state")
        if left:
            found.append(f"{member.name}: not used in a mixture: {', '.join(left)}")
    return found
