"""A run whose output nobody reads any more goes on, and its log has everything."""

import subprocess
import sys

from xp.runs import load_run
from xp.runs.records.record import State

CODE = """
import sys
from omegaconf import OmegaConf
from xp.runs import run_once

def task(run):
    for number in range(2000):
        print("line", number, "x" * 100, flush=True)
        print("warning", number, file=sys.stderr)
    run.write_summary({"last": number})

config = OmegaConf.create({"task": {"name": "x"}})
run_once(config, sys.argv[1], ["hydra.run.dir=x"], task, result_config=lambda config: config)
"""


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", CODE, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        process.wait(120)
    run = load_run(folder)
    assert run.record().state is State.DONE
    assert run.summary() == {"last": 1999}
    log = (folder / "log.txt").read_text()
    assert "line 1999" in log and "warning 1999" in log and "Traceback" not in log
