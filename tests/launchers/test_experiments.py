"""Claims about the experiments that come with xp: which jobs they plan, who needs whom, what each is told."""

from functools import cache

import pytest
from hydra.types import RunMode

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._experiment import plan_experiment, read_command_line
from hydra_plugins.xp_staged_sweeper._sweep import xp_rules
from xp.config import open_hydra
from xp.config.shorthand import expand_shorthand
from xp.errors import UserError
from xp.runs.jobs import stage_references

TASKS = ("push_red", "red_to_target", "blue_to_target", "stack")
SUITES = ("libero_object", *(f"libero_object_{kind}" for kind in ("swap", "object", "lan", "task")))


@cache
def planned(*line):
    """{name: frozen job} of an experiment, planned as `xp LINE -m` would."""
    stage_references.register()
    hydra = open_hydra()
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    composer = Composer(hydra.config_loader, master)
    (name,), typed = read_command_line(composer, expand_shorthand(list(line)))
    return {each.job.name: each.job for each in plan_experiment(composer, name, typed, xp_rules()).jobs}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


def needed(job):
    return {need.folder.name for need in job.needs}


def test_the_arm_benchmark_scores_every_family_beside_its_controls():
    jobs = planned("+experiment=arm_benchmark", "experiment.task=stack", "experiment.pixels=32")
    for family in ("octo", "act", "diffusion", "state_only"):
        training, success = jobs[f"{family}_stack"].config, jobs[f"success_{family}_stack"]
        assert needed(success) == {f"{family}_stack"} and success.config["env"]["tasks"] == ["stack"]
        asked = success.config["eval"]
        assert asked["episodes"] == 200 and asked["controls"] and asked["blind"] is (family != "state_only")
        assert success.config["chunk_size"]["steps"] <= training["horizon"]["train"]
        assert asked["first_seed"] >= 1_000_000, "never what was recorded"
    seeing, told = jobs["collect_stack"].config["env"], jobs["collect_state_stack"].config["env"]
    assert not seeing["environment_state"] and seeing["cameras"] == {"oblique": [32, 32], "wrist": [32, 32]}
    assert told["environment_state"] and not told["cameras"]
    assert jobs["octo_stack"].config["model"]["cameras"]["primary"]["size"] == [32, 32]
    assert len(jobs) == 2 + 2 * 4 + 1


@pytest.mark.slow
def test_the_arm_benchmark_is_about_all_tasks_and_its_parts_can_be_left_out():
    assert len(planned("+experiment=arm_benchmark")) == len(TASKS) * (2 + 2 * 4) + 1
    left_out = [f"experiment.{name}=false" for name in ("act", "diffusion", "state_only")]
    jobs = planned("+experiment=arm_benchmark", "experiment.task=push_red", *left_out, "seed=0,1")
    seeds = {f"{name}_push_red-seed_{seed}" for name in ("octo", "success_octo") for seed in (0, 1)}
    assert set(jobs) == {"collect_push_red", "report", *seeds}


def test_libero_object_scores_each_policy_on_the_suite_and_on_its_perturbations():
    left_out = [f"experiment.{name}=false" for name in ("act", "diffusion")]
    jobs = planned("+experiment=libero_object", *left_out)
    first_two = jobs["collect"].config["env"]["tasks"]
    assert len(first_two) == 2 and jobs["collect"].config["env"]["suite"] == "libero_object"
    for suite in SUITES:
        assert jobs[f"expert_{suite}"].config["eval"]["name"] == "expert"
        job = jobs[f"octo_on_{suite}"]
        assert needed(job) == {"octo"} and job.config["chunk_size"]["steps"] == 8
        assert (job.config["env"]["suite"], job.config["env"]["tasks"]) == (suite, first_two)
        assert job.config["env"]["rendering"] == jobs["collect"].config["env"]["rendering"] == "fast"
    assert len(jobs) == 2 + 2 * len(SUITES) + 1


@pytest.mark.slow
def test_libero_object_on_a_gpu_is_the_whole_suite_for_all_families():
    jobs = planned("+experiment=libero_object", "trainer=gpu")
    config = jobs["act_on_libero_object_lan"].config
    assert len(config["env"]["tasks"]) == 10 and config["eval"]["episodes"] == 50
    assert jobs["collect"].config["env"]["cameras"]["agentview"] == [128, 128]
    assert jobs["act"].config["model"]["dim_model"] == 512 and jobs["act"].config["lr"]["peak"] == 1e-4
    assert jobs["diffusion"].config["model"]["down_dims"] == [512, 1024, 2048]
    assert len(jobs) == 1 + 3 + len(SUITES) * 4 + 1


def test_multi_horizon_executes_no_more_actions_than_a_model_gives():
    jobs = planned("+experiment=multi_horizon")
    success = {name for name in jobs if name.startswith("success_")}
    assert success == {f"success_h{h}_execute_{c}" for h, c in ((1, 1), (4, 4), (8, 4))}
    assert needed(jobs["success_h8_execute_4"]) == {"horizon_8"}
    assert success <= needed(jobs["report"])


@pytest.mark.slow
def test_multi_horizon_takes_other_chunks_from_the_command_line():
    jobs = planned("+experiment=multi_horizon", "chunk_size.steps=1,8")
    success = {name for name in jobs if name.startswith("success_")}
    assert success == {f"success_h{h}_execute_{c}" for h, c in ((1, 1), (4, 1), (8, 1), (8, 8))}


SUCCESS_STAGES = {
    "multi_horizon": {"success"},
    "lr_sweep": {"success"},
    "obs_dropout": {"success", "without_state"},
    "relative_action": {"success"},
    "chunk_continuity": {"lr_success", "dropout_success", "relative_success"},
}


def measured(experiment, *more):
    return {job.stage for job in planned(f"+experiment={experiment}", *more).values()} & SUCCESS_STAGES[experiment]


def test_success_is_measured_on_data_of_the_suite():
    assert measured("lr_sweep", "lr.peak=1e-4") == SUCCESS_STAGES["lr_sweep"]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", SUCCESS_STAGES)
def test_success_is_measured_on_other_data_on_request_alone(experiment, tmp_path):
    assert measured(experiment) == SUCCESS_STAGES[experiment]
    assert not measured(experiment, "experiment.closed_loop=false")
    assert not measured(experiment, f"data.root={tmp_path}")
    assert measured(experiment, f"data.root={tmp_path}", "experiment.closed_loop=true") == SUCCESS_STAGES[experiment]


def test_the_embedded_rate_and_dropout_experiments_train_what_succeeds_from_pictures():
    rates, dropout = planned("+experiment=lr_sweep"), planned("+experiment=obs_dropout")
    trained = [job.config for job in (*rates.values(), *dropout.values()) if job.config["task"]["name"] == "train"]
    assert {(each["model"]["name"], each["lr"]["schedule"]) for each in trained} == {("octo_tiny", "cosine")}
    assert {each["lr"]["peak"] for each in trained} == {1e-5, 1e-4, 1e-3, 3e-3, 1e-2}
    scored = [job.config for job in (*rates.values(), *dropout.values()) if job.config["eval"].get("episodes") == 100]
    assert len(scored) == 5 + 2 * 4 and all(each["env"]["tasks"] == ["push_red"] for each in scored)
    hidden = {name for name, job in dropout.items() if job.config["eval"].get("hide_state")}
    assert hidden == {f"success_dropout_{rate}_without_state" for rate in (0.0, 0.1, 0.3, 0.5)}
    assert needed(dropout["success_dropout_0.3_without_state"]) == {"dropout_0.3"}


def test_the_embedded_relative_experiment_compares_two_trainings_of_what_succeeds():
    jobs = planned("+experiment=relative_action")
    trained = {name: job.config for name, job in jobs.items() if job.config["task"]["name"] == "train"}
    assert {name: each["action_space"]["type"] for name, each in trained.items()} == {
        "absolute": "absolute", "relative": "relative",
    }  # fmt: skip
    assert {(each["model"]["name"], each["lr"]["schedule"]) for each in trained.values()} == {("act_state", "cosine")}
    assert {job.config["eval"]["episodes"] for name, job in jobs.items() if name.startswith("success_")} == {100}
    recorded = jobs["collect"].config["env"]
    assert recorded["environment_state"] is True and recorded["cameras"] == {}
    with pytest.raises(UserError, match="job relative.*action_space=relative: models of the family octo .*model=act, "):
        planned("+experiment=relative_action", "model=octo_tiny_l1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "steps"), [("lr_sweep", 5000), ("obs_dropout", 30000), ("relative_action", 30000)]
)
def test_at_the_published_size_they_train_act_smooth(experiment, steps, tmp_path):
    jobs = planned(f"+experiment={experiment}", f"data.root={tmp_path}", "trainer=gpu")
    trained = [job.config for job in jobs.values() if job.config["task"]["name"] == "train"]
    assert {(each["model"]["type"], each["lr"]["schedule"]) for each in trained} == {("act_smooth", "constant")}
    assert {(each["trainer"]["steps"], each["model"]["dim_model"]) for each in trained} == {(steps, 512)}
    rates = {each["lr"]["peak"] for each in trained}
    assert rates == ({1e-5, 3e-5, 5e-5, 1e-4, 3e-4} if experiment == "lr_sweep" else {3e-5})
