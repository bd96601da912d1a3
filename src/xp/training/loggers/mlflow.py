"""A run of MLflow: in files in the run's folder, or on the tracking server or in the database that is named."""

import importlib
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from xp.atomic import write_text
from xp.errors import UserError
from xp.json_types import JSON, JSONObject
from xp.nested import dotted
from xp.runs import Run
from xp.runs.records.json_io import read_object
from xp.training.loggers.protocol import Logger, WithoutRepeats, missing

LONGEST = 500
"""Characters of a parameter's value that every server takes."""
AT_ONCE = 100
"""Parameters in one request, as many as MLflow allows."""


class MLflow:
    """One MLflow run per run folder; its id is kept there so that resuming continues it."""

    def __init__(self, run: Run, section: JSONObject):
        """`section` is `logger.mlflow`.

        Raises:
            UserError: the package is not there, or the store does not know the run that this one goes on with.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        uri = section.get("tracking_uri")
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run.folder / "mlflow").as_uri()
        try:
            entities = importlib.import_module("mlflow.entities")  # in an extra, which type checking does without
            tracking = importlib.import_module("mlflow.tracking")
        except ImportError as error:
            raise missing("mlflow", "mlflow-skinny") from error
        self._metric, self._param = entities.Metric, entities.Param
        self._client = tracking.MlflowClient(tracking_uri=str(uri))
        identifier = run.folder / "mlflow_id.txt"
        if identifier.exists():
            self._id = identifier.read_text().strip()
            self._go_on(str(uri), str(identifier))
            return
        self._id = self._begin(str(section.get("experiment") or "xp"), str(section.get("name") or run.folder.name))
        write_text(identifier, self._id)
        self._note(read_object(run.folder / "config.json", default={}))  # redacted: never a secret

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Store the values before this returns: a run that is killed has lost none."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def last_steps(self) -> dict[str, int]:
        """{name: last step that the run has a value of}."""
        return {name: self._last_step(name) for name in self._client.get_run(self._id).data.metrics}

    def close(self) -> None:
        """Mark the MLflow run as finished."""
        self._client.set_terminated(self._id)

    def _begin(self, experiment: str, name: str) -> str:
        found = self._client.get_experiment_by_name(experiment)
        place = self._client.create_experiment(experiment) if found is None else found.experiment_id
        return self._client.create_run(place, run_name=name).info.run_id

    def _go_on(self, uri: str, identifier: str) -> None:
        refusal = importlib.import_module("mlflow.exceptions").MlflowException
        try:
            self._client.update_run(self._id, status="RUNNING")
        except refusal as error:
            raise UserError(
                f"logger.mlflow: {uri} has no run {self._id}, which {identifier} names ({error}). Give the one that "
                f"the run was begun with (logger.mlflow.tracking_uri=URI), or remove {identifier} to begin another"
            ) from error

    def _last_step(self, name: str) -> int:
        return max((metric.step for metric in self._client.get_metric_history(self._id, name)), default=-1)

    def _note(self, config: JSONObject) -> None:
        """The configuration as parameters of the MLflow run."""
        params = [self._param(key, _text(value)) for key, value in dotted(config).items()]
        for batch in _in_parts(params):
            self._client.log_batch(self._id, params=batch)


def _text(value: JSON) -> str:
    return str(value)[:LONGEST]


def _in_parts(params: list[Any]) -> Iterable[list[Any]]:
    return (params[start : start + AT_ONCE] for start in range(0, len(params), AT_ONCE))


def open_here(run: Run, section: JSONObject, start: int) -> Logger:
    """The logger of a run; see `xp.training.loggers.open_logger`."""
    logger = MLflow(run, section)
    return WithoutRepeats(logger, logger.last_steps())
