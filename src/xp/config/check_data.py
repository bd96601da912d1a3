"""Checks of the dataset, or the mixture of datasets, and of what a model and augmentation need of its cameras."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from xp.checkpoints.reference import CheckpointRef, exists, is_file, is_folder, missing_reference
from xp.config.augmentation import assign_views, read_views
from xp.config.dataset_facts import (
    check_reading,
    choose_tasks,
    dataset_facts,
    dataset_looks,
    find_format,
    missing_hint,
)
from xp.config.hub_checks import dataset_on_hub, described, described_root, on_a_hub, shown_root
from xp.config.mixture import OF_EACH, MemberOptions, mixed_cameras, read_mix
from xp.config.model_families import learner, refuse_mixture, refuse_relative
from xp.config.sections import raw
from xp.errors import UserError, did_you_mean, join_names
from xp.shell import command


def check_data(config: DictConfig) -> None:
    """The dataset is there, with what is said of it, or each of a mixture's."""
    data = config.data
    if data.mix is not None:
        _check_mixture(config)
        return
    if data.fps is not None:
        raise UserError(
            f"data.fps={data.fps:g} is the common rate of a mixture (data.mix); one dataset is trained on at its own. "
            "Type data.fps=null"
        )
    on_hub = dataset_on_hub(config)
    if on_hub is None and data.root is None:
        raise UserError(
            f"data.root is not given. Give a dataset: data.root=FOLDER ({dataset_looks()}); or record the suite "
            f"{config.env.name} with: {command('task=collect', data__root='FOLDER')}"
        )
    there = on_hub or made_by_another_job(config, "data.root") or is_folder(data.root) or find_format(data.root)
    if not there:
        raise UserError(
            f"data.root={data.root}: there is no dataset. "
            + (
                missing_hint(str(data.root))
                or f"Record the suite {config.env.name} there with: "
                f"{command('task=collect', data__root=data.root)} ; or give a dataset: data.root=FOLDER "
                f"({dataset_looks()})"
            )
        )
    made = made_by_another_job(config, "data.split") or on_a_hub("data.split", data.split)
    if data.split is not None and not made:
        _check_manifest("data.split", data.split)
    check_folder(config, "data.statistics")
    check_reading(described_root(config), _plain(data.read), "data.read")
    _check_task_selection(config)


def _plain(section: Any) -> Any:
    return OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else section


def _check_manifest(key: str, path: str) -> None:
    if not is_file(path):
        fraction = f"{key.rpartition('.')[0]}.val_fraction"
        raise UserError(f"{key}={path}: no such file. Give a split manifest, or {fraction}=0.2")


def _check_mixture(config: DictConfig) -> None:
    """The datasets of a mixture are there, nothing is said twice, and their cameras are those of the maps."""
    if config.task.name != "train":
        raise UserError(
            f"data.mix is for task=train; task={config.task.name} takes one dataset. Type data.mix=null "
            "data.root=FOLDER"
        )
    for key in ("root", "repo_id", *OF_EACH, "statistics", "read"):
        if config.data.get(key) is not None:
            instead = f"data.mix.NAME.{key}=VALUE for each of them, and " if key in ("root", *OF_EACH, "read") else ""
            raise UserError(
                f"data.{key}={config.data[key]} is given beside data.mix, whose datasets have their own. Type "
                f"{instead}data.{key}=null" + (" (or data=mix)" if key == "root" else "")
            )
    if config.trainer.best_metric != "val_loss":
        raise UserError(
            f"trainer.best_metric={config.trainer.best_metric}: units of several datasets have no common error. Type "
            "trainer.best_metric=val_loss"
        )
    if config.action_space.type != "absolute":
        raise UserError(
            f"action_space={config.action_space.type}: a mixture is trained on actions as its datasets have them. Type "
            "action_space=absolute"
        )
    for member in _members(config):
        root = described(f"{member.key}.root", member.root)
        if not (is_folder(root) or find_format(root)) and "${needs" not in member.root:
            raise UserError(
                f"{member.key}.root={member.root}: there is no dataset. Give a dataset ({dataset_looks()})."
            )
        check_reading(root, member.read, f"{member.key}.read")
        split = member.split
        if split is not None and "${needs" not in split and not on_a_hub(f"{member.key}.split", split):
            _check_manifest(f"{member.key}.split", split)
        facts = dataset_facts(root)
        for key in ("tasks", "exclude_tasks"):
            wanted = getattr(member, key)
            if wanted is not None and facts and facts.tasks:
                choose_tasks(f"{member.key}.{key}", list(wanted), facts.tasks, member.root)
    _known_cameras(config)


def _check_task_selection(config: DictConfig) -> None:
    wanted = {key: config.data.get(key) for key in ("tasks", "exclude_tasks")}
    facts = dataset_facts(described_root(config)) if any(entries is not None for entries in wanted.values()) else None
    for key, entries in wanted.items():
        if entries is not None and facts and facts.tasks:
            choose_tasks(f"data.{key}", list(entries), facts.tasks, shown_root(config))


def check_model(config: DictConfig) -> None:
    """A model learns what it is given: relative actions, a mixture, and the cameras that it names."""
    if config.action_space.type != "absolute":
        refuse_relative(learner(config.model.family))
    if config.data.mix is not None:
        refuse_mixture(learner(config.model.family))
    slots = config.model.get("cameras")
    known = _known_cameras(config) if isinstance(slots, DictConfig) else None
    if known is None:
        return
    cameras, where = known
    if not cameras:
        raise UserError(f"The model {config.model.name} needs a camera; {where} has none.")
    for slot, entry in slots.items():
        wanted = entry.get("camera") if isinstance(entry, DictConfig) else None
        if wanted is not None and wanted not in cameras:
            raise UserError(
                f"model.cameras.{slot}.camera={wanted}: {where} has no such camera. "
                f"Its cameras: {join_names(cameras)}{did_you_mean(wanted, cameras)}"
            )


def check_augment(config: DictConfig) -> None:
    """Operations and patterns of cameras are known, and fit the dataset's cameras where these are known."""
    plain: Any = OmegaConf.to_container(config.augment, resolve=True)
    views = read_views(plain["views"])
    known = _known_cameras(config) if views else None
    if known is not None:
        assign_views(views, *known)


def check_folder(config: DictConfig, key: str) -> None:
    """A folder that is given must be there, unless another job of the experiment will make it."""
    if made_by_another_job(config, key):
        return
    value = OmegaConf.select(config, key)
    if value is not None and not on_a_hub(key, value) and not exists(CheckpointRef.parse(str(value)).path):
        raise UserError(f"{key}={value}: {missing_reference(str(value))}. Give a run folder or a policy folder.")


def made_by_another_job(config: DictConfig, key: str) -> bool:
    """Whether a key names what another job of the experiment will make."""
    return "${needs" in str(raw(config, key)) or "${needs" in str(OmegaConf.select(config, key))


def _members(config: DictConfig) -> tuple[MemberOptions, ...]:
    plain: Any = OmegaConf.to_container(config.data.mix, resolve=True) if config.data.mix is not None else None
    return read_mix(plain)


def _known_cameras(config: DictConfig) -> tuple[tuple[str, ...], str] | None:
    """The cameras that there are to train on and what has them, for messages; None where that is not known yet."""
    if config.data.mix is None:
        facts = dataset_facts(described_root(config))
        return None if facts is None else (facts.cameras, f"the dataset {shown_root(config)}")
    members = _members(config)
    known = {member.name: dataset_facts(described(f"{member.key}.root", member.root)) for member in members}
    own = {name: facts.cameras for name, facts in known.items() if facts is not None}
    return (mixed_cameras(members, own), "the mixture data.mix") if len(own) == len(known) else None
