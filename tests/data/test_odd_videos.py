"""Videos whose frames do not come one for one with the rows: the nearest frame, as LeRobot picks it, or both rates."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_made_up import made_up
from data_odd import frames_of, grey_mp4, with_video
from hypothesis import given
from hypothesis import strategies as st

from xp.data import open_dataset
from xp.data.lerobot.folder import VideoPart
from xp.data.lerobot.matching import match_frames
from xp.errors import UserError


def numbers(frames: np.ndarray) -> list[int]:
    """Which pictures of `grey_mp4` these are."""
    return (frames.reshape(len(frames), -1).mean(axis=1) / 4).round().astype(int).tolist()


def refusal(root) -> str:
    with pytest.raises(UserError) as caught:
        frames_of(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lerobots(root, tolerance: float = 1e-4) -> list[int]:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    theirs = LeRobotDataset("local/x", root=root, video_backend="pyav", return_uint8=True, tolerance_s=tolerance)
    frames = [theirs[i]["observation.images.top"].permute(1, 2, 0).numpy() for i in range(len(theirs))]
    return numbers(np.stack(frames))


def test_rows_of_10_a_second_take_every_third_frame_of_a_video_of_30(tmp_path):
    root = with_video(tmp_path / "d", [i / 30 for i in range(21)])
    said: list[str] = []
    found = numbers(frames_of(root, said.append))
    assert found == [0, 3, 6, 9, 12, 15, 18] == lerobots(root)
    assert len(said) == 1 and "10 frames per second" in said[0] and "the video at 30" in said[0]


def test_a_video_of_the_rows_rate_is_matched_without_a_word(tmp_path):
    said: list[str] = []
    root = with_video(tmp_path / "d", [i / 10 for i in range(7)])
    assert numbers(frames_of(root, said.append)) == list(range(7)) == lerobots(root)
    assert not said


def test_the_nearest_frame_is_taken_where_the_rates_do_not_divide(tmp_path):
    times = [i / 24 for i in range(18)]
    root = with_video(tmp_path / "d", times)
    nearest = [int(np.abs(np.array(times) - row / 10).argmin()) for row in range(7)]
    assert numbers(frames_of(root)) == nearest == lerobots(root, tolerance=0.03)


def test_a_video_that_starts_late_and_has_foreign_frames_is_matched_by_its_times(tmp_path):
    times = [0.5 + i / 10 for i in range(12)]
    root = with_video(tmp_path / "d", times, starts=[0.7, 1.2])
    assert numbers(frames_of(root)) == [2, 3, 4, 7, 8, 9, 10] == lerobots(root)


def test_episodes_may_lie_in_a_file_in_any_order_and_share_frames(tmp_path):
    root = with_video(tmp_path / "d", [i / 10 for i in range(8)], starts=[0.4, 0.1])
    assert numbers(frames_of(root)) == [4, 5, 6, 1, 2, 3, 4] == lerobots(root)


def test_a_video_of_changing_rate_is_matched_by_the_rows_own_timestamps(tmp_path):
    stamps = [0.0, 0.13, 0.2, 0.0, 0.08, 0.21, 0.3]
    times = [0.0, 0.13, 0.2, 0.3, 0.38, 0.51, 0.6]
    root = with_video(tmp_path / "d", times, columns={"timestamp": pa.array(np.float32(stamps))})
    assert numbers(frames_of(root)) == list(range(7)) == lerobots(root)


def test_rows_that_were_measured_do_not_drift_into_the_frames_of_others(tmp_path):
    stamps = [i / 9.3 for i in range(3)] + [i / 9.3 for i in range(4)]  # the video was written at 10 a second
    root = with_video(
        tmp_path / "d", [i / 10 for i in range(9)], columns={"timestamp": pa.array(np.float32(stamps))}, lengths=(3, 4)
    )
    message = refusal(root)
    assert "timestamp" in message and "does not fit its rows" in message


def test_rows_that_were_measured_take_the_nearest_frame_of_a_faster_video(tmp_path):
    stamps = np.float32([0.0, 0.12, 0.21, 0.0, 0.09, 0.22, 0.3])
    times = np.arange(30) / 40
    root = with_video(tmp_path / "d", times.tolist(), columns={"timestamp": pa.array(stamps)})
    due = stamps + np.repeat([0.0, 0.3], [3, 4])
    assert numbers(frames_of(root)) == [int(np.abs(times - t).argmin()) for t in due]


def test_a_slower_video_is_refused_with_both_rates(tmp_path):
    message = refusal(with_video(tmp_path / "d", [i / 5 for i in range(7)]))
    assert "10 frames per second" in message and "the video at 5" in message and "fps" in message
    assert "truncated" not in message


def test_a_video_that_is_played_faster_than_the_rows_is_refused_with_both_rates(tmp_path):
    message = refusal(with_video(tmp_path / "d", [i / 30 for i in range(7)]))  # a frame for each row, at 30 a second
    assert "10 frames per second" in message and "the video at 30" in message and "episode" in message


@pytest.mark.parametrize("missing", [0, 3, 6])
def test_a_missing_frame_is_named_and_not_replaced_by_its_neighbour(tmp_path, missing):
    times = [i / 10 for i in range(7) if i != missing]
    message = refusal(with_video(tmp_path / "d", times))
    episode, frame = (0, missing) if missing < 3 else (1, missing - 3)
    assert f"frame {frame} of episode {episode} is missing" in message and "truncated" in message


def test_last_frames_that_are_missing_are_named(tmp_path):
    assert "frame 2 of episode 1" in refusal(with_video(tmp_path / "d", [i / 10 for i in range(5)]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, None])
@pytest.mark.parametrize("column", ["timestamp", "from_timestamp"])
def test_times_that_are_no_numbers_are_refused(tmp_path, column, bad):
    values = [0.0, 0.1, bad, 0.0, 0.1, 0.2, 0.3]
    if column == "timestamp":
        options = {"columns": {"timestamp": pa.array(values, pa.float32(), from_pandas=False)}}
    else:
        options = {
            "episodes": {"videos/observation.images.top/from_timestamp": pa.array([0.0, bad], from_pandas=False)}
        }
    root = with_video(tmp_path / "d", [i / 10 for i in range(7)], **options)
    with pytest.raises(UserError, match="timestamp"):
        open_dataset(root)


def test_a_video_of_another_size_is_refused_before_its_frames_are_converted(tmp_path):
    root = with_video(tmp_path / "d", [i / 10 for i in range(7)])
    grey_mp4(next(root.glob("videos/*/*/*.mp4")), [i / 10 for i in range(7)], (64, 48))
    message = refusal(root)
    assert "64x48" in message and "32x32" in message


def test_a_playlist_that_calls_itself_a_video_is_refused(tmp_path):
    root = with_video(tmp_path / "d", [i / 10 for i in range(7)])
    path = next(root.glob("videos/*/*/*.mp4"))
    # A first part whose size spells "#EXT": the file is a playlist to whoever asks its first bytes.
    whole, length = path.read_bytes(), int.from_bytes(b"#EXT", "big")
    with path.open("wb") as file:
        file.write(b"#EXTM3U\n/etc/hostname\n")
        file.seek(length)  # a hole: takes no room on the disk
        file.write(whole)
    with pytest.raises(UserError, match="damaged"):
        open_dataset(root)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.floats(0.3, 6),
    st.floats(-0.03, 0.03),
    st.integers(1, 9),
)
def test_every_row_gets_the_nearest_frame_or_the_first_without_one_is_named(lengths, rate, shift, piece):
    """Against the plain rule: all distances, the first smallest, below half a row's time."""
    dataset = made_up(lengths)  # 10 frames per second
    part = VideoPart(Path(__file__), np.arange(len(lengths)), dataset.episodes.starts / 10)
    times = np.arange(0, dataset.num_frames / 10, 0.1 / rate) + shift
    pieces = ((times[i : i + piece], np.arange(i, min(i + piece, len(times)))) for i in range(0, len(times), piece))
    due = np.arange(dataset.num_frames) / 10
    distance = np.abs(due[:, None] - times[None])
    nearest, far = distance.argmin(axis=1), distance.min(axis=1)
    if np.isclose(far, 0.05, atol=1e-9).any():
        return  # at the bound rounding decides
    if (far < 0.05).all():
        matched = list(match_frames(part, dataset, pieces))
        assert np.concatenate([rows for rows, _ in matched]).tolist() == list(range(dataset.num_frames))
        found = np.concatenate([frames for _, frames in matched])
        np.testing.assert_allclose(np.abs(times[found] - due), far, atol=1e-9)
        return
    row = int(np.flatnonzero(far >= 0.05)[0])
    place = f"frame {dataset.frame_index[row]} of episode {dataset.episode_index[row]} "
    with pytest.raises(UserError, match=place):
        list(match_frames(part, dataset, pieces))
    assert len(nearest) == dataset.num_frames


def test_a_video_in_a_format_that_nobody_knows_is_refused_also_by_an_export(tmp_path):
    from xp.data.lerobot.export import export_episodes
    from xp.data.lerobot.stored import open_stored

    root = with_video(tmp_path / "d", [i / 10 for i in range(7)])
    path = next(root.glob("videos/*/*/*.mp4"))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert "damaged" in refusal(root)
    with pytest.raises(UserError, match="damaged"):
        export_episodes(open_stored(root), [1], tmp_path / "out")  # PyAV ended the process here
    assert not (tmp_path / "out").exists()
