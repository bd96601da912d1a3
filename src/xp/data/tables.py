"""Parquet files of a LeRobotDataset v3.0 as numpy arrays, with pyarrow alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xp.errors import UserError


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file.

    Raises:
        UserError: the file is missing, truncated or damaged.
    """
    if not path.is_file():
        raise UserError(
            f"The dataset file {path} is missing. The copy is incomplete: copy the whole dataset folder again, or "
            "give another one with data.root=<folder>."
        )
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a parquet file; the same errors as `open_parquet`."""
    file = open_parquet(path)
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        raise UserError(
            f"The dataset file {path} has no column '{missing[0]}' (it has: {', '.join(file.schema_arrow.names)}). "
            "Record the dataset again, or give another one with data.root=<folder>."
        )
    try:
        return file.read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def iter_bytes(path: Path, column: str, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield an image column (structs of `bytes` and `path`) in lists of at most `batch_size`, streaming the file."""
    file = open_parquet(path)
    try:
        for batch in file.iter_batches(batch_size=batch_size, columns=[column]):
            yield batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"The dataset file {path} ({path.stat().st_size} bytes) is truncated or damaged ({detail}). Copy it again from "
        "where the dataset came from; if a recording was cut off before LeRobot's `finalize()`, record it again."
    )


def read_tasks(root: Path) -> list[str]:
    """The language instructions by task index, from `meta/tasks.parquet`."""
    path = root / "meta" / "tasks.parquet"
    table = open_parquet(path).read()
    names = [name for name in table.column_names if name != "task_index"]
    name = "task" if "task" in names else (names or [""])[0]
    if not name or "task_index" not in table.column_names:
        raise UserError(f"{path} has no columns 'task' and 'task_index'. Copy the dataset's meta/ folder again.")
    by_index = dict(zip(table.column("task_index").to_pylist(), table.column(name).to_pylist(), strict=True))
    if sorted(by_index) != list(range(len(by_index))):
        raise UserError(f"{path} does not number its tasks 0..{len(by_index) - 1}. Copy the dataset's meta/ again.")
    return [str(by_index[i]) for i in range(len(by_index))]


def read_episode_table(root: Path) -> pa.Table:
    """The rows of `meta/episodes/**.parquet` in episode order, without the per-episode statistics."""
    folder = root / "meta" / "episodes"
    paths = sorted(folder.glob("chunk-*/file-*.parquet"), key=chunk_and_file)
    if not paths:
        raise UserError(f"{folder} holds no parquet file. Copy the dataset's meta/ folder again.")
    tables = []
    for path in paths:
        names = [n for n in open_parquet(path).schema_arrow.names if not n.startswith(("stats/", "meta/"))]
        tables.append(read_columns(path, names))
    table = pa.concat_tables(tables, promote_options="permissive")
    return table.sort_by("episode_index")


def chunk_and_file(path: Path) -> tuple[int, int]:
    """The numbers in `chunk-NNN/file-NNN.parquet`: they order files even past 999."""
    return int(path.parent.name.rsplit("-", 1)[-1]), int(path.stem.rsplit("-", 1)[-1])


def vectors(table: pa.Table, name: str, dim: int, path: Path) -> np.ndarray:
    """Column `name` as [rows, dim] float32; LeRobot stores vectors of one element as plain numbers."""
    column = table.column(name).combine_chunks()
    nested = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    values = (column.flatten() if nested or pa.types.is_large_list(column.type) else column).to_numpy(False)
    if len(values) != len(table) * dim:
        raise UserError(
            f"Column '{name}' of {path} holds {len(values)} numbers where {len(table)} rows of {dim} were announced by "
            "meta/info.json. The dataset is inconsistent: record or copy it again."
        )
    return np.ascontiguousarray(values.reshape(len(table), dim), dtype=np.float32)


def integers(table: pa.Table, name: str) -> np.ndarray:
    """Column `name` as [rows] int64."""
    return np.asarray(table.column(name).to_numpy(), dtype=np.int64).reshape(-1)
