"""submitit's own interface over the same nodes."""

import os
import shutil

import pytest
import submitit
from ssh_nodes import CHECKOUT

pytestmark = pytest.mark.timeout(300)


def test_auto_executor_runs_functions_on_nodes_and_brings_back_results_errors_and_output(pair, ground, tmp_path):
    for part in ("src", "launchers"):  # xp as installed on the nodes: the checkout's own is covered there
        shutil.copytree(CHECKOUT / part, tmp_path / part)
    path = f"{tmp_path}/src:{tmp_path}/launchers"
    hosts = [box.name for box in pair.boxes]
    executor = submitit.AutoExecutor(ground / "submitit", cluster="ssh", ssh_hosts=hosts)
    executor.update_parameters(ssh_ssh_config=str(pair.config), ssh_retries=0, ssh_env={"PYTHONPATH": path})

    def where(number):
        import socket

        print("said", number)
        if number == 3:
            raise ValueError("told to fail")
        if number == 4:
            os.kill(os.getpid(), 9)
        return number * 10, socket.gethostname(), submitit.JobEnvironment().cluster

    jobs = executor.map_array(where, range(5))
    results = [job.result() for job in jobs[:3]]
    assert [value for value, _, _ in results] == [0, 10, 20]
    assert {name for _, name, _ in results} <= {"xp-node1", "xp-node2"} and {c for _, _, c in results} == {"ssh"}
    assert "said 1" in jobs[1].stdout()
    with pytest.raises(submitit.core.utils.FailedJobError, match="told to fail"):
        jobs[3].result()
    with pytest.raises(submitit.core.utils.UncompletedJobError):
        jobs[4].result()
    assert jobs[4].state == "FAILED"
