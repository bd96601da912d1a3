"""The expected time of a job, from what runs like it took."""

from datetime import datetime

import pytest

from hydra_plugins.xp_staged_sweeper._eta import Pace, Paces, steps_of
from hydra_plugins.xp_staged_sweeper._plan import clock_time
from xp.atomic import write_json
from xp.runs.jobs.frozen import Job


def config(steps=100, model="small", task="train"):
    return {"task": {"name": task}, "model": {"name": model}, "trainer": {"steps": steps}}


def write(folder, *, seconds=30, steps=100, rate=5.0, stage="train", model="small", task="train", **record):
    end = f"2026-03-01T10:{seconds // 60:02d}:{seconds % 60:02d}.000+00:00"
    times = {"started": "2026-03-01T10:00:00.000+00:00", "ended": end}
    write_json(
        folder / "record.json", {"state": "done", "stage": stage, "task": task, "attempts": 1, **times, **record}
    )
    write_json(folder / "job.json", {"config": config(steps, model, task)})
    write_json(folder / "progress.json", {"total": steps, "step": steps, "rate": rate})


def job(folder, steps=100, model="small", stage="train", task="train"):
    return Job(folder=folder, config=config(steps, model, task), identity="", stage=stage)


def test_a_training_takes_its_steps_at_the_measured_rate_and_the_time_around_them():
    pace = Pace(stage="s", task="train", model="m", seconds=30, steps=100, rate=5.0)
    assert pace.seconds_for(100) == 30 and pace.seconds_for(1000) == 10 + 200 and pace.seconds_for(None) == 30
    assert Pace(stage="s", task="predict", model="m", seconds=7).seconds_for(50) == 7
    assert steps_of(config(7)) == 7 and steps_of(config(7, task="predict")) is None


def test_runs_of_the_same_stage_count_first_then_of_the_same_model_then_of_the_same_task(tmp_path):
    paces = tmp_path / "exp"
    write(paces / "a", seconds=30)
    write(paces / "b", seconds=50, stage="other", model="large")
    known = Paces(paces)
    assert known.expected(job(paces / "new", 200)) == 50
    assert known.expected(job(paces / "new", stage="third", model="large")) == 50
    assert known.expected(job(paces / "new", stage="third", model="huge")) == 40
    assert known.expected(job(paces / "new", stage="third", task="predict")) is None


def test_another_experiment_with_the_same_model_tells_where_this_one_has_nothing(tmp_path):
    write(tmp_path / "earlier" / "a", seconds=30)
    known = Paces(tmp_path / "exp")
    assert known.expected(job(tmp_path / "exp/new", 300)) == 70
    assert known.expected(job(tmp_path / "exp/new", model="huge")) is None


def test_only_the_steps_that_are_left_of_an_interrupted_training_count(tmp_path):
    write(tmp_path / "exp/a", seconds=30)
    write(tmp_path / "exp/b", state="pending", interrupted=True)
    write_json(tmp_path / "exp/b/progress.json", {"total": 100, "step": 75, "rate": 5.0})
    assert Paces(tmp_path / "exp").expected(job(tmp_path / "exp/b")) == 10 + 5


@pytest.mark.parametrize(("end", "text"), [("2026-03-01T23:10", "23:10"), ("2026-03-02T01:10", "Mon 02 Mar 01:10")])
def test_the_end_is_told_by_the_clock(end, text):
    assert clock_time(datetime.fromisoformat(end), datetime.fromisoformat("2026-03-01T20:00")) == text
