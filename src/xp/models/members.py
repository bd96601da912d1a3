"""Datasets of a mixture in a model: each window normalised by its own dataset's statistics. Pure numpy.

Letters: B batch, T steps, M members, D dimensions (of the widest member).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from xp.errors import UserError, did_you_mean, join_names
from xp.models.normal import Normal
from xp.models.policy import Batch

MEMBER = "member_index"
"""The key of a batch that says whose each window is, see `xp.models.policy.Batch`."""


@dataclass(frozen=True)
class MemberNormals:
    """The normalisers of one feature, by member; what is beyond a member's own width passes as it is, 0."""

    mean: Float32[np.ndarray, "members dim"]
    std: Float32[np.ndarray, "members dim"]
    mask: Bool[np.ndarray, "members dim"]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, normals: Sequence[Normal], width: int) -> "MemberNormals":
        """Those of members, none wider than `width`."""
        count = len(normals)
        mean, std = np.zeros((count, width), np.float32), np.ones((count, width), np.float32)
        mask = np.zeros((count, width), dtype=bool)
        for row, normal in enumerate(normals):
            own = len(normal.mean)
            mean[row, :own], std[row, :own], mask[row, :own] = normal.mean, normal.std, normal.mask
        return cls(mean, std, mask, tuple(len(normal.mean) for normal in normals))

    def normalize(
        self, values: Float[np.ndarray, "batch steps dim"], member: Int[np.ndarray, " batch"]
    ) -> Float32[np.ndarray, "batch steps dim"]:
        """`Normal.normalize` of each row by its member's."""
        mean, std, mask = self.mean[member, None], self.std[member, None], self.mask[member, None]
        return np.where(mask, (values - mean) / (std + np.float32(1e-8)), values).astype(np.float32)

    def there(self, member: Int[np.ndarray, " batch"]) -> Bool[np.ndarray, "batch dim"]:
        """Which dimensions each row's member has."""
        return np.arange(self.mean.shape[1]) < np.asarray(self.widths)[member, None]


def members_of(batch: Batch, names: Sequence[str]) -> Int[np.ndarray, " batch"]:
    """Whose each window of a batch is.

    Raises:
        UserError: the batch does not say.
    """
    given = batch.get(MEMBER)
    if given is None:
        raise UserError(not_chosen(None, names))
    return np.asarray(given, np.int64)


def member_asked_for(batch: Batch, names: Sequence[str]) -> str | None:
    """The one member whose windows a batch holds; None where it does not say.

    Raises:
        UserError: it holds windows of several, whose actions have no common units.
    """
    if batch.get(MEMBER) is None:
        return None
    found = np.unique(np.asarray(batch[MEMBER]))
    if len(found) != 1:
        several = join_names(names[int(place)] for place in found)
        raise UserError(
            f"The batch holds windows of the datasets {several}, whose actions have units of their own. Ask about one "
            "dataset at a time."
        )
    return names[int(found[0])]


def not_chosen(given: str | None, names: Sequence[str]) -> str:
    """What to say where no dataset's statistics are chosen, or there are none of that name."""
    what = "none was chosen" if given is None else f"'{given}' is none of them"
    return (
        f"This policy was trained on {len(names)} datasets ({join_names(names)}), each with statistics of its own, and "
        f"{what}{did_you_mean(given or '', names)}. Choose one: load_policy(..., unnorm_key='NAME'), or "
        "predict.unnorm_key=NAME, eval.unnorm_key=NAME on the command line."
    )
