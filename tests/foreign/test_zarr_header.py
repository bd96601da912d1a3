"""Zarr arrays: what a header announces has to be explained by the folder's size."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.foreign.paths import RefusedError
from xp.foreign.zarr_header import ArrayHeader, check_sizes, folder_bytes, read_array_header

HEADER = {
    "chunks": [2, 3], "compressor": {"id": "zstd", "level": 1}, "dimension_separator": ".", "dtype": "<f4",
    "fill_value": None, "filters": None, "order": "C", "shape": [4, 3], "zarr_format": 2,
}  # fmt: skip


def _read(**changed) -> ArrayHeader:
    return read_array_header(json.dumps({**HEADER, **changed}).encode(), "params: the header of w")


def test_a_header_gives_shape_chunks_and_bytes():
    header = _read()
    assert (header.shape, header.chunks, header.word) == ((4, 3), (2, 3), "<f4")
    assert (header.nbytes, header.chunk_count) == (48, 2)
    assert _read(shape=[], chunks=[], dtype="bfloat16", compressor=None).nbytes == 2
    assert _read(shape=[2, 2], chunks=[100, 100]).nbytes == 40_000


@pytest.mark.parametrize(
    "changed, found",
    [
        ({"shape": [-4, 3]}, r"shape is \[-4, 3\]: expected the shape"),
        ({"shape": [2**62, 4]}, "expected the shape"),
        ({"shape": "many"}, "shape is 'many'"),
        ({"chunks": [0, 3]}, r"chunks is \[0, 3\]"),
        ({"chunks": [2]}, "expected 2 numbers, one for each axis"),
        ({"dtype": "|O"}, r"dtype is '\|O': expected one of"),
        ({"dtype": [["a", "<f4"]]}, "dtype is"),
        ({"compressor": {"id": "pickle"}}, "compressor.id is 'pickle': expected one of zstd"),
        ({"compressor": {}}, "compressor.id is missing"),
        ({"compressor": "zstd"}, "compressor is 'zstd'"),
        ({"filters": [{"id": "pickle"}]}, "filters is .*expected none"),
        ({"order": "X"}, "order is 'X'"),
        ({"zarr_format": 3}, "zarr_format is 3"),
        ({"fill_value": [1]}, "fill_value is"),
        ({"kvstore": {"driver": "http"}}, "kvstore is not known here"),
        ({"driver": "json"}, "driver is not known here"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_by_its_field(changed, found):
    with pytest.raises(RefusedError, match=found):
        _read(**changed)


def test_arrays_that_the_folder_cannot_explain_are_refused_by_the_largest(tmp_path):
    arrays = {"small": _read(), "huge": _read(shape=[10**13], chunks=[10**6])}
    with pytest.raises(RefusedError, match=r"announces arrays of 40,000,000,000,048 bytes, huge of shape"):
        check_sizes(arrays, tmp_path, 300)
    check_sizes({"small": _read()}, tmp_path, 300)
    check_sizes({str(i): _read(shape=[4_000_000], chunks=[1]) for i in range(4)}, tmp_path, 300)
    with pytest.raises(RefusedError):
        check_sizes({str(i): _read(shape=[4_000_000], chunks=[1]) for i in range(5)}, tmp_path, 300)


def test_a_folder_is_its_regular_files_and_nothing_that_leads_out(tmp_path):
    folder = tmp_path / "params"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "a").write_bytes(b"x" * 10)
    (folder / "link").symlink_to("d/a")
    assert folder_bytes(folder, "a checkpoint") == 20
    (tmp_path / "secret").write_text("s")
    for name, target, found in (
        ("out", "../../secret", "leads out of"),
        ("loop", "..", "expected a regular file"),
        ("gone", "nothing", "a link to nothing"),
    ):
        (folder / "d" / name).symlink_to(target)
        with pytest.raises(RefusedError, match=found):
            folder_bytes(folder, "a checkpoint")
        (folder / "d" / name).unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(RefusedError, match="expected a regular file"):
        folder_bytes(folder, "a checkpoint")


_junk = st.none() | st.integers(-5, 2**70) | st.text(max_size=5) | st.lists(st.integers(-3, 2**65), max_size=4)


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from([*HEADER, "other"]), _junk, max_size=4), st.binary(max_size=5))
def test_any_change_of_a_valid_header_is_a_bounded_array_or_one_refusal(changed, noise):
    for data in (json.dumps({**HEADER, **changed}).encode(), json.dumps(HEADER).encode()[:-3] + noise):
        try:
            header = read_array_header(data, "params: the header of w")
        except RefusedError as error:
            assert str(error).isprintable()
        else:
            assert header.nbytes >= 0 and header.chunk_count >= 0
