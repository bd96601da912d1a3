"""What goes wrong on the way: every result is there exactly once and is the one of an undisturbed run."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from ssh_nodes import Nodes
from ssh_site import ALONE, APP, Site, expected, wait_for

from xp.runs import State

pytestmark = pytest.mark.timeout(600)


def assert_whole(site, jobs: dict[str, tuple[int, int]], steps: int) -> None:
    """{name: (seed, attempts)}: every job is done, with the result computed here."""
    assert site.results() == {name: expected(seed, steps) for name, (seed, _) in jobs.items()}
    for name, (_, attempts) in jobs.items():
        record = site.job(name).record()
        assert record.state is State.DONE and record["attempts"] == attempts, (name, dict(record))


def hold(box, gate: str = "gate"):
    """Jobs at this box wait in their second step until the gate is unlinked."""
    path = box.home / gate
    path.write_text("")
    return path


def at_hold(site, name: str) -> bool:
    """Whether a job waits in its second step, and what it had written by then has come back."""
    run = site.job(name)
    return run.record().standing == "running" and (run.path / "checkpoints/checkpoint-2").is_dir()


def test_a_killed_job_goes_on_from_its_checkpoint(site):
    code, output = site.run("seed=1,2", "work.die_at=2", "work.steps=4", "hydra.launcher.detach=false")
    assert code == 0 and output.splitlines()[-1] == "2 done", output
    assert_whole(site, {"seed_1": (1, 2), "seed_2": (2, 2)}, 4)
    assert "resumed at 2" in site.job("seed_1").log()


def test_a_killed_keeper_is_replaced_and_no_running_job_is_started_again(site, pair):
    gates = [hold(box) for box in pair.boxes]
    code, output = site.run("seed=1,2,3", "work.hold=gate", "work.steps=4")
    assert code == 0 and "xp task=status" in output, output
    wait_for(lambda: sum(at_hold(site, f"seed_{seed}") for seed in (1, 2, 3)) == 2, "two jobs at work")
    site.kill_keeper()
    pids = {pid for box in pair.boxes for pid in box.jobs()}
    code, output = site.run("seed=1,2,3", "work.hold=gate", "work.steps=4")
    assert code == 0 and "goes on" in output, output
    assert {pid for box in pair.boxes for pid in box.jobs()} == pids
    for gate in gates:
        gate.unlink()
    site.wait_until_over()
    assert_whole(site, {f"seed_{seed}": (seed, 1) for seed in (1, 2, 3)}, 4)


@pytest.mark.slow
def test_a_configuration_edited_after_submission_changes_no_job(site, pair):
    app = site.folder / "app"
    shutil.copytree(APP, app)
    gates = [hold(box) for box in pair.boxes]
    command = ["seed=1,2,3", "work.hold=gate", "work.steps=4"]
    process = site.start(*command, app=app)
    assert process.communicate()[0] and process.returncode == 0
    wait_for(lambda: sum(at_hold(site, f"seed_{seed}") for seed in (1, 2, 3)) == 2, "two jobs at work")
    config = app / "conf" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 3", "steps: 7").replace("start_from: null", "start_from: x"))
    for gate in gates:
        gate.unlink()
    site.wait_until_over()
    assert_whole(site, {f"seed_{seed}": (seed, 1) for seed in (1, 2, 3)}, 4)


@pytest.mark.slow
def test_no_job_waits_behind_a_slow_node_while_another_is_idle(site, pair):
    gate = hold(pair["node2"])
    jobs = range(6)
    code, output = site.run(f"seed={','.join(map(str, jobs))}", "work.hold=gate")
    assert code == 0, output
    wait_for(lambda: len(site.results()) == 5, "all jobs but the held one")
    gate.unlink()
    site.wait_until_over()
    assert_whole(site, {f"seed_{seed}": (seed, 1) for seed in jobs}, 3)
    hosts = [site.job(f"seed_{seed}").record()["host"] for seed in jobs]
    assert hosts.count("xp-node1") == 5 and hosts.count("xp-node2") == 1


def test_a_node_that_is_cut_for_good_is_lost_and_its_copy_is_discarded_when_it_comes_back(site, pair):
    one, two = pair["node1"], pair["node2"]
    gates = [hold(one), hold(two)]
    # The keeper waits as long for a lost node to come back once all is done: time to find it there on a busy machine.
    code, output = site.run("seed=1,2", "work.hold=gate", "work.steps=4", "hydra.launcher.lost_after_min=0.25")
    assert code == 0, output
    wait_for(lambda: at_hold(site, "seed_1") and at_hold(site, "seed_2"), "both jobs at work")
    lost = next(f"seed_{seed}" for seed in (1, 2) if site.job(f"seed_{seed}").record()["host"] == "xp-node1")
    one.cut()
    wait_for(lambda: f"{lost}: node1 is lost" in site.log(), "the loss")
    assert site.job(lost).record().standing == "interrupted"
    left = one.jobs()
    assert len(left) == 1
    gates[1].unlink()
    wait_for(lambda: lost in site.results(), "the result from elsewhere")
    one.mend()
    site.wait_until_over()
    assert one.jobs() == []
    assert not (one.place / site.folder.name / "multirun/sweep" / lost).exists()
    assert_whole(site, {f"seed_{seed}": (seed, 2 if f"seed_{seed}" == lost else 1) for seed in (1, 2)}, 4)
    assert site.job(lost).record()["host"] == "xp-node2"


@pytest.mark.slow
def test_a_full_disk_sends_its_job_to_another_node(tmp_path_factory, request):
    ground = tmp_path_factory.mktemp("full") / "ground"
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), ground, tmpfs="6m")
    try:
        site = Site(ground / "work", nodes)
        code, output = site.run("seed=1,2,3", "work.blob_kb=2500", "hydra.launcher.detach=false")
        assert code == 0 and output.splitlines()[-1] == "3 done", output + site.log()
        assert site.results() == {f"seed_{seed}": expected(seed, 3) for seed in (1, 2, 3)}
        assert {site.job(f"seed_{seed}").record()["host"] for seed in (1, 2, 3)} == {"xp-node1"}
        assert "displaced" in site.log() or "node2: full" in site.log()
    finally:
        nodes.close()


@pytest.mark.slow
def test_a_controller_killed_at_any_moment_leaves_what_the_same_command_completes(site):
    command = ["seed=1,2,3,4", "work.steps=4", "work.step_s=0.1"]
    for delay in (0.4, 1.2, 2.5):
        process = site.start(*command)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=delay)
            raise subprocess.TimeoutExpired("it was faster", delay)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if site.store("sweep").state():
            site.kill_keeper()
    code, output = site.run(*command, "hydra.launcher.detach=false")
    assert code == 0 and output.splitlines()[-1].startswith("4 "), output
    assert site.results() == {f"seed_{seed}": expected(seed, 4) for seed in (1, 2, 3, 4)}


@pytest.mark.slow
def test_a_job_asked_to_leave_keeps_its_checkpoint_and_resumes(site, pair):
    from hydra_plugins.xp_ssh_launcher._executor import SshExecutor

    gates = [hold(box) for box in pair.boxes]
    site.run("seed=1", "work.hold=gate", "work.steps=4")
    wait_for(lambda: at_hold(site, ALONE), "the job at work")
    executor = SshExecutor(hosts=["node1"])
    handle = str(site.job(ALONE).path)
    executor.cancel([handle], grace_s=30)
    site.wait_until_over()
    record = site.job(ALONE).record()
    assert record.standing == "interrupted" and record["exit"] == 143
    for gate in gates:
        gate.unlink()
    code, output = site.run("seed=1", "work.hold=gate", "work.steps=4", "hydra.launcher.detach=false")
    assert code == 0 and "to resume" in output, output
    assert_whole(site, {ALONE: (1, 2)}, 4)


@pytest.mark.slow
def test_a_network_cut_of_fifteen_seconds_loses_nothing(site, pair):
    gates = [hold(box) for box in pair.boxes]
    site.run("seed=1,2,3,4", "work.hold=gate", "work.steps=6")
    wait_for(lambda: sum(at_hold(site, f"seed_{seed}") for seed in range(1, 5)) == 2, "two jobs at work")
    pair["node1"].cut()
    for gate in gates:
        gate.unlink()
    time.sleep(15)
    pair["node1"].mend()
    site.wait_until_over()
    assert_whole(site, {f"seed_{seed}": (seed, 1) for seed in range(1, 5)}, 6)


@pytest.mark.slow
def test_twenty_jobs_on_two_nodes_one_of_them_five_times_slower(site, pair):
    (pair["node2"].home / "slowness").write_text("5")
    jobs = range(20)
    code, output = site.run(f"seed={','.join(map(str, jobs))}", "work.step_s=0.5", "hydra.launcher.detach=false")
    assert code == 0, output
    assert_whole(site, {f"seed_{seed}": (seed, 1) for seed in jobs}, 3)
    records = [site.job(f"seed_{seed}").record() for seed in jobs]
    by_host = {name: [r for r in records if r["host"] == f"xp-{name}"] for name in ("node1", "node2")}
    assert len(by_host["node1"]) > len(by_host["node2"]) > 0
    assert max(r["started"] for r in by_host["node2"]) <= max(r["ended"] for r in by_host["node1"])


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(6))
def test_a_keeper_killed_at_a_random_moment(site, moment):
    import random

    command = ["seed=1,2,3,4,5,6", "work.steps=4", "work.step_s=0.2", "work.blob_kb=400"]
    code, output = site.run(*command)
    assert code == 0, output
    time.sleep(random.Random(moment).uniform(0.0, 8.0))
    if site.store("sweep").attended:
        site.kill_keeper()
    code, output = site.run(*command, "hydra.launcher.detach=false")
    assert code == 0, output
    assert site.results() == {f"seed_{seed}": expected(seed, 4) for seed in range(1, 7)}
    assert all(site.job(f"seed_{seed}").record()["attempts"] == 1 for seed in range(1, 7))
