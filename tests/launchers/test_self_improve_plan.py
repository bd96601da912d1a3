"""A sweep of self_improve over target and reference robots: each pair its jobs, each target its report."""

from itertools import product

import pytest

from hydra_plugins.xp_staged_sweeper import _sweep
from xp.__main__ import main

TARGETS, REFERENCES, SEEDS = ("go1", "minicheetah"), ("a1", "go2"), (0, 1)


def test_every_pair_of_target_and_reference_is_a_job_for_each_rule_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plans, make_plan = [], _sweep.make_plan

    def planned(*given, **more):
        plans.append(make_plan(*given, **more))
        return plans[-1]

    monkeypatch.setattr(_sweep, "make_plan", planned)
    command = [
        "+experiment=self_improve", "-m", f"env={','.join(TARGETS)}", f"loop.reference_robot={','.join(REFERENCES)}",
        f"seed={','.join(map(str, SEEDS))}", "hydra.sweeper.dry_run=true",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    jobs = plans[0].jobs
    loops = [each for each in jobs if each.stage.key == "improve"]
    configs = [each.job.config for each in loops]
    made = [(c["env"]["robot"]["name"], c["loop"]["reference_robot"], c["loop"]["name"], c["seed"]) for c in configs]
    assert sorted(made) == sorted(product(TARGETS, REFERENCES, ("as_published", "self_improve"), SEEDS))
    assert len({each.job.folder for each in loops}) == len(loops), "each has a folder of its own"
    [pretrained] = {need.job.folder for each in loops for need in each.needs}
    assert pretrained.name == "pretrain", "one model is pretrained for all of them"
    reports = [each for each in jobs if each.stage.key == "report"]
    compared = [sorted({need.job.config["env"]["robot"]["name"] for need in each.needs}) for each in reports]
    assert compared == [[target] for target in TARGETS] and all(len(each.needs) == 8 for each in reports)
