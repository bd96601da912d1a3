"""Checks of one job before anything heavy is imported: types, words, bounds, and keys that must agree."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xp.checkpoints.reference import CheckpointRef, exists, is_file, is_folder, missing_reference
from xp.config.dataset_facts import choose_tasks, dataset_facts, find_format, missing_hint
from xp.config.devices import check_accumulate, check_devices
from xp.config.merge_methods import NONE, merge_method_names
from xp.config.schema import SUITES, TASKS, Env
from xp.config.sections import check_keys, check_section, check_sections, raw
from xp.config.tokenizer import tokenizer_folder
from xp.config.words import CLOSED_LOOP_EXECUTIONS, REPLAY_MODES
from xp.errors import UserError, did_you_mean, join_names
from xp.plugins import load_plugin
from xp.shell import command


def check(config: DictConfig, *, complete: bool = True) -> None:
    """Refuse a configuration that cannot run.

    Args:
        config: one composed job, interpolations allowed; values that come from a finished stage may be unresolved.
        complete: also check what the job's task needs (folders that must be there, keys that must be given).

    Raises:
        UserError: naming the key, the value given, what is allowed and the closest match.
    """
    check_sections(config)
    for part in _EVERY_TASK:
        part(config)
    if complete:
        for part in _BY_TASK[config.task.name]:
            part(config)


def check_alike(config: DictConfig, changing: Sequence[str]) -> Callable[[], None]:
    """The check of jobs that differ from one that has passed `check` in the values of a few keys, and in nothing else.

    Only what reads one of those keys is looked at again: their own types, words and bounds, and the parts
    (`_EVERY_TASK`, `_BY_TASK`) that have read a section with one of them (`_Noting` sees which).

    Args:
        config: holds the job that has passed, and later the others.
        changing: dotted keys whose values, as they resolve, may differ; the keys themselves are there in every job.

    Returns:
        A function that checks what `config` holds when it is called; raises as `check` does.
    """
    sections = {key.partition(".")[0] for key in changing}
    if "task" in sections or any(f"{name}.name" in changing for name in sections):
        return lambda: check(config)
    parts: list[Callable[[DictConfig], None]] = []
    for part in (*_EVERY_TASK, *_BY_TASK[config.task.name]):
        noting = _Noting(config)
        part(noting)
        if noting.sections_read & sections:
            parts.append(part)

    def again() -> None:
        check_keys(config, changing)
        for part in parts:
            part(config)

    return again


class _Noting(DictConfig):
    """A configuration that notes which of its sections are read."""

    def __init__(self, config: DictConfig):
        super().__init__(content=copy.deepcopy(config))
        object.__setattr__(self, "sections_read", set())

    def _get_node(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        if "sections_read" in self.__dict__:
            self.__dict__["sections_read"].add(key)
        return super()._get_node(key, *args, **kwargs)


def _check_task(config: DictConfig) -> None:
    task = config.task.name
    if task not in TASKS:
        raise UserError(
            f"task={task}: there is no such task. Tasks: {join_names(TASKS)}{did_you_mean(str(task), TASKS)}"
        )


def _check_batch(config: DictConfig) -> None:
    trainer = config.trainer
    if trainer.accumulate > trainer.batch_size:
        raise UserError(
            f"trainer.accumulate={trainer.accumulate} splits a batch of trainer.batch_size={trainer.batch_size} into "
            f"more parts than it has samples. Give 1..{trainer.batch_size}."
        )
    check_devices(trainer.devices, trainer.strategy, trainer.compile)
    check_accumulate(trainer.batch_size, trainer.accumulate, 1 if trainer.devices == "auto" else trainer.devices)


def _check_rate(config: DictConfig) -> None:
    if "${best:" not in str(raw(config, "lr.peak")) and config.lr.peak <= 0:
        raise UserError(f"lr.peak={config.lr.peak}: must be above 0, for instance lr.peak=3e-4.")


def _check_start(config: DictConfig) -> None:
    _check_folder(config, "pretrained_path")


def _check_data(config: DictConfig) -> None:
    data = config.data
    if data.root is None:
        raise UserError(
            "data.root is not given. Give the folder of a LeRobotDataset v3: data.root=FOLDER, or record the embedded "
            "suite with: xp task=collect, and train on it with data=arm"
        )
    if not _made_by_another_job(config, "data.root") and not (is_folder(data.root) or find_format(data.root)):
        raise UserError(
            f"data.root={data.root}: there is no dataset. "
            + (
                missing_hint(str(data.root))
                or f"Record the embedded suite there with: {command('task=collect', data__root=data.root)} ; or give "
                "the folder of a LeRobotDataset v3: data.root=FOLDER"
            )
        )
    made = _made_by_another_job(config, "data.split")
    if data.split is not None and not made and not is_file(data.split):
        raise UserError(f"data.split={data.split}: no such file. Give a split manifest, or data.val_fraction=0.2")
    _check_folder(config, "data.statistics")
    _check_task_selection(config)


def _check_task_selection(config: DictConfig) -> None:
    wanted = {key: config.data.get(key) for key in ("tasks", "exclude_tasks")}
    facts = dataset_facts(config.data.root) if any(entries is not None for entries in wanted.values()) else None
    for key, entries in wanted.items():
        if entries is not None and facts and facts.tasks:
            choose_tasks(f"data.{key}", list(entries), facts.tasks, config.data.root)


def _check_model(config: DictConfig) -> None:
    """A model that names a camera needs a dataset that has it."""
    slots = config.model.get("cameras")
    facts = dataset_facts(config.data.root) if isinstance(slots, DictConfig) else None
    if facts is None:
        return
    if not facts.cameras:
        raise UserError(f"The model {config.model.name} needs a camera; the dataset {config.data.root} has none.")
    for slot, entry in slots.items():
        wanted = entry.get("camera") if isinstance(entry, DictConfig) else None
        if wanted is not None and wanted not in facts.cameras:
            raise UserError(
                f"model.cameras.{slot}.camera={wanted}: the dataset {config.data.root} has no such camera. "
                f"Its cameras: {join_names(facts.cameras)}{did_you_mean(wanted, facts.cameras)}"
            )


def _check_language(config: DictConfig) -> None:
    """A model that reads text through T5 needs its tokenizer: asked for before a run, not at its first batch."""
    language = config.model.get("language")
    encoder = str(language.get("encoder")) if isinstance(language, DictConfig) else ""
    if encoder == "t5" or encoder.startswith("t5-"):
        tokenizer_folder("t5-base" if encoder == "t5" else encoder, language.get("tokenizer"), configurable=True)


def _check_cameras(config: DictConfig, key: str) -> None:
    """A map of cameras is a map of names."""
    given = OmegaConf.select(config, key)
    if given is None:
        return
    if not isinstance(given, DictConfig) or not all(isinstance(camera, str | None) for camera in given.values()):
        raise UserError(
            f"{key}={given}: give {{the policy's camera: the camera that feeds it}}, for instance '{key}="
            "{front: top}' (an Octo's may be null: it is masked), or null where the names are the same."
        )


def _check_folder(config: DictConfig, key: str) -> None:
    """A folder that is given must be there, unless another job of the experiment will make it."""
    if _made_by_another_job(config, key):
        return
    value = OmegaConf.select(config, key)
    if value is not None and not exists(CheckpointRef.parse(str(value)).path):
        raise UserError(f"{key}={value}: {missing_reference(str(value))}. Give a run folder or a policy folder.")


def _made_by_another_job(config: DictConfig, key: str) -> bool:
    return "${needs" in str(raw(config, key)) or "${needs" in str(OmegaConf.select(config, key))


def _check_predict(config: DictConfig) -> None:
    if config.predict.checkpoint is None:
        raise UserError("predict.checkpoint is not given: which policy? Give a run folder: predict.checkpoint=FOLDER")
    _check_folder(config, "predict.checkpoint")
    _check_folder(config, "predict.data_root")
    _check_folder(config, "predict.validation")
    _check_cameras(config, "predict.camera_map")


def _check_eval(config: DictConfig) -> None:
    if config.eval.checkpoint is None:
        raise UserError("eval.checkpoint is not given: which policy? Give a run folder: eval.checkpoint=FOLDER")
    _check_folder(config, "eval.checkpoint")
    _check_cameras(config, "eval.camera_map")
    if config.eval.name == "offline_replay":
        _check_replay(config)
        return
    _check_env(config)
    if config.chunk_size.execution not in CLOSED_LOOP_EXECUTIONS:
        raise UserError(
            f"chunk_size.execution={config.chunk_size.execution}: a simulated robot executes chunks as "
            f"{join_names(CLOSED_LOOP_EXECUTIONS)}; blending is measured by the replay: eval=offline_replay"
        )


def _check_replay(config: DictConfig) -> None:
    _check_folder(config, "eval.data_root")
    wrong = [mode for mode in config.eval.modes if mode not in REPLAY_MODES]
    if wrong or not config.eval.modes:
        given = wrong[0] if wrong else "[]"
        raise UserError(
            f"eval.modes={given}: allowed are {join_names(REPLAY_MODES)}{did_you_mean(given, REPLAY_MODES)}"
        )
    negative = [index for index in config.eval.indices_episode or () if index < 0]
    if negative or config.eval.indices_episode is not None and not len(config.eval.indices_episode):
        raise UserError(
            f"eval.indices_episode={list(config.eval.indices_episode)}: give episode numbers, as in "
            "eval.indices_episode=[0,1,2], or leave it out for the held-out episodes."
        )


def _check_collect(config: DictConfig) -> None:
    if config.data.root is None:
        raise UserError("data.root is not given: where shall the dataset be written? data.root=FOLDER")
    _check_env(config)


def _check_split(config: DictConfig) -> None:
    _check_data(config)
    if config.split.test_fraction and config.data.split is not None:
        raise UserError(
            f"split.test_fraction={config.split.test_fraction} takes episodes from those that data.val_fraction holds "
            f"out, but data.split={config.data.split} names them. Leave one of the two out."
        )
    if config.split.test_fraction >= config.data.val_fraction and config.split.test_fraction:
        raise UserError(
            f"split.test_fraction={config.split.test_fraction} must be below data.val_fraction="
            f"{config.data.val_fraction}: it is the share of all episodes, out of the held-out ones, that is kept for "
            "the end."
        )


def _check_dump(config: DictConfig) -> None:
    _check_folder(config, "dump.checkpoint")
    if config.dump.part == "train" and not config.dump.allow_training:
        raise UserError(
            "dump.part=train would write training episodes as a validation set: weights chosen on them favour the "
            "model that learned them by heart. Give dump.part=val, or say that you mean it: dump.allow_training=true"
        )
    if config.dump.checkpoint is None:
        _check_data(config)
        _check_model(config)


def _check_env(config: DictConfig) -> None:
    suite = load_plugin(SUITES, config.env.name, "env.name")
    check_section(config, "env", getattr(suite, "schema", Env))
    if not config.env.tasks:
        raise UserError("env.tasks=[]: which tasks? Give at least one, for instance env.tasks=[push_red]")
    for camera, size in config.env.cameras.items():
        if len(size) != 2 or min(size) < 16:
            raise UserError(f"env.cameras.{camera}={list(size)}: give [height, width] in pixels, each at least 16.")


def _check_merge(config: DictConfig) -> None:
    if config.merge_method.name == NONE:
        names = join_names(merge_method_names())
        raise UserError(f"task=merge needs a method: merge_method=average, or one of {names}")
    if not _made_by_another_job(config, "merge.checkpoints"):
        if not config.merge.checkpoints:
            raise UserError("merge.checkpoints is empty: which checkpoints? merge.checkpoints=[FOLDER,FOLDER,FOLDER]")
        for folder in config.merge.checkpoints:
            if not exists(CheckpointRef.parse(str(folder)).path):
                why = missing_reference(str(folder))
                raise UserError(f"merge.checkpoints: {folder}: {why}. Give run folders or policy folders.")
    if config.merge.objective == "success":
        _check_env(config)
    for key in ("merge.base", "merge.validation"):
        _check_folder(config, key)


def _check_report(config: DictConfig) -> None:
    _check_folder(config, "report.folder")


_BY_TASK: dict[str, tuple[Callable[[DictConfig], None], ...]] = {
    "train": (_check_batch, _check_rate, _check_start, _check_data, _check_model, _check_language),
    "predict": (_check_predict,),
    "eval": (_check_eval,),
    "collect": (_check_collect,),
    "split": (_check_split,),
    "dump": (_check_dump,),
    "merge": (_check_merge,),
    "report": (_check_report,),
    "status": (),
    "gc": (),
    "cancel": (),
    "attach": (),
}
"""What each task needs, in independent parts: a large sweep repeats those alone that read what it sweeps."""

_EVERY_TASK = (_check_task,)
