"""Stored pictures of every kind: what LeRobot reads of them, or one refusal."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_odd import CAMERA, DATA, frames_of, picture, with_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xp.data.lerobot.pictures import picture_reader
from xp.errors import UserError

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(32) * 4, np.arange(24) * 3)[..., None] % 256 + np.array([0, 1, 2])
RGB = SMOOTH.clip(0, 255).astype(np.uint8)


def refusal(root) -> str:
    with pytest.raises(UserError) as caught:
        frames_of(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def alpha(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image, np.full((*image.shape[:2], 1), 77, np.uint8)], axis=2)


COLOURS = {
    "RGB": (picture(RGB), RGB),
    "transparent": (picture(alpha(RGB)), RGB),
    "grey": (picture(RGB[..., 0]), np.repeat(RGB[..., :1], 3, axis=2)),
    "grey and transparent": (picture(alpha(RGB[..., :1])), np.repeat(RGB[..., :1], 3, axis=2)),
    "a palette": (picture(Image.fromarray(RGB[..., 0]).convert("P")), np.repeat(RGB[..., :1], 3, axis=2)),
    "black and white": (
        picture(Image.fromarray(RGB[..., 0] > 90)),
        np.repeat(((RGB[..., :1] > 90) * 255).astype(np.uint8), 3, axis=2),
    ),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_an_8_bit_picture_of_any_kind_is_read_as_its_colours(tmp_path, kind):
    file, expected = COLOURS[kind]
    np.testing.assert_array_equal(frames_of(with_pictures(tmp_path / "d", [file]))[0], expected)


def test_a_jpeg_in_cmyk_is_read_as_pil_reads_it(tmp_path):
    file = picture(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
    found = frames_of(with_pictures(tmp_path / "d", [file]))[0]
    assert np.abs(found.astype(int) - RGB).mean() < 12  # lossy, and CMYK without a profile
    assert found.std() > 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_turned_back_as_lerobot_does(tmp_path, orientation):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = RGB if orientation < 5 else np.ascontiguousarray(RGB.transpose(1, 0, 2))
    file = picture(stored, "JPEG", quality=95, exif=exif)
    root = with_pictures(tmp_path / "d", [file])
    theirs = LeRobotDataset("local/x", root=root, video_backend="pyav")[0][CAMERA]
    np.testing.assert_array_equal(frames_of(root)[0], (theirs.permute(1, 2, 0).numpy() * 255).round())


DEEP = {
    "depth in 16 bits": picture(np.full((32, 24), 700, np.uint16)),
    "the same in every pixel of 16 bits": picture(np.arange(32 * 24, dtype=np.uint16).reshape(32, 24) * 80),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("shape", [(32, 24, 1), (32, 24, 3), (32, 24)])
def test_a_picture_of_16_bits_is_refused_and_not_white(tmp_path, kind, shape):
    message = refusal(with_pictures(tmp_path / "d", [picture(RGB), DEEP[kind]], shape))
    assert "row 1" in message and "8-bit" in message and "is_depth_map" in message and "'top'" in message


@pytest.mark.parametrize("mark", [{"is_depth_map": True}, {"video.is_depth_map": True}])
def test_depth_that_is_marked_is_left_out(tmp_path, mark):
    from data_odd import cells, write_odd

    from xp.data import open_dataset

    feature = {"dtype": "image", "shape": [32, 24, 1], "names": ["height", "width", "channels"]}
    column = {CAMERA: cells([DEEP["depth in 16 bits"]] * 7)}
    for place in ("info", "video_info"):
        root = write_odd(tmp_path / place, columns=column, features={CAMERA: {**feature, place: mark}})
        assert open_dataset(root).cameras == {}


def test_a_picture_of_another_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    file = picture(np.zeros((4000, 4000), np.uint8))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    message = refusal(with_pictures(tmp_path / "d", [file]))
    assert "4000x4000" in message and "32x24" in message


def test_cells_may_be_bytes_alone_or_name_files_of_the_dataset(tmp_path):
    root = with_pictures(tmp_path / "d", [picture(RGB)])
    (root / "images").mkdir()
    (root / "images" / "0.png").write_bytes(picture(RGB))
    table = pq.read_table(root / DATA)
    place = table.column_names.index(CAMERA)
    for column in (pa.array([picture(RGB)]), pa.array(["images/0.png"]), pa.array([{"path": "images/0.png"}])):
        pq.write_table(table.set_column(place, CAMERA, column), root / DATA)
        np.testing.assert_array_equal(frames_of(root)[0], RGB)


BAD_CELLS = {
    "null": None,
    "nothing": {"bytes": None, "path": None},
    "no picture": {"bytes": b"GIF89a" + bytes(40), "path": None},
    "cut short": {"bytes": picture(RGB)[:60], "path": None},
    "PostScript": {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 32\n", "path": None},
    "a missing file": {"bytes": None, "path": "images/none.png"},
    "a file outside": {"bytes": None, "path": "../outside.png"},
    "an absolute path": {"bytes": None, "path": "/outside.png"},
    "a folder": {"bytes": None, "path": "meta"},
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_a_cell_that_is_no_picture_of_the_dataset_is_refused_with_its_row(tmp_path, case):
    (tmp_path / "outside.png").write_bytes(picture(RGB))
    root = with_pictures(tmp_path / "d", [picture(RGB), picture(RGB)])
    table = pq.read_table(root / DATA)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": picture(RGB), "path": None}, BAD_CELLS[case]], kind)
    pq.write_table(table.set_column(table.column_names.index(CAMERA), CAMERA, column), root / DATA)
    assert "row 1" in refusal(root)


SHAPES = [
    ([32, 24, 3], ["height", "width", "channels"]),
    ([3, 32, 24], ["channels", "height", "width"]),
    ([24, 32, 3], ["width", "height", "channel"]),
    ([3, 32, 24], ["height", "width", "channels"]),
    ([3, 32, 24], None),
    ([32, 24, 3], {"axes": ["height", "width", "channels"]}),
    ([32, 24], ["height", "width"]),
]


@pytest.mark.parametrize(("shape", "names"), SHAPES)
def test_height_and_width_are_found_in_every_order_of_the_shape(tmp_path, shape, names):
    from data_odd import cells, write_odd

    feature = {CAMERA: {"dtype": "image", "shape": shape, "names": names}}
    root = write_odd(tmp_path / "d", lengths=(1,), columns={CAMERA: cells([picture(RGB)])}, features=feature)
    np.testing.assert_array_equal(frames_of(root)[0], RGB)


TURNED = Image.Exif()
TURNED[0x0112] = 6
FILES = {"PNG": picture(RGB), "JPEG": picture(np.ascontiguousarray(RGB.transpose(1, 0, 2)), "JPEG", exif=TURNED)}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(FILES)), st.integers(0, 400), st.integers(0, 12), st.binary(max_size=12))
def test_any_damaged_picture_is_a_frame_of_the_announced_size_or_one_refusal(kind, at, size, other):
    good = FILES[kind]
    cell = {"bytes": good[:at] + other + good[at + size :], "path": None}
    read = picture_reader(Path("D"), Path("D/file.parquet"), "top", (32, 24), lambda frame: frame)
    try:
        assert read((0, cell)).shape == (32, 24, 3)
    except UserError as error:
        assert "\n" not in str(error) and "row 0" in str(error) and str(error).isprintable()
