"""Parquet from outside: as it is, or refused before it takes more than its size explains."""

import os
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xp.foreign.bounds import allowance
from xp.foreign.parquet import iter_batches, open_parquet, read_table
from xp.foreign.paths import MissingError, RefusedError

TASKS = "the dataset's tasks"


def _written(tmp_path, table: pa.Table, **options):
    path = tmp_path / "tasks.parquet"
    pq.write_table(table, path, **options)
    return path


ORDINARY = pa.table(
    {
        "task_index": pa.array([0, 1, 2]),
        "task": ["push", "pull", "hold"],
        "state": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32())),
        "fixed": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
        "image": pa.array([{"bytes": b"x", "path": "p"}] * 3),
        "tags": pa.array([["a", "b"], [], None]),
    }
)


def test_an_ordinary_table_is_read_as_pyarrow_reads_it(tmp_path):
    path = _written(tmp_path, ORDINARY)
    assert read_table(path, TASKS).equals(pq.read_table(path))
    assert read_table(path, TASKS, ["tags", "task"]).equals(pq.read_table(path, columns=["tags", "task"]))
    assert [len(batch) for batch in iter_batches(path, TASKS, ["image"], 2)] == [2, 1]
    assert open_parquet(path, TASKS, most_rows=3).metadata.num_rows == 3


def test_missing_columns_files_and_too_many_rows_are_named(tmp_path):
    path = _written(tmp_path, ORDINARY)
    with pytest.raises(MissingError):
        open_parquet(tmp_path / "gone.parquet", TASKS)
    with pytest.raises(RefusedError, match="has no column 'action'"):
        read_table(path, TASKS, ["action"])
    with pytest.raises(RefusedError, match="announces 3 rows: expected the dataset's tasks, of at most 2 rows"):
        open_parquet(path, TASKS, most_rows=2)


def test_rows_that_the_size_does_not_explain_are_refused_before_they_are_decoded(tmp_path):
    schema = pa.schema([("task_index", pa.int64())])
    part = pa.table({"task_index": np.zeros(1_000_000, np.int64)})
    path = tmp_path / "tasks.parquet"
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(part)
    assert path.stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    with pytest.raises(RefusedError, match="announces 40,000,000 rows of 320,000,000 bytes in all"):
        open_parquet(path, TASKS)
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_one_long_cell_that_a_dictionary_repeats_is_refused_by_its_decoded_size(tmp_path):
    cells = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 100_000])
    lists = pa.ListArray.from_arrays(np.arange(0, 100_001, 1000, dtype=np.int32), cells)
    for column in (cells, lists):  # 10 GB in a file of a few kilobytes
        path = _written(tmp_path, pa.table({"task": column}), store_schema=False, compression="zstd")
        assert path.stat().st_size < 200_000
        before = pa.total_allocated_bytes()
        with pytest.raises(RefusedError, match="decodes to more than"):
            read_table(path, TASKS)
        assert pa.total_allocated_bytes() - before < 10_000_000
    with pytest.raises(RefusedError, match="decodes to more than"):
        list(iter_batches(path, TASKS, ["task"], 32))


def test_repeated_cells_that_the_size_does_explain_are_read_in_their_own_type(tmp_path):
    cells = pa.DictionaryArray.from_arrays(np.arange(2000, dtype=np.int32) % 2, ["x" * 10_000, "y"])
    path = _written(tmp_path, pa.table({"task": cells, "n": np.arange(2000)}), store_schema=False, compression="zstd")
    table = read_table(path, TASKS)
    assert table.schema.field("task").type == pa.string()
    assert table.equals(pq.read_table(path))


def test_an_empty_and_a_nested_table_are_read(tmp_path):
    path = _written(tmp_path, ORDINARY.slice(0, 0))
    assert read_table(path, TASKS).equals(pq.read_table(path))
    nested = pa.table({"a": [[{"b": ["x" * 50] * 3, "c": 1}]] * 5})
    assert read_table(_written(tmp_path, nested), TASKS).equals(nested)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1PAR1PAR1", b"PAR1" + b"\0" * 20 + struct.pack("<I", 2**31) + b"PAR1"]
)
def test_what_is_no_parquet_file_is_refused(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="truncated or damaged"):
        open_parquet(path, TASKS)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(RefusedError, match="a named pipe"):
        read_table(tmp_path / "x.parquet", TASKS)


@settings(max_examples=150)
@example([(10851, 128)], 0)  # inside a column's name
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 2000))
def test_any_change_of_a_valid_file_is_a_table_within_the_bound_or_one_refusal(tmp_path_factory, changes, cut):
    folder = tmp_path_factory.mktemp("fuzz")
    data = bytearray(_written(folder, ORDINARY, compression="zstd").read_bytes())
    for at, byte in changes:
        data[-1 - at % len(data)] = byte
    path = folder / "changed.parquet"
    path.write_bytes(data[cut:] if cut % 7 == 0 else data)
    try:
        assert read_table(path, TASKS).nbytes <= allowance(len(data))
    except RefusedError as error:
        assert str(error).isprintable()
