"""How SLURM says its jobs stand: its controller's word first, sacct's of jobs that the controller does not know.

The controller (squeue, or scontrol where there is no squeue) knows every job that waits, runs or ended lately.
Accounting lags behind it (a job that was queued again is still called ended there), and many clusters have none.
A state is never guessed: a job that nobody knows is left out, and an error is silence.
"""

import pwd
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydra_plugins.xp_slurm_launcher._commands import Answer, SlurmUnavailable, call, job_fields, main_ids
from hydra_plugins.xp_slurm_launcher._protocol import Heard
from xp.foreign.text import printable
from xp.runs.executors.protocol import JobState

_STATES = {
    JobState.WAITING: "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    JobState.RUNNING: "RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING",
    JobState.DONE: "COMPLETED",
    JobState.INTERRUPTED: "CANCELLED PREEMPTED TIMEOUT DEADLINE REVOKED NODE_FAIL BOOT_FAIL",
    JobState.FAILED: "FAILED OUT_OF_MEMORY",
}
_MEANING = {word: state for state, words in _STATES.items() for word in words.split()}
_SACCT_S = 20.0
_NEVER = ("DependencyNeverSatisfied",)


@dataclass(frozen=True)
class Seen:
    """What SLURM says of one job."""

    word: str
    reason: str = ""
    host: str = ""
    name: str = ""
    """The job's name: the token of the submission that it belongs to."""
    by: str = ""
    """Who cancelled it, where accounting knows."""

    @property
    def state(self) -> JobState | None:
        """SLURM's word as xp's; None for a word it does not know."""
        if any(word in self.reason for word in _NEVER):
            return JobState.BLOCKED
        return _MEANING.get(self.word)

    @property
    def heard(self) -> Heard:
        """Whether the job has ended; a word that is not known here counts as open."""
        if self.word == "COMPLETING":
            return Heard.ENDING
        return Heard.ENDED if self.state is not None and self.state.ended else Heard.OPEN

    @property
    def final(self) -> bool:
        """Whether SLURM will not take the job up again by itself."""
        return self.word == "CANCELLED" or self.state is JobState.BLOCKED

    @property
    def remark(self) -> str:
        """What a waiting job waits for, in SLURM's word; why an ended one ended."""
        if self.state is JobState.WAITING:
            return printable(self.reason)
        return printable(self.word.lower().replace("_", " ") + (f" by {self.by}" if self.by else ""))


def heard(seen: Seen | None, token: str = "") -> Heard:
    """What SLURM, which answers, has to say of a submission; a job of another name is not the one that is meant."""
    return Heard.UNKNOWN if seen is None or (token and seen.name and seen.name != token) else seen.heard


class Watcher:
    """Asks SLURM for states; remembers whether the cluster keeps accounts."""

    def __init__(self):
        self._accounts = True

    def look(self, handles: Iterable[str]) -> dict[str, Seen]:
        """{handle: what SLURM says}; a job that SLURM does not know is left out.

        Raises:
            SlurmUnavailable: SLURM's controller does not answer.
        """
        wanted = list(handles)
        if not wanted:
            return {}
        found = _by_controller(wanted)
        lacking = [handle for handle in wanted if handle not in found or found[handle].word == "CANCELLED"]
        for handle, told in self._by_sacct(lacking).items():
            if handle not in found or told.word == "CANCELLED":
                found[handle] = told
        return {handle: found[handle] for handle in wanted if handle in found}

    def _by_sacct(self, handles: Sequence[str]) -> dict[str, Seen]:
        if not self._accounts or not handles:
            return {}
        columns = "JobID,State,Reason,NodeList,JobName"
        try:
            answer = call(
                "sacct", "-n", "-X", "-P", "--array", "-o", columns, "-j", main_ids(handles), limit_s=_SACCT_S
            )
        except SlurmUnavailable:
            self._accounts = False
            return {}
        if answer.code or "accounting storage is disabled" in answer.err:
            self._accounts = False
            return {}
        rows = [line.split("|", 4) for line in answer.out.splitlines() if line.count("|") >= 4]
        found = {
            row[0]: Seen(row[1].split()[0], _reason(row[2]), row[3], row[4], _who(row[1])) for row in rows if row[1]
        }
        return {handle: found[handle] for handle in handles if handle in found}


def job_named(token: str) -> str | None:
    """The id of this user's job of that name, if SLURM's controller has one.

    Raises:
        SlurmUnavailable: SLURM does not answer.
    """
    answer = call("squeue", "-h", "-a", "--me", "--states=all", "-o", "%F", f"--name={token}")
    if answer.code:
        raise SlurmUnavailable(f"SLURM does not answer squeue: {answer.message}. Look with: scontrol ping")
    ids = answer.out.split()
    return ids[0] if ids else None


def _by_controller(handles: Sequence[str]) -> dict[str, Seen]:
    if shutil.which("squeue") is not None:
        form = "%F|%K|%T|%B|%r|%j"
        return _rows(call("squeue", "-h", "-a", "-r", "--states=all", "-o", form, "-j", main_ids(handles)))
    told = {handle: job_fields(handle) for handle in handles}
    return {
        handle: Seen(
            fields["JobState"],
            _reason(fields.get("Reason", "")),
            fields.get("BatchHost", ""),
            fields.get("JobName", ""),
        )
        for handle, fields in told.items()
        if fields.get("JobState")
    }


def _rows(answer: Answer) -> dict[str, Seen]:
    if answer.code:
        if "Invalid job id" in answer.err:
            return {}
        raise SlurmUnavailable(f"SLURM does not answer squeue: {answer.message}. Look with: scontrol ping")
    found = {}
    for line in answer.out.splitlines():
        if line.count("|") < 5:
            continue
        job, index, word, host, reason, name = line.split("|", 5)
        handle = job if index == "N/A" else f"{job}_{index}"
        found[handle] = Seen(word, _reason(reason), "" if host == "n/a" else host, name)
    return found


def _reason(text: str) -> str:
    return "" if text in ("None", "(null)") else text


def _who(state: str) -> str:
    """`CANCELLED by 1000`: the user's name."""
    uid = state.partition(" by ")[2].strip()
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError, OverflowError):
        return f"user {uid}" if uid.isdigit() else ""
