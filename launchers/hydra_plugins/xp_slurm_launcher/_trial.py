"""Whether SLURM would take a request, asked before the first job is submitted."""

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra_plugins.xp_slurm_launcher import _commands
from hydra_plugins.xp_slurm_launcher._arrays import Array
from hydra_plugins.xp_slurm_launcher._commands import Answer
from hydra_plugins.xp_slurm_launcher._job_specs import SUBMISSIONS
from hydra_plugins.xp_slurm_launcher._protocol import Heard
from hydra_plugins.xp_slurm_launcher._refusals import HOPELESS, no_room, refusal, standstill
from hydra_plugins.xp_slurm_launcher._resources import Resources
from hydra_plugins.xp_slurm_launcher._script import FIRST
from hydra_plugins.xp_slurm_launcher._state import Watcher
from xp.atomic import write_text
from xp.runs.records.json_io import explain_write_errors

Script = Callable[[Array, Path], str]


def try_out(groups: Sequence[Array], watcher: Watcher, script: Script) -> None:
    """Let SLURM check every kind of request before the first is submitted.

    `--test-only` also refuses what can run later (nodes drained, down, in maintenance). What it refuses is
    therefore submitted with nothing to do: its answer, or its reason to let it wait, says if it can ever run.

    Args:
        groups: arrays of jobs.
        watcher: asks SLURM why a job waits.
        script: the text of a batch script for an array and a job spec.

    Raises:
        UserError: a request is refused for good.
    """
    tried: list[Resources] = []
    for group in groups:
        if group.resources in tried:
            continue
        tried.append(group.resources)
        answer = _tried(group, "--test-only", script)
        if not answer.code or no_room(answer):
            continue
        plain = _tried(group, "--parsable", script)
        if plain.code and not no_room(plain):
            raise refusal(plain, group.resources)
        if not plain.code:
            _refuse_hopeless(watcher, plain.out.strip().partition(";")[0], answer, group.resources)
        print(
            f"xp: SLURM takes these jobs ({group.resources.text()}), but nothing can run them now: {answer.told}. "
            f"{standstill() or 'They wait in the queue'}. See: sinfo -R ; xp task=status",
            file=sys.stderr,
        )


def _refuse_hopeless(watcher: Watcher, job_id: str, answer: Answer, asked: Resources) -> None:
    """Cancel a job that was submitted for trial, once SLURM has said why it waits."""
    reason = ""
    try:
        for _ in range(20):
            seen = watcher.look([job_id]).get(job_id)
            reason = seen.reason if seen is not None else ""
            if reason or seen is None or seen.heard is not Heard.OPEN:
                break
            time.sleep(0.1)
    finally:
        _commands.scancel([job_id])
    if reason.startswith(HOPELESS):
        raise refusal(answer, asked)


def _tried(array: Array, flag: str, script: Script) -> Answer:
    """What sbatch says to one job of an array; without anything to do in it."""
    folder = array.experiment / SUBMISSIONS
    path = folder / f".try-{secrets.token_hex(4)}.sh"
    one = Array(array.jobs[:1], array.resources)
    text = script(one, path)
    options = text.partition(f"\n{FIRST}\n")[0]
    with explain_write_errors(folder):
        write_text(path, f"{options}\nexit 0\n", durable=False)
    try:
        return _commands.call("sbatch", flag, "--output=/dev/null", str(path))
    finally:
        path.unlink()
