"""Which episodes of which dataset a task works on: opened, split and described, the same for every task."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from xp.data import Dataset, Split, open_dataset, split_episodes
from xp.errors import UserError

if TYPE_CHECKING:
    from xp.models.policy import DataSpec

SPLIT = "split.json"


@dataclass(frozen=True)
class Source:
    """A dataset and the episodes of it to train on and to hold out."""

    dataset: Dataset
    split: Split

    @property
    def spec(self) -> "DataSpec":
        """What the dataset offers to a model."""
        from xp.models.policy import DataSpec

        dataset = self.dataset
        return DataSpec(
            cameras=dataset.cameras,
            action_dim=dataset.action_dim,
            state_dim=dataset.state_dim,
            fps=dataset.fps,
            tasks=tuple(dataset.tasks),
        )

    def facts(self) -> dict[str, Any]:
        """What a summary says about the data."""
        return {
            "root": str(self.dataset.root),
            "fingerprint": self.dataset.fingerprint,
            "fps": self.dataset.fps,
            "train_episodes": len(self.split.train),
            "held_out_episodes": len(self.split.val),
        }


def open_source(data: Any) -> Source:
    """Open `data.root` and split its episodes as the `data` section says."""
    dataset = open_dataset(data.root, decoder=data.decoder)
    if data.split is not None:
        split = Split.load(data.split)
        split.check(dataset)
        return Source(dataset, split)
    split = split_episodes(
        dataset,
        val_fraction=data.val_fraction,
        seed=data.split_seed,
        tasks=_list(data.tasks),
        exclude_tasks=_list(data.exclude_tasks),
    )
    return Source(dataset, split)


def held_out(source: Source, limit: int | None) -> tuple[int, ...]:
    """The first `limit` held-out episodes, taken evenly over the tasks; all of them if `limit` is None."""
    if not source.split.val:
        raise UserError(
            f"The dataset {source.dataset.root} has no held-out episodes. Record more, or give data.val_fraction=0.2"
        )
    by_task: dict[str, list[int]] = {}
    for episode in source.split.val:
        by_task.setdefault(source.dataset.episodes.tasks[episode], []).append(episode)
    rounds = max(len(episodes) for episodes in by_task.values())
    turn = [episodes[i] for i in range(rounds) for episodes in by_task.values() if i < len(episodes)]
    return tuple(sorted(turn[:limit]))


def own_folder(path: str | Path) -> Path:
    """The folder that a path given by a user names, without its `@STEP`."""
    return Path(str(path).split("@")[0])


def plain(section: Any) -> dict[str, Any]:
    """A section of the configuration as a plain, resolved dict."""
    content = OmegaConf.to_container(section, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _list(values: Any) -> list[str] | None:
    return None if values is None else list(values)
