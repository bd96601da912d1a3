"""Hosts by time: one bar per job, from the records of whatever launcher."""

import pytest
from report_experiments import write_run

from xp.report.read import read_experiment
from xp.report.utilisation import JobSpan, busy_share, job_spans, lanes, utilisation


def bar(start, end, name="job", host="one"):
    return JobSpan(name=name, stage="train", host=host, start=start, end=end, standing="done")


def at(clock):
    return f"2026-03-01T10:{clock}.000+00:00"


@pytest.fixture
def folder(tmp_path):
    config = {"task": {"name": "train"}}
    times = {"a": ("one", "00:00", "01:00"), "b": ("one", "00:30", "02:00"), "c": ("two", "01:00", "03:00")}
    for name, (host, start, end) in times.items():
        record = {"host": host, "started": at(start), "ended": at(end)}
        write_run(tmp_path / name, config, stage="train" if name < "c" else "predict", record=record)
    write_run(tmp_path / "d", config, state="pending", record={"started": None})
    return tmp_path


def test_jobs_side_by_side_have_lanes_of_their_own_and_jobs_in_turn_share_one():
    first, second, third = bar(0, 2), bar(1, 3), bar(2, 4)
    assert lanes([first, second, third]) == [[first, third], [second]]
    assert busy_share([first, second, third], 4) == 6 / 8


def test_every_job_that_has_begun_has_a_bar_in_seconds_since_the_first(folder):
    found = job_spans(read_experiment(folder))
    assert [(each.name, each.host, each.start, each.end) for each in found] == [
        ("a", "one", 0, 60), ("b", "one", 30, 120), ("c", "two", 60, 180),
    ]  # fmt: skip


def test_a_job_at_work_reaches_to_the_last_time_that_is_known(folder):
    record = {"host": "two", "started": at("02:00"), "ended": None}
    write_run(folder / "e", {"task": {"name": "train"}}, state="running", record=record)
    assert [(each.start, each.end) for each in job_spans(read_experiment(folder)) if each.name == "e"] == [(120, 180)]


def test_the_page_shows_each_host_with_its_share_and_says_the_bars_in_words(folder):
    shown = utilisation(read_experiment(folder))
    assert shown is not None
    assert shown.rows == [("one", 2, "2:30", "42%"), ("two", 1, "2:00", "67%")]
    assert [name for _, name in shown.legend] == ["train", "predict"]
    assert shown.svg.count("<rect") == 3 and "b: 0:30 to 2:00 on one, done" in shown.svg


def test_nothing_is_shown_before_anything_has_run(tmp_path):
    write_run(tmp_path / "a", {"task": {"name": "train"}}, state="pending", record={"started": None})
    assert utilisation(read_experiment(tmp_path)) is None
