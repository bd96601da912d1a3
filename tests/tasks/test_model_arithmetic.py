"""The experiment model_arithmetic at a size that runs in minutes: one table of parts, merges and the whole."""

import csv
import io
import json

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from tasks_setup import SMALL, Xp

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._experiment import plan_experiment, read_command_line
from hydra_plugins.xp_staged_sweeper._sweep import xp_rules
from xp.config import open_hydra
from xp.config.shorthand import expand_shorthand
from xp.envs.maker import EnvMaker
from xp.runs.jobs import stage_references
from xp.tasks._lib.recorders import ExpertRecorder

METHODS = ("average", "greedy", "ties")
LINE = [
    "+experiment=model_arithmetic", "-m", "debug=fast", *SMALL, f"merge_method={','.join(METHODS)}",
    "env.cameras={oblique: [32, 32], wrist: [32, 32]}", "collect.workers=1", "eval.videos=0", "env.max_steps=60",
    "hydra.launcher.n_jobs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    xp = Xp(tmp_path_factory.mktemp("arithmetic"), cache)
    xp.last = xp(*LINE, timeout=1500)
    return xp


def folder(xp):
    return xp.cwd / "multirun/model_arithmetic_fast"


def recordings():
    """The configurations of the jobs that record datasets, as the command line above gives them."""
    stage_references.register()
    hydra = open_hydra()
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    composer = Composer(hydra.config_loader, master)
    typed = expand_shorthand([argument for argument in LINE if argument != "-m" and not argument.startswith("hydra.")])
    (name,), line = read_command_line(composer, typed)
    jobs = plan_experiment(composer, name, line, xp_rules()).jobs
    configs = {planned.job.name: OmegaConf.create(planned.job.config) for planned in jobs}
    return {name: config for name, config in configs.items() if config.task.name == "collect"}


def test_the_expert_has_time_for_every_episode_that_is_wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = recordings()
    assert set(jobs) == {"collect", "collect_pretrain"}
    for config in jobs.values():
        record = ExpertRecorder(EnvMaker.of(config.env, {}, environment_state=False), config.collect.noise)
        seeds = range(config.collect.first_seed, config.collect.first_seed + config.collect.episodes)
        assert all(record(task, seed).success for task in config.env.tasks for seed in seeds), config.env


@pytest.mark.slow
def test_every_policy_stands_in_the_table_with_baselines(finished):
    names = {f"part_{part}" for part in range(4)} | {f"merge_{method}" for method in METHODS} | {"full"}
    text = finished.last.stdout
    assert all(name in text for name in names)
    assert "doing nothing" in text
    assert "hold-last" in text
    assert text.rstrip().splitlines()[-1] == f"Report: {folder(finished) / 'report.html'}"
    assert (folder(finished) / "figures/policies_success.png").is_file()


@pytest.mark.slow
def test_all_are_measured_on_the_same_test_episodes_that_nobody_has_seen(finished):
    test = json.loads((folder(finished) / "split/test.json").read_text())["val"]
    everything = json.loads((folder(finished) / "split/all.json").read_text())
    assert not set(test) & {*everything["train"], *everything["val"]}
    dump = json.loads((folder(finished) / "dump/summary.json").read_text())
    assert set(dump["episodes"]) == set(everything["val"])
    for path in folder(finished).glob("predict_*/metrics.json"):
        metrics = json.loads(path.read_text())
        assert set(metrics["held_out_episodes"]) <= set(test)
        assert metrics["validation"]["episodes"]["index"]


@pytest.mark.slow
def test_running_again_computes_nothing(finished):
    assert "nothing to run" in finished(*LINE, timeout=600).stdout


@pytest.mark.slow
def test_the_summary_lists_every_prediction(finished):
    rows = list(csv.DictReader(io.StringIO((folder(finished) / "summary.csv").read_text())))
    assert len(rows) == 4 + 1 + len(METHODS)
    assert all(row["mae"] and row["hold_last_mae"] for row in rows)
