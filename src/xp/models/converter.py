# pyright: strict
"""What converts the checkpoints of a model between the formats of several programs, for `task=convert`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from xp.models.policy import Policy

type Advance = Callable[[int], None]
"""Told how many bytes of weights were read."""


@runtime_checkable
class Convertible(Protocol):
    """A checkpoint that was opened and found whole; its weights are not read."""

    @property
    def format(self) -> str:
        """Which of the converter's formats it has."""
        ...

    @property
    def nbytes(self) -> int:
        """Of all weights, as they are stored."""
        ...

    @property
    def is_chosen(self) -> bool:
        """Whether it was opened as one of several datasets' policy, so that what is recorded beside it is another's."""
        ...


class Converter(ABC):
    """One model's formats. A family offers one as `Family.converter`; its module imports no framework at its top."""

    formats: ClassVar[Mapping[str, str]]
    """{name: what it looks like}."""

    @abstractmethod
    def converts(self, folder: Path) -> bool:
        """Whether a folder is a checkpoint of one of the formats, judged by names and JSON alone."""

    @abstractmethod
    def open(self, folder: Path, step: int | None, options: Mapping[str, str]) -> Convertible:
        """Open a folder that `converts` knows.

        Args:
            folder: the folder.
            step: which step, where it holds several.
            options: as in loading a policy of it.

        Raises:
            UserError: damaged files, weights that are not the model's, or options that do not fit.
        """

    @abstractmethod
    def convert(
        self, source: Convertible, to: str, output: Path, *, dtype: str | None = None, advance: Advance = lambda _: None
    ) -> None:
        """Write an opened checkpoint in another format; the folder appears whole or not at all.

        Args:
            source: what `open` gave.
            to: one of `formats`.
            output: a folder, which is replaced where it exists.
            dtype: float32 or bfloat16, which weights are cast to; None: as they are.
            advance: told of what is read.

        Raises:
            UserError: a file is damaged.
        """

    @abstractmethod
    def load(self, folder: Path, step: int | None, options: Mapping[str, str]) -> Policy | None:
        """The policy in a folder of a format that no family loads by itself; None where `xp.load_policy` does."""
