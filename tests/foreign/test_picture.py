"""Pictures from outside: their size is known before they are decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xp.foreign.paths import RefusedError
from xp.foreign.picture import Header, decode, read_header

WHERE = "frame 3 of camera 'top' in file-000.parquet"


def _picture(kind="PNG", mode="RGB", size=(8, 6), **options) -> bytes:
    bands = {"RGB": 3, "RGBA": 4, "L": 1}.get(mode, 3)
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], bands), np.uint8).squeeze()
    image = Image.fromarray(values) if mode != "I;16" else Image.fromarray(values[..., 0].astype(np.uint16) * 200)
    file = io.BytesIO()
    (image.convert("P") if mode == "P" else image).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "kind, mode, options, header",
    [
        ("PNG", "RGB", {}, Header("PNG", 6, 8, 8, 3)),
        ("PNG", "RGBA", {}, Header("PNG", 6, 8, 8, 4)),
        ("PNG", "L", {}, Header("PNG", 6, 8, 8, 1)),
        ("PNG", "P", {}, Header("PNG", 6, 8, 8, 3)),
        ("PNG", "I;16", {}, Header("PNG", 6, 8, 16, 1)),
        ("JPEG", "RGB", {}, Header("JPEG", 6, 8, 8, 3)),
        ("JPEG", "L", {"progressive": True}, Header("JPEG", 6, 8, 8, 1)),
        ("JPEG", "RGB", {"exif": b"Exif\0\0" + b"\xff\xc0" * 40, "comment": b"c" * 300}, Header("JPEG", 6, 8, 8, 3)),
    ],
)
def test_a_header_says_what_PIL_finds(kind, mode, options, header):  # noqa: N802
    data = _picture(kind, mode, **options)
    assert read_header(data, WHERE) == header
    assert np.array_equal(np.asarray(decode(data, WHERE, (6, 8))), np.asarray(Image.open(io.BytesIO(data))))


def test_a_picture_of_another_size_is_refused_undecoded(tmp_path):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"x" * 20
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png"):
        with pytest.raises(RefusedError, match="has 12000x12000 pixels .* expected 96x96"):
            decode(source, WHERE, (96, 96))


def test_other_formats_are_never_handed_to_a_decoder():
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "EPS")
    for data in (file.getvalue(), _picture("BMP"), b"", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(RefusedError, match="is not a picture: expected a PNG or a JPEG"):
            decode(data, WHERE, (6, 8))


def test_a_jpeg_of_thousands_of_scans_is_refused():
    data = _picture("JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(RefusedError, match="more than 200 scans"):
        decode(data[:-2] + scan * 3000 + data[-2:], WHERE, (6, 8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_cut_anywhere_is_one_refusal(kind):
    data = _picture(kind)
    for length in range(0, len(data) - 24, 7):
        with pytest.raises(RefusedError, match="frame 3 of camera 'top'"):
            decode(data[:length], WHERE, (6, 8))


@settings(max_examples=300)
@given(
    st.sampled_from(["PNG", "JPEG"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_any_change_of_a_valid_picture_is_a_picture_of_that_size_or_one_refusal(kind, changes):
    data = bytearray(_picture(kind, progressive=kind == "JPEG"))
    for at, byte in changes:
        data[at % min(len(data), 120)] = byte
    try:
        assert np.asarray(decode(bytes(data), WHERE, (6, 8))).shape[:2] == (6, 8)
    except RefusedError as error:
        assert str(error).isprintable()
