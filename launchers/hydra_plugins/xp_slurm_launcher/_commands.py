"""SLURM's own commands: each called with an argument list, with a time limit, its errors told in one line."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xp.errors import UserError

_LIMIT_S = 60.0
_KEPT = ("SLURM_CONF", "SLURM_TIME_FORMAT")
_UNREACHABLE = re.compile(
    r"unable to contact|socket timed out|connection refused|communication|munge|configuration (?:source|file)",
    re.IGNORECASE,
)


class Silent(UserError):  # noqa: N818 - a state of affairs
    """SLURM does not answer."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and whether it went well."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """The error in one line, without the program's name before it."""
        lines = [line.partition("error: ")[2] or line for line in self.err.strip().splitlines()]
        return " ".join(line.strip().rstrip(".") for line in lines if line.strip())[:300] or f"exit code {self.code}"


def call(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Answer:
    """Run one of SLURM's commands.

    Raises:
        Silent: the command is not here, or SLURM's controller does not answer.
    """
    if shutil.which(program) is None:
        raise Silent(
            f"There is no {program} on this machine's PATH, so it cannot reach SLURM. Log in to the cluster and run "
            "the same command there, or choose another launcher: hydra/launcher=local or hydra/launcher=ssh."
        )
    conf = os.environ.get("SLURM_CONF")
    if conf and not os.path.exists(conf):  # noqa: PTH110 - its commands would try again for a minute
        raise Silent(
            f"SLURM_CONF={conf}: there is no such file, so SLURM does not answer. Unset SLURM_CONF or mend it."
        )
    command = [program, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_S, env=dict(environment or clean_environment())
        )
    except subprocess.TimeoutExpired:
        raise Silent(f"{program} has not answered for {_LIMIT_S:.0f} s. Look with: sinfo ; scontrol ping") from None
    answer = Answer(done.returncode, done.stdout, done.stderr)
    if answer.code and _UNREACHABLE.search(answer.err):
        raise Silent(f"SLURM does not answer {program}: {answer.words}. Look with: scontrol ping")
    return answer


def clean_environment() -> dict[str, str]:
    """This process's environment without what SLURM sets in a job: a job may submit others without passing it on."""
    drop = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_", "XP_HANDLE")
    return {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith(drop)}


def main_ids(handles: Iterable[str]) -> str:
    """The ids of arrays and jobs behind handles, as SLURM's commands take them: `12,15`."""
    return ",".join(dict.fromkeys(handle.partition("_")[0] for handle in handles))


def scancel(handles: Sequence[str]) -> None:
    """Cancel jobs: they get SIGTERM, and SIGKILL after the cluster's KillWait; those that wait never start."""
    for start in range(0, len(handles), 500):
        answer = call("scancel", *handles[start : start + 500])
        if answer.code and "Invalid job id" not in answer.err:
            raise UserError(f"SLURM will not cancel these jobs: {answer.words}. Look with: squeue --me")


def largest_array() -> int:
    """How many jobs one array may hold here (MaxArraySize limits the index, so one fewer)."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config").out)
    return max(1, int(found.group(1)) - 1) if found else 1000


def job_fields(job_id: str) -> dict[str, str]:
    """The fields of `scontrol show job`; empty if SLURM does not know the job."""
    answer = call("scontrol", "show", "job", "-o", job_id)
    return dict(re.findall(r"(\S+?)=(\S*)", answer.out.partition("\n")[0])) if not answer.code else {}
