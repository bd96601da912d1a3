"""Streamed frames are those of the cache, batch by batch, and nothing is left of the processes that decode them."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from data_small import write_small
from data_videos import moving, write_videos

from xp.data import Batches, Windows, in_order, open_dataset, open_frames
from xp.data.cache_store import GIGABYTE
from xp.data.frame_source import LocatedPiece, OpenFiles
from xp.data.frames import frames_of
from xp.data.stream import decoders, frames
from xp.data.stream.decoders import Decoders
from xp.errors import UserError

SIZES = {"top": (32, 48), "wrist": (16, 24)}
CODECS = {
    "av1": ("libsvtav1", {"g": "2", "preset": "12"}),
    "reordered": ("libx264", {"g": "6", "bf": "2", "x264-params": "open-gop=1:keyint=6"}),
    "one key frame": ("libx264", {"g": "250", "sc_threshold": "0"}),
    "mpeg4": ("mpeg4", {"g": "5"}),
}


@pytest.fixture(scope="module", params=list(CODECS))
def videos(request, tmp_path_factory):
    codec, options = CODECS[request.param]
    return write_videos(tmp_path_factory.mktemp("stream") / "d", codec=codec, **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A dataset with videos of the plainest kind."""
    return write_videos(tmp_path_factory.mktemp("plain") / "d", codec="mpeg4", g="4")


def streamed(dataset, cache, *, workers=1, sizes=SIZES, **given):
    given = {"cache_dir": cache, "cache_gb": 1, **given}
    return frames_of(dataset, sizes, mode="stream", workers=workers, **given)


def cached(dataset, cache, sizes=SIZES):
    return frames_of(dataset, sizes, mode="cache", workers=1, cache_dir=cache, cache_gb=1)


def closed(sources):
    for each in sources.values():
        each.close()


def batches(dataset, frames, *, augment=False):
    windows = Windows(dataset, frames, range(dataset.episodes.num), history=2, horizon=3)
    return Batches(windows, batch_size=5, seed=3, drop_rate=0.2, augment=augment)


def same(one, other):
    assert list(one) == list(other)
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other[key], err_msg=key)
        else:
            assert value == other[key]


def test_batches_are_those_of_the_cache(videos, tmp_path):
    dataset = open_dataset(videos, decoder="pyav")
    sources = streamed(dataset, tmp_path)
    ours, theirs = batches(dataset, sources, augment=True), batches(dataset, cached(dataset, tmp_path), augment=True)
    for step in [*range(7), 2, 11]:  # on, back and far ahead
        same(ours.at(step), theirs.at(step))
    closed(sources)


def test_every_frame_in_order_is_that_of_the_cache(videos, tmp_path):
    dataset = open_dataset(videos, decoder="pyav")
    sources, array = streamed(dataset, tmp_path), cached(dataset, tmp_path)
    for camera, source in sources.items():
        rows = np.arange(dataset.num_frames)[::-1].reshape(-1, 1)
        np.testing.assert_array_equal(source.frames(rows)[:, 0], array[camera][::-1])
    closed(sources)


def test_validation_beside_training_sees_the_frames_of_the_cache(plain, tmp_path):
    dataset = open_dataset(plain, decoder="pyav")
    sources, array = streamed(dataset, tmp_path, workers=2), cached(dataset, tmp_path)
    ours, theirs = batches(dataset, sources), batches(dataset, array)
    ahead = [threading.Thread(target=lambda: [ours.at(step) for step in range(4)]) for _ in range(2)]
    for thread in ahead:
        thread.start()
    shape = {"history": 2, "horizon": 3}
    held_out = [in_order(Windows(dataset, each, [1], **shape), 4) for each in (sources, array)]
    for one, other in zip(*held_out, strict=True):
        same(one, other)
    for thread in ahead:
        thread.join()
    same(ours.at(4), theirs.at(4))
    closed(sources)


def test_pictures_in_data_files_are_streamed_too(tmp_path):
    images = {"observation.images.top": moving(7, (32, 48))}
    dataset = open_dataset(write_small(tmp_path / "d", images=images))
    sources = streamed(dataset, tmp_path / "cache", sizes={"top": (16, 24)})
    array = cached(dataset, tmp_path / "cache", {"top": (16, 24)})
    rows = np.array([[6, 0], [3, 3], [1, 2]])
    np.testing.assert_array_equal(sources["top"].frames(rows), array["top"][rows])
    closed(sources)


def test_auto_streams_where_the_cache_has_no_room_and_says_so(plain, tmp_path):
    dataset, said = open_dataset(plain, decoder="pyav"), []
    given = {"workers": 1, "cache_dir": tmp_path, "mode": "auto", "log": said.append}
    assert isinstance(frames_of(dataset, SIZES, cache_gb=1, **given)["top"], np.ndarray)
    sources = frames_of(dataset, SIZES, cache_gb=1000 / GIGABYTE, **given)
    assert isinstance(sources["top"], frames.StreamedFrames)
    assert any("streamed" in line and "data.cache_gb=1e-06" in line for line in said)
    closed(sources)


def test_auto_streams_where_the_disk_is_full(plain, tmp_path, monkeypatch):
    dataset = open_dataset(plain, decoder="pyav")
    monkeypatch.setattr("xp.data.cache_store.shutil.disk_usage", lambda folder: type("", (), {"free": 100}))
    with pytest.raises(UserError, match="disk of .* is full.*data.frames=stream"):
        cached(dataset, tmp_path)
    sources = frames_of(dataset, SIZES, mode="auto", workers=1, cache_dir=tmp_path, cache_gb=1)
    assert isinstance(sources["top"], frames.StreamedFrames)
    closed(sources)


def test_the_index_is_made_once_and_mapped(plain, tmp_path, monkeypatch):
    dataset = open_dataset(plain, decoder="pyav")
    closed(streamed(dataset, tmp_path))
    monkeypatch.setattr("xp.data.lerobot.video_index._index", None)  # who made it again would fail
    closed(streamed(dataset, tmp_path))


def test_a_format_without_single_frames_is_refused_by_stream_and_cached_by_auto(tmp_path):
    from xp.data import ArrayDataset

    root = tmp_path / "d.bin"
    root.write_bytes(b"x")
    pictures = moving(3, (8, 8))
    dataset = ArrayDataset(
        root=root, fps=10, tasks=["do it"], lengths=np.array([3]), episode_tasks=np.zeros(1, int), files=[],
        action=np.zeros((3, 2)), state=np.zeros((3, 0)), cameras={"top": (8, 8, 3)}, frames=lambda camera, e: pictures,
    )  # fmt: skip
    with pytest.raises(UserError, match="data.frames=cache"):
        streamed(dataset, tmp_path / "cache", sizes={"top": (8, 8)})
    with pytest.raises(UserError, match="data.cache_gb"):
        frames_of(dataset, {"top": (8, 8)}, mode="auto", workers=1, cache_dir=tmp_path / "cache", cache_gb=0)


def broken(root: Path, share: float = 0.6) -> Path:
    """Overwrite what lies at a share of the second camera's first file: whole boxes, damaged frames."""
    path = root / "videos" / "observation.images.wrist" / "chunk-000" / "file-000.mp4"
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    size = int.from_bytes(data[begin - 8 : begin - 4], "big") - 8
    data[begin + int(size * share) : begin + int(size * share) + size // 5] = bytes([0x5A]) * (size // 5)
    path.write_bytes(data)
    return root


@pytest.mark.parametrize(("codec", "options"), [("libsvtav1", {"g": "2", "preset": "12"}), ("libx264", {"g": "4"})])
def test_a_video_that_breaks_in_the_middle_is_refused_with_file_and_episode(tmp_path, codec, options):
    dataset = open_dataset(broken(write_videos(tmp_path / "d", codec=codec, **options)), decoder="pyav")
    named = r"observation\.images\.wrist.*file-000\.mp4 is truncated or damaged \(frame \d+ of episode [01] cannot"
    with pytest.raises(UserError, match=named):
        cached(dataset, tmp_path / "cache")
    sources = streamed(dataset, tmp_path / "cache")
    with pytest.raises(UserError, match=named):
        sources["wrist"].frames(np.arange(dataset.num_frames)[:, None])
    whole = sources["wrist"].frames(np.arange(16, 22)[:, None])  # of another file
    assert whole.shape == (6, 1, 16, 24, 3)
    closed(sources)


class Piece:
    """Reads its own number, and does before what `deed` says."""

    def __init__(self, number: int, deed: str = "", mark: str = "") -> None:
        self.number, self.deed, self.mark = number, deed, mark

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"piece {self.number}"

    def read(self, files: OpenFiles):
        if self.deed and not (self.mark and os.path.exists(self.mark)):
            if self.mark:
                Path(self.mark).touch()
            if self.deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        yield np.full((2, 2, 3), self.number, np.uint8)


class Locator:
    def __init__(self, **deeds) -> None:
        self.deeds = deeds

    def locate(self, rows, most):
        return [LocatedPiece(Piece(int(row), **self.deeds), np.array([i])) for i, row in enumerate(rows)]


def source(workers=1, **deeds) -> frames.StreamedFrames:
    return frames.StreamedFrames(Locator(**deeds), (200, 2, 2, 3), Decoders(workers, 12), frames._Room(1000), 1)


def test_a_process_that_dies_is_replaced(tmp_path):
    stream = source(deed="die", mark=str(tmp_path / "died"))
    assert stream.frames(np.array([[5], [9]]))[:, 0, 0, 0, 0].tolist() == [5, 9]
    assert (tmp_path / "died").exists()
    stream.close()


def test_a_piece_at_which_processes_die_ends_the_batch_with_one_line():
    stream = source(deed="die")
    with pytest.raises(UserError, match="died 3 times at piece 5.*killed by signal 9.*data.frames=cache"):
        stream.frames(np.array([[5]]))
    stream.close()


def test_a_process_that_hangs_is_replaced(tmp_path, monkeypatch):
    waited, real = [], decoders._Desk._heard
    monkeypatch.setattr(decoders, "SILENCE_S", 599.0)

    def heard(worker, patience):
        if patience == 599.0:
            waited.append(worker.process.pid)
        return real(worker, 2.0 if patience == 599.0 and len(waited) == 1 else patience)

    monkeypatch.setattr(decoders._Desk, "_heard", staticmethod(heard))
    stream = source(deed="hang", mark=str(tmp_path / "hung"))
    assert stream.frames(np.array([[7]])).max() == 7
    assert len(set(waited)) == 2
    stream.close()


def test_processes_end_with_the_last_reference_to_the_batches(plain, tmp_path):
    dataset = open_dataset(plain, decoder="pyav")
    ours = batches(dataset, streamed(dataset, tmp_path))
    ours.at(0)
    (desk,) = ours.windows.frames["top"].decoders._desks
    process = desk._worker.process
    del ours
    process.wait(60)


def test_little_is_read_ahead_and_what_nobody_asks_for_is_given_up():
    stream = source()
    for row in range(150):  # of 12 bytes each, where 1000 may be waiting
        stream.expect(np.array([[row]]))
    assert 80 <= len(stream._waiting) <= 83
    for _ in range(frames._STALE + 1):
        assert stream.frames(np.array([[190]])).max() == 190
    assert not stream._waiting and stream._room._taken == 0
    stream.close()


_RUN = """
import signal, sys, time
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it is ignored, as behind `&`
sys.path.insert(0, sys.argv[1])
import test_stream
from xp.data import open_dataset
dataset = open_dataset(sys.argv[2], decoder="pyav")
sources = test_stream.streamed(dataset, sys.argv[3], workers=2)
ours = test_stream.batches(dataset, sources)
ours.at(0)
while len(desks := sources["top"].decoders._desks) < 2 or any(desk._worker is None for desk in desks):
    time.sleep(0.01)
print(*(desk._worker.process.pid for desk in desks), flush=True)
step = 0
while True:
    step += 1
    ours.at(step)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_however_a_run_ends_no_process_and_no_shared_memory_is_left(how, plain, tmp_path):
    before = set(Path("/dev/shm").iterdir())
    command = [sys.executable, "-c", textwrap.dedent(_RUN), str(Path(__file__).parent), str(plain), str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    run.send_signal(how)
    _, errors = run.communicate(timeout=60)
    until = time.monotonic() + 30
    while left := [pid for pid in pids if _lives(pid)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)
    assert set(Path("/dev/shm").iterdir()) <= before
    assert how == signal.SIGKILL or errors.rstrip().endswith("KeyboardInterrupt")


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_torchcodec_streams_what_it_caches(plain, tmp_path, ffmpeg_environment):
    code = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import numpy as np
    import test_stream
    from xp.data import open_dataset
    dataset = open_dataset(sys.argv[2], decoder="torchcodec")
    sources, array = test_stream.streamed(dataset, sys.argv[3]), test_stream.cached(dataset, sys.argv[3])
    rows = np.random.default_rng(0).permutation(dataset.num_frames)[:, None]
    for camera in sources:
        np.testing.assert_array_equal(sources[camera].frames(rows), array[camera][rows])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(Path(__file__).parent), str(plain), str(tmp_path)]
    done = subprocess.run(command, env=ffmpeg_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_frames_opened_by_open_frames_are_still_arrays(plain, tmp_path):
    dataset = open_dataset(plain, decoder="pyav")
    assert isinstance(open_frames(dataset, SIZES, cache_dir=tmp_path, cache_gb=1)["top"], np.memmap)
