"""The launchers of Hydra's own submitit plugin keep working, stage by stage, for those who know them."""

import pytest

from xp.runs.status import rows

pytestmark = pytest.mark.timeout(300)


def test_submitit_local_runs_a_sweep_of_frozen_jobs(xp, place):
    code, output = xp("seed=1,2", "hydra/launcher=submitit_local")
    assert code == 0 and output.splitlines()[-1] == "2 done"
    assert {row.name: row.state for row in rows(place / "multirun")} == {"seed_1": "done", "seed_2": "done"}


def test_submitit_slurm_runs_a_sweep_of_frozen_jobs(on_slurm, xp, place):
    code, output = xp("seed=1,2", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60")
    assert code == 0 and "2 done" in output.splitlines()
    assert {row.state for row in rows(place / "multirun")} == {"done"}
    assert "COMPLETED" in on_slurm.tell("squeue", "-h", "--states=all", "-o", "%T")
