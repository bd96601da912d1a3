"""Checks of one job before anything heavy is imported: types, words, bounds, and keys that must agree."""

import dataclasses
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xp.config.dataset_facts import dataset_facts
from xp.config.devices import check_accumulate, check_devices
from xp.config.explain import unknown_key
from xp.config.schema import MERGE_METHODS, SECTIONS, TASKS
from xp.config.tokenizer import tokenizer_folder
from xp.errors import UserError, closest, listing

CLOSED_LOOP_EXECUTIONS = ("receding", "ensembling")
REPLAY_MODES = ("ground_truth", "self_chained", "delayed")


def check(config: DictConfig, *, complete: bool = True) -> None:
    """Refuse a configuration that cannot run.

    Args:
        config: one composed job, interpolations allowed; values that come from a finished stage may be unresolved.
        complete: also check what the job's task needs (folders that must be there, keys that must be given).

    Raises:
        UserError: naming the key, the value given, what is allowed and the closest match.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    for name, schema in SECTIONS.items():
        if name in plain:
            _check_section(name, schema, config, plain[name])  # type: ignore[index]
    _check_top(config)
    task = config.task.name
    if task not in TASKS:
        raise UserError(f"task={task}: there is no such task. Tasks: {listing(TASKS)}{closest(str(task), TASKS)}")
    if complete:
        _BY_TASK[task](config)


def _check_section(name: str, shape: type | dict[str, type], config: DictConfig, plain: Any) -> None:
    schema = _schema(shape, plain)
    if not isinstance(plain, dict):
        raise UserError(f"{name}={plain!r}: '{name}' is a section. Set one of its keys: {listing(_fields(schema))}")
    for key in plain:
        if key not in _fields(schema):
            raise UserError(unknown_key(f"{name}.{key}", {name: dict.fromkeys(_fields(schema))}))
    typed = _typed(schema)
    for key, spec in _fields(schema).items():
        value = plain.get(key)
        if isinstance(value, str) and value.startswith("${"):
            if "${best:" in value:
                continue
            value = config[name][key]
        _check_value(f"{name}.{key}", value, typed, key, spec)


def _schema(shape: type | dict[str, type], plain: Any) -> type:
    """The schema of a section; where it depends on the section's `name`, the first for a name that is not known."""
    if isinstance(shape, type):
        return shape
    name = plain.get("name") if isinstance(plain, dict) else None
    return shape.get(str(name)) or next(iter(shape.values()))


@cache
def _typed(schema: type) -> DictConfig:
    """An object that takes a value for each field of a schema and refuses one of a wrong type; made once."""
    return OmegaConf.structured(schema)


@cache
def _fields(schema: type) -> dict[str, dataclasses.Field]:
    return {spec.name: spec for spec in dataclasses.fields(schema)}


def _check_value(path: str, value: Any, typed: DictConfig, key: str, spec: dataclasses.Field) -> None:
    try:
        typed[key] = value
        value = typed[key]
    except OmegaConfBaseException as error:
        raise UserError(f"{path}={value!r}: {_wanted(spec)} is wanted here.") from error
    allowed = spec.metadata.get("allowed")
    if allowed and value is not None and value not in allowed:
        raise UserError(f"{path}={value}: allowed are {listing(allowed)}{closest(str(value), allowed)}")
    low, high = spec.metadata.get("min"), spec.metadata.get("max")
    if isinstance(value, int | float) and not _within(value, low, high):
        bounds = "a number" if low is None else f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise UserError(f"{path}={value}: must be {bounds}.")


def _within(value: float, low: float | None, high: float | None) -> bool:
    return value == value and (low is None or value >= low) and (high is None or value <= high)


def _wanted(spec: dataclasses.Field) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(spec.type, str(spec.type).replace("typing.", "").replace("None", "null"))  # type: ignore[arg-type]


def _check_top(config: DictConfig) -> None:
    seed = config.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"seed={seed!r}: must be a whole number, at least 0.")


def _check_train(config: DictConfig) -> None:
    trainer = config.trainer
    if trainer.accumulate > trainer.batch_size:
        raise UserError(
            f"trainer.accumulate={trainer.accumulate} splits a batch of trainer.batch_size={trainer.batch_size} into "
            f"more parts than it has samples. Give 1..{trainer.batch_size}."
        )
    check_devices(trainer.devices, trainer.strategy, trainer.compile)
    check_accumulate(trainer.batch_size, trainer.accumulate, 1 if trainer.devices == "auto" else trainer.devices)
    peak = OmegaConf.to_container(config.lr, resolve=False)["peak"]  # type: ignore[index,call-overload]
    if "${best:" not in str(peak) and config.lr.peak <= 0:
        raise UserError(f"lr.peak={config.lr.peak}: must be above 0, for instance lr.peak=3e-4.")
    _check_folder(config, "pretrained_path")
    _check_data(config)
    _check_model(config)
    _check_language(config)


def _check_data(config: DictConfig) -> None:
    data = config.data
    if data.root is None:
        raise UserError(
            "data.root is not given. Give the folder of a LeRobotDataset v3: data.root=FOLDER, or record the embedded "
            "suite with: xp task=collect, and train on it with data=arm"
        )
    if not _made_by_another_job(config, "data.root") and not Path(data.root).is_dir():
        raise UserError(
            f"data.root={data.root}: there is no dataset. Record the embedded suite there with: "
            f"xp task=collect data.root={data.root} ; or give the folder of a LeRobotDataset v3: data.root=FOLDER"
        )
    made = _made_by_another_job(config, "data.split")
    if data.split is not None and not made and not Path(data.split).is_file():
        raise UserError(f"data.split={data.split}: no such file. Give a split manifest, or data.val_fraction=0.2")
    _check_folder(config, "data.statistics")
    _check_task_selection(config)


def _check_task_selection(config: DictConfig) -> None:
    wanted = [(key, task) for key in ("tasks", "exclude_tasks") for task in config.data.get(key) or ()]
    facts = dataset_facts(config.data.root) if wanted else None
    known = facts.tasks if facts else ()
    for key, task in wanted:
        if known and not any(name == task or fnmatchcase(name, task) for name in known):
            raise UserError(
                f"data.{key}: the dataset {config.data.root} has no task {task!r}. "
                f"Its tasks: {'; '.join(known)}{closest(str(task), known)}"
            )


def _check_model(config: DictConfig) -> None:
    """A model that names a camera needs a dataset that has it."""
    slots = config.model.get("cameras")
    facts = dataset_facts(config.data.root)
    if not isinstance(slots, DictConfig) or facts is None:
        return
    if not facts.cameras:
        raise UserError(f"The model {config.model.name} needs a camera; the dataset {config.data.root} has none.")
    for slot, entry in slots.items():
        wanted = entry.get("camera") if isinstance(entry, DictConfig) else None
        if wanted is not None and wanted not in facts.cameras:
            raise UserError(
                f"model.cameras.{slot}.camera={wanted}: the dataset {config.data.root} has no such camera. "
                f"Its cameras: {listing(facts.cameras)}{closest(wanted, facts.cameras)}"
            )


def _check_language(config: DictConfig) -> None:
    """A model that reads text through T5 needs its tokenizer: asked for before a run, not at its first batch."""
    language = config.model.get("language")
    encoder = str(language.get("encoder")) if isinstance(language, DictConfig) else ""
    if encoder == "t5" or encoder.startswith("t5-"):
        tokenizer_folder("t5-base" if encoder == "t5" else encoder, language.get("tokenizer"))


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
    if value is not None and not Path(str(value).split("@")[0]).exists():
        raise UserError(f"{key}={value}: no such folder. Give a run folder or a policy folder.")


def _made_by_another_job(config: DictConfig, key: str) -> bool:
    node: Any = OmegaConf.to_container(config, resolve=False)
    for part in key.split("."):
        node = node[part] if isinstance(node, dict) else None
    return "${needs" in str(node) or "${needs" in str(OmegaConf.select(config, key))


def _check_predict(config: DictConfig) -> None:
    if config.predict.checkpoint is None:
        raise UserError("predict.checkpoint is not given: which policy? Give a run folder: predict.checkpoint=FOLDER")
    _check_folder(config, "predict.checkpoint")
    _check_folder(config, "predict.data_root")
    _check_folder(config, "predict.validation")
    _check_cameras(config, "predict.cameras")


def _check_eval(config: DictConfig) -> None:
    if config.eval.checkpoint is None:
        raise UserError("eval.checkpoint is not given: which policy? Give a run folder: eval.checkpoint=FOLDER")
    _check_folder(config, "eval.checkpoint")
    _check_cameras(config, "eval.cameras")
    if config.eval.name == "offline_replay":
        _check_replay(config)
        return
    _check_env(config)
    if config.chunk_size.execution not in CLOSED_LOOP_EXECUTIONS:
        raise UserError(
            f"chunk_size.execution={config.chunk_size.execution}: a simulated robot executes chunks as "
            f"{listing(CLOSED_LOOP_EXECUTIONS)}; blending is measured by the replay: eval=offline_replay"
        )


def _check_replay(config: DictConfig) -> None:
    _check_folder(config, "eval.data_root")
    wrong = [mode for mode in config.eval.modes if mode not in REPLAY_MODES]
    if wrong or not config.eval.modes:
        given = wrong[0] if wrong else "[]"
        raise UserError(f"eval.modes={given}: allowed are {listing(REPLAY_MODES)}{closest(given, REPLAY_MODES)}")
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
    for camera, size in config.env.cameras.items():
        if len(size) != 2 or min(size) < 16:
            raise UserError(f"env.cameras.{camera}={list(size)}: give [height, width] in pixels, each at least 16.")


def _check_merge(config: DictConfig) -> None:
    if config.merge_method.name == "none":
        options = [name for name in MERGE_METHODS if name != "none"]
        raise UserError(f"task=merge needs a method: merge_method=average, or one of {listing(options)}")
    if not _made_by_another_job(config, "merge.checkpoints"):
        if not config.merge.checkpoints:
            raise UserError("merge.checkpoints is empty: which checkpoints? merge.checkpoints=[FOLDER,FOLDER,FOLDER]")
        for folder in config.merge.checkpoints:
            if not Path(str(folder).split("@")[0]).exists():
                raise UserError(f"merge.checkpoints: there is no {folder}. Give run folders or policy folders.")
    for key in ("merge.base", "merge.validation"):
        _check_folder(config, key)


def _check_report(config: DictConfig) -> None:
    _check_folder(config, "report.folder")


def _check_nothing(config: DictConfig) -> None:
    """Status reads what is there."""


_BY_TASK = {
    "train": _check_train,
    "predict": _check_predict,
    "eval": _check_eval,
    "collect": _check_collect,
    "split": _check_split,
    "dump": _check_dump,
    "merge": _check_merge,
    "report": _check_report,
    "status": _check_nothing,
    "gc": _check_nothing,
    "cancel": _check_nothing,
    "attach": _check_nothing,
}
