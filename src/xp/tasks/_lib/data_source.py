"""The dataset that a task works on, and which of its episodes train and which are held out: the same for every task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from xp.checkpoints.reference import CheckpointRef
from xp.checkpoints.run_layout import SPLIT, SPLITS
from xp.data import Dataset, Split, compute_statistics, load_statistics, open_dataset, split_episodes
from xp.data.dataset import Groups, camera_fingerprint, is_of, reading_of
from xp.data.splits import first_of_tasks
from xp.errors import UserError, join_names
from xp.json_types import JSON, JSONObject, section
from xp.models.members import not_chosen
from xp.runs import RunFolder

if TYPE_CHECKING:
    from xp.config.schema import Data
    from xp.foreign.statistics import DatasetStatistics
    from xp.models.policy import DataSpec, GroupSpec


@dataclass(frozen=True)
class DataSource:
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
            groups=_group_specs(dataset.groups),
        )

    def facts(self) -> JSONObject:
        """What a summary says about the data."""
        return {
            "root": str(self.dataset.root),
            "fingerprint": self.dataset.fingerprint,
            "cameras": _fingerprints(self.dataset),
            "fps": self.dataset.fps,
            **({"read": dict(reading_of(self.dataset))} if reading_of(self.dataset) else {}),
            "train_episodes": len(self.split.train),
            "held_out_episodes": len(self.split.val),
        }


def _fingerprints(dataset: Dataset) -> JSONObject:
    """{camera: what names the content of its videos}, of those whose videos are here."""
    found = {name: camera_fingerprint(dataset, name) for name in dataset.cameras}
    return {name: digits for name, digits in found.items() if digits}


def _group_specs(groups: Groups | None) -> "tuple[GroupSpec, ...]":
    """Groups of dimensions as a model is told of them."""
    from xp.models.policy import GroupSpec

    if groups is None:
        return ()
    return tuple(
        GroupSpec(
            name=name,
            action_dim=groups.action_dims[number],
            state_dim=groups.state_dims[number],
            parameter_group=groups.parameter_groups[number] if groups.parameter_groups else name,
            reward_scale=groups.reward_scales[number] if groups.reward_scales else 1.0,
        )
        for number, name in enumerate(groups.names)
    )


@dataclass(frozen=True)
class TrainedData:
    """What a training run's summary says about its dataset: where it lay, its fingerprint and its rate."""

    root: str
    fingerprint: str
    fps: float | None
    cameras: JSONObject
    """{camera: what names the content of its videos}; empty where these are in the rows."""
    read: JSONObject
    """`data.read` as it was; empty where the files say all."""


def open_source(
    data: "Data",
    cache: str | Path | None = None,
    *,
    root: str | None = None,
    val_fraction: float | None = None,
    holds_out: bool = True,
    read: JSONObject | None = None,
) -> DataSource:
    """Open a dataset and split its episodes as the `data` section says.

    Args:
        data: the `data` section.
        cache: `paths.cache`, where it is known.
        root: the dataset in place of `data.root`.
        val_fraction: in place of `data.val_fraction`.
        holds_out: whether a share that comes to no episode is refused.
        read: in place of `data.read`, where that is not given.

    Raises:
        UserError: `holds_out`, and a share that is asked for comes to no episode at all.
    """
    columns = None if cache is None else Path(cache) / "columns"
    where = data.root if root is None else root
    assert where is not None, "checked before the run"
    told = read if data.read is None else plain(data.read)
    dataset = open_dataset(where, decoder=data.decoder, cache_dir=columns, cache_gb=data.cache_gb, read=told)
    if data.split is not None:
        split = Split.load(data.split)
        split.check(dataset)
        return DataSource(dataset, split)
    split = split_episodes(
        dataset,
        val_fraction=data.val_fraction if val_fraction is None else val_fraction,
        seed=data.split_seed,
        tasks=data.tasks and list(data.tasks),
        exclude_tasks=data.exclude_tasks and list(data.exclude_tasks),
    )
    if holds_out:
        split.check_held_out(dataset.root)
    return DataSource(dataset, split)


def eval_source(
    checkpoint: str | Path,
    data: "Data",
    root: str | None = None,
    cache: str | Path | None = None,
    unnorm_key: str | None = None,
) -> tuple[DataSource, str] | None:
    """The dataset to measure a policy on, its held-out episodes, and how they were held out, in words.

    A manifest that is given (`data.split`) counts first, but never with an episode that the policy was trained on; then
    what the policy's own training run held out; then what the `data` section holds out.

    Args:
        checkpoint: a run folder or a policy folder.
        data: the `data` section.
        root: the dataset's folder; None for the one that the policy's training run used.
        cache: `paths.cache`, where it is known.
        unnorm_key: of a policy of a mixture, which of its datasets.

    Returns:
        None where neither `root` nor a training run says which dataset it is.

    Raises:
        UserError: the manifest holds out episodes that the policy was trained on; a dataset named from another folder.
    """
    folder = own_folder(checkpoint)
    member = member_of(folder, unnorm_key)
    trained = training_data(folder, unnorm_key)
    read = trained.read if trained and root in (None, trained.root) else None
    root = root or (trained.root if trained else None)
    if root is None:
        return None
    if trained is not None and root == trained.root and not Path(root).is_absolute() and not Path(root).exists():
        raise UserError(
            f"{folder} was trained on the dataset {root}, a path from the folder that xp was started in then; there is "
            f"none here, in {Path.cwd()}. Start xp there, or make a link here: ln -s DATASET {root}"
        )
    own = own_split(folder, member) if trained else None
    source = open_source(data, cache, root=root, holds_out=False, read=read)
    same = trained is not None and is_of(source.dataset, trained.fingerprint)
    if trained is not None and data.split is None:
        _refuse_replaced(folder, trained, source.dataset, same=same)
    if member is not None and same:
        source = DataSource(_as_mixed(folder, member, source.dataset), source.split)
    if data.split is not None:
        if own is not None and same:
            refuse_trained_on(source.split.val, own, folder, f"data.split={data.split}")
        return source, "held out by the manifest data.split"
    if own is not None and same:
        return DataSource(source.dataset, own), "held out by the training run"
    return source, "held out by data.val_fraction; the policy was trained on other data, or its data is unknown"


def _as_mixed(folder: Path, name: str, dataset: Dataset) -> Dataset:
    """A dataset as the mixture that a run was trained on took it: at the mixture's rate."""
    from xp.config.mixture import read_mix
    from xp.data.mixture.resampled import resampled

    run = RunFolder(folder)
    fps = section(run.summary(), "data").get("fps")
    members = read_mix(section(plain(run.config().data), "mix"))
    member = next((each for each in members if each.name == name), None)
    if member is None or not isinstance(fps, int | float):
        return dataset
    return resampled(member, dataset, float(fps))


def _refuse_replaced(folder: Path, trained: TrainedData, dataset: Dataset, *, same: bool) -> None:
    """Refuse a dataset that lies where the training run's own lay and is another: which episodes are new is unknown.

    Args:
        folder: the training run's, or its policy's.
        trained: what it was trained on.
        dataset: what is there now.
        same: whether the rows are the same.

    Raises:
        UserError: both fingerprints, or the cameras whose videos are others; and what to type.
    """
    if Path(trained.root).resolve() != dataset.root.resolve():
        return
    others = [name for name, digits in trained.cameras.items() if camera_fingerprint(dataset, name) != digits]
    if same and not others:
        return
    what = (
        f"videos of {join_names(others)} are others"
        if same
        else f"fingerprint {trained.fingerprint[:12]}... then, {dataset.fingerprint[:12]}... now"
    )
    raise UserError(
        f"{folder} was trained on another dataset than the one in {dataset.root} now ({what}), so the episodes that it "
        "held out mean something else. Give a copy of the dataset as it was (predict.data_root=FOLDER, "
        "eval.data_root=FOLDER or data.root=FOLDER), or say which episodes it may be measured on: data.split=MANIFEST"
    )


def eval_data(config: DictConfig, section: str) -> tuple[DataSource, str]:
    """The dataset that the section `predict` or `eval` measures its checkpoint on, and how its episodes are held out.

    Raises:
        UserError: nothing says which dataset, or it has another rate than the policy was trained at.
    """
    given = config[section]
    key = given.get("unnorm_key")
    found = eval_source(given.checkpoint, config.data, given.data_root, config.paths.cache, key)
    if found is None:
        raise UserError(
            f"{section}.checkpoint={given.checkpoint} is not an xp training run, so its dataset is unknown. Give the "
            f"dataset: {section}.data_root=FOLDER"
        )
    dataset = found[0].dataset

    def mend(fps: float) -> str:
        return f"Give a dataset of {fps:g} frames per second ({section}.data_root=FOLDER), or a policy of this one."

    refuse_other_rate(given.checkpoint, dataset.fps, f"the dataset {dataset.root}", mend)
    return found


def refuse_other_rate(checkpoint: str | Path, fps: float, where: str, mend: Callable[[float], str]) -> None:
    """Refuse to ask a policy trained at one rate at another: its chunks would mean other times.

    Args:
        checkpoint: a run folder or a policy folder.
        fps: steps per second of the recordings or the simulation.
        where: what has that rate, for the message.
        mend: what to type, by the policy's rate.

    Raises:
        UserError: the rates differ. Where nothing says what the policy's is, nothing is refused.
    """
    trained = _trained_rate(checkpoint)
    if trained is not None and trained != fps:
        raise UserError(
            f"The policy {checkpoint} was trained at {trained:g} frames per second; {where} has {fps:g}, so its chunks "
            f"would be executed at another speed. {mend(trained)}"
        )


def _trained_rate(checkpoint: str | Path) -> float | None:
    from xp.models.families import trained_fps

    folder = own_folder(checkpoint)
    if (folder / SPLITS).is_dir():  # a mixture: all of its datasets were brought to one rate
        found = section(RunFolder(folder).summary(), "data").get("fps")
        return found if isinstance(found, int | float) else trained_fps(checkpoint)
    trained = training_data(folder)
    return trained_fps(checkpoint) if trained is None else trained.fps


def statistics_of(source: DataSource, given: str | None) -> "DatasetStatistics":
    """Statistics of the training episodes, or those in a file: models that are to be merged share one scale.

    Raises:
        UserError: the file is of a dataset with other dimensions.
    """
    if given is None:
        return compute_statistics(source.dataset, source.split.train)
    statistics = load_statistics(given)
    dataset = source.dataset
    wanted = {"action": dataset.action_dim, "proprio": dataset.state_dim, "environment_state": dataset.environment_dim}
    around = statistics.get("environment_state", {"mean": ()})
    dims = {"action": len(statistics["action"]["mean"]), "proprio": len(statistics["proprio"]["mean"])}
    dims["environment_state"] = len(around["mean"])
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
            f"{', ...' if len(both) > 5 else ''}): a score on them would be too good. Leave it out to take the "
            "episodes that the run itself held out, or give a manifest that holds out others."
        )


def training_data(folder: Path, member: str | None = None) -> TrainedData | None:
    """What a training run's summary says about its data; None where `folder` is none.

    Args:
        folder: of the run.
        member: which dataset of a mixture.

    Raises:
        UserError: the run was trained on a mixture that has no such dataset.
    """
    made = (folder / SPLIT).is_file() or (folder / SPLITS).is_dir()
    summary = RunFolder(folder).summary() if made else None
    data = summary.get("data") if isinstance(summary, Mapping) else None
    if not isinstance(data, Mapping) or not data:
        return None
    fps = data.get("fps")
    if "members" in data:
        members = section(data, "members")
        if member is None or member not in members:
            raise UserError(not_chosen(member, list(members)))
        data = section(members, member)
    rate = fps if isinstance(fps, int | float) else None
    return TrainedData(
        str(data["root"]), str(data["fingerprint"]), rate, section(data, "cameras"), section(data, "read")
    )


def trained_on(folder: Path) -> list[tuple[TrainedData, Split]]:
    """The datasets that a run was trained on, with what it held out of each; none where `folder` is no training run."""
    members = sorted(path.stem for path in (folder / SPLITS).glob("*.json"))
    found = [(training_data(folder, name), name) for name in members or [None]]
    return [(trained, own_split(folder, name)) for trained, name in found if trained is not None]


def own_split(folder: Path, member: str | None) -> Split:
    """What a training run held out: of a mixture, of one of its datasets."""
    return Split.load(folder / SPLIT if member is None else folder / SPLITS / f"{member}.json")


def member_of(folder: Path, unnorm_key: str | None) -> str | None:
    """The dataset of a mixture that `unnorm_key` means; None for a run that was trained on one dataset."""
    return unnorm_key if (folder / SPLITS).is_dir() else None


def held_out(source: DataSource, limit: int | None) -> tuple[int, ...]:
    """The first `limit` held-out episodes, taken evenly over the tasks; all of them if `limit` is None."""
    if not source.split.val:
        raise UserError(
            f"The dataset {source.dataset.root} has no held-out episodes ({source.split.note()}). Say which ones to "
            'measure on: data.split=MANIFEST, a JSON file with episode numbers {"train": [...], "val": [...]}; or '
            "give a dataset with two episodes or more of a task, and data.val_fraction=0.2"
        )
    return first_of_tasks(source.split.val, source.dataset.episodes.tasks, limit)


def own_folder(path: str | Path) -> Path:
    """The folder that a path given by a user names, without its `@STEP`."""
    return CheckpointRef.parse(path).path


def plain(section: DictConfig) -> dict[str, JSON]:
    """A section of the configuration as a plain, resolved dict."""
    content = OmegaConf.to_container(section, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
