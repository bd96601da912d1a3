"""Hosts and jobs that cannot work: one clear line each, and the other hosts go on."""

import subprocess
import sys

import pytest
from ssh_nodes import PORT
from ssh_site import expected, wait_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def bad_hosts(pair):
    """{what is wrong: (host as a user gives it, words of its line)}."""
    one = pair["node1"]
    other = (pair["node2"].folder / "hostkey.pub").read_text().split()[:2]
    with pair.known.open("a") as known:
        known.write(f"changed {' '.join(other)}\n")
    at = f"host: {one.address}, user: root, identity: {pair.key}"
    with pair.config.open("a") as config:
        for name, alias in (("changed", "changed"), ("stranger", "nobody-knows-me")):
            config.write(f"Host {name}\n HostName {one.address}\n Port {PORT}\n User root\n IdentityFile {pair.key}\n")
            config.write(f" HostKeyAlias {alias}\n")
    return {
        "unknown name": ("ssh root@nowhere.invalid", "there is no machine 'nowhere.invalid'"),
        "changed key": ("changed", "its host key is not the one known here"),
        "unknown key": ("stranger", "its host key is not known here yet"),
        "wrong port": (f"{{{at}, port: 2299, name: closed}}", f"nothing listens at {one.address} port 2299"),
        "no python": (f"{{{at}, port: {PORT + 1}, python: nopython, name: bare}}", "there is no Python"),
        "no gpu": (f"{{{at}, port: {PORT}, gpus: [0], name: cpu}}", "GPU 0 was asked for, and nvidia-smi shows none"),
        "wrong python": (f"{{{at}, port: {PORT}, python: /no/python, name: odd}}", "/no/python cannot be run"),
    }


def test_each_bad_host_gets_one_line_and_the_good_one_does_the_jobs(site, bad_hosts):
    hosts = [f"'{host}'" if host[0] != "{" else host for host, _ in bad_hosts.values()]
    code, output = site.run("seed=1,2", "hydra.launcher.detach=false", hosts=("node2", *hosts))
    assert code == 0, output
    assert site.results() == {"seed_1": expected(1, 3), "seed_2": expected(2, 3)}
    lines = [line for line in output.splitlines() if line.startswith("xp: ")]
    for what, (_, words) in bad_hosts.items():
        assert sum(words in line for line in lines) == 1, (what, output)
    assert len(lines) == len(bad_hosts)


@pytest.mark.slow
def test_without_any_usable_host_the_command_says_why_and_fails(site):
    code, output = site.run("seed=1", hosts=("'ssh root@nowhere.invalid'",))
    assert code == 2 and "No host can be used." in output and "nowhere.invalid" in output
    wait_for(lambda: not site.store("sweep").attended, "the keeper's end")
    code, output = site.run("seed=1", "hydra.launcher.detach=false")
    assert code == 0, output


@pytest.mark.slow
def test_a_dataset_too_large_to_send_is_named_with_the_host(site):
    data = site.folder / "data"
    data.mkdir()
    (data / "rows.bin").write_bytes(b"x" * 3000)
    large = "hydra.launcher.sync_max_gb=0.000001"
    code, output = site.run("seed=1,2", f"start_from={data}", large, "hydra.launcher.detach=false")
    assert code == 1, output + site.log()
    name = next(iter(site.states()))
    error = site.job(name).record()["error"]["message"]
    assert code == 1 and f"node1: {data} is not there" in error and "hydra.launcher.sync_max_gb" in error, output
    assert "node2" in error


@pytest.mark.slow
def test_a_job_that_raises_is_failed_with_its_error_and_what_needs_it_is_blocked(site):
    code, output = site.run("+experiment=chain", "work.fail=true", "hydra.launcher.detach=false")
    record = site.job("pretrain", "chain").record()
    assert code == 1 and record["error"]["message"] == "told to fail" and record["attempts"] == 1
    assert site.states("chain")["horizon_1"] == "blocked" and site.states("chain")["report"] == "done"


@pytest.mark.slow
def test_a_tag_that_no_host_has_is_refused_before_anything_starts(site):
    code, output = site.run("+experiment=chain", "+stages.train.resources={tags: [huge]}")
    assert code == 2 and "the tag 'huge'" in output and "node1, node2" in output


@pytest.mark.slow
def test_a_stage_with_a_tag_runs_on_the_host_that_has_it(site):
    code, output = site.run(
        "+experiment=chain", "+stages.train.resources={tags: [node2]}", "hydra.launcher.detach=false"
    )
    assert code == 0, output
    hosts = {site.job(f"horizon_{trained}", "chain").record()["host"] for trained in (1, 4, 8)}
    assert hosts == {"xp-node2"}


def test_a_host_that_cannot_be_set_up_is_named_above_the_jobs_though_the_command_has_returned(site, pair):
    """As environment=uv on a host without a network: the command that fetches fails after the jobs were handed over."""
    box = pair["node1"]
    (box.home / "bin").mkdir(exist_ok=True)
    (box.home / "bin/uv").write_text("#!/bin/sh\nsleep 2\necho 'error: network is unreachable' >&2\nexit 1\n")
    (box.home / "bin/uv").chmod(0o755)
    (box.home / ".bashrc").write_text('PATH="$HOME/bin:$PATH"\n')
    code, output = site.run("seed=1,2", "hydra.launcher.environment=uv", hosts=("node1",))
    assert code == 0, output
    wait_for(lambda: not site.store("sweep").attended, "the keeper's end")
    env = {**site.env, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "xp", "task=status"], cwd=site.folder, env=env, capture_output=True, text=True
    )
    first = done.stdout.splitlines()[0]
    assert first.startswith("node1: the set-up command") and "network is unreachable" in done.stdout.split("seed_1")[0]
    assert "HTTPS_PROXY" in done.stdout.split("seed_1")[0] and "hydra.launcher.python=" in done.stdout, done.stdout
