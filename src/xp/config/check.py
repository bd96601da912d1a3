"""Checks of one job before anything heavy is imported: types, words, bounds, and keys that must agree."""

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from xp.checkpoints.reference import CheckpointRef, exists, missing_reference
from xp.config.batch_size import AUTO, check_batch_size
from xp.config.check_data import check_augment, check_data, check_folder, check_model, made_by_another_job
from xp.config.dataset_facts import GROUP as DATASETS
from xp.config.devices import check_accumulate, check_devices
from xp.config.hub_checks import check_push, on_a_hub, refuse_to_write
from xp.config.merge_methods import NONE, merge_method_names
from xp.config.model_families import refuse_unknown_family
from xp.config.more_steps import read_extensions
from xp.config.schema import SUITES, TASKS, Env
from xp.config.sections import check_section, check_sections, raw
from xp.config.tokenizer import tokenizer_folder
from xp.config.words import CLOSED_LOOP_EXECUTIONS, REPLAY_EXECUTIONS, REPLAY_MODES
from xp.errors import UserError, did_you_mean, join_names
from xp.plugins import find_entry, load_plugin


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


def parts_of_check(task: str) -> tuple[Callable[[DictConfig], None], ...]:
    """What `check` is made of for a task, beside the types of all sections: functions that each check one thing."""
    return (*_EVERY_TASK, *_BY_TASK[task])


def _check_task(config: DictConfig) -> None:
    task = config.task.name
    if task not in TASKS:
        raise UserError(
            f"task={task}: there is no such task. Tasks: {join_names(TASKS)}{did_you_mean(str(task), TASKS)}"
        )


def _check_installed(config: DictConfig) -> None:
    """The suite and the model family are installed, whether this task will ask for them or not."""
    find_entry(SUITES, str(config.env.name), "env.name")
    refuse_unknown_family(str(config.model.get("family")))


def _check_batch(config: DictConfig) -> None:
    trainer = config.trainer
    most = trainer.batch_size_max
    devices, strategy = trainer.devices, trainer.strategy
    check_devices(devices, strategy, trainer.compile)
    check_batch_size(trainer.batch_size, trainer.accumulate, most, devices=devices, strategy=strategy)
    if trainer.batch_size != AUTO:
        check_accumulate(trainer.batch_size, trainer.accumulate, 1 if devices == "auto" else devices)


def _check_rate(config: DictConfig) -> None:
    if "${best:" not in str(raw(config, "lr.peak")) and config.lr.peak <= 0:
        raise UserError(f"lr.peak={config.lr.peak}: must be above 0, for instance lr.peak=3e-4.")


def _check_extensions(config: DictConfig) -> None:
    read_extensions(raw(config, "lr.extensions"), config.trainer.steps)


def _check_start(config: DictConfig) -> None:
    check_folder(config, "pretrained_path")


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
            "{front: top}' (null for a camera that is masked, in families that can), or null where the names are the "
            "same."
        )


def _check_load_options(config: DictConfig, key: str) -> None:
    """Options of a family are a map of names to words or numbers; which there are, the policy's family says."""
    given = OmegaConf.select(config, key)
    if given is None:
        return
    plain = isinstance(given, DictConfig) and all(isinstance(v, str | int | float | None) for v in given.values())
    if not plain:
        raise UserError(
            f"{key}={given}: give {{option: value}}, for instance '{key}={{dtype: bfloat16}}', or null. Which options "
            "there are depends on the policy's family: a wrong one is answered with their names."
        )


def _check_loading(config: DictConfig, section: str) -> None:
    """The keys of `Loading` in a section."""
    _check_cameras(config, f"{section}.camera_map")
    _check_load_options(config, f"{section}.load_options")


def _refuse_loading(config: DictConfig, section: str, key: str, why: str) -> None:
    """Refuse keys of `Loading` where no policy is loaded."""
    for name in ("camera_map", "unnorm_key", "load_options"):
        given = config[section][name]
        if given is not None:
            raise UserError(
                f"{section}.{name}={given} says how a policy is loaded, and {why}. Name a policy ({key}), or leave "
                f"{section}.{name} out."
            )


def _check_predict(config: DictConfig) -> None:
    if config.predict.checkpoint is None:
        raise UserError("predict.checkpoint is not given: which policy? Give a run folder: predict.checkpoint=FOLDER")
    check_folder(config, "predict.checkpoint")
    check_folder(config, "predict.data_root")
    check_folder(config, "predict.validation")
    _check_loading(config, "predict")


def _check_eval(config: DictConfig) -> None:
    if config.eval.name == "expert" or (config.eval.name == "returns" and config.eval.checkpoint is None):
        _check_env(config)
        return
    if config.eval.checkpoint is None:
        raise UserError("eval.checkpoint is not given: which policy? Give a run folder: eval.checkpoint=FOLDER")
    check_folder(config, "eval.checkpoint")
    if config.eval.name == "returns":
        _check_env(config)
        return
    _check_loading(config, "eval")
    if config.eval.name == "offline_replay":
        _check_replay(config)
        return
    _check_env(config)
    _check_delay(config)
    if config.chunk_size.execution not in CLOSED_LOOP_EXECUTIONS:
        raise UserError(
            f"chunk_size.execution={config.chunk_size.execution}: a simulated robot executes chunks as "
            f"{join_names(CLOSED_LOOP_EXECUTIONS)}; blending is measured by the replay: eval=offline_replay"
        )


def _check_delay(config: DictConfig) -> None:
    chunk = config.chunk_size
    if chunk.delay > (chunk.steps if chunk.execution == "real_time" else 0):
        raise UserError(
            f"chunk_size.delay={chunk.delay} with chunk_size.execution={chunk.execution} and chunk_size.steps="
            f"{chunk.steps}: answers take time with chunk_size.execution=real_time alone, and no more steps than are "
            "executed of a chunk. Type chunk_size.execution=real_time and a delay of at most chunk_size.steps, or "
            "chunk_size.delay=0"
        )


def _check_replay(config: DictConfig) -> None:
    check_folder(config, "eval.data_root")
    if config.chunk_size.execution not in REPLAY_EXECUTIONS:
        raise UserError(
            f"chunk_size.execution={config.chunk_size.execution}: a replay executes chunks as "
            f"{join_names(REPLAY_EXECUTIONS)}; answers that take time are its mode eval.modes=[delayed], and "
            "real-time chunking is measured in simulation: eval=closed_loop"
        )
    _check_delay(config)
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
    _check_loading(config, "collect")
    if config.collect.policy == "expert":
        _refuse_loading(config, "collect", "collect.policy=FOLDER", "collect.policy=expert loads none")
    if config.data.root is None:
        raise UserError("data.root is not given: where shall the dataset be written? data.root=FOLDER")
    refuse_to_write("data.root", config.data.root)
    find_entry(DATASETS, config.collect.format, "collect.format")
    _check_env(config)


def _check_histories(config: DictConfig) -> None:
    """Keys of histories are given with histories alone."""
    collect = config.collect
    if collect.histories is not None and (collect.noise or collect.label != "executed" or config.env.cameras):
        raise UserError(
            "collect.histories: histories are annealed (collect.anneal), hold executed actions and no pictures. Type "
            "collect.noise=0 collect.label=executed 'env.cameras={}'"
        )


def _check_improvement(config: DictConfig) -> None:
    if config.loop.name == "once":
        raise UserError("task=loop loop=once: which loop? Type loop=self_improve, or loop=as_published")
    if config.pretrained_path is None:
        raise UserError(
            "pretrained_path is not given: which policy shall improve? Give a run folder: pretrained_path=FOLDER"
        )
    _check_start(config)
    _check_env(config)


def _check_trained_once(config: DictConfig) -> None:
    if config.loop.name != "once":
        raise UserError(f"task=train loop={config.loop.name}: task=train trains once. Type loop=once, or task=loop")


def _check_split(config: DictConfig) -> None:
    check_data(config)
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
    _check_loading(config, "dump")
    if config.dump.checkpoint is None:
        _refuse_loading(config, "dump", "dump.checkpoint=FOLDER", "without dump.checkpoint none is")
    check_folder(config, "dump.checkpoint")
    if config.dump.part == "train" and not config.dump.allow_training:
        raise UserError(
            "dump.part=train would write training episodes as a validation set: weights chosen on them favour the "
            "model that has memorised them. Give dump.part=val, or say that you mean it: dump.allow_training=true"
        )
    if config.dump.checkpoint is None:
        check_data(config)
        check_model(config)


def _check_env(config: DictConfig) -> None:
    suite = load_plugin(SUITES, config.env.name, "env.name")
    check_section(config, "env", getattr(suite, "schema", Env))
    if not config.env.tasks:
        raise UserError("env.tasks=[]: which tasks? Give at least one, for instance env.tasks=[push_red]")
    for camera, size in config.env.cameras.items():
        if len(size) != 2 or min(size) < 16:
            raise UserError(f"env.cameras.{camera}={list(size)}: give [height, width] in pixels, each at least 16.")


def _check_merge(config: DictConfig) -> None:
    _check_loading(config, "merge")
    if config.merge_method.name == NONE:
        names = join_names(merge_method_names())
        raise UserError(f"task=merge needs a method: merge_method=average, or one of {names}")
    if not made_by_another_job(config, "merge.checkpoints"):
        if not config.merge.checkpoints:
            raise UserError("merge.checkpoints is empty: which checkpoints? merge.checkpoints=[FOLDER,FOLDER,FOLDER]")
        for folder in config.merge.checkpoints:
            if not on_a_hub("merge.checkpoints", folder) and not exists(CheckpointRef.parse(str(folder)).path):
                why = missing_reference(str(folder))
                raise UserError(f"merge.checkpoints: {folder}: {why}. Give run folders or policy folders.")
    if config.merge.objective == "success":
        _check_env(config)
    for key in ("merge.base", "merge.validation"):
        check_folder(config, key)


def _check_convert(config: DictConfig) -> None:
    if config.convert.checkpoint is None:
        raise UserError(
            "convert.checkpoint is not given: which policy? Give a run folder or a policy folder: "
            "convert.checkpoint=FOLDER"
        )
    check_folder(config, "convert.checkpoint")
    _check_load_options(config, "convert.load_options")


def _check_report(config: DictConfig) -> None:
    check_folder(config, "report.folder")
    check_folder(config, "report.base")
    if config.report.base is not None and not config.report.runs:
        raise UserError(
            f"report.base={config.report.base} is compared with the runs of report.runs, which names none. Type "
            "report.runs=[RUN]"
        )


_BY_TASK: dict[str, tuple[Callable[[DictConfig], None], ...]] = {
    "train": (
        _check_trained_once,
        _check_batch,
        _check_rate,
        _check_extensions,
        _check_start,
        check_data,
        check_model,
        check_augment,
        _check_language,
    ),
    "predict": (_check_predict,),
    "eval": (_check_eval,),
    "collect": (_check_collect, _check_histories),
    "loop": (_check_improvement,),
    "split": (_check_split,),
    "dump": (_check_dump,),
    "merge": (_check_merge,),
    "convert": (_check_convert,),
    "report": (_check_report,),
    "status": (),
    "push": (check_push,),
    "gc": (),
    "cancel": (),
    "attach": (),
}
"""What each task needs, in independent parts: a large sweep repeats those alone that read what it sweeps."""

_EVERY_TASK = (_check_task, _check_installed)
