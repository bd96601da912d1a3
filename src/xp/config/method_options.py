"""The options of merge methods: what each may be, and one check for all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON

type Bounds = Mapping[str, JSON]
"""What `xp.config.schema` checks of a key: "min", "max", "allowed"."""


@runtime_checkable
class Option(Protocol):
    """What an option may be."""

    @property
    def default(self) -> JSON:
        """The value where none is given."""
        ...

    def check(self, key: str, given: object, count: int) -> JSON:
        """The value as it will be used, for `count` checkpoints.

        Raises:
            UserError: it does not fit; `key` is how the user says it.
        """
        ...

    def field(self) -> tuple[object, Bounds]:
        """Type (as an annotation has it) and bounds of the key in a configuration, as `xp.config.schema` has them."""
        ...


@dataclass(frozen=True)
class Number:
    """A finite number. `above`: it must be more than `low`; `whole`: an integer; `each`: or one for each checkpoint."""

    default: float | None
    low: float | None = None
    high: float | None = None
    above: bool = False
    whole: bool = False
    each: bool = False

    def check(self, key: str, given: object, count: int) -> float | list[float]:
        """The value as it will be used.

        Raises:
            UserError: no number, or one out of bounds.
        """
        if self.each and isinstance(given, Sequence) and not isinstance(given, str):
            if len(given) != count:
                raise UserError(
                    f"{key}={list(given)}: {len(given)} values for {count} checkpoints. Give one number, or one for "
                    f"each checkpoint: {key}=[{','.join([str(self._example())] * count)}]"
                )
            return [self._one(key, value) for value in given]
        return self._one(key, given)

    def field(self) -> tuple[object, Bounds]:
        """See `Option.field`; a list is left to `check`."""
        if self.each:
            return Any, {}
        return (int if self.whole else float) | None, {"min": self.low, "max": self.high}

    def _one(self, key: str, given: object) -> float:
        value = float(given) if isinstance(given, Real) and not isinstance(given, bool) else math.nan
        if not math.isfinite(value) or (self.whole and value != int(value)):
            more = ", or a list with one for each checkpoint" if self.each else ""
            raise UserError(
                f"{key}={given}: expected {'a whole' if self.whole else 'a finite'} number{more}. Type for instance "
                f"{key}={self._example()}"
            )
        low = self.low is not None and (value < self.low or (self.above and value == self.low))
        if low or (self.high is not None and value > self.high):
            raise UserError(f"{key}={given}: {self._bounds()}. Type for instance {key}={self._example()}")
        return int(value) if self.whole else value

    def _bounds(self) -> str:
        least = [f"{'more than' if self.above else 'at least'} {self.low:g}"] if self.low is not None else []
        return "must be " + " and ".join(least + ([f"at most {self.high:g}"] if self.high is not None else []))

    def _example(self) -> float:
        return self.default if self.default is not None else 0.05


@dataclass(frozen=True)
class Choice:
    """One of some words, or true and false."""

    default: str | bool
    allowed: tuple[str | bool, ...] = (True, False)

    def check(self, key: str, given: object, count: int) -> str | bool:
        """The value.

        Raises:
            UserError: something else.
        """
        fitting = [word for word in self.allowed if given is word or (isinstance(given, str) and given == word)]
        if not fitting:
            words = [str(word).lower() if isinstance(word, bool) else word for word in self.allowed]
            raise UserError(
                f"{key}={given}: allowed are {join_names(words)}{did_you_mean(str(given), words)}. Type for instance "
                f"{key}={str(self.default).lower()}"
            )
        return fitting[0]

    def field(self) -> tuple[object, Bounds]:
        """See `Option.field`."""
        return (bool | None, {}) if self.allowed == (True, False) else (str | None, {"allowed": self.allowed})


@dataclass(frozen=True)
class ByGroup:
    """A finite number, or one for each group: {pattern: number}."""

    default: float

    def check(self, key: str, given: object, count: int) -> JSON:
        """The value.

        Raises:
            UserError: no number.
        """
        one = Number(self.default)
        if isinstance(given, Mapping):
            if not given:
                raise UserError(f"{key}={{}}: names no group. Type for instance '{key}={{language: 0.5, *: 1.0}}'")
            return {name: one.check(f"{key}.{name}", value, count) for name, value in given.items()}
        return one.check(key, given, count)

    def field(self) -> tuple[object, Bounds]:
        """See `Option.field`; everything is left to `check`."""
        return Any, {}


def checked(method: str, options: Mapping[str, Option], given: Mapping[str, object], count: int) -> dict[str, JSON]:
    """All options of a method: what is given, checked, and the defaults of the rest. None means the default.

    Raises:
        UserError: an option that the method has not, or a value that does not fit.
    """
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if key not in options:
            raise UserError(
                f"merge_method={method} has no option '{key}'; its options: "
                f"{join_names(options)}{did_you_mean(key, options)}"
            )
    return {
        key: option.check(f"merge_method.{key}", given[key], count) if key in given else option.default
        for key, option in options.items()
    }
