"""`task=status`: readable with 5, 300 and 5000 runs at 80 columns; a damaged folder is a row, never an end."""

import io
import json
import os
import resource
import subprocess
import sys

import pytest
from rich.console import Console
from rich.text import Text

from xp.atomic import write_json
from xp.errors import UserError
from xp.runs.executors.status import rows
from xp.runs.records.folder import find_runs
from xp.tasks.status import page

NEXT = "xp task=status 'status.folder=\"multirun/my sweep\"' status.page=2"
BEGAN, ENDED = "2026-01-01T00:00:00+00:00", "2026-01-01T01:01:05+00:00"


def experiment(root, states, name=lambda number: f"lr.peak_0.0001-obs_dropout.rate_0.3-seed_{number}"):
    for number, state in enumerate(states):
        record = {"state": state, "stage": "sweep", "experiment": "", "created": f"{number:05d}", "host": "gpu-node-17",
                  "started": BEGAN, "ended": ENDED}  # fmt: skip
        if state == "failed":
            record["error"] = {"message": f"training ran out of memory at step {number}"}
        write_json(root / name(number) / "record.json", record, durable=False)
    return rows(root)


def lines(found, number=1, size=40):
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    for part in page(found, number, size, "multirun/my sweep"):
        console.print(part, soft_wrap=isinstance(part, Text))
    return console.file.getvalue().splitlines()


def test_five_runs_are_all_shown_in_their_order(tmp_path):
    told = lines(experiment(tmp_path / "sweep", ["done", "failed", "done", "pending", "done"]))
    title = " ".join(" ".join(told[:3]).split())
    assert "3 done" in title and "1 failed" in title and "1 pending" in title
    states = [word for line in told[2:] for word in line.split() if word in ("done", "failed", "pending")]
    assert states == ["done", "failed", "done", "pending", "done"] and not any("page" in line for line in told)
    assert all(len(line) <= 80 for line in told)
    failed = next(line for line in told[2:] if "failed" in line)
    assert "lr.peak_0.0001" in failed and "1:01:05" in failed


@pytest.mark.parametrize("count", [300, 5000])
def test_many_runs_come_in_pages_with_counts_and_failures_first(tmp_path, count):
    states = ["failed" if number % 97 == 96 else "done" for number in range(count)]
    found = experiment(tmp_path / "sweep", states)
    failures = states.count("failed")
    told = lines(found)
    assert len(told) < 140 and all(len(line) <= 80 for line in told if "xp task" not in line)
    title = " ".join(" ".join(told[:3]).split())
    assert f"{count - failures} done" in title and f"{failures} failed" in title
    jobs = [line for line in told[2:] if "1:01:05" in line]
    assert len(jobs) == 40 and all("failed" in line for line in jobs[: min(40, failures)])
    pages = -(-count // 40)
    assert f"page 1 of {pages}" in " ".join(told) and told[-1].endswith(NEXT)
    last = lines(found, pages)
    assert "done" in [line for line in last[2:] if "1:01:05" in line][-1] and "status.page=" not in " ".join(last)
    with pytest.raises(UserError, match=f"Give 1 to {pages}"):
        page(found, pages + 1, 40)


def test_long_names_keep_state_host_and_time_at_80_columns(tmp_path):
    here = {"host": os.uname().nodename, "pid": os.getpid()}
    from xp.runs.records.record import process_start

    record = {"state": "running", "started": BEGAN, "process_start": process_start(os.getpid()), **here}
    name = "model_act_smooth_scaled-lr.peak_0.00003-obs_dropout.rate_0.3-action_space.type_relative-seed_12"
    write_json(tmp_path / "sweep" / name / "record.json", {**record, "node": "node-with-a-name-of-39-characters-xxxxx"})
    progress = {"description": "training", "step": 30, "total": 30000, "rate": 2.0, "shown": {"loss": 0.123456789}}
    write_json(tmp_path / "sweep" / name / "progress.json", progress)
    told = lines(rows(tmp_path))
    assert all(len(line) <= 80 for line in told)
    first = next(line for line in told if "running" in line and "model" in line)
    assert "".join(line[:16].strip() for line in told[3:]).endswith("seed_12")
    assert "node-with" in first and "left" in first and "30/30000" in first


VARIANTS = {
    "empty": "", "not json": "{", "a list": "[]", "a number": "3", "null": "null", "a word": '"done"',
    "unknown state": '{"state": "dancing"}', "state is a list": '{"state": []}', "state is a number": '{"state": 1}',
    "error is a word": '{"state": "failed", "error": "broken"}', "error is a list": '{"state": "failed", "error": [1]}',
    "started is a number": '{"state": "done", "started": 5, "ended": 6}',
    "started is no time": '{"state": "done", "started": "soon", "ended": "later"}',
    "times of two kinds": f'{{"state": "done", "started": "{BEGAN}", "ended": "2026-01-01T00:00:00"}}',
    "pid is -1": '{"state": "running", "host": "HOST", "pid": -1, "process_start": null}',
    "pid is a path": '{"state": "running", "host": "HOST", "pid": "../../etc", "process_start": "x"}',
    "pid is huge": f'{{"state": "running", "host": "HOST", "pid": {10**400}, "process_start": "x"}}',
    "handle is a list": '{"state": "pending", "handle": [1], "executor": "local"}',
    "executor is an object": '{"state": "pending", "handle": "1", "executor": {}}',
    "experiment is a number": '{"state": "done", "experiment": 7}', "node is a list": '{"state": "done", "node": []}',
    "nested deeply": "[" * 100_000 + "]" * 100_000, "nan": '{"state": NaN}',
    "one name twice": '{"state": "done", "state": "failed"}',
    "half a surrogate": '{"state": "done", "stage": "\\ud800"}',
}  # fmt: skip
PROGRESS = {
    "a list": "[]", "step is a word": '{"step": "x", "total": 3}',
    "rate is nan": '{"step": 1, "total": 3, "rate": NaN}',
    "rate is tiny": '{"step": 1, "total": 9007199254740993, "rate": 5e-324}',
    "huge": f'{{"step": {10**300}, "total": 1}}',
    "shown is a list": '{"shown": [1]}', "shown is huge": '{"shown": {"loss": ' + "9" * 4999 + "}}",
    "shown is nested": '{"shown": {"loss": {"a": [1]}}}', "unit is long": json.dumps({"unit": "x" * 1000, "step": 1}),
}  # fmt: skip
LAUNCHER = {
    "a list": "[]", "executor is a list": '{"executor": []}',
    "settings are a word": '{"executor": "ssh", "settings": "x"}',
    "settings are unknown": '{"executor": "ssh", "settings": {"nonsense": 1}}', "nobody": '{"executor": "nobody"}',
    "controller is a word": '{"executor": "ssh", "controller": "x"}', "not utf-8": "\udcff",
}  # fmt: skip


def folder_of_all(root):
    for kind, variants in (("record.json", VARIANTS), ("progress.json", PROGRESS)):
        for number, text in enumerate(variants.values()):
            run = root / "exp" / f"{kind[:3]}{number:02d}"
            run.mkdir(parents=True)
            if kind != "record.json":
                started = {"state": "running", "host": "elsewhere", "started": BEGAN}
                write_json(run / "record.json", started)
                write_json(run / "heartbeat.json", {"time": 1e12})
            (run / kind).write_text(text.replace("HOST", os.uname().nodename))
    for number, text in enumerate(LAUNCHER.values()):
        run = root / f"launched{number}" / "job"
        write_json(
            run / "record.json", {"state": "pending", "handle": "1", "executor": "ssh", "experiment": f"l{number}"}
        )
        (run.parent / "launcher.json").write_bytes(text.encode(errors="surrogateescape"))
    odd = root / "odd"
    for name in ("folder", "pipe", "link", "bytes"):
        (odd / name).mkdir(parents=True)
    (odd / "folder" / "record.json").mkdir()
    os.mkfifo(odd / "pipe" / "record.json")
    (odd / "link" / "record.json").symlink_to("/dev/zero")
    (odd / "bytes" / "record.json").write_bytes(b"\xff\xfe{")
    (odd / "up").symlink_to("..")
    (odd / "root").symlink_to("/")
    escape = odd / "a\x1b]0;title\x07\x1b[2Jb"
    write_json(escape / "record.json", {"state": "failed", "error": {"message": "\x1b[31mred\x1b]8;;http://x\x07"}})
    write_json(odd / "good" / "record.json", {"state": "done", "experiment": "exp\x1b[1m", "stage": "s\x1b[1m"})
    write_json(odd / "good2" / "record.json", {"state": "done", "experiment": "exp\x1b[1m", "stage": "other"})


SHOW = """
import sys
from omegaconf import OmegaConf
from xp.tasks.status import show
status = {"folder": sys.argv[1], "live": False, "page": 1, "rows": 1000}
sys.exit(show(OmegaConf.create({"status": status, "paths": {}})))
"""


def test_a_damaged_folder_is_a_row_that_says_what_is_wrong_and_stops_nothing(tmp_path):
    """In a process with 2 GB of address space beyond what it needs, and within seconds."""
    folder_of_all(tmp_path)

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    done = subprocess.run(
        [sys.executable, "-c", SHOW, str(tmp_path)], capture_output=True, timeout=60, preexec_fn=limit,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    told = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert "\x1b" not in told and "\x07" not in told and "\\x1b[31mred" in told
    for run in find_runs(tmp_path):
        assert run.name.startswith("a\x1b") or run.name in told
    assert told.count("damaged") > 20
    names = {row.name: row for row in rows(tmp_path)}
    assert {names[name].state for name in ("folder", "pipe", "link", "bytes")} == {"damaged"}
    assert all("record.json" in names[name].error for name in ("folder", "pipe", "link", "bytes"))
    assert names["good"].state == "done"


def test_links_to_folders_are_not_followed(tmp_path):
    write_json(tmp_path / "a" / "run" / "record.json", {"state": "done"})
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a" / "run")
    assert [run.path for run in find_runs(tmp_path)] == [tmp_path / "a" / "run"]
    (tmp_path / "door").symlink_to(tmp_path / "a")
    assert [run.name for run in find_runs(tmp_path / "door")] == ["run"]
