# pyright: strict
"""What merge.json holds: how a merged checkpoint was made, of what, and what was noticed on the way."""

from typing import NotRequired, TypedDict

from xp.json_types import JSON
from xp.merging.diagnostics import Barrier, GroupAngles
from xp.merging.merge_rules import Report
from xp.merging.search import Candidate, Search


class InputRecord(TypedDict):
    """One input."""

    path: str
    given: str
    """As the user gave it."""
    place: str
    """The file or folder of its weights."""
    content: str
    """SHA-256 of the weights, whatever format holds them."""
    folded_into: NotRequired[str]
    """Of an adapter: the weights of its base."""


class Chosen(TypedDict):
    """What a search chose, and all that it measured."""

    weights: None
    """They stand in the record's own `weights`."""
    loss: float
    chosen: str
    candidates: list[Candidate]


class OutputRecord(TypedDict):
    """What was written."""

    content: str
    format: str


class MismatchRecord(TypedDict):
    """Differences between the inputs that the policy `merge.mismatch` let pass."""

    policy: str
    differences: list[str]


class StatisticsRecord(TypedDict):
    """Where the statistics come from: they were equal, or pooled, or there are none."""

    how: str
    policy: str


class MergeRecord(TypedDict):
    """The content of merge.json."""

    method: str
    options: dict[str, JSON]
    per: str
    base: InputRecord | None
    checkpoints: list[InputRecord]
    weights: dict[str, list[float]]
    """By unit: one number a checkpoint."""
    tensors: Report
    chosen: Chosen | None
    output: OutputRecord
    mismatch: MismatchRecord
    notes: list[str]
    """What was seen of the inputs and is no reason to refuse them."""
    statistics: StatisticsRecord
    kept_from_first: list[str]
    """Integer weights in which the inputs differ: the first input's were taken."""
    seed: int
    xp: str | None
    """The version of xp."""
    angles: dict[str, GroupAngles]
    barriers: list[Barrier]
    warnings: list[str]
    seconds: float


def chosen_by(search: Search | None) -> Chosen | None:
    """What a search chose; None without one."""
    if search is None:
        return None
    return Chosen(weights=None, loss=search.loss, chosen=search.chosen, candidates=search.candidates)
