import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from xp import atomic


def left_overs(folder: Path) -> list[str]:
    return [found.name for found in folder.iterdir() if ".tmp-" in found.name]


def test_json_keeps_insertion_order_and_turns_nan_into_null(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"z": 1, "a": float("nan"), "m": [float("inf"), 0.1]})
    assert (tmp_path / "a.json").read_text().index("z") < (tmp_path / "a.json").read_text().index('"a"')
    assert json.loads((tmp_path / "a.json").read_text()) == {"z": 1, "a": None, "m": [None, 0.1]}


def test_json_takes_numpy_values_and_paths(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"n": np.int64(3), "x": np.arange(2.0), "p": Path("b/c"), 1: {2, 1}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 3, "x": [0.0, 1.0], "p": "b/c", "1": [1, 2]}


def test_what_json_cannot_say_leaves_the_old_file(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError, match="object"):
        atomic.write_json(tmp_path / "a.json", {"new": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert not left_overs(tmp_path)


def test_a_file_appears_only_if_the_block_ends_well(tmp_path):
    target = tmp_path / "deep" / "weights.bin"
    with pytest.raises(RuntimeError), atomic.file(target) as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert not target.exists() and not left_overs(target.parent)
    with atomic.file(target) as path:
        path.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"


def test_a_folder_is_replaced_whole_and_an_error_leaves_the_old_one(tmp_path):
    target = tmp_path / "checkpoint-1"
    for content in ("one", "two"):
        with atomic.folder(target) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / content).write_text(content)
    assert [found.name for found in (target / "sub").iterdir()] == ["two"]
    with pytest.raises(OSError), atomic.folder(target) as folder:
        (folder / "three").write_text("")
        raise OSError(28, "No space left on device")
    assert [found.name for found in target.iterdir()] == ["sub"] and not left_overs(tmp_path)


@pytest.mark.parametrize("number", [3, 50])
def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, number):
    real, synced = os.fsync, set()

    def fsync(descriptor):
        synced.add((os.fstat(descriptor).st_ino, (tmp_path / "whole").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic.folder(tmp_path / "whole") as folder:
        (folder / "sub").mkdir()
        for each in range(number):
            (folder / "sub" / str(each)).write_text(str(each))
    inside = {(path.stat().st_ino, False) for path in [tmp_path / "whole", *(tmp_path / "whole").rglob("*")]}
    assert len(inside) == number + 2 and inside <= synced


def test_a_folder_that_the_disk_refuses_leaves_nothing(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"), atomic.folder(tmp_path / "whole") as folder:
        for each in range(50):
            (folder / str(each)).write_text("")
    assert not (tmp_path / "whole").exists() and not left_overs(tmp_path)


def test_a_folder_is_replaced_where_exchange_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    for content in ("one", "two"):
        with atomic.folder(tmp_path / "f") as folder:
            (folder / content).write_text(content)
    assert [found.name for found in (tmp_path / "f").iterdir()] == ["two"] and not left_overs(tmp_path)


def test_a_reader_never_sees_half_a_file_while_the_writer_is_killed(tmp_path):
    target = tmp_path / "record.json"
    program = f"""
        from xp.atomic import write_json
        for number in range(10**9):
            write_json({str(target)!r}, {{"number": number, "filling": "x" * 20000, "again": number}}, durable=False)
    """
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
        seen = 0
        while seen < 200:
            if target.exists():
                content = json.loads(target.read_text())
                assert content["number"] == content["again"]
                seen += 1
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        content = json.loads(target.read_text())
        assert content["number"] == content["again"]
