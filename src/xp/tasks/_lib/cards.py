"""What the card of a repository says, from the files of runs: data, training, numbers with intervals, versions."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from xp.errors import UserError
from xp.foreign.json_file import read_object
from xp.hub.card import CardFacts, FormatWords, Metric, dataset_card
from xp.json_types import JSON, JSONObject, section
from xp.runs import RunFolder, find_runs
from xp.runs.records.folder import JOB, RECORD
from xp.runs.records.json_io import read_json
from xp.shell import quoted

if TYPE_CHECKING:
    from xp.data import Dataset

METRICS = "metrics.json"
_INTERVAL = "_interval"
_MEASURES = ("eval", "predict")
_MOST_RUNS = 1000
"""Runs of an experiment that are looked through for those that measured a policy."""


def policy_facts(config: DictConfig, policy: Path, family: str) -> CardFacts:
    """What the card of a policy says; of a folder that no run of xp made, what is known without one."""
    run = _run_of(policy)
    summary = _summary(run)
    record: JSONObject = {} if run is None else RunFolder(run).record()
    hub = section(record, "hub")
    return CardFacts(
        repo=str(config.push.repo),
        family=family,
        model=_model(policy, summary),
        license=config.push.license,
        data=_data(summary, hub),
        dataset_id=_id(hub, "data."),
        base_model=_id(hub, "pretrained_path"),
        training=_training(record, summary),
        metrics=list(_metrics(config, run)),
        command="" if run is None else command_of(run),
        versions={name: str(version) for name, version in section(record, "versions").items()},
    )


def dataset_facts(
    config: DictConfig, dataset: "Dataset", info: Path, words: FormatWords, command: str
) -> tuple[str, str]:
    """The card of a dataset, and the version of its format, which readers look for as a tag."""
    fields = read_object(info, "the dataset's description")
    about = {
        "robot": str(fields.get("robot_type") or "not named"),
        "episodes": str(dataset.episodes.num),
        "frames": f"{dataset.num_frames} at {dataset.fps:g} per second",
        "cameras": ", ".join(f"{name} {h}x{w}" for name, (h, w, _) in dataset.cameras.items()) or "none",
        "tasks": "; ".join(dataset.tasks),
        "fingerprint": dataset.fingerprint,
    }
    push = config.push
    text = info.read_text(encoding="utf-8")
    return dataset_card(push.repo, push.license, about, text, words, command), str(fields.get(words.version))


def command_of(run: Path) -> str:
    """The command that made a run, as job.json has it (without secrets)."""
    job = read_json(run / JOB, default={})
    overrides = job.get("overrides") if isinstance(job, Mapping) else None
    words = [str(each) for each in overrides] if isinstance(overrides, list) else []
    return " ".join(["xp", *map(quoted, words)])


def _run_of(policy: Path) -> Path | None:
    places = (policy, *list(policy.absolute().parents)[:4])
    return next((place for place in places if (place / RECORD).is_file()), None)


def _summary(run: Path | None) -> JSONObject:
    found = {} if run is None else RunFolder(run).summary()
    return found if isinstance(found, Mapping) else {}


def _model(policy: Path, summary: JSONObject) -> str:
    """A policy type, where the folder names one; else the model's name in the training."""
    config = read_json(policy / "config.json", default={})
    kind = config.get("type") if isinstance(config, Mapping) else None
    return str(kind or summary.get("model") or "policy")


def _data(summary: JSONObject, hub: JSONObject) -> dict[str, str]:
    data = section(summary, "data")
    origin = next((section(hub, key) for key in hub if key.startswith("data.")), {})
    named = {
        "dataset": str(origin["repository"]) if origin else Path(str(data.get("root", "unknown"))).name,
        **({"revision": str(origin["revision"]), "commit": str(origin["commit"])} if origin else {}),
    }
    words = {"fingerprint": "fingerprint", "fps": "frames per second", "train_episodes": "training episodes"}
    words["held_out_episodes"] = "held-out episodes"
    return {**named, **{word: str(data[key]) for key, word in words.items() if key in data}}


def _id(hub: JSONObject, key: str) -> str | None:
    found = next((section(hub, each) for each in hub if each.startswith(key)), None)
    return None if not found else str(found["repository"]).removeprefix("hf://").removeprefix("datasets/")


def _training(record: JSONObject, summary: JSONObject) -> dict[str, str]:
    config = section(summary, "config")
    trainer = section(config, "trainer")
    pairs: dict[str, JSON] = {
        "run": record.get("name"),
        "identity": record.get("identity"),
        "xp": record.get("git"),
        "steps": summary.get("total_steps"),
        "batch size": trainer.get("batch_size"),
        "horizon": summary.get("training_horizon"),
        "learning rate": section(config, "lr").get("peak"),
        "seed": summary.get("seed"),
        "started from": summary.get("pretrained"),
        "validation loss": summary.get("val_loss"),
    }
    return {name: str(value) for name, value in pairs.items() if value is not None}


def _metrics(config: DictConfig, run: Path | None) -> Iterator[Metric]:
    """The numbers of the runs that measured a policy: those that are given, and those of its experiment."""
    given = [Path(str(each)).expanduser().absolute() for each in config.push.evaluations]
    for each in given:
        if run is None or not _measured(each, run):
            raise UserError(
                f"push.evaluations: {each} is no finished run of task=eval or task=predict that measured "
                f"{config.push.run}. Give one that did (its eval.checkpoint or predict.checkpoint is that run)."
            )
    of_experiment = []
    if run is not None and RunFolder(run).record().text("experiment"):
        of_experiment = [each.path.absolute() for each in find_runs(run.parent)[:_MOST_RUNS]]
    for each in dict.fromkeys([*given, *(path for path in of_experiment if run is not None and _measured(path, run))]):
        yield from _of_run(each)


def _measured(measuring: Path, run: Path) -> bool:
    folder = RunFolder(measuring)
    if not (measuring / METRICS).is_file() or folder.record().text("state") != "done":
        return False
    config = read_json(measuring / "config.json", default={})
    asked = [section(config, task).get("checkpoint") for task in _MEASURES]
    paths = [Path(text).expanduser().absolute() for text in asked if isinstance(text, str)]
    return any(path == run.absolute() or path.is_relative_to(run.absolute()) for path in paths)


def _of_run(measuring: Path) -> Iterator[Metric]:
    metrics = read_json(measuring / METRICS, default={})
    if not isinstance(metrics, Mapping):
        return
    tasks = section(section(metrics, "policies"), "policy")
    if not tasks:
        held_out = metrics.get("held_out")
        yield from _numbers(metrics, f"recorded episodes ({held_out})" if held_out else "recorded episodes")
    for task in tasks:
        suite = metrics.get("suite")
        yield from _numbers(section(tasks, task), f"{suite}: {task}" if isinstance(suite, str) else task)


def _numbers(metrics: JSONObject, where: str) -> Iterator[Metric]:
    """Each number that has an interval beside it."""
    for key, ends in metrics.items():
        if not key.endswith(_INTERVAL) or not isinstance(ends, Mapping):
            continue
        name = key.removesuffix(_INTERVAL)
        full = next((each for each in (name, f"{name}_rate", f"mean_{name}") if each in metrics), None)
        value = None if full is None else metrics[full]
        if full is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        count = ends.get("n_episodes", metrics.get("num_episodes"))
        yield Metric(
            name=full.replace("_", " "),
            value=float(value),
            low=_end(ends.get("low")),
            high=_end(ends.get("high")),
            level=_end(ends.get("level")),
            behind="" if count is None else f"{count} episodes",
            where=where,
        )


def _end(value: JSON) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
