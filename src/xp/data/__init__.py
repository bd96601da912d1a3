"""Datasets, frame cache, windows, batches, statistics, splits and dataset writing: numpy only at its border.

`import xp.data` is light: every name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xp.data.batches import Batches, Ordered, in_order
    from xp.data.cache import open_frames
    from xp.data.dataset import Dataset, DatasetFormat, Episodes, open_dataset
    from xp.data.lerobot.info import DatasetInfo, dataset_info
    from xp.data.lerobot.writer import DatasetWriter
    from xp.data.splits import Split, split_episodes
    from xp.data.statistics import (
        compute_statistics,
        delta_statistics,
        load_statistics,
        normalise,
        save_statistics,
        unnormalise,
    )
    from xp.data.windows import Windows

_HOMES = {
    "Batches": "batches",
    "Ordered": "batches",
    "in_order": "batches",
    "open_frames": "cache",
    "DatasetInfo": "lerobot.info",
    "dataset_info": "lerobot.info",
    "Dataset": "dataset",
    "DatasetFormat": "dataset",
    "Episodes": "dataset",
    "open_dataset": "dataset",
    "Split": "splits",
    "split_episodes": "splits",
    "compute_statistics": "statistics",
    "delta_statistics": "statistics",
    "load_statistics": "statistics",
    "normalise": "statistics",
    "save_statistics": "statistics",
    "unnormalise": "statistics",
    "Windows": "windows",
    "DatasetWriter": "lerobot.writer",
}

__all__ = [
    "Batches",
    "Dataset",
    "DatasetFormat",
    "DatasetInfo",
    "DatasetWriter",
    "Episodes",
    "Ordered",
    "Split",
    "Windows",
    "compute_statistics",
    "dataset_info",
    "delta_statistics",
    "in_order",
    "load_statistics",
    "normalise",
    "open_dataset",
    "open_frames",
    "save_statistics",
    "split_episodes",
    "unnormalise",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xp.data' has no attribute '{name}'")
    return getattr(import_module(f"xp.data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
