import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from data_small import write_small

from xp.data import cache, open_dataset, open_frames, use_marks
from xp.data.cache_store import CacheStore
from xp.data.turns import Turn
from xp.errors import UserError

SHAPE = (1000, 1000)
LIMIT_GB = 0.0035  # three entries of a million bytes, not four


def fill(value: int, calls: list[int] | None = None):
    def build(array: np.ndarray) -> None:
        if calls is not None:
            calls.append(value)
        array[:] = value

    return build


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.npy"))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix not in (".npy", ".lock")]


@pytest.fixture
def small(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 12, 16, 3), dtype=np.uint8)
    root = write_small(tmp_path / "d", images={"observation.images.top": images, "observation.images.wrist": images})
    return open_dataset(root), images


def test_frames_are_decoded_once_and_the_same_for_everyone(small, tmp_path, monkeypatch):
    dataset, images = small
    options = {"cache_dir": tmp_path / "cache", "cache_gb": 1}
    first = open_frames(dataset, {"top": (12, 16)}, **options)
    np.testing.assert_array_equal(first["top"], images)
    shutil.move(dataset.data_files[0], tmp_path / "gone.parquet")  # whoever decoded again would fail
    second = open_frames(dataset, {"top": (12, 16)}, **options)
    np.testing.assert_array_equal(second["top"], images)


@pytest.mark.parametrize("kind", ["image_set", "video_set", "parts_set"])
def test_cached_frames_stand_at_their_rows(kind, request, tmp_path):
    written = request.getfixturevalue(kind)
    sizes = {"top": (96, 96), "wrist": (32, 48)}
    frames = open_frames(open_dataset(written.root, decoder="pyav"), sizes, cache_dir=tmp_path, cache_gb=1)
    n = len(written.action)
    assert {name: array.shape for name, array in frames.items()} == {"top": (n, 96, 96, 3), "wrist": (n, 32, 48, 3)}
    error = np.abs(frames["top"].astype(int) - written.images["top"]).mean(axis=(1, 2, 3))
    assert error.max() < (1 if kind == "image_set" else 12)


def test_sizes_cameras_and_contents_have_their_own_entries(small, tmp_path):
    dataset, _ = small
    for sizes in ({"top": (12, 16)}, {"top": (6, 8)}, {"wrist": (6, 8)}, {"top": (6, 8), "wrist": (12, 16)}):
        open_frames(dataset, sizes, cache_dir=tmp_path / "cache", cache_gb=1)
    assert len(names(tmp_path / "cache")) == 4


def test_cached_frames_cannot_be_written_to(small, tmp_path):
    frames = open_frames(small[0], {"top": (12, 16)}, cache_dir=tmp_path / "cache", cache_gb=1)["top"]
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0


def test_building_reports_its_progress(small, tmp_path):
    seen = []

    @contextmanager
    def progress(total, description, unit):
        seen.append((total, unit))
        yield type("Bar", (), {"advance": lambda self, n: seen.append(n)})()

    open_frames(small[0], {"top": (6, 8)}, cache_dir=tmp_path / "cache", cache_gb=1, progress=progress)
    assert seen[0] == (7, "frame") and sum(seen[1:]) == 7


def test_unknown_cameras_are_refused_with_the_closest(small, tmp_path):
    with pytest.raises(UserError, match="did you mean 'wrist'"):
        open_frames(small[0], {"writs": (6, 8)}, cache_dir=tmp_path / "cache", cache_gb=1)


def test_frames_that_can_never_fit_are_refused_before_decoding(small, tmp_path):
    with pytest.raises(UserError, match=r"data\.cache_gb=\d"):
        open_frames(small[0], {"top": (12, 16)}, cache_dir=tmp_path / "cache", cache_gb=3e-6)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_dataset_leaves_nothing_in_the_cache(small, tmp_path):
    dataset, _ = small
    path = dataset.data_files[0]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="truncated"):
        open_frames(dataset, {"top": (12, 16)}, cache_dir=tmp_path / "cache", cache_gb=1)
    assert names(tmp_path / "cache") == [] and leftovers(tmp_path / "cache") == []


def test_the_least_recently_used_entry_goes_first(tmp_path):
    store = CacheStore(tmp_path, LIMIT_GB)
    for i, name in enumerate("abc"):
        store.open(name, SHAPE, fill(i))
        os.utime(tmp_path / f"{name}.npy", (i, i))
    store.open("a", SHAPE, fill(9))  # used again: now b is the oldest
    store.open("d", SHAPE, fill(3))
    assert names(tmp_path) == ["a", "c", "d"]
    assert (store.open("a", SHAPE, fill(9)) == 0).all()


def test_an_entry_in_use_is_never_removed(tmp_path):
    store = CacheStore(tmp_path, LIMIT_GB)
    held = {name: store.open(name, SHAPE, fill(i)) for i, name in enumerate("abc")}
    with pytest.raises(UserError, match="running processes use"):
        store.open("d", SHAPE, fill(3))
    assert names(tmp_path) == ["a", "b", "c"] and leftovers(tmp_path) == []
    del held["b"]
    store.open("d", SHAPE, fill(3))
    assert names(tmp_path) == ["a", "c", "d"]
    assert (held["a"] == 0).all() and (held["c"] == 2).all()


def test_a_failed_build_leaves_nothing_and_the_next_one_works(tmp_path):
    store = CacheStore(tmp_path, LIMIT_GB)

    def broken(array):
        array[0] = 1
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.open("a", SHAPE, broken)
    assert names(tmp_path) == [] and leftovers(tmp_path) == []
    assert (store.open("a", SHAPE, fill(5)) == 5).all()


@pytest.mark.parametrize("keep", [0, 50, 5000])
def test_a_cut_off_entry_is_built_again(tmp_path, keep):
    CacheStore(tmp_path, 1).open("a", SHAPE, fill(1))
    path = tmp_path / "a.npy"
    path.write_bytes(path.read_bytes()[:keep])
    assert (CacheStore(tmp_path, 1).open("a", SHAPE, fill(2)) == 2).all()


def test_a_full_disk_is_one_paragraph_with_the_bytes(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(UserError, match="1000128 bytes.*5000 bytes.*free") as caught:
        CacheStore(tmp_path, 1).open("a", SHAPE, fill(0))
    assert "\n" not in str(caught.value) and names(tmp_path) == [] and leftovers(tmp_path) == []


def test_a_disk_that_fills_up_meanwhile_is_one_paragraph_too(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="full"):
        CacheStore(tmp_path, 1).open("a", SHAPE, fill(0))
    assert names(tmp_path) == [] and leftovers(tmp_path) == []


def test_a_full_disk_makes_room_by_removing_old_entries(tmp_path, monkeypatch):
    store = CacheStore(tmp_path, 1)
    store.open("a", SHAPE, fill(0))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10 if names(tmp_path) == ["a"] else 10**7))
    store.open("b", SHAPE, fill(1))
    assert names(tmp_path) == ["b"]


def test_a_cache_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="paths.cache"):
        CacheStore(tmp_path / "file" / "cache", 1).open("a", SHAPE, fill(0))


WORKER = textwrap.dedent("""
    import pathlib, sys, time
    import numpy as np
    from xp.data.cache_store import CacheStore
    folder, marks = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

    def build(array):
        (marks / f"built_by_{sys.argv[3]}").touch()
        while not (marks / "go").exists():
            time.sleep(0.01)
        array[:] = 7

    array = CacheStore(folder, 1, log=lambda line: (marks / f"waits_{sys.argv[3]}").touch()).open("a", (100, 10), build)
    assert (array == 7).all()
    (marks / f"done_{sys.argv[3]}").touch()
    if sys.argv[4] == "hold":
        time.sleep(600)
""")


def worker(cache: Path, marks: Path, name: str, after: str = "end") -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(cache), str(marks), name, after])


def until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_one_process_builds_while_the_others_wait_and_say_so(tmp_path, marks):
    processes = [worker(tmp_path / "cache", marks, name) for name in "xyz"]
    until(lambda: len(list(marks.glob("waits_*"))) == 2)
    (marks / "go").touch()
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert len(list(marks.glob("built_by_*"))) == 1 and len(list(marks.glob("done_*"))) == 3


def test_a_killed_builder_is_replaced_and_its_rest_cleared_away(tmp_path, marks):
    killed = worker(tmp_path / "cache", marks, "x")
    until(lambda: (marks / "built_by_x").exists())
    waiting = worker(tmp_path / "cache", marks, "y")
    until(lambda: (marks / "waits_y").exists())
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    (marks / "go").touch()
    assert waiting.wait(30) == 0 and (marks / "built_by_y").exists()
    assert names(tmp_path / "cache") == ["a"] and leftovers(tmp_path / "cache") == []


def test_the_rest_of_a_killed_builder_counts_and_can_be_evicted_by_others(tmp_path):
    (tmp_path / "dead.partial").write_bytes(bytes(3_000_000))
    CacheStore(tmp_path, LIMIT_GB).open("a", SHAPE, fill(1))
    assert names(tmp_path) == ["a"] and leftovers(tmp_path) == []


def test_an_entry_that_another_process_uses_is_not_removed_until_it_dies(tmp_path, marks):
    (marks / "go").touch()
    cache = tmp_path / "cache"
    process = worker(cache, marks, "x", "hold")
    try:
        until(lambda: (marks / "done_x").exists())
        store = CacheStore(cache, 1.5e-6)
        with pytest.raises(UserError, match="running processes use"):
            store.open("b", (100, 10), fill(1))
        process.kill()
        process.wait(30)
        store.open("b", (100, 10), fill(1))
        assert names(cache) == ["b"]
    finally:
        process.kill()
        process.wait(30)


def test_waiting_goes_to_the_log_by_default(caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        CacheStore(tmp_path, 1)._log("frames a: another process is building them; waiting")
    assert "waiting" in caplog.text


def test_finding_a_video_cache_ready_does_not_import_torch(video_set, tmp_path):
    open_frames(open_dataset(video_set.root, decoder="pyav"), {"top": (48, 48)}, cache_dir=tmp_path, cache_gb=1)
    code = (
        "import sys; from xp.data import open_dataset, open_frames\n"
        "frames = open_frames(open_dataset(sys.argv[1]), {'top': (48, 48)}, cache_dir=sys.argv[2], cache_gb=1)\n"
        "print(len(frames['top']), sorted({'torch', 'jax', 'lerobot', 'av', 'torchcodec'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(video_set.root), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(video_set.action)} []"


MANY = textwrap.dedent("""
    import json, os, pathlib, sys, time
    import multiprocessing
    import numpy as np
    from xp.data.cache_store import CacheStore

    folder, count, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    fork = multiprocessing.get_context("fork")
    barrier, answers = fork.Barrier(count), fork.Queue()

    def one(number):
        builds = []

        def build(array):
            time.sleep(seconds)
            array[:] = 7
            builds.append(time.monotonic())

        barrier.wait()
        before = time.process_time()
        array = CacheStore(folder, 1, log=lambda line: None).open("a", (100, 10), build)
        cpu = time.process_time() - before
        answers.put({"ready": time.monotonic(), "built": builds, "cpu": cpu, "right": bool((array == 7).all())})
        time.sleep(60)  # a training, which keeps its frames

    processes = [fork.Process(target=one, args=(n,), daemon=True) for n in range(count)]
    for process in processes:
        process.start()
    print(json.dumps([answers.get(timeout=100) for _ in range(count)]))
""")


def test_readers_have_the_frames_when_the_builder_ends_and_cost_nothing_while_they_wait(tmp_path):
    command = [sys.executable, "-c", MANY, str(tmp_path / "cache"), "40", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    answers = json.loads(done.stdout)
    assert len(answers) == 40 and all(answer["right"] for answer in answers)
    (built,) = [moment for answer in answers for moment in answer["built"]]  # nobody builds twice
    late = sorted(answer["ready"] - built for answer in answers)
    assert late[20] < 0.5  # half of them: on a machine with much other work the last ones wait for a core
    waited = sorted(answer["cpu"] for answer in answers if not answer["built"])
    assert waited[20] < 0.03  # 1% of a core for 3 s


def test_two_processes_build_two_cameras_at_once(tmp_path):
    """Who finds one camera being built builds another."""
    code = textwrap.dedent("""
        import sys, time, pathlib
        from xp.data.cache_store import CacheStore, Wanted
        mine, folder = sys.argv[1], pathlib.Path(sys.argv[2])

        def plan(name):
            def build(array):
                (folder / f"{name}.begun_by_{mine}").touch()
                while len({path.name[-1] for path in folder.glob("*.begun_by_*")}) < 2:
                    time.sleep(0.01)  # until the other process builds too
                array[:] = 1
            return lambda: (name, build)

        store = CacheStore(folder / "cache", 1)
        wanted = [Wanted(name, (name,), (10, 10), plan(name)) for name in ("top", "wrist")]
        assert all((array == 1).all() for array in store.open_all(wanted))
    """)
    processes = [subprocess.Popen([sys.executable, "-c", code, name, str(tmp_path)]) for name in "xy"]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("*.begun_by_*"))) == 2


def test_builders_killed_one_after_another_are_replaced_by_one_waiter_each_time(tmp_path, marks):
    """kill -9, four times over, among waiters; readers that have the entry are not disturbed."""
    processes = {name: worker(tmp_path / "cache", marks, name) for name in "vwxyz"}
    for killed in range(4):
        until(lambda killed=killed: len(list(marks.glob("built_by_*"))) == killed + 1)
        builder = max(marks.glob("built_by_*"), key=lambda path: path.stat().st_mtime_ns).name[-1]
        until(lambda killed=killed: len(list(marks.glob("waits_*"))) >= 4)
        processes[builder].kill()
        processes[builder].wait(30)
        del processes[builder]
    until(lambda: len(list(marks.glob("built_by_*"))) == 5)
    (marks / "go").touch()
    assert [process.wait(30) for process in processes.values()] == [0]
    assert names(tmp_path / "cache") == ["a"] and leftovers(tmp_path / "cache") == []


def test_a_builder_that_lost_its_turn_does_no_harm(tmp_path):
    """On a shared disk a process that was silent for long may find its file cleared away and the entry there."""
    store = CacheStore(tmp_path, 1)

    def build(array):
        array[:] = 3
        (tmp_path / "a.claim").unlink()
        (partial,) = tmp_path.glob("a.*.partial")
        partial.unlink()
        np.save(tmp_path / "a.npy", np.full(SHAPE, 3, np.uint8))

    assert (store.open("a", SHAPE, build) == 3).all()
    assert leftovers(tmp_path) == []


def test_an_entry_that_appears_stays_with_its_builder_whoever_makes_room(tmp_path):
    """Between its appearing and its being mapped nobody may remove it."""
    store, other = CacheStore(tmp_path, LIMIT_GB), CacheStore(tmp_path, 0.0012)
    replace = Path.replace

    def replaced(self, target):
        replace(self, target)
        with pytest.raises(UserError, match="running processes use"):
            other.open("b", SHAPE, fill(1))
        return target

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replaced)
        assert (store.open("a", SHAPE, fill(0)) == 0).all()


def test_a_read_only_cache_serves_what_it_has_and_refuses_the_rest_once(tmp_path, monkeypatch):
    CacheStore(tmp_path, 1).open("a", SHAPE, fill(4))
    (tmp_path / "a.lock").unlink()
    opened = os.open

    def read_only(path, flags, *mode, **more):
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", read_only)
    store = CacheStore(tmp_path, 1)
    assert (store.open("a", SHAPE, fill(9)) == 4).all()
    with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\).*paths\.cache=<folder>"):
        store.open("b", SHAPE, fill(1))
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("favail", [0, 500])
def test_a_disk_without_inodes_is_called_full_and_says_of_what(tmp_path, monkeypatch, favail):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    there = namedtuple("there", "f_files f_favail f_bavail f_frsize")
    monkeypatch.setattr(os, "open", full)
    monkeypatch.setattr(os, "statvfs", lambda path: there(1000, favail, 10**6, 4096))
    said = "no inodes are free" if favail == 0 else "4.1 GB free"
    with pytest.raises(UserError, match=f"disk of .* is full .*{said}.*paths.cache=<folder>"):
        CacheStore(tmp_path, 1).open("a", SHAPE, fill(0))


def test_who_waits_and_who_decodes_can_be_asked_to_leave(small, tmp_path):
    class Leave(Exception):  # noqa: N818
        pass

    def leave():
        raise Leave

    with pytest.raises(Leave):
        open_frames(small[0], {"top": (12, 16)}, cache_dir=tmp_path / "cache", cache_gb=1, check=leave)
    assert names(tmp_path / "cache") == [] and leftovers(tmp_path / "cache") == []
    turn = Turn(tmp_path / "b")
    assert turn.take()
    with pytest.raises(Leave):
        CacheStore(tmp_path, 1, check=leave).open("b", SHAPE, fill(1))
    turn.release()


def test_waiting_for_a_video_does_not_try_decoders(video_set, tmp_path, monkeypatch):
    """To try whether torchcodec loads, where that is asked for, takes seconds of a core: the builder alone does it."""
    dataset = open_dataset(video_set.root)
    turn = Turn(tmp_path / cache.entry_name(dataset, "top", (48, 48), "any"))
    assert turn.take()
    monkeypatch.setattr("xp.data.lerobot.video.choose_decoder", lambda *_: pytest.fail("a waiter chose a decoder"))
    with pytest.raises(KeyboardInterrupt):
        open_frames(dataset, {"top": (48, 48)}, cache_dir=tmp_path, cache_gb=1, check=interrupt)
    turn.release()


def interrupt():
    raise KeyboardInterrupt


MOUNTS = """\
22 1 259:1 / / rw,relatime - ext4 /dev/root rw
40 22 0:50 / /data rw - nfs4 server:/export rw
41 40 259:2 / /data/local\\040disk rw - xfs /dev/nvme1n1 rw
damaged line
"""


@pytest.mark.parametrize(
    ("folder", "shared"),
    [("/data/cache", True), ("/data", True), ("/data/local disk/cache", False), ("/database", False), ("/", False)],
)
def test_a_shared_disk_is_known_by_its_file_system(folder, shared, tmp_path):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert use_marks.on_shared_disk(Path(folder), tmp_path / "mountinfo") is shared


def test_on_a_shared_disk_an_entry_touched_a_while_ago_is_in_use_whatever_the_clocks_say(tmp_path, monkeypatch):
    """Locks of another machine may not be seen here: the entry's last touch counts, by the server's own clock."""
    monkeypatch.setattr(use_marks, "on_shared_disk", lambda folder: True)
    store = CacheStore(tmp_path, LIMIT_GB)
    for i, name in enumerate("abc"):
        store.open(name, SHAPE, fill(i))
    with pytest.raises(UserError, match="running processes use"):
        store.open("d", SHAPE, fill(3))
    old = (tmp_path / "b.npy").stat().st_mtime - use_marks.IN_USE_S - 1
    os.utime(tmp_path / "b.npy", (old, old))
    store.open("d", SHAPE, fill(3))
    assert names(tmp_path) == ["a", "c", "d"] and leftovers(tmp_path) == []
    assert use_marks._mapped == {}


def test_on_a_shared_disk_a_mapped_entry_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(use_marks, "on_shared_disk", lambda folder: True)
    monkeypatch.setattr(use_marks, "TOUCH_S", 0.01)
    monkeypatch.setattr(use_marks, "_toucher", None)
    held = CacheStore(tmp_path, 1).open("a", SHAPE, fill(0))
    os.utime(tmp_path / "a.npy", (1, 1))
    until(lambda: (tmp_path / "a.npy").stat().st_mtime > 1)
    assert held.shape == SHAPE
