"""Datasets, frame cache, windows, batches, statistics, splits, writing of datasets; what it hands out is numpy.

`import xp.data` is light: every name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xp.data.array_dataset import ArrayDataset
    from xp.data.batches import Batches, Ordered, in_order
    from xp.data.cache import open_frames
    from xp.data.dataset import Dataset, DatasetFormat, Episodes, open_dataset
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
    from xp.data.writer import DatasetWriter, writing_format

_HOMES = {
    "ArrayDataset": "array_dataset",
    "Batches": "batches",
    "Ordered": "batches",
    "in_order": "batches",
    "open_frames": "cache",
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
    "DatasetWriter": "writer",
    "writing_format": "writer",
}

__all__ = [
    "ArrayDataset",
    "Batches",
    "Dataset",
    "DatasetFormat",
    "DatasetWriter",
    "Episodes",
    "Ordered",
    "Split",
    "Windows",
    "compute_statistics",
    "delta_statistics",
    "in_order",
    "load_statistics",
    "normalise",
    "open_dataset",
    "open_frames",
    "save_statistics",
    "split_episodes",
    "unnormalise",
    "writing_format",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xp.data' has no attribute '{name}'")
    return getattr(import_module(f"xp.data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
