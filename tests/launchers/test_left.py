"""How long a running sweep may still take."""

from pathlib import Path

import pytest

from hydra_plugins.xp_staged_sweeper._left import TimeLeft
from hydra_plugins.xp_staged_sweeper._stages import parse_stages
from xp.errors import UserError
from xp.runs.executors.protocol import JobState

A, B, C, D = map(Path, "abcd")
W, R, DONE = JobState.WAITING, JobState.RUNNING, JobState.DONE


def test_the_rest_is_told_from_the_first_stage_on_and_refined_by_the_measured_speed():
    left = TimeLeft({A: 10.0, B: 20.0, C: 30.0, D: 40.0}, workers=2)
    left.note({A: R, B: W, C: W, D: W}, 100.0)
    assert left.speed == 1.0 and left.seconds(104.0) == pytest.approx((6 + 20 + 30 + 40) / 2)
    left.note({A: DONE, B: R, C: R, D: W}, 120.0)  # twice as long as expected: a busy machine
    assert left.speed == 2.0 and left.seconds(130.0) == pytest.approx((30 + 50 + 80) / 2)
    left.note({A: DONE, B: DONE, C: DONE, D: R}, 160.0)
    assert left.speed == pytest.approx((20 + 40 + 40) / 60)
    assert left.seconds(160.0) == pytest.approx(40 * left.speed)
    left.note({A: DONE, B: DONE, C: DONE, D: DONE}, 200.0)
    assert left.seconds(200.0) is None


def test_nothing_is_told_where_a_job_is_unknown_and_a_job_that_is_late_counts_nothing():
    assert TimeLeft({A: None}).seconds(0.0) is None
    left = TimeLeft({A: None, B: 5.0})
    left.note({A: W, B: R}, 0.0)
    assert left.seconds(1.0) is None
    left.note({A: DONE, B: R}, 1.0)
    assert left.seconds(50.0) == 0.0


@pytest.mark.parametrize("given", [0, -1, "soon", True, 1e12])
def test_the_expected_seconds_of_a_stage_are_a_number(given):
    with pytest.raises(UserError, match="expected the seconds"):
        parse_stages({"a": {"about_s": given}})
    assert parse_stages({"a": {"about_s": 6}})[0].about_s == 6.0


def test_the_plan_fits_80_columns_and_keeps_stages_and_numbers(xp, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, output = xp("+experiment=chain", "hydra.sweeper.dry_run=true")
    lines = output.splitlines()
    assert code == 0 and all(len(line) <= 80 for line in lines)
    assert any(line.split()[1:4:2] == ["predict", "9"] for line in lines) and "horizon_1, horizon_4" in output
    code, output = xp("seed=range(0,300)", "lr.peak=1e-4,3e-4,1e-3", "hydra.sweeper.dry_run=true")
    lines = output.splitlines()
    assert len(lines) < 10 and all(len(line) <= 80 for line in lines) and "900 jobs: 900 to run" in lines[-1]
