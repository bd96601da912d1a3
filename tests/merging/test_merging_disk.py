"""A disk that is full, or refuses: one sentence, nothing half-written, no traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from merging_made_up import WRITERS, made_arrays, tree_state

from xp.errors import UserError
from xp.merging import disk, merge


@pytest.fixture(params=list(WRITERS))
def pair(request, tmp_path):
    """Two checkpoints of one format."""
    return [WRITERS[request.param](tmp_path / f"c{k}", made_arrays(k)) for k in range(2)]


def refused(match, *arguments, **options):
    folder = options["output"].parent
    before = tree_state(folder)
    with pytest.raises(UserError, match=match) as caught:
        merge(*arguments, **options)
    assert tree_state(folder) == before
    assert not list(folder.glob(".*"))
    return str(caught.value)


class Stat:
    """A file system with so many free blocks and inodes."""

    f_frsize, f_files = 1, 100

    def __init__(self, free, files):
        self.f_bavail, self.f_favail = free, files


def test_a_disk_without_room_is_seen_before_anything_is_written(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: Stat(300, 5))
    text = refused("merged weights take 0.00 MB, and 0.00 MB are free", pair, output=tmp_path / "out")
    assert "merge.output=FOLDER" in text
    monkeypatch.setattr(os, "statvfs", lambda path: Stat(10**9, 0))
    refused("can hold no more files", pair, output=tmp_path / "out")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_in_the_middle(tmp_path, monkeypatch, number):
    pair = [WRITERS["torch"](tmp_path / f"c{k}", made_arrays(k)) for k in range(2)]

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    refused("Merging into .*out failed: .*Nothing was kept", pair, output=tmp_path / "out")


def test_an_output_whose_path_goes_through_a_file(pair, tmp_path):
    (tmp_path / "note").write_text("a file")
    refused("a part of the path is a file", pair, output=tmp_path / "note" / "out")


def test_other_errors_are_not_called_a_full_disk():
    assert disk.as_user_error(ValueError("cannot reshape"), Path("out")) is None
    stored = "RESOURCE_EXHAUSTED: Failed to write 727614 bytes to file 4: No space left on device [os_error_code='28']"
    assert "the disk is full" in str(disk.as_user_error(ValueError(stored), Path("out")))


def test_a_limit_on_the_size_of_files_is_told_whatever_writes_them(tmp_path):
    """Every format's writer, in a process whose files end at a megabyte."""
    arrays = [{"layer/w": np.ones((700, 700), np.float32) * k} for k in (1, 2)]
    arrays = [{n: a + np.random.default_rng(0).random(a.shape, np.float32) for n, a in made.items()} for made in arrays]
    for kind, write in WRITERS.items():
        for k in range(2):
            write(tmp_path / f"{kind}{k}", arrays[k])
    before = tree_state(tmp_path)
    code = (
        "import resource, sys\nfrom xp.errors import UserError\nfrom xp.merging import merge\n"
        "sys.dont_write_bytecode = True  # or what is imported below is compiled into files that end there\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        f"for kind in {list(WRITERS)!r}:\n"
        "    try:\n        merge([f'{kind}0', f'{kind}1'], output='out')\n"
        "    except UserError as error:\n        print(kind, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(WRITERS), done.stderr[-2000:]
    assert all("Merging into out failed" in line and "Nothing was kept" in line for line in lines)
    assert tree_state(tmp_path) == before
