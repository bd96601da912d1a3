"""What an experiment file lets depend on the command line: options of groups, and lists that are swept."""

import app
import pytest
from hydra.types import RunMode

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._experiment import plan_experiment, read_command_line
from xp.errors import UserError
from xp.runs.jobs import stage_references


@pytest.fixture(scope="module")
def composer():
    stage_references.register()
    hydra = app.open_hydra()
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    return Composer(hydra.config_loader, master)


def planned(composer, *typed, name="sized"):
    """{job: (model, rate, horizon)} of the experiment."""
    _, line = read_command_line(composer, typed)
    jobs = [each.job for each in plan_experiment(composer, name, line, app.rules()).jobs]
    return {job.name: (job.config["model"]["name"], job.config["lr"]["peak"], job.config["horizon"]) for job in jobs}


def values(jobs, start, column):
    return [row[column] for name, row in jobs.items() if name.startswith(start)]


def test_choices_and_swept_lists_are_those_of_the_size_that_is_typed(composer):
    small, full = planned(composer), planned(composer, "experiment.scale=full")
    assert values(small, "peak", 0) == ["small"] * 2 and values(full, "peak", 0) == ["big"] * 3
    for stage in ("peak", "second"):
        assert values(small, stage, 1) == [0.1, 0.2] and values(full, stage, 1) == [0.001, 0.01, 0.1]
    assert [each["train"] for each in values(full, "other", 2)] == [4, 8]


def test_the_command_line_beats_a_choice_and_a_stage_does_too(composer):
    assert values(planned(composer, "model=big"), "peak", 0) == ["big"] * 2
    assert values(planned(composer, "model=big,small"), "peak", 0) == ["big", "small"] * 2
    assert values(planned(composer, "experiment.scale=full"), "other", 0) == ["small"] * 2
    assert values(planned(composer, "experiment.scale=full", "lr.peak=0.5"), "peak", 1) == [0.5]


def test_a_key_of_the_chosen_option_can_be_typed(composer):
    """Only the big model has a depth."""
    assert planned(composer, "experiment.scale=full", "model.depth=32")
    with pytest.raises(Exception, match="depth"):
        planned(composer, "model.depth=32")


def test_a_choice_of_no_group_is_refused_with_those_there_are(composer):
    with pytest.raises(UserError, match=r"experiment\.choices\.modl: there is no such group.*'model'"):
        planned(composer, "+experiment.choices.modl=big")
    with pytest.raises(UserError, match=r"expected options by group"):
        planned(composer, "+experiment.choices.lr=3")


def test_a_sweep_over_what_decides_a_choice_is_refused(composer):
    with pytest.raises(UserError, match=r"experiment\.scale=small,full: .*experiment\.choices\.model.* one by one"):
        planned(composer, "experiment.scale=small,full")
    assert planned(composer, "experiment.name=a,b")
