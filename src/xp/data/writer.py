# pyright: strict
"""Writing episodes as a new dataset: what a data format may offer beside `open`."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from xp.array_types import Numbers, Pixels
from xp.config.dataset_facts import GROUP, DescribedFormat, installed_formats
from xp.errors import UserError, join_names
from xp.plugins import load_plugin


class DatasetWriter(Protocol):
    """Collects the episodes of a new dataset."""

    def add_episode(
        self,
        task: str,
        images: Mapping[str, Pixels],
        state: Numbers,
        action: Numbers,
        *,
        environment_state: Numbers | None = None,
    ) -> None:
        """Append one episode of N >= 1 frames.

        Args:
            task: The language instruction.
            images: Camera name to [N, h, w, 3] uint8.
            state: [N, S], finite.
            action: [N, A], finite: what was done at each frame.
            environment_state: [N, E], finite; None for E = 0.

        Raises:
            UserError: shapes that do not fit the dataset, or NaN or infinity.
        """
        ...


@runtime_checkable
class WritingFormat[Writer: DatasetWriter](Protocol):
    """The part of a `DatasetFormat` that writes new datasets."""

    def create(
        self,
        root: str | Path,
        *,
        fps: float,
        cameras: Mapping[str, tuple[int, int]],
        state_names: Sequence[str],
        action_names: Sequence[str],
        robot_type: str,
        environment_state_names: Sequence[str] = (),
        use_videos: bool = False,
        overwrite: bool = False,
    ) -> AbstractContextManager[Writer]:
        """A new dataset that appears at `root` when the block ends: whole, or not at all after an error.

        Args:
            root: Its folder or file.
            fps: Frames per second.
            cameras: Camera name (without `observation.images.`) to (height, width) in pixels.
            state_names: Names of the S state dimensions; empty for a dataset without state.
            action_names: Names of the A action dimensions.
            robot_type: Whose episodes these are; noted in the dataset where the format has a place for it.
            environment_state_names: Names of the E dimensions of `observation.environment_state`; empty for none.
            use_videos: Store frames as videos instead of pictures.
            overwrite: Replace what is at `root` (when closing, in one step) instead of refusing.

        Raises:
            UserError: `root` exists, or the format cannot hold such a dataset.
        """
        ...


def writing_format(name: str, key: str) -> WritingFormat[DatasetWriter]:
    """The data format of that name, to write a dataset with; imports nothing heavy.

    Args:
        name: Its name in the entry-point group `xp.datasets`.
        key: The configuration key that says it, for the message.

    Raises:
        UserError: no installed package has it, or it only reads.
    """
    found = load_plugin(GROUP, name, key, DescribedFormat)
    if isinstance(found, WritingFormat):
        return found
    able = [each for each, other in installed_formats().items() if isinstance(other, WritingFormat)]
    raise UserError(
        f"{key}={name}: this data format only reads; its package has no way to write a dataset (`create` of "
        f"xp.data.writer.WritingFormat). Give one that writes: {key}={able[0] if able else 'NAME'} "
        f"(installed: {join_names(able)})."
    )


@runtime_checkable
class RewardWriter(DatasetWriter, Protocol):
    """A writer that holds rewards: attempts of learning histories."""

    def add_episode(
        self,
        task: str,
        images: Mapping[str, Pixels],
        state: Numbers,
        action: Numbers,
        *,
        environment_state: Numbers | None = None,
        reward: Numbers | None = None,
        truncated: bool = False,
        history: int | None = None,
    ) -> None:
        """Append one attempt of N >= 1 steps.

        Args:
            task: The task's name.
            images: None.
            state: [N, S], finite.
            action: [N, A], finite.
            environment_state: None.
            reward: [N], finite: what followed each action.
            truncated: It was cut by its length.
            history: Which history it continues; None: the only one.
        """
        ...


type RewardFormat = WritingFormat[RewardWriter]
"""A data format whose writer is a `RewardWriter`; it says so by `holds_rewards = True`."""


def rewarding_format(name: str | None) -> RewardFormat:
    """The data format of that name, or the first installed one, that holds rewards.

    Raises:
        UserError: none does, or not the one that is asked for (`collect.format`).
    """
    able = {
        each: found
        for each, found in installed_formats().items()
        if isinstance(found, WritingFormat) and getattr(found, "holds_rewards", False)
    }
    if name is None and able:
        return cast("RewardFormat", next(iter(able.values())))
    if name in able:
        return cast("RewardFormat", able[name])
    example = next(iter(able), "NAME")
    raise UserError(
        f"collect.format={name}: histories of attempts are written with their rewards, which this format has no place "
        f"for. Type collect.format={example} (able are: {join_names(able)})."
    )
