# pyright: strict
"""Which part of a dataset a run reads, and what a folder says that holds no more than that."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from xp.atomic import write_json
from xp.foreign.json_file import read_fields
from xp.json_types import JSON, JSONObject

LEFT_OUT = ".xp_left_out.json"
"""The file beside `meta/` that names what was not downloaded; hidden, so it is no content of the dataset."""
_MOST = 256_000_000


@dataclass(frozen=True)
class Measured:
    """Episodes that a policy may be measured on: which of these sources counts is known when the dataset is open."""

    lists: tuple[tuple[int, ...], ...] = ()
    """Episode numbers: held out by a training run or a manifest, or named by the user."""
    fraction: float | None = None
    """Share of each task's episodes that is held out (`data.val_fraction`); None: `lists` alone."""
    seed: int = 0
    """Of that share (`data.split_seed`)."""
    limit: int | None = None
    """Only so many of each source, evenly over the tasks."""

    def fields(self) -> JSONObject:
        """As job.json has it."""
        return {
            "lists": [list(each) for each in self.lists],
            "fraction": self.fraction,
            "seed": self.seed,
            "limit": self.limit,
        }

    @classmethod
    def of(cls, fields: JSON) -> "Measured | None":
        """What `fields` wrote; None where there is nothing."""
        if not isinstance(fields, Mapping):
            return None
        lists, fraction, seed, limit = (fields.get(name) for name in ("lists", "fraction", "seed", "limit"))
        return cls(
            tuple(tuple(cast("list[int]", each)) for each in lists) if isinstance(lists, list) else (),
            float(fraction) if isinstance(fraction, int | float) else None,
            seed if isinstance(seed, int) else 0,
            limit if isinstance(limit, int) else None,
        )


@dataclass(frozen=True)
class Part:
    """The cameras and episodes of a dataset that are read; None and () where all are."""

    cameras: tuple[str, ...] | None = None
    """Names, in order."""
    tasks: tuple[str | int, ...] | None = None
    """Only episodes of these, as `data.tasks`."""
    exclude_tasks: tuple[str | int, ...] | None = None
    """No episode of these, as `data.exclude_tasks`."""
    split: str | None = None
    """A manifest: only episodes that it names."""
    measured: Measured | None = None
    """Only what a policy may be measured on."""

    @property
    def is_whole(self) -> bool:
        """Whether everything is read."""
        return self == Part()

    @property
    def chooses_episodes(self) -> bool:
        """Whether some episodes may be left out."""
        return (self.tasks, self.exclude_tasks, self.split, self.measured) != (None, None, None, None)

    def fields(self) -> JSONObject:
        """As job.json has it."""
        listed = {name: getattr(self, name) for name in ("cameras", "tasks", "exclude_tasks")}
        found = {name: None if each is None else list(each) for name, each in listed.items()}
        measured = {} if self.measured is None else {"measured": self.measured.fields()}
        return {**found, "split": self.split, **measured}

    @classmethod
    def of(cls, fields: JSON) -> "Part":
        """What `fields` wrote; the whole where there is nothing."""
        if not isinstance(fields, Mapping):
            return cls()

        def listed(name: str) -> tuple[str | int, ...] | None:
            found = fields.get(name)
            return tuple(cast("list[str | int]", found)) if isinstance(found, list) else None

        cameras, split = listed("cameras"), fields.get("split")
        return cls(
            None if cameras is None else tuple(map(str, cameras)),
            listed("tasks"),
            listed("exclude_tasks"),
            split if isinstance(split, str) else None,
            Measured.of(fields.get("measured")),
        )


def write_left_out(folder: Path, origin: str, names: Iterable[str]) -> None:
    """Say in a dataset's folder which of its files are not there, and of which id."""
    write_json(folder / LEFT_OUT, {"of": origin, "files": sorted(names)})


def read_left_out(folder: Path) -> tuple[str, frozenset[str]]:
    """The id that a folder's files are of, and the names of those that were left out; ("", none) of a whole one.

    Raises:
        RefusedError: the file is damaged.
    """
    if not (folder / LEFT_OUT).is_file():
        return "", frozenset()
    found = read_fields(folder / LEFT_OUT, "what was not downloaded", most=_MOST)
    return found.text("of"), frozenset(found.texts("files", most=1_000_000))
