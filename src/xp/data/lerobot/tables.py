"""Numbers and texts of a LeRobotDataset's parquet files as numpy arrays; read through `xp.foreign.parquet`."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.parquet import open_parquet, read_table
from xp.foreign.paths import inside
from xp.foreign.text import printable

MOST_TASKS = 1_000_000
_NEEDED = ("episode_index", "length", "data/chunk_index", "data/file_index")
_EPISODES = "the dataset's list of episodes"
_EPISODE_FILE = re.compile(r"chunk-(\d{1,9})/file-(\d{1,9})\.parquet")


def read_tasks(root: Path) -> list[str]:
    """The language instructions by task index, from `meta/tasks.parquet`.

    LeRobot writes the text as the index of a pandas table, which parquet keeps as a column `task`, or as
    `__index_level_0__` where the index has no name.

    Raises:
        UserError: a column is missing, a task has no text, or the tasks are not numbered 0, 1, 2, ...
    """
    path = inside(root, "meta/tasks.parquet", "the list of tasks")
    table = read_table(path, "the dataset's tasks", most_rows=MOST_TASKS)
    name = next((n for n in ("task", "__index_level_0__") if n in table.column_names), None)
    if name is None or "task_index" not in table.column_names:
        raise UserError(
            f"{path} has no columns 'task' and 'task_index' (it has: {_names(table)}). Copy the dataset's meta/ folder "
            "again."
        )
    numbers, texts = integers(table, "task_index", path), _texts(table, name, path)
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], np.arange(len(numbers))):
        twice = numbers[order][:-1][np.diff(numbers[order]) == 0]
        what = f"gives the number {twice[0]} twice" if len(twice) else "does not number its tasks"
        raise UserError(f"{path} {what}: 0..{len(numbers) - 1} are expected. Copy the dataset's meta/ folder again.")
    return [texts[i] for i in order]


def _texts(table: pa.Table, name: str, path: Path) -> list[str]:
    """Column `name` as texts, none of which is null."""
    texts: list[str | None] = []
    for _, chunk in _chunks(table, name):
        texts += python_texts(chunk, name, path)
    for row, text in enumerate(texts):
        if text is None:
            raise UserError(
                f"Column '{name}' of {path} has no text (null) in row {row}: a policy would be told nothing. Put its "
                "text there, or copy the dataset's meta/ folder again."
            )
    return [text for text in texts if text is not None]


def python_texts(column: pa.Array, name: str, path: Path) -> list[str | None]:
    """A column of texts as Python's.

    Raises:
        UserError: it holds something else than texts, or bytes that are no UTF-8.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(
            f"Column '{printable(name)}' of {path} holds values of type {printable(column.type, 60)} where texts are "
            "expected. Copy the dataset's meta/ folder again."
        )
    try:
        return column.to_pylist()
    except UnicodeDecodeError as error:
        raise UserError(
            f"Column '{printable(name)}' of {path} holds a text that is not UTF-8. Copy the file again."
        ) from error


def _names(table: pa.Table) -> str:
    return printable(", ".join(table.column_names) or "none")


def read_episode_table(root: Path, *, statistics: bool = False, tasks: bool = False) -> pa.Table:
    """The rows of `meta/episodes/**.parquet` in episode order; with `statistics` all of their columns, with `tasks`
    the column of that name, too.

    Raises:
        UserError: no file, a damaged one, or files whose columns do not fit together.
    """
    folder = root / "meta" / "episodes"
    tables = []
    for path in episode_files(root):
        there = open_parquet(path, _EPISODES).schema_arrow.names
        wanted = (*_NEEDED, "tasks") if tasks else _NEEDED
        names = there if statistics else [n for n in there if n in wanted or n.startswith("videos/")]
        tables.append(read_table(path, _EPISODES, names))
    missing = [name for name in _NEEDED if any(name not in table.column_names for table in tables)]
    if missing:
        raise UserError(f"{folder} has no column '{missing[0]}'. Copy the dataset's meta/ folder again.")
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowException, TypeError) as error:
        raise UserError(
            f"The files in {folder} do not fit together ({printable(error)}). Copy the dataset's meta/ folder again."
        ) from error
    return table.take(np.argsort(integers(table, "episode_index", folder), kind="stable"))


def episode_numbers(root: Path, name: str) -> np.ndarray:
    """Column `name` of `meta/episodes/**.parquet` in episode order: [E] float64; true counts as 1.

    Raises:
        UserError: no such column, one that holds no plain numbers, or a null in it.
    """
    numbers, values = [], []
    for path in episode_files(root):
        schema = open_parquet(path, _EPISODES).schema_arrow
        plain = [field.name for field in schema if _is_plain_number(field.type)]
        if name not in plain:
            shown = [each for each in plain if "/" not in each]
            raise UserError(
                f"{printable(path)} has no column of numbers '{name}'{did_you_mean(name, plain)}; it has "
                f"{join_names(shown)}. Name one of them, or give the weights in a JSON file."
            )
        table = read_table(path, _EPISODES, ["episode_index", name])
        numbers.append(integers(table, "episode_index", path))
        for start, chunk in _chunks(table, name):
            _refuse_nulls(chunk, name, path, start)
            values.append(_numbers(chunk.cast(pa.float64()), name, path))
    return np.concatenate(values)[np.argsort(np.concatenate(numbers), kind="stable")]


def _is_plain_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def episode_texts(table: pa.Table, path: Path) -> list[tuple[str, ...]]:
    """The tasks of each episode, from the column `tasks` (a list of texts) of `read_episode_table`; () where none is.

    Raises:
        UserError: the column holds something else than texts.
    """
    if "tasks" not in table.column_names:
        return [()] * len(table)
    found: list[tuple[str, ...]] = []
    for _, chunk in _chunks(table, "tasks"):
        if not (pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type)):
            raise _unfit(path, "tasks", f"holds values of type {_type_name(chunk)} where lists of texts are expected")
        widths = pc.fill_null(pc.call_function("list_value_length", [chunk]), 0).to_numpy(zero_copy_only=False)
        texts = python_texts(chunk.flatten(), "tasks", path)
        ends = np.cumsum(widths).tolist()
        for begin, end in zip([0, *ends], ends, strict=False):
            found.append(tuple(text for text in texts[begin:end] if text is not None))
    return found


def episode_files(root: Path) -> list[Path]:
    """The files below `meta/episodes` in order.

    Raises:
        UserError: there is none, one with another name than LeRobot gives, or one that leads out of the dataset.
    """
    folder = root / "meta" / "episodes"
    found = []
    for path in folder.glob("*/*.parquet"):
        relative = str(path.relative_to(folder))
        match = _EPISODE_FILE.fullmatch(relative)
        if not match:
            raise UserError(
                f"{printable(path)} has no name of the form chunk-000/file-000.parquet. Remove it, or copy the "
                "dataset's meta/ folder again."
            )
        found.append(((int(match[1]), int(match[2])), inside(root, path.relative_to(root), "a file of meta/episodes")))
    if not found:
        raise UserError(f"{folder} holds no parquet file. Copy the dataset's meta/ folder again.")
    return [path for _, path in sorted(found)]


def vectors(table: pa.Table, name: str, dim: int, path: Path) -> np.ndarray:
    """Column `name` as [rows, dim] float32; LeRobot stores vectors of one element as plain numbers.

    Raises:
        UserError: a row has another width, or it or a number in it is null; the message names file, column and row.
    """
    parts = [_vectors(chunk, name, dim, path, start) for start, chunk in _chunks(table, name)]
    return np.concatenate(parts) if parts else np.zeros((0, dim), np.float32)


def integers(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """Column `name` as [rows] int64.

    Raises:
        UserError: it holds something else than whole numbers, or a null; the message names file, column and row.
    """
    parts = []
    for start, chunk in _chunks(table, name):
        if not pa.types.is_integer(chunk.type):
            raise _unfit(path, name, f"holds values of type {_type_name(chunk)} where whole numbers are expected")
        _refuse_nulls(chunk, name, path, start)
        try:
            parts.append(chunk.cast(pa.int64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid as error:  # unsigned numbers beyond 2^63
            raise _unfit(path, name, f"holds a number that is too large ({error})") from error
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def seconds(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """Column `name` of times as [rows] float64, all finite.

    Raises:
        UserError: it holds something else than numbers, a null, NaN or infinity.
    """
    parts = []
    for start, chunk in _chunks(table, name):
        _refuse_nulls(chunk, name, path, start)
        parts.append(_numbers(chunk, name, path).astype(np.float64))
        wrong = np.flatnonzero(~np.isfinite(parts[-1]))
        if len(wrong):
            raise _unfit(path, name, f"holds {parts[-1][wrong[0]]} in row {start + int(wrong[0])}, which is no time")
    return np.concatenate(parts) if parts else np.zeros(0, np.float64)


def _chunks(table: pa.Table, name: str) -> Iterator[tuple[int, pa.Array]]:
    """The pieces of a column, each with the number of its first row."""
    start = 0
    for chunk in table.column(name).chunks:
        yield start, chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        start += len(chunk)


def _vectors(column: pa.Array, name: str, dim: int, path: Path, start: int) -> np.ndarray:
    _refuse_nulls(column, name, path, start)
    kind = column.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        widths = pc.call_function("list_value_length", [column]).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(widths != dim)
        if len(wrong):
            row = start + int(wrong[0])
            raise _unfit(
                path, name, f"has {widths[wrong[0]]} numbers in row {row} where meta/info.json announces {dim}"
            )
        inner = column.flatten()
        if inner.null_count:
            at = int(np.flatnonzero(inner.is_null().to_numpy(zero_copy_only=False))[0])
            raise _unfit(path, name, f"has no value (null) in row {start + at // dim}, dimension {at % dim}")
        return _as_float32(_numbers(inner, name, path)).reshape(len(column), dim)
    if dim != 1:
        raise _unfit(path, name, f"holds single values of type {_type_name(column)}, no vectors of {dim} numbers")
    return _as_float32(_numbers(column, name, path)).reshape(len(column), 1)


def _numbers(column: pa.Array, name: str, path: Path) -> np.ndarray:
    """Values without nulls as numbers; True counts as 1."""
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise _unfit(path, name, f"holds values of type {_type_name(column)} where numbers are expected")
    return column.to_numpy(zero_copy_only=False)


def _as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return values.astype(np.float32)


def _refuse_nulls(column: pa.Array, name: str, path: Path, start: int) -> None:
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise _unfit(path, name, f"has no value (null) in row {row}")


def _type_name(column: pa.Array) -> str:
    return printable(column.type, 60)


def _unfit(path: Path, name: str, what: str) -> UserError:
    return UserError(
        f"Column '{printable(name)}' of {path} {what}. The dataset is inconsistent: copy it again, record it again, or "
        "remove that episode with LeRobot's `lerobot-edit-dataset --operation.type=delete_episodes`."
    )
