"""The launchers of Hydra's own submitit plugin keep working, stage by stage, for those who know them."""

import pytest
from submitit.core.utils import UncompletedJobError

from xp.runs.executors.status import rows

pytestmark = pytest.mark.timeout(300)


def test_submitit_local_runs_a_sweep_of_frozen_jobs(xp, place):
    asked = ("seed=1,2", "hydra/launcher=submitit_local")
    try:
        code, output = xp(*asked)
    except UncompletedJobError:
        # submitit starts a job's process and then makes the folder that the process opens its log in; sometimes the
        # process is first. The same command goes on.
        code, output = xp(*asked)
    assert code == 0 and "2 done" in output.splitlines()[-1]
    assert {row.name: row.state for row in rows(place / "multirun")} == {"seed_1": "done", "seed_2": "done"}


def test_submitit_slurm_runs_a_sweep_of_frozen_jobs(on_slurm, xp, place):
    code, output = xp("seed=1,2", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60")
    assert code == 0 and "2 done" in output.splitlines()
    assert {row.state for row in rows(place / "multirun")} == {"done"}
    assert "COMPLETED" in on_slurm.tell("squeue", "-h", "--states=all", "-o", "%T")
