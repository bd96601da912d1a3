"""A disk that is full: one paragraph, and nothing half-written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xp.data.space import try_out, writing
from xp.errors import UserError, disk_full


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_a_disk_that_takes_nothing_more_is_one_paragraph_with_what_to_type(tmp_path, number):
    match = f"{tmp_path}/new/x cannot be written.*data.root=FOLDER"
    with pytest.raises(UserError, match=match) as caught, writing(tmp_path / "new" / "x", "data.root=FOLDER"):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(caught.value)


def test_a_full_disk_behind_another_error_is_found(tmp_path):
    with pytest.raises(UserError, match="is full"), writing(tmp_path / "x", "a=B"):
        try:
            raise OSError(errno.ENOSPC, "no space")
        except OSError as error:
            raise RuntimeError("the encoder failed") from error


def test_a_place_where_nothing_can_be_written_is_refused_beforehand_and_a_good_one_is_left_as_it_was(tmp_path):
    try_out(tmp_path / "new" / "x.npz", "dump.output=FILE")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="/proc/x.npz cannot be written.*dump.output=FILE"):
        try_out(Path("/proc/x.npz"), "dump.output=FILE")


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "x", "a=B"):
        raise ZeroDivisionError
    with pytest.raises(UserError, match="^mine$"), writing(tmp_path / "x", "a=B"):
        raise UserError("mine")


WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[3])
what, target = sys.argv[1], Path(sys.argv[2])
from xp.data.lerobot.writer import LeRobotWriter
from xp.data.dumps import _NEEDED, save_dump
from xp.data.lerobot.export import export_episodes
from xp.data.space import writing
from xp.data.lerobot.stored import open_stored
from xp.errors import UserError, disk_full
import data_odd
pixels = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
source = target.parent / "source"
if what == "export":
    files = [data_odd.picture(np.resize(pixels[i], (32, 24, 3))) for i in range(8)] * 9
    data_odd.with_pictures(source, files, lengths=(36, 36))
sys.dont_write_bytecode = True  # or what is imported below is compiled into files that end there
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # a file of more than 10 kB: "File too large"
try:
    if what == "record":
        with LeRobotWriter(target, fps=10, cameras={"a": (64, 64)}, state_names=["s"], action_names=["x"],
                           robot_type="r") as writer:
            writer.add_episode("t", {"a": pixels}, np.zeros((8, 1)), np.zeros((8, 1)))
    elif what == "export":
        with writing(target, "split.export=FOLDER"):
            export_episodes(open_stored(source), [0], target)
    else:
        with writing(target, "dump.output=FILE"):
            save_dump(target, {name: np.zeros((100, 100), np.float32) for name in _NEEDED}, ("t",), {})
except UserError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("what", "name"), [("record", "d"), ("export", "d"), ("dump", "d.npz"), ("dump", "d.safetensors")]
)
def test_a_task_that_runs_out_of_room_leaves_nothing_and_says_so(tmp_path, what, name):
    home = Path(__file__).parent
    command = [sys.executable, "-c", WRITE, what, str(tmp_path / "new" / name), str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith(f"refused: {tmp_path}/new/{name} cannot be written"), done.stderr[-2000:]
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "source"] * (what == "export")


def test_a_full_disk_under_the_run_itself_is_one_line(monkeypatch, capsys):
    from xp import __main__

    def full(_: list[str]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "RUN/record.json")

    monkeypatch.setattr(__main__, "_main", full)
    with pytest.raises(SystemExit) as ended:
        __main__.main([])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("xp: The disk of RUN/record.json is full") and said.count("\n") == 1


def test_another_error_of_the_system_is_not_called_a_full_disk():
    assert disk_full(OSError(errno.EIO, "broken")) is None and disk_full(ValueError()) is None
