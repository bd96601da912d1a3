"""Which episodes of which dataset a task works on: opened, split and described, the same for every task."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from xp.checkpoints.reference import CheckpointRef
from xp.data import Dataset, Split, compute_statistics, load_statistics, open_dataset, split_episodes
from xp.errors import UserError, join_names
from xp.runs import RunFolder

if TYPE_CHECKING:
    from xp.models.policy import DataSpec

SPLIT = "split.json"


@dataclass(frozen=True)
class Source:
    """A dataset and the episodes of it to train on and to hold out."""

    dataset: Dataset
    split: Split

    @property
    def spec(self) -> "DataSpec":
        """What the dataset offers to a model."""
        from xp.models.policy import DataSpec

        dataset = self.dataset
        return DataSpec(
            cameras=dataset.cameras,
            action_dim=dataset.action_dim,
            state_dim=dataset.state_dim,
            environment_dim=dataset.environment_dim,
            fps=dataset.fps,
            tasks=tuple(dataset.tasks),
        )

    def facts(self) -> dict[str, Any]:
        """What a summary says about the data."""
        return {
            "root": str(self.dataset.root),
            "fingerprint": self.dataset.fingerprint,
            "fps": self.dataset.fps,
            "train_episodes": len(self.split.train),
            "held_out_episodes": len(self.split.val),
        }


def open_source(data: Any, cache: str | Path | None = None, *, holds_out: bool = True) -> Source:
    """Open `data.root` and split its episodes as the `data` section says; `cache` is `paths.cache`, where it is known.

    Raises:
        UserError: `holds_out`, and a share that is asked for comes to no episode at all.
    """
    columns = None if cache is None else Path(cache) / "columns"
    dataset = open_dataset(data.root, decoder=data.decoder, cache_dir=columns, cache_gb=data.cache_gb)
    if data.split is not None:
        split = Split.load(data.split)
        split.check(dataset)
        return Source(dataset, split)
    split = split_episodes(
        dataset,
        val_fraction=data.val_fraction,
        seed=data.split_seed,
        tasks=_list(data.tasks),
        exclude_tasks=_list(data.exclude_tasks),
    )
    if holds_out:
        split.check_held_out(dataset.root)
    return Source(dataset, split)


def source_of(
    checkpoint: str | Path, data: Any, root: str | None = None, cache: str | Path | None = None
) -> tuple[Source, str] | None:
    """The dataset to measure a policy on, its held-out episodes, and how they were held out, in words.

    A manifest that is given (`data.split`) counts first, but never with an episode that the policy was trained on; then
    what the policy's own training run held out; then what the `data` section holds out.

    Args:
        checkpoint: a run folder or a policy folder.
        data: the `data` section.
        root: the dataset's folder; None for the one that the policy's training run used.
        cache: `paths.cache`, where it is known.

    Returns:
        None where neither `root` nor a training run says which dataset it is.

    Raises:
        UserError: the manifest holds out episodes that the policy was trained on.
    """
    folder = own_folder(checkpoint)
    trained = training_data(folder)
    root = root or (trained["root"] if trained else None)
    if root is None:
        return None
    own = Split.load(folder / SPLIT) if trained else None
    source = open_source(OmegaConf.merge(plain(data), {"root": root}), cache, holds_out=False)
    same = trained is not None and trained["fingerprint"] == source.dataset.fingerprint
    if trained is not None and not same and data.split is None:
        _refuse_replaced(folder, trained, source.dataset)
    if data.split is not None:
        if own is not None and same:
            refuse_trained_on(source.split.val, own, folder, f"data.split={data.split}")
        return source, "held out by the manifest data.split"
    if own is not None and same:
        return Source(source.dataset, own), "held out by the training run"
    return source, "held out by data.val_fraction; the policy was trained on other data, or its data is unknown"


def _refuse_replaced(folder: Path, trained: dict[str, Any], dataset: Dataset) -> None:
    """Refuse a dataset that lies where the training run's own lay and is another: which episodes are new is unknown.

    Raises:
        UserError: both fingerprints, and what to type.
    """
    if Path(str(trained.get("root", ""))).resolve() != dataset.root.resolve():
        return
    raise UserError(
        f"{folder} was trained on another dataset than lies in {dataset.root} now (fingerprint "
        f"{str(trained.get('fingerprint'))[:12]}... then, {dataset.fingerprint[:12]}... now), so the episodes that it "
        "held out mean something else. Give a copy of the dataset as it was (predict.data_root=FOLDER, "
        "eval.data_root=FOLDER or data.root=FOLDER), or say which episodes it may be measured on: data.split=MANIFEST"
    )


def measured_on(config: Any, section: str) -> tuple[Source, str]:
    """The dataset that the section `predict` or `eval` measures its checkpoint on, and how its episodes are held out.

    Raises:
        UserError: nothing says which dataset, or it has another rate than the policy was trained at.
    """
    given = config[section]
    found = source_of(given.checkpoint, config.data, given.data_root, config.paths.cache)
    if found is None:
        raise UserError(
            f"{section}.checkpoint={given.checkpoint} is not an xp training run, so its dataset is unknown. Give the "
            f"dataset: {section}.data_root=FOLDER"
        )
    dataset = found[0].dataset
    mend = (
        f"Give a dataset of {{fps:g}} frames per second ({section}.data_root=FOLDER), or a policy trained on this one."
    )
    refuse_other_rate(given.checkpoint, dataset.fps, f"the dataset {dataset.root}", mend)
    return found


def refuse_other_rate(checkpoint: str | Path, fps: float, where: str, mend: str) -> None:
    """Refuse to ask a policy trained at one rate at another: its chunks would mean other times.

    Args:
        checkpoint: a run folder or a policy folder.
        fps: steps per second of the recordings or the simulation.
        where: what has that rate, for the message.
        mend: what to type; `{fps:g}` in it becomes the policy's rate.

    Raises:
        UserError: the rates differ. Where nothing says what the policy's is, nothing is refused.
    """
    trained = _trained_rate(checkpoint)
    if trained is not None and trained != fps:
        raise UserError(
            f"The policy {checkpoint} was trained at {trained:g} frames per second; {where} has {fps:g}, so its chunks "
            f"would be executed at another speed. {mend.format(fps=trained)}"
        )


def _trained_rate(checkpoint: str | Path) -> float | None:
    from xp.models.families import trained_fps

    trained = training_data(own_folder(checkpoint))
    if trained is not None:
        return trained.get("fps")
    return trained_fps(checkpoint)


def statistics_of(source: Source, given: str | None) -> dict[str, Any]:
    """Statistics of the training episodes, or those in a file: models that are to be merged share one scale.

    Raises:
        UserError: the file is of a dataset with other dimensions.
    """
    if given is None:
        return compute_statistics(source.dataset, source.split.train)
    statistics = load_statistics(given)
    dataset = source.dataset
    wanted = {"action": dataset.action_dim, "proprio": dataset.state_dim, "environment_state": dataset.environment_dim}
    dims = {name: len(statistics.get(name, {}).get("mean", ())) for name in wanted}
    if dims != wanted:
        has, needs = (", ".join(f"{number} {name}" for name, number in each.items()) for each in (dims, wanted))
        raise UserError(
            f"data.statistics={given} is about other dimensions ({has}) than {dataset.root} ({needs}). Give the "
            "statistics that task=split wrote for this dataset, or leave it out."
        )
    return statistics


def refuse_trained_on(episodes: tuple[int, ...], own: Split, folder: Path, given: str) -> None:
    """Refuse held-out episodes that are among the training episodes of a run's own split.

    Raises:
        UserError: naming how many and the first ones.
    """
    both = sorted(set(episodes) & set(own.train))
    if both:
        raise UserError(
            f"{given} holds out {len(both)} episodes that {folder} was trained on ({join_names(map(str, both[:5]))}"
            f"{', ...' if len(both) > 5 else ''}): measuring on them would flatter it. Leave it out to take the "
            "episodes that the run itself held out, or give a manifest that holds out others."
        )


def training_data(folder: Path) -> dict[str, Any] | None:
    """What a training run's summary says about its data; None where `folder` is none."""
    summary = RunFolder(folder).summary() if (folder / SPLIT).is_file() else None
    return (summary or {}).get("data")


def held_out(source: Source, limit: int | None) -> tuple[int, ...]:
    """The first `limit` held-out episodes, taken evenly over the tasks; all of them if `limit` is None."""
    if not source.split.val:
        raise UserError(
            f"The dataset {source.dataset.root} has no held-out episodes ({source.split.note()}). Say which ones to "
            'measure on: data.split=MANIFEST, a JSON file with episode numbers {"train": [...], "val": [...]}; or '
            "give a dataset with two episodes or more of a task, and data.val_fraction=0.2"
        )
    by_task: dict[str, list[int]] = {}
    for episode in source.split.val:
        by_task.setdefault(source.dataset.episodes.tasks[episode], []).append(episode)
    rounds = max(len(episodes) for episodes in by_task.values())
    turn = [episodes[i] for i in range(rounds) for episodes in by_task.values() if i < len(episodes)]
    return tuple(sorted(turn[:limit]))


def own_folder(path: str | Path) -> Path:
    """The folder that a path given by a user names, without its `@STEP`."""
    return CheckpointRef.parse(path).path


def plain(section: Any) -> dict[str, Any]:
    """A section of the configuration as a plain, resolved dict."""
    content = OmegaConf.to_container(section, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _list(values: Any) -> list[str] | None:
    return None if values is None else list(values)
