"""A typed key is for the stages that have it; one that no stage has is refused, and none is dropped in silence."""

import pytest
from hydra.types import RunMode

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._experiment import plan_experiment, read_command_line
from hydra_plugins.xp_staged_sweeper._plan import make_plan, places
from hydra_plugins.xp_staged_sweeper._sweep import xp_rules
from xp.config import open_hydra
from xp.runs.jobs import stage_references

EXPERIMENT = "libero_object"
"""Its stage `expert` scores the suite's own expert, which makes no videos; others score policies, which do."""


@pytest.fixture(scope="module")
def ours():
    stage_references.register()
    hydra = open_hydra()
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    return Composer(hydra.config_loader, master)


def planned(composer, folder, *typed):
    _, line = read_command_line(composer, [f"paths.outputs={folder}", "experiment.diffusion=false", *typed])
    return plan_experiment(composer, EXPERIMENT, line, xp_rules())


def values(experiment, key):
    """{stage: values of a key in its jobs}; None where the key is not there."""
    section, name = key.split(".")
    found = {}
    for each in experiment.jobs:
        found.setdefault(each.stage.key, []).append(each.job.config[section].get(name))
    return found


def test_a_key_reaches_the_stages_that_have_it_and_the_plan_says_where_not(ours, tmp_path):
    experiment = planned(ours, tmp_path, "eval.videos=7")
    got = values(experiment, "eval.videos")
    assert set(got.pop("expert")) == {None}
    assert all(set(each) == {7} for stage, each in got.items() if stage.startswith("success_"))
    assert any(stage.startswith("success_") for stage in got)
    assert experiment.partial == {"eval.videos": ["expert"]}
    said = places(make_plan([experiment], xp_rules(), retry_failed=False))
    assert "eval.videos is not for expert, where there is no such key" in said


def test_the_other_stages_are_what_they_are_without_it(ours, tmp_path):
    def experts(experiment):
        return [each.job.identity for each in experiment.jobs if each.stage.key == "expert"]

    assert experts(planned(ours, tmp_path, "eval.videos=7")) == experts(planned(ours, tmp_path))


def test_a_sweep_of_it_multiplies_those_stages_alone(ours, tmp_path):
    one, two = (planned(ours, tmp_path, f"eval.allow_blind={given}") for given in ("true", "true,false"))

    def counts(experiment):
        return {stage: len(each) for stage, each in values(experiment, "eval.allow_blind").items()}

    assert counts(one)["expert"] == counts(two)["expert"]
    evaluations = [stage for stage in counts(one) if stage.startswith("success_")]
    assert evaluations and all(counts(two)[stage] == 2 * counts(one)[stage] for stage in evaluations)


def test_a_key_that_every_stage_has_is_in_no_such_line(ours, tmp_path):
    experiment = planned(ours, tmp_path, "trainer.steps=3", "seed=1")
    assert not experiment.partial
    assert {each.job.config["trainer"]["steps"] for each in experiment.jobs} == {3}


@pytest.mark.parametrize("typed", ["eval.vidoes=7", "evall.videos=7"])
def test_a_key_that_no_stage_has_is_refused(ours, tmp_path, typed):
    with pytest.raises(Exception, match=typed.partition("=")[0].rpartition(".")[2]):
        planned(ours, tmp_path, typed)
