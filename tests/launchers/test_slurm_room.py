"""A cluster that lets a user have only a few jobs in its queue: everything is handed in as room appears."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_accounts
from slurm_cluster import wait_for

from hydra_plugins.xp_slurm_launcher._arrays import Room
from hydra_plugins.xp_slurm_launcher._commands import Answer
from hydra_plugins.xp_slurm_launcher._refusals import no_room
from xp.runs import RunFolder, State
from xp.runs.executors.status import rows, with_executors
from xp.runs.records.folder import find_runs

APP = Path(__file__).resolve().parent / "app"
SLURM = ("hydra/launcher=slurm", "+hydra.launcher.target=fake_tasks:run")
LIMITED = """#!/bin/bash
# sbatch on a cluster where a user may have so many jobs in the queue
for word in "$@"; do file=$word; done
asked=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$file")
there=$(squeue -h -r -o %i | wc -l)
if [ $((there + ${{asked:-0}} + 1)) -gt {limit} ]; then
    echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)" >&2
    exit 1
fi
exec {sbatch} "$@"
"""  # noqa: E501
pytestmark = pytest.mark.timeout(600)


def record(folder: Path):
    return RunFolder(folder).record()


def states(folder: Path) -> dict[str, str]:
    return {row.name: row.state for row in with_executors(rows(folder))}


def all_done(folder: Path, number: int) -> bool:
    runs = [run.record().state for run in find_runs(folder)]
    return len(runs) == number and all(state in (State.DONE, State.FAILED) for state in runs)


@pytest.fixture
def limited(on_slurm, place, monkeypatch):
    """Set how many jobs the queue takes; gives the cluster and a function for that."""

    def limit(jobs: int) -> None:
        program = place / "bin" / "sbatch"
        program.parent.mkdir(exist_ok=True)
        program.write_text(LIMITED.format(limit=jobs, sbatch=real))
        program.chmod(0o755)

    real = shutil.which("sbatch")
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
    return on_slurm, limit


@pytest.mark.parametrize("places", [3, pytest.param(4, marks=pytest.mark.slow)])  # 3 are full to the last place
def test_what_has_no_room_is_handed_in_as_room_appears_with_the_controller_gone(limited, xp, place, places):
    cluster, limit = limited
    limit(places)
    command = ("+experiment=chain", "horizon.train=1,4", "horizon.predict=1,4", *SLURM)
    code, output = xp(*command)
    assert code == 0 and "no room for more of your jobs now (AssocMaxSubmitJobLimit)" in output
    assert len(cluster.tell("squeue", "-h", "-r").splitlines()) <= places
    folder = place / "multirun" / "chain"
    assert "submitted" not in states(folder).values() and states(folder)["report"] in ("queued", "done")
    wait_for(lambda: all_done(folder, 8), 400, every_s=0.5)
    assert set(states(folder).values()) == {"done"}
    lines = [line.split()[:2] for line in (folder / "journal.txt").read_text().splitlines()]
    ended = [name for word, name in lines if word == "end"]
    assert sorted(ended) == sorted(set(ended)) and len(ended) == 8 and ended[-1] == "report"
    assert not (folder / ".slurm" / "rest.json").exists()


def test_a_full_queue_is_told_and_the_next_call_hands_in_what_is_missing(limited, xp, place):
    cluster, limit = limited
    limit(0)
    code, output = xp("seed=1,2", *SLURM)
    assert code == 0 and "not even for the small one" in output and "Issue the same command again" in output
    assert not cluster.tell("squeue", "-h")
    limit(10)
    code, output = xp("seed=1,2", *SLURM, "hydra.launcher.detach=false")
    assert code == 0 and output.splitlines()[-1] == "2 done"


def test_cancel_ends_what_waits_for_room_too(limited, xp, place):
    cluster, limit = limited
    limit(2)
    code, _ = xp("seed=1,2,3,4", f"work.wait_for={place}/go", "work.steps=6", *SLURM)
    folder = place / "multirun" / "sweep"
    assert code == 0 and len(cluster.tell("squeue", "-h", "-r").splitlines()) == 2
    done = subprocess.run(
        [sys.executable, "-m", "xp", "task=cancel", f"cancel.folder={folder}"],
        capture_output=True,
        text=True,
        timeout=99,
    )
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not cluster.tell("squeue", "-h"))
    wait_for(lambda: set(states(folder).values()) == {"cancelled"})


def test_the_room_is_found_by_halving():
    for there in range(12):
        room, left, sizes, taken = Room(), 9, [], 0
        while left and not room.full:
            size = room.size(left)
            sizes.append(size)
            if size <= there - taken:
                room.taken(size)
                taken, left = taken + size, left - size
            else:
                room.refused(size)
        assert taken == min(9, there) and len(sizes) <= 9


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/"
         "QOS policy (job submit limit, user's size and/or time limits)", "AssocMaxSubmitJobLimit"),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerUserLimit"),
        ("sbatch: error: AssocGrpSubmitJobsLimit", "AssocGrpSubmitJobsLimit"),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping.", "temporarily unable to accept"),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates "
         "accounting/QOS policy (job submit limit, user's size and/or time limits)", ""),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified", ""),
    ],
)  # fmt: skip
def test_a_limit_on_jobs_in_the_queue_is_told_from_a_refusal_for_good(words, told):
    assert no_room(Answer(1, "", words)) == told


@pytest.fixture(scope="module")
def with_accounts(tmp_path_factory):
    """A real SLURM that keeps accounts and lets a user have six jobs in its queue."""
    lacking = slurm_accounts.accounts_lacking()
    if lacking:
        pytest.skip(lacking)
    cluster = slurm_accounts.ClusterWithAccounts(tmp_path_factory.mktemp("accounts"))
    try:
        cluster.up()
        cluster.limit(6)
        yield cluster
    finally:
        cluster.down()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_multi_horizon_completes_where_six_jobs_may_be_submitted_with_the_controller_gone(
    with_accounts, place, monkeypatch
):
    monkeypatch.setenv("SLURM_CONF", str(with_accounts.conf))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    launcher = ["hydra/launcher=slurm", "hydra.launcher.gpus=1", "hydra.launcher.mem_gb=1.9", "hydra.launcher.cpus=1"]
    command = [
        sys.executable,
        "-u",
        "-m",
        "xp",
        "+experiment=multi_horizon",
        "-m",
        "debug=fast",
        *launcher,
        "experiment.closed_loop=false",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "AssocMaxSubmitJobLimit" in done.stderr, done.stdout + done.stderr
    folder = place / "multirun" / "multi_horizon_fast"
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, len(with_accounts.tell("squeue", "-h", "-r", check=False).splitlines()))
        return all_done(folder, 15)

    wait_for(over, 2000, every_s=1.0)
    records = {run.name: run.record() for run in find_runs(folder)}
    wrong = {name: dict(each) for name, each in records.items() if each.state is not State.DONE}
    assert not wrong and most <= 6, wrong
    assert {each["attempts"] for each in records.values()} == {1} and (folder / "report.html").is_file()
