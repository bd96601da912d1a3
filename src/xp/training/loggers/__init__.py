"""Where numbers go besides the CSV logs, which are always written: one module per service, or nowhere."""

import importlib
from collections.abc import Mapping

from xp.json_types import JSONObject
from xp.runs import Run
from xp.training.loggers.protocol import Logger, Loggers, NoLogger, WithoutRepeats

__all__ = ["LOGGERS", "Logger", "Loggers", "NoLogger", "WithoutRepeats", "open_logger"]

LOGGERS = ("tensorboard", "wandb", "trackio", "mlflow")
"""Modules of this package, each with `open_here`; sections of `logger` by these names turn them on."""


def open_logger(run: Run, section: JSONObject | None, start: int = 0) -> Logger:
    """The places that a `logger` section turns on; CSV logs are not among them, since they are always written.

    Args:
        run: the run whose folder they write to.
        section: {wandb: {enabled, project, mode, ...}, tensorboard: {enabled}, ...}; None turns all off.
        start: finished updates at the start: above 0 for a resumed run.

    Raises:
        UserError: a logger is on and its package is not installed.
    """
    loggers: list[Logger] = []
    for name in LOGGERS:
        options = _enabled(section or {}, name)
        if options is not None:
            loggers.append(importlib.import_module(f"{__name__}.{name}").open_here(run, options, start))
    return Loggers(loggers) if loggers else NoLogger()


def _enabled(section: JSONObject, name: str) -> JSONObject | None:
    """The settings of one logger where it is on."""
    found = section.get(name)
    return found if isinstance(found, Mapping) and found.get("enabled") else None
