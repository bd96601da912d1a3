"""Values of an experiment file that name other runs: `${needs:stage}`, `${run:path}` and `${best:stage,metric}`.

`${needs:stage}` is the folder of the job that this job needs from `stage`, `${needs_all:stage}` the list of the folders
of all of them; `${run:path}` is a path in the job's own folder. They are known when the job is composed, since folders
are named beforehand. `${best:stage,metric}` is the value that *this very key* has in the runs of `stage` with the
lowest mean `metric`; `${best:stage,metric,key}` takes another key's value, `${best:stage,metric,key,max}` the highest
metric. It is deferred: the job itself resolves it, when the stage is done; until then the text stands for itself.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from xp.errors import UserError, join_names
from xp.json_types import JSON, JSONObject
from xp.nested import dotted
from xp.runs.records.folder import RunFolder
from xp.runs.records.record import State

DEFERRED = re.compile(r"\$\{best:([^,{}]+),([^,{}]+)(?:,([^,{}]*))?(?:,(min|max))?\}")
_TRAIN = "train_"


@dataclass(frozen=True)
class ResolveContext:
    """Where a job stands while it is composed: its own folder and, per needed stage, the folders of its needs."""

    folder: str
    needs: Mapping[str, tuple[str, ...]]


_context: ContextVar[ResolveContext | None] = ContextVar("context", default=None)


def register() -> None:
    """Make the four resolvers known to OmegaConf; repeated calls change nothing."""
    for name, function in {"needs": _needs, "needs_all": _needs_all, "run": _run, "best": _best}.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


@contextmanager
def resolving(context: ResolveContext) -> Iterator[None]:
    """Resolve `${needs:}` and `${run:}` for this job inside the block; outside they stand for their own text."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def _needs(stage: str) -> str | None:
    context = _context.get()
    if context is None:
        return f"${{needs:{stage}}}"
    folders = _folders(context, stage)
    if len(folders) > 1:
        raise UserError(
            f"The job {context.folder} takes ${{needs:{stage}}}, but {len(folders)} jobs of '{stage}' fit it: "
            f"{join_names(Path(folder).name for folder in folders[:4])}. Sweep the keys that tell them apart in both "
            f"stages, or take them all: ${{needs_all:{stage}}}"
        )
    return folders[0] if folders else None


def _needs_all(stage: str) -> list[str]:
    context = _context.get()
    return [f"${{needs_all:{stage}}}"] if context is None else list(_folders(context, stage))


def _folders(context: ResolveContext, stage: str) -> tuple[str, ...]:
    folders = context.needs.get(stage)
    if folders is None:
        raise UserError(
            f"The job {context.folder} takes ${{needs:{stage}}}, but its stage does not need '{stage}'; it needs "
            f"{join_names(context.needs)}. Add '{stage}' to the stage's needs in the experiment file."
        )
    return folders


def _run(rest: str = "") -> str:
    context = _context.get()
    if context is None:
        return f"${{run:{rest}}}"
    return str(Path(context.folder) / rest)


def _best(*words: object) -> str:
    return "${best:" + ",".join(map(str, words)) + "}"


def deferred_stages(config: JSONObject) -> dict[str, str]:
    """{dotted key: stage} of the values that wait for a finished stage."""
    found = {}
    for key, value in dotted(config).items():
        match = DEFERRED.fullmatch(value) if isinstance(value, str) else None
        if match:
            found[key] = match.group(1)
        elif isinstance(value, str) and "${best:" in value:
            raise UserError(
                f"{key}={value}: a value taken from a finished stage must stand alone, in the form "
                "${best:STAGE,METRIC}, ${best:STAGE,METRIC,KEY} or ${best:STAGE,METRIC,KEY,max}."
            )
    return found


def resolve(config: JSONObject, needed: Mapping[str, list[Path]]) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Replace the deferred values of a plain configuration by what the finished runs say.

    Args:
        config: plain nested configuration.
        needed: {stage: folders of this job's needed runs of that stage}.

    Returns:
        The configuration with every deferred value replaced, and {dotted key: value} of those that were.

    Raises:
        UserError: the stage is not needed, or none of its runs is done and has the metric and the key.
    """
    taken: dict[str, JSON] = {}

    def walk(node: JSON, path: str) -> JSON:
        if isinstance(node, dict):
            return {key: walk(value, f"{path}.{key}" if path else str(key)) for key, value in node.items()}
        match = DEFERRED.fullmatch(node) if isinstance(node, str) else None
        if match is None:
            return node
        stage, metric, key, direction = match.groups()
        taken[path] = best(needed.get(stage, []), metric, key or path, stage=stage, highest=direction == "max")
        return taken[path]

    return {key: walk(value, key) for key, value in config.items()}, taken


def best(folders: list[Path], metric: str, key: str, *, stage: str, highest: bool = False) -> JSON:
    """The value of config `key` whose done runs have the best mean `metric`; equal means: the first by name.

    Runs that agree on the key (other seeds) are averaged, so that one lucky seed decides nothing.
    """
    scores: dict[str, list[float]] = {}
    values: dict[str, JSON] = {}
    for folder in sorted(folders):
        run = RunFolder(folder)
        score = metric_of(run, metric) if run.record().state is State.DONE else None
        if score is not None and math.isfinite(score):
            value = _value_of(run, key, stage)
            scores.setdefault(repr(value), []).append(-score if highest else score)
            values.setdefault(repr(value), value)
    if not scores:
        raise UserError(
            f"{key} shall be taken from the best run of stage '{stage}' by '{metric}', but none of its {len(folders)} "
            f"runs is done and has a finite '{metric}' in summary.json, validation_log.csv or training_log.csv (there "
            f"also as 'train_...'). Look at the stage's runs with: xp task=status"
        )
    return values[min(scores, key=lambda each: math.fsum(scores[each]) / len(scores[each]))]


def _value_of(run: RunFolder, key: str, stage: str) -> JSON:
    config = dotted(OmegaConf.to_container(run.config(), resolve=True))  # type: ignore[arg-type]
    if key not in config:
        raise UserError(
            f"{key} shall be taken from the best run of stage '{stage}', whose configuration has no key '{key}'. "
            f"Name the key: ${{best:{stage},METRIC,KEY}}"
        )
    return config[key]


def metric_of(run: RunFolder, metric: str) -> float | None:
    """A run's metric: from summary.json, else the last value in validation_log.csv, else in training_log.csv.

    `train_loss` is the column `loss` of training_log.csv.
    """
    summary = run.summary()
    found = dotted(summary).get(metric) if isinstance(summary, dict) else None
    if isinstance(found, int | float) and not isinstance(found, bool):
        return float(found)
    for rows, column in (
        (run.validation_log(), metric),
        (run.training_log(), metric),
        (run.training_log() if metric.startswith(_TRAIN) else [], metric.removeprefix(_TRAIN)),
    ):
        values = [value for row in rows if isinstance(value := row.get(column), int | float)]
        if values:
            return float(values[-1])
    return None
