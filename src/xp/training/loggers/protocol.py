"""What a logger is, and what the loggers share."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from xp.errors import UserError


@runtime_checkable
class Logger(Protocol):
    """A place for scalars by step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note `values` (names such as 'train/loss') at `step` finished updates."""
        ...

    def close(self) -> None:
        """Flush everything."""
        ...


class NoLogger:
    """Nowhere."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Loggers:
    """Several places at once."""

    def __init__(self, loggers: list[Logger]):
        self._loggers = loggers

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values in every place."""
        for logger in self._loggers:
            logger.log(step, values)

    def close(self) -> None:
        """Close all, the rest also when one fails."""
        errors = []
        for logger in self._loggers:
            try:
                logger.close()
            except Exception as error:  # one service's trouble must not lose the others' last values
                errors.append(error)
        if errors:
            raise errors[0]


class WithoutRepeats:
    """A place that never gets a value twice: for those that only ever append.

    A run that goes on from a checkpoint makes steps again that were noted before it was interrupted; they come out the
    same, so what is there already stays and the rest is added.
    """

    def __init__(self, logger: Logger, last: Mapping[str, int]):
        """`last`: {name: last step that the place has a value of}."""
        self._logger, self._last = logger, last

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values that are not there yet."""
        new = {name: value for name, value in values.items() if step > self._last.get(name, -1)}
        if new:
            self._logger.log(step, new)

    def close(self) -> None:
        """Flush everything."""
        self._logger.close()


def missing(name: str, package: str | None = None) -> UserError:
    """The error for a logger whose package is not there; `package` where it is not called as the logger is."""
    return UserError(
        f"logger.{name}.enabled=true needs the package '{package or name}', which is not installed. Install it with "
        f"`uv sync --extra {name}` (or `pip install 'xp[{name}]'`), or type logger=csv to do without."
    )
