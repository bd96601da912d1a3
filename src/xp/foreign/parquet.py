"""Parquet files from outside: what the footer announces is compared with what the file's size can explain.

A column of one repeated value takes a few bytes for any number of rows, so rows alone bound nothing. The rule: decoded,
a file takes at most `bounds.allowance(size)` bytes.
pyarrow is imported when a file is opened.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xp.foreign.bounds import allowance
from xp.foreign.paths import RefusedError, opened, regular_file
from xp.foreign.text import printable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_BATCH = 65_536
_AGAIN = "Copy it again from where it came from; if its recording was cut off before `finalize()`, record it again."


def open_parquet(path: str | Path, what: str, *, most_rows: int | None = None) -> "pq.ParquetFile":
    """A parquet file whose footer has been checked; nothing is decoded.

    Args:
        path: the file.
        what: what the file is, for the message: "the dataset's tasks".
        most_rows: rows that the caller can expect (what meta/info.json announces), if it knows.

    Raises:
        MissingError: the file is not there.
        RefusedError: no regular file, no parquet file, or one that announces more rows or bytes than its size explains.
    """
    import pyarrow.parquet as pq

    path = regular_file(path, what)
    _check_ends(path, what)
    try:
        file = pq.ParquetFile(path, thrift_string_size_limit=64_000_000, thrift_container_size_limit=1_000_000)
    except _errors() as error:
        raise damaged(path, what, error) from error
    rows, size = file.metadata.num_rows, path.stat().st_size
    if most_rows is not None and rows > most_rows:
        raise RefusedError(
            f"{printable(path)} announces {rows:,} rows: expected {what}, of at most {most_rows:,} rows. {_AGAIN}"
        )
    try:
        announced = _announced(file)
    except UnicodeDecodeError as error:  # names are decoded when they are first asked for
        raise damaged(path, what, error) from error
    if announced > allowance(size) or rows > allowance(size):
        raise RefusedError(
            f"{printable(path)} ({size:,} bytes) announces {rows:,} rows of {announced:,} bytes in all: expected "
            f"{what}, of at most {allowance(size):,} bytes for a file of this size. {_AGAIN}"
        )
    return file


def read_table(
    path: str | Path, what: str, columns: Sequence[str] | None = None, *, most_rows: int | None = None
) -> "pa.Table":
    """Columns of a parquet file (None: all), in at most `allowance(size)` bytes.

    Raises:
        MissingError, RefusedError: as `open_parquet`; also for a column that is not there and damaged data.
    """
    import pyarrow as pa

    file = open_parquet(path, what, most_rows=most_rows)
    whole = file.schema_arrow
    wanted = list(whole.names) if columns is None else list(columns)
    _check_names(Path(path), what, whole.names, wanted)
    schema = pa.schema([whole.field(name) for name in wanted])
    most = allowance(Path(path).stat().st_size)
    coded = [leaf for leaf, worst in _longest(file).items() if worst > most]
    batches, total = [], 0
    for batch in _decoded(_reopened(Path(path), coded), Path(path), what, wanted, _BATCH):
        total += sum(_plain_bytes(column) for column in batch.columns)
        if total > most:
            raise _too_much(Path(path), what, most)
        batches.append(batch.select(wanted).cast(schema))
    return pa.Table.from_batches(batches, schema=schema)


def iter_batches(path: str | Path, what: str, columns: Sequence[str], rows: int) -> "Iterator[pa.RecordBatch]":
    """Columns of a parquet file, streamed in batches of at most `rows` rows, each of at most `allowance(size)` bytes.

    Raises:
        MissingError, RefusedError: as `read_table`.
    """
    file = open_parquet(path, what)
    path, most = Path(path), allowance(Path(path).stat().st_size)
    _check_names(path, what, file.schema_arrow.names, columns)
    if any(worst > most for leaf, worst in _longest(file, repeated=True).items()):
        raise _too_much(path, what, most)
    longest = max((chunk.total_uncompressed_size for chunk in _chunks(file) if _varies(chunk)), default=1)
    for batch in _decoded(file, path, what, list(columns), max(1, min(rows, most // max(longest, 1)))):
        if batch.nbytes > most:
            raise _too_much(path, what, most)
        yield batch.select(list(columns))


def read_row_group(path: str | Path, what: str, group: int, column: str) -> "pa.ChunkedArray":
    """One column of one row group, in at most `allowance(size)` bytes.

    Raises:
        MissingError, RefusedError: as `read_table`.
    """
    file = open_parquet(path, what)
    path, most = Path(path), allowance(Path(path).stat().st_size)
    _check_names(path, what, file.schema_arrow.names, [column])
    if any(worst > most for worst in _longest(file, repeated=True).values()):
        raise _too_much(path, what, most)
    try:
        found = file.read_row_group(group, columns=[column], use_threads=False).column(column)
    except _errors() as error:
        raise damaged(path, what, error) from error
    if found.nbytes > most:
        raise _too_much(path, what, most)
    return found


def damaged(path: Path, what: str, error: Exception) -> RefusedError:
    """The refusal of a file that pyarrow cannot read."""
    detail = printable(str(error).splitlines()[0] if str(error) else type(error).__name__)
    return RefusedError(
        f"{printable(path)} ({path.stat().st_size:,} bytes), {what}, is truncated or damaged ({detail}). {_AGAIN}"
    )


def _decoded(
    file: "pq.ParquetFile", path: Path, what: str, columns: list[str], rows: int
) -> "Iterator[pa.RecordBatch]":
    try:
        yield from file.iter_batches(batch_size=rows, columns=columns, use_threads=False)
    except _errors() as error:
        raise damaged(path, what, error) from error


def _too_much(path: Path, what: str, most: int) -> RefusedError:
    return RefusedError(
        f"{printable(path)}, {what}, decodes to more than {most:,} bytes, which its size does not explain. {_AGAIN}"
    )


def _reopened(path: Path, coded: list[str]) -> "pq.ParquetFile":
    """The file with some columns left in their dictionary, whatever they would take when written out."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, read_dictionary=coded or None)


def _plain_bytes(array: Any) -> int:
    """Bytes that an array takes with its dictionaries written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary)  # type: ignore[attr-defined]
        return int(pc.take(lengths, array.indices).cast(pa.float64()).fill_null(0).to_numpy(False).sum()) + 8 * len(
            array
        )
    if pa.types.is_struct(array.type):
        return sum(_plain_bytes(child) for child in array.flatten())
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        return 8 * len(array) + _plain_bytes(array.flatten())
    return array.nbytes


def _check_ends(path: Path, what: str) -> None:
    with opened(path, what) as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 8))
        footer, mark = int.from_bytes(handle.read(4), "little"), handle.read(4)
    if size < 12 or mark != b"PAR1" or footer > size - 12:
        raise RefusedError(
            f"{printable(path)} ({size:,} bytes) is truncated or damaged: expected a parquet file, {what}. {_AGAIN}"
        )


def _check_names(path: Path, what: str, there: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        names = printable(", ".join(there), 500) or "(none)"
        raise RefusedError(f"{printable(path)}, {what}, has no column '{missing[0]}' (it has: {names}). {_AGAIN}")
    twice = [name for name in wanted if list(there).count(name) > 1]
    if twice:
        raise RefusedError(f"{printable(path)}, {what}, has the column '{printable(twice[0])}' twice. {_AGAIN}")


def _announced(file: "pq.ParquetFile") -> int:
    """Bytes of the decoded columns as the footer has them; more than any allowance where it contradicts itself."""
    lengths = {file.schema.column(i).path: file.schema.column(i).length for i in range(len(file.schema))}
    total = 0
    for column in _chunks(file):
        if column.total_uncompressed_size < 0 or column.num_values < 0:
            return 2**63
        name = column.path_in_schema
        width = _WIDTHS.get(column.physical_type) or max(lengths.get(name, 1), 1)
        total += max(column.total_uncompressed_size, column.num_values * width)
    return total


def _varies(chunk: Any) -> bool:
    return chunk.physical_type == "BYTE_ARRAY"


def _longest(file: "pq.ParquetFile", *, repeated: bool = False) -> dict[str, int]:
    """{column of variable length: bytes if all its cells were the longest possible}: one that fills a dictionary.

    `repeated`: only columns with many cells in a row.
    """
    names = {file.schema.column(i).path: file.schema.column(i).max_repetition_level for i in range(len(file.schema))}
    found: dict[str, int] = {}
    for chunk in _chunks(file):
        if _varies(chunk) and (names.get(chunk.path_in_schema, 1) or not repeated):
            worst = chunk.num_values * chunk.total_uncompressed_size
            found[chunk.path_in_schema] = found.get(chunk.path_in_schema, 0) + worst
    return found


def _chunks(file: "pq.ParquetFile") -> Iterator[Any]:
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            yield row_group.column(column)


def _errors() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, MemoryError, KeyError)
