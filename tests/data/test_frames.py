import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from data_made_up import made_up
from data_small import write_small
from data_written import CAMERAS
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xp.data import open_dataset
from xp.data.lerobot import video
from xp.data.lerobot.folder import VideoPart
from xp.data.lerobot.frames import iter_frames, match_frames
from xp.errors import UserError
from xp.pictures import resize


def all_frames(root, camera, size=None, decoder="pyav") -> np.ndarray:
    dataset = open_dataset(root)
    size = size or dataset.cameras[camera][:2]
    rows, frames = zip(*iter_frames(dataset, camera, size, decoder), strict=True)
    assert np.concatenate(rows).tolist() == list(range(dataset.num_frames))
    return np.concatenate(frames)


@pytest.mark.parametrize("camera", CAMERAS)
def test_stored_images_are_read_exactly(image_set, camera):
    np.testing.assert_array_equal(all_frames(image_set.root, camera), image_set.images[camera])


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("kind", ["video_set", "parts_set"])
def test_videos_decode_to_the_pixels_lerobot_gives(kind, camera, request):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    written = request.getfixturevalue(kind)
    ours = all_frames(written.root, camera)
    theirs = LeRobotDataset("local/x", root=written.root, video_backend="pyav", return_uint8=True)
    assert len(theirs) == len(ours)
    for i in range(len(ours)):
        np.testing.assert_array_equal(ours[i], theirs[i][f"observation.images.{camera}"].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("kind", ["video_set", "parts_set"])
def test_every_video_frame_is_nearest_to_the_picture_written_for_it(kind, request):
    written = request.getfixturevalue(kind)
    ours, truth = all_frames(written.root, "top").astype(float), written.images["top"].astype(float)
    distance = np.abs(ours[:, None] - truth[None]).mean(axis=(2, 3, 4))
    assert distance.argmin(axis=1).tolist() == list(range(len(truth)))


def test_frames_are_resized_by_antialiased_lanczos(image_set):
    ours = all_frames(image_set.root, "wrist", size=(32, 40))
    for frame, original in zip(ours, image_set.images["wrist"], strict=True):
        expected = Image.fromarray(original).resize((40, 32), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(frame, np.asarray(expected))


def lanczos3(from_size: int, to_size: int) -> np.ndarray:
    """Weights [to, from] of sinc(x) sinc(x/3) about pixel centres, widened when shrinking, normalised."""
    stretch = max(from_size / to_size, 1)
    centres = (np.arange(to_size) + 0.5) * from_size / to_size
    x = ((np.arange(from_size) + 0.5) - centres[:, None]) / stretch
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(32, 40), (64, 96), (128, 100)])
def test_resizing_agrees_with_the_formula_within_one_grey_level(image_set, size):
    frame = image_set.images["top"][3]
    exact = np.einsum("ah,hwc,bw->abc", lanczos3(96, size[0]), frame.astype(float), lanczos3(96, size[1]))
    assert np.abs(resize(frame, *size) - np.clip(exact, 0, 255)).max() <= 1.5  # one, and half for rounding


def test_resizing_to_the_same_size_changes_nothing_and_a_flat_picture_stays_flat():
    frame = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert resize(frame, 7, 5) is frame
    assert (resize(np.full((50, 40, 3), 93, np.uint8), 13, 9) == 93).all()


def test_pictures_of_another_size_than_announced_are_refused(tmp_path):
    key = "observation.images.top"
    feature = {key: {"dtype": "image", "shape": [5, 4, 3], "names": ["height", "width", "channels"]}}
    root = write_small(tmp_path / "d", images={key: np.zeros((7, 4, 4, 3), np.uint8)}, features=feature)
    with pytest.raises(UserError, match="4x4.*5x4"):
        all_frames(root, "top")


def test_a_damaged_picture_is_refused_with_its_file(tmp_path):
    key = "observation.images.top"
    noise = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    root = write_small(tmp_path / "d", images={key: noise})
    path = root / "data" / "chunk-000" / "file-000.parquet"
    data = bytearray(path.read_bytes())
    at = data.find(b"IDAT") + 200
    data[at : at + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(UserError, match="camera 'top'|truncated or damaged"):
        all_frames(root, "top")


def test_a_video_damaged_inside_is_refused(video_set, tmp_path):
    import shutil

    shutil.copytree(video_set.root, tmp_path / "copy")
    path = next((tmp_path / "copy").glob("videos/*top/*/*.mp4"))
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 4
    data[start + (len(data) - start) // 3 :] = bytes(len(data) - start - (len(data) - start) // 3)
    path.write_bytes(data)
    with pytest.raises(UserError, match="truncated or damaged"):
        all_frames(tmp_path / "copy", "top")


def test_a_video_with_too_few_frames_names_the_first_missing_one(parts_set, tmp_path):
    import shutil

    shutil.copytree(parts_set.root, tmp_path / "copy")
    paths = sorted((tmp_path / "copy").glob("videos/*top/*/*.mp4"))
    counts = [sum(1 for _ in av.open(str(path)).decode(video=0)) for path in paths]
    shortest, longest = paths[int(np.argmin(counts))], paths[int(np.argmax(counts))]
    assert min(counts) < max(counts)
    shutil.copyfile(shortest, longest)
    with pytest.raises(UserError, match=rf"frame \d+ of episode \d+ is missing.*{max(counts)} frames"):
        all_frames(tmp_path / "copy", "top")


def decoded(times, piece=3):
    for i in range(0, len(times), piece):
        stamps = np.asarray(times[i : i + piece])
        yield stamps, np.round(stamps * 1000).astype(np.int64)[:, None, None, None]


LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(LENGTHS, st.floats(-0.02, 0.02), st.integers(0, 4), st.integers(1, 7))
def test_frames_are_matched_by_time_through_drift_and_past_foreign_frames(lengths, drift, foreign, piece):
    dataset = made_up(lengths)  # 10 frames per second
    part = VideoPart(Path(), np.arange(len(lengths)), (foreign + dataset.episodes.starts) / 10 + drift)
    times = np.arange(foreign + sum(lengths) + 2) / 10
    matched = list(match_frames(part, dataset, decoded(times, piece)))
    rows, frames = (np.concatenate(arrays) for arrays in zip(*matched, strict=True))
    assert rows.tolist() == list(range(sum(lengths)))
    assert frames.reshape(-1).tolist() == [100 * (foreign + n) for n in rows]


@given(LENGTHS, st.data())
def test_a_frame_that_is_missing_repeated_or_out_of_order_is_noticed(lengths, data):
    dataset = made_up(lengths)
    part = VideoPart(Path(__file__), np.arange(len(lengths)), dataset.episodes.starts / 10)
    times = (np.arange(sum(lengths)) / 10).tolist()
    at = data.draw(st.integers(0, len(times) - 1))
    if data.draw(st.booleans()):
        del times[at]
    else:
        times.insert(at, times[at])
    with pytest.raises(UserError, match="missing or out of order"):
        list(match_frames(part, dataset, decoded(times)))


def test_torchcodec_asked_for_where_it_does_not_load_is_one_paragraph(monkeypatch):
    monkeypatch.setattr(video, "torchcodec_loads", lambda: False)
    with pytest.raises(UserError, match="data.decoder=auto") as caught:
        video.choose_decoder("torchcodec")
    assert "\n" not in str(caught.value)


def test_torchcodec_is_neither_tried_nor_taken_where_it_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(video, "torchcodec_loads", lambda: pytest.fail("tried"))
    assert video.choose_decoder("auto") == video.choose_decoder("pyav") == "pyav"
    monkeypatch.setattr(video, "torchcodec_loads", lambda: True)
    assert video.choose_decoder("torchcodec") == "torchcodec"


TORCHCODEC = """
import sys, numpy as np
from xp.data import open_dataset
from xp.data.lerobot.frames import iter_frames
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = open_dataset(sys.argv[1])
theirs = LeRobotDataset("local/x", root=sys.argv[1], video_backend="torchcodec", return_uint8=True)
for camera in dataset.cameras:
    for rows, frames in iter_frames(dataset, camera, dataset.cameras[camera][:2], "torchcodec"):
        for row, frame in zip(rows, frames):
            other = theirs[int(row)]["observation.images." + camera].permute(1, 2, 0).numpy()
            assert np.array_equal(frame, other), (camera, row)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["video_set", "parts_set"])
def test_torchcodec_decodes_to_the_pixels_lerobot_gives(kind, request, ffmpeg_environment):
    root = request.getfixturevalue(kind).root
    command = [sys.executable, "-c", TORCHCODEC, str(root)]
    done = subprocess.run(command, env=ffmpeg_environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
