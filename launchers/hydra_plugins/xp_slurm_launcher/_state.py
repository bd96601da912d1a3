"""How SLURM says its jobs stand: from sacct, else from squeue or scontrol. What none of them knows is left out.

Clusters without accounting (no slurmdbd) have no sacct to ask; the controller itself still knows every job that waits,
runs or ended within MinJobAge. A state is never guessed: a job nobody knows is judged by its own heartbeat.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydra_plugins.xp_slurm_launcher._commands import Answer, Silent, call, job_fields, main_ids
from xp.runs.executor import JobState

_STATES = {
    JobState.WAITING: "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    JobState.RUNNING: "RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING",
    JobState.DONE: "COMPLETED",
    JobState.INTERRUPTED: "CANCELLED PREEMPTED TIMEOUT DEADLINE REVOKED NODE_FAIL BOOT_FAIL",
    JobState.FAILED: "FAILED OUT_OF_MEMORY",
}
_MEANING = {word: state for state, words in _STATES.items() for word in words.split()}


@dataclass(frozen=True)
class Seen:
    """What SLURM says of one job."""

    word: str
    reason: str = ""
    host: str = ""

    @property
    def state(self) -> JobState | None:
        """SLURM's word as xp's; None for a word it does not know."""
        if "DependencyNeverSatisfied" in self.reason:
            return JobState.BLOCKED
        return _MEANING.get(self.word)

    @property
    def remark(self) -> str:
        """What a waiting job waits for, in SLURM's word; why an ended one ended."""
        return self.reason if self.state is JobState.WAITING else self.word.lower().replace("_", " ")


class Watcher:
    """Asks SLURM for states; remembers whether the cluster keeps accounts."""

    def __init__(self):
        self._accounts = True

    def look(self, handles: Iterable[str]) -> dict[str, Seen]:
        """{handle: what SLURM says}; a job that SLURM does not know is left out.

        Raises:
            Silent: SLURM does not answer.
        """
        wanted = list(handles)
        if not wanted:
            return {}
        found = self._by_sacct(wanted)
        open_ = [handle for handle in wanted if handle not in found or not _ended(found[handle])]
        found |= _by_controller(open_)
        return {handle: found[handle] for handle in wanted if handle in found}

    def _by_sacct(self, handles: Sequence[str]) -> dict[str, Seen]:
        if not self._accounts:
            return {}
        try:
            answer = call(
                "sacct", "-n", "-X", "-P", "--array", "-o", "JobID,State,Reason,NodeList", "-j", main_ids(handles)
            )
        except Silent:
            self._accounts = False
            return {}
        if answer.code or "accounting storage is disabled" in answer.err:
            self._accounts = False
            return {}
        rows = [line.split("|") for line in answer.out.splitlines() if line.count("|") == 3]
        return {row[0]: Seen(row[1].split()[0], _reason(row[2]), row[3]) for row in rows if row[1]}


def _by_controller(handles: Sequence[str]) -> dict[str, Seen]:
    if not handles:
        return {}
    if shutil.which("squeue") is not None:
        return _rows(call("squeue", "-h", "-a", "-r", "--states=all", "-o", "%F|%K|%T|%r|%B", "-j", main_ids(handles)))
    told = {handle: job_fields(handle) for handle in handles}
    return {
        handle: Seen(fields["JobState"], _reason(fields.get("Reason", "")), fields.get("BatchHost", ""))
        for handle, fields in told.items()
        if fields
    }


def _rows(answer: Answer) -> dict[str, Seen]:
    found = {}
    for line in answer.out.splitlines():
        job, index, word, reason, host = line.split("|", 4)
        found[job if index == "N/A" else f"{job}_{index}"] = Seen(word, _reason(reason), "" if host == "n/a" else host)
    return found


def _reason(text: str) -> str:
    return "" if text in ("None", "(null)") else text


def _ended(seen: Seen) -> bool:
    return seen.state is not None and seen.state.ended
