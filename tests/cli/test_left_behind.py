"""The tests' own watch over what they leave in xp's modules."""

import hydra_plugins.xp_staged_sweeper._sweep as sweep
from left_behind import replaced
from xp.runs.jobs.frozen import Job


def of_a_test() -> None: ...


def test_functions_of_tests_in_modules_and_classes_of_xp_are_named(monkeypatch):
    assert not replaced()
    monkeypatch.setattr(sweep, "xp_rules", of_a_test)
    monkeypatch.setattr(Job, "known_runs", lambda job: {})
    assert replaced() == [
        "hydra_plugins.xp_staged_sweeper._sweep.xp_rules",
        "xp.runs.jobs.frozen.Job.known_runs",
    ]
    monkeypatch.undo()
    assert not replaced()
