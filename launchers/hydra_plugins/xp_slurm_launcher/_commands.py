"""SLURM's own commands: each called with an argument list, with a time limit, its errors told in one line."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from xp.errors import UserError

_LIMIT_S = 60.0
_KEPT = ("SLURM_CONF", "SLURM_TIME_FORMAT")
_UNREACHABLE = re.compile(
    r"unable to contact|socket timed out|connection refused|communication|munge|configuration (?:source|file)",
    re.IGNORECASE,
)

_GONE = re.compile(r"invalid job id|already complet", re.IGNORECASE)


class SlurmUnavailable(UserError):  # noqa: N818 - a state of affairs
    """SLURM's commands are not here, or its controller does not answer: nothing is known of any job."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and whether it went well."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error in one line, without the program's name before it."""
        lines = [line.partition("error: ")[2] or line for line in self.err.strip().splitlines()]
        return " ".join(line.strip().rstrip(".") for line in lines if line.strip())[:300] or f"exit code {self.code}"

    @property
    def told(self) -> str:
        """The error of sbatch without its phrases around the reason."""
        return self.message.replace("allocation failure: ", "").replace("Batch job submission failed: ", "")


def require(program: str) -> None:
    """Refuse where SLURM's command is not on this machine, or cannot find its configuration.

    Raises:
        SlurmUnavailable: so it is.
    """
    if shutil.which(program) is None:
        raise SlurmUnavailable(
            f"There is no {program} on this machine's PATH, so it cannot reach SLURM. Log in to the cluster and run "
            "the same command there, or choose another launcher: hydra/launcher=local or hydra/launcher=ssh."
        )
    conf = os.environ.get("SLURM_CONF")
    if conf and not os.path.exists(conf):  # noqa: PTH110 - its commands would try again for a minute
        raise SlurmUnavailable(
            f"SLURM_CONF={conf}: there is no such file, so SLURM does not answer. Unset SLURM_CONF or mend it."
        )


def call(
    program: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    limit_s: float = _LIMIT_S,
    inherited: Sequence[int] = (),
) -> Answer:
    """Run one of SLURM's commands.

    Args:
        program: its name.
        arguments: its arguments.
        environment: its environment; default: this process's without what SLURM sets in jobs.
        limit_s: it is ended after so many seconds.
        inherited: file descriptors that it keeps open (a lock that must be held as long as it is under way).

    Raises:
        SlurmUnavailable: the command is not here, or SLURM's controller does not answer.
    """
    require(program)
    command = [program, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit_s, stdin=subprocess.DEVNULL,
            env=dict(environment or clean_environment()), pass_fds=tuple(inherited),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SlurmUnavailable(
            f"{program} has not answered for {limit_s:.0f} s. Look with: sinfo ; scontrol ping"
        ) from None
    answer = Answer(done.returncode, done.stdout, done.stderr)
    if answer.code and _UNREACHABLE.search(answer.err):
        raise SlurmUnavailable(f"SLURM does not answer {program}: {answer.message}. Look with: scontrol ping")
    return answer


def patiently[T](question: Callable[[], T], limit_s: float, told: Callable[[str], None]) -> T:
    """Ask until SLURM answers, with pauses of up to 30 s; `told` hears what is waited for, once.

    Raises:
        SlurmUnavailable: it has not answered for `limit_s` seconds.
    """
    pause, began, said = 0.5, time.monotonic(), False
    while True:
        try:
            return question()
        except SlurmUnavailable as silence:
            if time.monotonic() - began > limit_s:
                raise
            if not said:
                told(str(silence))
            said = True
            time.sleep(pause)
            pause = min(30.0, 2 * pause)


def clean_environment() -> dict[str, str]:
    """This process's environment without what SLURM sets in a job: a job may submit others without passing it on."""
    drop = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_", "XP_HANDLE")
    return {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith(drop)}


def main_id(handle: str) -> str:
    """The array or job behind a handle: `12` of `12_3`; the job that hands in others of `12+3`."""
    return re.split("[_+]", handle, maxsplit=1)[0]


def main_ids(handles: Iterable[str]) -> str:
    """The ids of arrays and jobs behind handles, as SLURM's commands take them: `12,15`."""
    return ",".join(dict.fromkeys(main_id(handle) for handle in handles))


def scancel(handles: Sequence[str]) -> None:
    """Cancel jobs: they get SIGTERM, and SIGKILL after the cluster's KillWait; those that wait never start.

    Raises:
        SlurmUnavailable: SLURM does not answer.
        UserError: it will not cancel one of them.
    """
    for start in range(0, len(handles), 500):
        answer = call("scancel", *handles[start : start + 500])
        if answer.code and not _GONE.search(answer.err):
            raise UserError(f"SLURM will not cancel these jobs: {answer.message}. Look with: squeue --me")


@lru_cache(maxsize=4)
def _settings_of(conf: str) -> dict[str, str]:
    out = call("scontrol", "show", "config").out
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in out.splitlines())}


def cluster_number(name: str, default: int) -> int:
    """A number among the cluster's settings, such as MaxArraySize or KillWait (seconds)."""
    found = re.match(r"\d+", _settings_of(os.environ.get("SLURM_CONF", "")).get(name, ""))
    return int(found.group(0)) if found else default


def largest_array() -> int:
    """How many jobs one array may hold here (MaxArraySize limits the index, so one fewer)."""
    return max(1, cluster_number("MaxArraySize", 1001) - 1)


def job_fields(job_id: str) -> dict[str, str]:
    """The fields of `scontrol show job`; empty if SLURM does not know the job.

    Raises:
        SlurmUnavailable: SLURM does not answer.
    """
    answer = call("scontrol", "show", "job", "-o", job_id)
    return dict(re.findall(r"(\S+?)=(\S*)", answer.out.partition("\n")[0])) if not answer.code else {}
