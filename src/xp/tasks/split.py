"""`xp task=split`: disjoint subsets of a dataset by episode, as manifests and, if asked for, as datasets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xp import atomic
from xp.checkpoints.run_layout import SPLIT
from xp.data.episode_partition import by_task, partition
from xp.errors import UserError
from xp.runs import Run
from xp.shell import override
from xp.tasks._lib.data_source import open_source

ALL, TEST, HELD_OUT = "all", "test", "held_out"


@dataclass(frozen=True)
class Division:
    """Episode numbers: the training subsets, what is held out for validation, and what is held out for the end."""

    subsets: tuple[tuple[int, ...], ...]
    val: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def train(self) -> tuple[int, ...]:
        """All training episodes."""
        return tuple(sorted(episode for subset in self.subsets for episode in subset))

    def manifests(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Name to (training, held-out) episodes; `test` is there if anything is kept for the end."""
        named = {f"split_{number}": (subset, self.val) for number, subset in enumerate(self.subsets)}
        named[ALL] = (self.train, self.val)
        return {**named, TEST: (self.train, self.test)} if self.test else named

    def parts(self) -> dict[str, tuple[int, ...]]:
        """Name to the episodes of each dataset that is exported."""
        named = {f"split_{number}": subset for number, subset in enumerate(self.subsets)}
        return {**named, **{name: part for name, part in ((HELD_OUT, self.val), (TEST, self.test)) if part}}


def run(run: Run) -> None:
    """Leaves split_K.json, all.json, statistics of each subset and, with split.export, datasets in a folder."""
    summary = _manifests(run)
    run.write_summary({"task": "split", "root": str(run.config.data.root), **summary})
    for name, entry in summary["subsets"].items():
        run.log(f"{name}: {entry['episodes']} episodes, " + ", ".join(f"{n} {t!r}" for t, n in entry["tasks"].items()))
    if "export" in summary:
        run.log(f"datasets: {summary['export']['folder']}")
    else:
        run.log(f"manifests: {run.folder}; train on one with {override('data.split', run.folder / 'split_0.json')}")


def _manifests(run: Run) -> dict[str, Any]:
    from xp.data import Split, compute_statistics, save_statistics

    config = run.config
    source = open_source(config.data, config.paths.cache)
    tasks, dataset = source.dataset.episodes.tasks, source.dataset
    test = _test_episodes(run, source.split.val)
    val = tuple(episode for episode in source.split.val if episode not in set(test))
    division = _divide(run, tasks, source.split.train, val, test)
    about = {**source.split.about, "split_num": config.split.split_num, "subset_seed": config.split.seed}
    for name, (train, held) in division.manifests().items():
        Split(train, held, {**about, "subset": name}).save(run.folder / f"{name}.json")
        if name != TEST:
            save_statistics(run.folder / f"{name}_statistics.json", compute_statistics(dataset, train))
    exported = {"export": _export(run, division)} if config.split.export else {}
    return {"fingerprint": dataset.fingerprint, "subsets": _counts(division, tasks), **exported}


def _test_episodes(run: Run, held: tuple[int, ...]) -> tuple[int, ...]:
    """The held-out episodes kept for the end: what a smaller share with the same seed would hold out.

    `split_episodes` holds out a superset for a larger share, so the rest of the held-out episodes is for validation.
    """
    config = run.config
    if not config.split.test_fraction:
        return ()
    test = open_source(config.data, config.paths.cache, val_fraction=config.split.test_fraction).split.val
    if len(set(test)) >= len(held):
        raise UserError(
            f"split.test_fraction={config.split.test_fraction} would keep all {len(held)} held-out episodes of "
            f"data.val_fraction={config.data.val_fraction} for the end and leave none for validation. Give a smaller "
            "share, a larger data.val_fraction, or record more episodes."
        )
    return test


def _divide(
    run: Run, tasks: tuple[str, ...], train: tuple[int, ...], val: tuple[int, ...], test: tuple[int, ...]
) -> Division:
    config = run.config.split
    groups = by_task(tasks, train)
    division = Division(tuple(partition(groups, config.split_num, config.seed)), val, test)
    for task, episodes in groups.items():
        if len(episodes) < config.split_num:
            run.log(f"{task!r} has {len(episodes)} training episodes: not every one of {config.split_num} gets one.")
    return division


def _export(run: Run, division: Division) -> dict[str, Any]:
    """Write every part as a dataset below `split.export`, read it back, and save its statistics beside it."""
    from xp.data import compute_statistics, open_dataset, save_statistics
    from xp.data.exporting import open_exportable
    from xp.data.space import writing

    folder = Path(run.config.split.export)
    stored = open_exportable(run.config.data.root)
    parts = division.parts()
    _refuse_existing(run, folder, list(parts))
    videos: dict[str, Any] = {}
    with run.progress(len(parts), "exporting", unit="dataset") as bar:
        for name, episodes in parts.items():
            if not (folder / name).exists():  # there already after an interruption: each appears whole or not at all
                with writing(folder / name, "split.export=FOLDER"):
                    done = stored.export(episodes, folder / name)
                videos[name] = {"linked": done.linked, "cut": done.cut, "kept_whole": done.kept_whole}
            written = open_dataset(folder / name, decoder=run.config.data.decoder)
            statistics = compute_statistics(written, range(written.episodes.num))
            with writing(folder / f"{name}_statistics.json", "split.export=FOLDER"):
                save_statistics(folder / f"{name}_statistics.json", statistics)
            bar.advance()
    with writing(folder / SPLIT, "split.export=FOLDER"):
        atomic.write_json(folder / SPLIT, {"root": str(stored.root), "seed": run.config.split.seed, **parts})
    for name, done in videos.items():
        if done["kept_whole"]:
            run.log(
                f"{name}: {len(done['kept_whole'])} video files have no key frame where an episode begins; they are "
                "linked whole, so they also hold frames of other episodes, which no row refers to."
            )
    return {"folder": str(folder), "videos": videos}


def _refuse_existing(run: Run, folder: Path, names: list[str]) -> None:
    there = [name for name in names if (folder / name).exists()]
    inside = folder.resolve().is_relative_to(run.folder.resolve())
    if there and not (run.resuming or inside):
        raise UserError(
            f"split.export={folder} holds {', '.join(there)} already, which is left as it is. Give a new folder, or "
            "remove these."
        )


def _counts(division: Division, tasks: tuple[str, ...]) -> Mapping[str, Any]:
    """How many episodes of which task each part has."""
    return {
        name: {
            "episodes": len(episodes),
            "tasks": {task: len(members) for task, members in by_task(tasks, episodes).items()},
        }
        for name, episodes in division.parts().items()
    }
