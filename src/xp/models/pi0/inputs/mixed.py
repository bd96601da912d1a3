"""Batches of several datasets to the inputs of a pi0: each row as a policy of its own dataset prepares it; pure numpy.

Letters: B batch, D dimensions of states and actions in the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from xp.errors import UserError
from xp.models.members import MEMBER, member_asked_for, members_of, not_chosen
from xp.models.observation import STATE, TASK
from xp.models.pi0.inputs.prepare import ACTION, IS_PAD, NOISE, TIME, Prepare
from xp.models.policy import Batch
from xp.models.transforms import DROPPED

DIM_IS_PAD = "action_dim_is_pad"
"""Among the inputs of a loss: [B, D] bool, action dimensions that count in no loss; they are not those of all rows."""
_BY_ROW = (STATE, ACTION, IS_PAD, NOISE, TIME, TASK, DROPPED, "episode_index", "frame_index")
"""What `Prepare.numbers` reads of a batch."""


@dataclass(frozen=True, kw_only=True)
class MixedPrepare:
    """The way in of a policy of several datasets; `own` gives the way in and out for one of them."""

    each: Mapping[str, Prepare]
    """{dataset: the way in of a policy of it alone}, in the order of `member_index`; their cameras are the mixture's.

    Beside the statistics they are alike.
    """
    counts_filled: bool
    """Whether the loss counts what is filled up with zeros, as openpi's does, or the dimensions of each row's dataset.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The datasets, by `member_index`."""
        return tuple(self.each)

    @property
    def cameras(self) -> Mapping[str, str]:
        """{image input: the camera of the mixture that feeds it}."""
        return self._any.cameras

    @property
    def horizon(self) -> int:
        """Actions in a chunk."""
        return self._any.horizon

    @property
    def width(self) -> int:
        """Of states and actions in the model."""
        return self._any.width

    @property
    def widths(self) -> tuple[int, ...]:
        """How many numbers the actions of each dataset have."""
        return tuple(one.action.stats.width for one in self.each.values())

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Inputs as of `Prepare`, and for a loss `DIM_IS_PAD` where dimensions do not count and widths differ.

        Raises:
            UserError: the batch does not say whose its windows are, or lacks what the policy reads.
        """
        inputs = self._any.pictures(batch)
        whose = self._whose(batch, len(next(iter(inputs.values()))))
        for place in np.unique(whose):
            rows = np.flatnonzero(whose == place)
            part = {name: _rows(batch[name], rows) for name in _BY_ROW if batch.get(name) is not None}
            one = self.each[self.names[place]]
            for name, values in one.numbers(_cut(part, one)).items():
                inputs.setdefault(name, np.zeros((len(whose), *values.shape[1:]), values.dtype))[rows] = values
        if ACTION in batch and not self.counts_filled and len(set(self.widths)) > 1:
            inputs[DIM_IS_PAD] = np.arange(self.width) >= np.asarray(self.widths)[whose, None]
        return inputs

    def own(self, batch: Batch) -> tuple[Prepare, Batch]:
        """The way in and out for the one dataset whose windows a batch holds, and the batch in its widths.

        Raises:
            UserError: the batch does not say whose its windows are, or they are of several datasets.
        """
        name = self.names[0] if len(self.each) == 1 else member_asked_for(batch, self.names)
        if name is None:
            raise UserError(not_chosen(None, self.names))
        return self.each[name], _cut(batch, self.each[name])

    @property
    def _any(self) -> Prepare:
        return next(iter(self.each.values()))

    def _whose(self, batch: Batch, rows: int) -> Int[np.ndarray, " batch"]:
        if len(self.each) == 1 and batch.get(MEMBER) is None:
            return np.zeros(rows, np.int64)
        return members_of(batch, self.names)


def _rows(values: object, rows: Int[np.ndarray, " rows"]) -> object:
    """Some rows of a column: of an array, or of a list of texts (one text is that of all rows)."""
    if isinstance(values, list | tuple):
        return [values[row] for row in rows]
    return values if isinstance(values, str) else np.asarray(values)[rows]


def _cut(batch: Batch, one: Prepare) -> Batch:
    """A batch with states and actions as wide as a dataset's own: what is behind is filling."""
    widths = {STATE: one.state.stats.width, ACTION: one.action.stats.width}
    own = {key: np.asarray(batch[key])[..., :size] for key, size in widths.items() if batch.get(key) is not None}
    return {**batch, **own}
