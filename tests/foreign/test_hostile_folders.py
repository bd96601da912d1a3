"""Nothing in a folder from a stranger runs, escapes, hangs, leaves anything or takes what its size does not explain."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hostile_files  # noqa: F401 - adds its cases
import hostile_hdf5  # noqa: F401 - adds its cases
import hostile_openvla  # noqa: F401 - adds its cases
import hostile_rlds  # noqa: F401 - adds its cases
import hostile_torch_archive  # noqa: F401 - adds its cases
import pytest
from hostile_folders import BASES, CASES, copied

HERE = Path(__file__).parent


def test_there_are_hostile_folders_of_twelve_kinds():
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)
    assert len(Counter(case.kind for case in CASES)) >= 12


def _state(folder: Path) -> dict[str, tuple]:
    """Everything below a folder; a pipe or a link by what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        found[str(path.relative_to(folder))] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return {name: about for name, about in found.items() if not (folder / name).is_dir()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All folders opened by one process that imports once and forks for each: {case's name: what came of it}."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "bases").mkdir()
    for name, make in BASES.items():
        make(root / "bases" / name)
    lines, before = [], {}
    for case in CASES:
        place = root / case.name
        (place / "second").mkdir(parents=True)
        copied(root / "bases" / case.base, case, place / "folder")
        lines.append(
            {"name": case.name, "way": case.way, "folder": str(place / "folder"), "second": str(place / "second")}
        )
        before[case.name] = _state(place)
    (root / "home").mkdir()
    (root / "cwd").mkdir()
    words = {**os.environ, "HOME": str(root / "home"), "OMP_NUM_THREADS": "1", "XP_CACHE": str(root / "home/cache")}
    done = subprocess.run(
        [sys.executable, str(HERE / "hostile_process.py")],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True, text=True, cwd=root / "cwd", env=words, check=True,
    )  # fmt: skip
    found = {answer["name"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    for case in CASES:
        found[case.name]["left"] = _changes(before[case.name], _state(root / case.name))
        found[case.name]["canary"] = [str(p) for p in (root / "cwd", root / case.name) if list(p.rglob("canary"))]
    return found


def _changes(before: dict, after: dict) -> list[str]:
    """Files that are other ones than before, but for locks and what a report is asked to write."""
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return sorted(name for name in names if not re.search(r"\.lock|^folder/(report|summary)\.", name))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_folder_is_one_clear_refusal_and_nothing_else(case, outcomes):
    found = outcomes[case.name]
    tables = ("refused", "opened")  # over many runs: the damaged one is a row, and the others are shown
    assert found["outcome"] in (tables if case.kind == "run" else ("refused",)), found
    assert not found["did"], found["did"]
    assert not found["canary"] and not found["left"], found
    said = found["said"]
    assert "Traceback" not in said and "SECRET" not in said and "\x1b" not in said, said
    assert re.search(case.said, said) and len(said) < 4000, said
