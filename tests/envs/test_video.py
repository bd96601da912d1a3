"""Claims about episode videos."""

import numpy as np
import pytest

from xp.envs import video
from xp.envs.video import side_by_side, write_video
from xp.errors import UserError


def decode(path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, stream.average_rate, stream.codec_context.pix_fmt


@pytest.mark.parametrize("shape", [(96, 96), (97, 33), (300, 261)])
def test_a_video_shows_the_frames_enlarged_and_at_their_rate(tmp_path, shape):
    height, width = shape
    frames = np.zeros((12, height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, : width // 2] = 20 * index
        frame[: height // 2, width // 2 :] = (200, 40, 40)
    shown, rate, pixels = decode(write_video(tmp_path / "videos" / "episode.mp4", frames, 10))
    assert len(shown) == 12 and rate == 10 and pixels == "yuv420p"
    factor = max(1, -(-256 // min(shape)))
    assert shown.shape[1:3] == tuple(factor * side + (factor * side) % 2 for side in shape)
    back = shown[:, factor // 2 : factor * height : factor, factor // 2 : factor * width : factor].astype(int)
    assert np.abs(back - frames).mean() < 4


def test_a_video_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "episode.mp4"
    path.write_bytes(b"the old one")

    def fail(temporary, frames, fps):
        temporary.write_bytes(b"half of the new one")
        raise OSError("disk full")

    monkeypatch.setattr(video, "_encode", fail)
    with pytest.raises(OSError, match="disk full"):
        write_video(path, np.zeros((3, 16, 16, 3), np.uint8), 10)
    assert path.read_bytes() == b"the old one"
    assert [found.name for found in tmp_path.iterdir()] == ["episode.mp4"]


def test_a_pyav_without_any_known_encoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "ENCODERS", ("no_such_encoder",))
    with pytest.raises(UserError, match="no_such_encoder"):
        write_video(tmp_path / "episode.mp4", np.zeros((3, 16, 16, 3), np.uint8), 10)
    assert list(tmp_path.iterdir()) == []


def test_cameras_of_different_heights_stand_side_by_side():
    tall, low = np.full((2, 8, 4, 3), 9, np.uint8), np.full((2, 6, 10, 3), 5, np.uint8)
    both = side_by_side([tall, low])
    assert both.shape == (2, 8, 14, 3)
    assert (both[:, :, :4] == 9).all() and (both[:, :6, 4:] == 5).all() and (both[:, 6:, 4:] == 0).all()
