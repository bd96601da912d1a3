"""What is done with one job at one node: send it and its inputs, start it, bring back what it writes, judge its end.

A node's pool runs these steps, several at a time.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

from hydra_plugins.xp_ssh_launcher._agent_files import NO_ROOM, content_hash, listing, quick_hash
from hydra_plugins.xp_ssh_launcher._assignments import Assignments, code_of
from hydra_plugins.xp_ssh_launcher._connection import Connection
from hydra_plugins.xp_ssh_launcher._inputs import inputs_of, skipped_in
from hydra_plugins.xp_ssh_launcher._lease_queue import AttemptOutcome, StartAnswer
from hydra_plugins.xp_ssh_launcher._settings import Settings
from hydra_plugins.xp_ssh_launcher._ssh_errors import HereFull, NoRoom, Refused, Unreachable
from xp.atomic import write_json
from xp.runs.execution import threads
from xp.runs.execution.execute import mark_failed, mark_interrupted
from xp.runs.executors.protocol import JobState
from xp.runs.jobs.frozen import Job, open_job
from xp.runs.jobs.secrets import redacted_keys
from xp.runs.records.folder import RECORD
from xp.runs.records.heartbeat import HANDLE_VARIABLE
from xp.runs.records.json_io import read_object
from xp.runs.records.lock import locked
from xp.runs.records.record import Record, State

_MODULE = "hydra_plugins.xp_ssh_launcher._job"
_FULL = ("No space left on device", "The disk is full", "Disk quota exceeded")
_PULLS = 5


def environment(settings: Settings, folder: Path, code: Path) -> dict[str, str]:
    """Code first on the path, its threads by the rule of `xp.runs.execution.threads`, the job's handle."""
    places = [str(code / part) for part in ("src", "launchers") if (code / part).is_dir()] or [str(code)]
    given = dict(settings.env)
    path = ":".join([*places, *filter(None, [given.pop("PYTHONPATH", "")])])
    counts = threads.environment(settings.threads, {**os.environ, **given})
    return {**counts, **given, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", HANDLE_VARIABLE: str(folder)}


class JobSteps:
    """What is done with jobs at any node, on behalf of one experiment's `Assignments`."""

    def __init__(self, assignments: Assignments):
        self.assignments = assignments

    def launch(self, node: Connection, folder: Path, attempt: int) -> bool:
        """Send a leased job and start it; it goes elsewhere if this node has no room or cannot have what it needs.

        Returns:
            False if somebody else has what it needs there: the node shall rest for a moment.
        """
        try:
            answer = self._start(node, folder, attempt)
        except NoRoom as error:
            answer = StartAnswer(started=False, why="full")
            self.assignments.note(f"{folder.name}: {error}")
        except (HereFull, OSError) as error:
            # It was not sent, or the note of it could not be made: not the node's fault.
            if isinstance(error, OSError) and error.errno not in NO_ROOM:
                raise
            self.assignments.lose_own(folder, attempt)
            raise
        except Refused as error:
            self.assignments.attempt_ended(folder, attempt, AttemptOutcome.UNFIT, str(error))
            self.assignments.note(f"{folder.name}: {error}")
            return True
        if node.host.local and answer.get("why") == "full":
            self.assignments.lose_own(folder, attempt)
            raise HereFull(folder)
        self.assignments.answered(folder, attempt, answer)
        if answer["started"]:
            self.assignments.note(f"{folder.name}: attempt {attempt} at {node.name}")
        elif answer.get("why") != "full":
            if line := answer.get("line"):
                self.assignments.note(f"{folder.name} waits: {node.name}: {line}")
            return False
        return True

    def _start(self, node: Connection, folder: Path, attempt: int) -> StartAnswer:
        job, code = open_job(folder), code_of(folder)
        unknown = set(redacted_keys(job.config)) - self.assignments.secrets_for(folder).keys()
        if unknown:
            self.assignments.hold(folder, sorted(unknown))
            return {"started": False, "why": "held"}
        if not node.shares_files:
            if code not in self.assignments.codes():
                node.send_code(code)
            self._note_handle(folder, attempt)
            self._send(node, job)
        settings = self.assignments.settings
        spec = {
            "folder": str(folder), "attempt": attempt, "experiment": str(folder.parent),
            "cwd": str(self.assignments.cwd),
            "argv": [node.filled_python(code), "-u", "-m", _MODULE, settings.target, str(folder)],
            "env": environment(settings, folder, code), "secret_env": self.assignments.secret_env(),
            "stdin": json.dumps(self.assignments.secrets_for(folder)),
        }  # fmt: skip
        return node.work.ask(
            "start", key=self.assignments.key(folder, attempt), order=spec, slots=node.facts["slots"],
            number=node.slots_of(folder), min_free=0 if node.host.local else settings.min_free_gb * 1e9,
            patience_s=30,
        )  # fmt: skip

    def _note_handle(self, folder: Path, attempt: int) -> None:
        """Put the handle into the record that is sent: it comes back over the one here, maybe before the job has begun
        and written its handle itself, and a job without a handle is found by nobody who wants to cancel it.
        """
        with self.assignments.writing(folder, attempt) as mine:
            if not mine:
                return
            with locked(folder):
                record = Record(folder / RECORD)
                if record.get("handle") != str(folder):
                    record.update(handle=str(folder))

    def _send(self, node: Connection, job: Job) -> None:
        """Everything the job reads, and its own folder as it is here."""
        inputs = inputs_of(job)
        for path in inputs.fixed:
            with node.placing:
                self._place(node, job, path)
        for path in (*inputs.runs, *inputs.parts):
            with node.placing:
                if path.is_dir():
                    node.files.push(path, path, skip=skipped_in(path, job))
                elif path.exists():
                    node.files.push(path.parent, path.parent, names=[path.name])
        node.files.push(job.folder, job.folder)

    def _place(self, node: Connection, job: Job, path: Path) -> None:
        """Put a dataset or checkpoint from elsewhere on the node, unless it has that very content at that very path.

        Raises:
            Refused: it is larger than what is sent by itself and not there, or other content is there.
        """
        skip = skipped_in(path, job)
        size = sum(entry[0] for entry in listing(str(path), skip).values())
        if size > self.assignments.settings.sync_max_gb * 1e9:
            if node.work.ask("list", path=str(path), patience_s=300)["exists"]:
                return
            raise Refused(
                f"{node.name}: {path} is not there, and with {size / 1e9:.1f} GB it is larger than hydra.launcher."
                f"sync_max_gb={self.assignments.settings.sync_max_gb:g}. Copy it there yourself, or raise that limit"
            )
        sha256 = self._content(path, skip)
        held = node.work.ask("holds", path=str(path), sha256=sha256, skip=skip, patience_s=600)
        if held["same"]:
            return
        if held["exists"] and not held["placed"]:
            raise Refused(
                f"{node.name}: {path} is there with other content than here, and was not put there by xp. Move it away "
                "there, or give the data another path"
            )
        coming = path.parent / f".{path.name}.xp-{sha256[:12]}"
        if path.is_dir():
            node.files.push(path, coming, skip=skip)
            node.work.ask("install", source=str(coming), path=str(path), sha256=sha256, skip=skip, patience_s=600)
        else:
            node.files.push(path.parent, coming, names=[path.name])
            node.work.ask("install", source=str(coming / path.name), path=str(path), sha256=sha256, patience_s=600)
        self.assignments.note(f"{node.name}: {path} is there now ({size / 1e6:.1f} MB)")

    def _content(self, path: Path, skip: tuple[str, ...]) -> str:
        """The hash of a path's content; remembered as long as no size or time in it changes."""
        quick = quick_hash(str(path), skip)
        with self.assignments.lock:
            place = self.assignments.store.folder / "hashes.json"
            known = read_object(place, default={})
            if isinstance(found := known.get(quick), str):
                return found
            made = known[quick] = content_hash(str(path), skip)
            with contextlib.suppress(OSError):  # only to be quicker the next time
                write_json(place, known)
            return made

    def sync(self, node: Connection, folder: Path, attempt: int) -> None:
        """Bring back what a job at work has written so far."""
        self._pull(node, folder, attempt)

    def _pull(self, node: Connection, folder: Path, attempt: int) -> bool:
        with self.assignments.writing(folder, attempt) as mine:
            if not mine:
                return False
            with locked(folder):
                return node.files.pull(folder, self.assignments.store.staging(folder))

    def collect(self, node: Connection, folder: Path, attempt: int, state: str) -> None:
        """A job's processes have ended: bring everything back, then judge how it ended."""
        if not node.shares_files:
            for _ in range(_PULLS):
                if self._pull(node, folder, attempt):
                    break
            else:
                with self.assignments.writing(folder, attempt) as mine:
                    if mine:
                        raise Unreachable(f"{node.name}: {folder.name} does not come back whole")
        tail = node.work.ask("output_tail", key=self.assignments.key(folder, attempt))["text"]
        with self.assignments.writing(folder, attempt) as mine:
            if not mine:
                return
            outcome = judge(folder, state, tail)
            if outcome is AttemptOutcome.DONE and not node.shares_files:
                for output in inputs_of(open_job(folder)).outputs:
                    node.files.pull(output, self.assignments.store.staging(output))
            self._write_down(folder, outcome, state, tail)
        new = self.assignments.attempt_ended(folder, attempt, outcome)
        if new is JobState.FAILED and outcome is not AttemptOutcome.FAILED:
            why = (
                "the disks of the hosts are full"
                if outcome is AttemptOutcome.DISPLACED
                else f"the job's process was killed (last: {state})"
            )
            mark_failed(folder, f"{why}; tried {attempt} times, last at {node.name}"
                        + (f": {tail.splitlines()[-1]}" if tail else ""))  # fmt: skip
        self.assignments.note(f"{folder.name}: attempt {attempt} at {node.name} ended: {outcome}")

    def _write_down(self, folder: Path, outcome: AttemptOutcome, state: str, tail: str) -> None:
        """Make the record here say what became of a run whose process could not."""
        record = Record(folder / RECORD)
        if outcome is AttemptOutcome.FAILED and record.state is not State.FAILED:
            mark_failed(folder, tail.splitlines()[-1] if tail else f"the job's process {state} before it began")
        elif outcome in (AttemptOutcome.DIED, AttemptOutcome.DISPLACED):
            mark_interrupted(
                folder, f"its process {state}" if outcome is AttemptOutcome.DIED else "the node's disk is full"
            )
            if outcome is AttemptOutcome.DISPLACED:
                record = Record(folder / RECORD)
                record.update(state=State.PENDING, interrupted=True, error=None, traceback=None)
        shutil.rmtree(self.assignments.store.staging(folder), ignore_errors=True)


def judge(folder: Path, state: str, tail: str) -> AttemptOutcome:
    """How an attempt ended, from its record and from what is known of its process (`ended CODE` or `gone`)."""
    record = Record(folder / RECORD)
    if record.state is State.DONE:
        return AttemptOutcome.DONE
    error = record.error_message if record.state is State.FAILED else ""
    if any(text in error or text in tail for text in _FULL):
        return AttemptOutcome.DISPLACED
    if record.state is State.FAILED:
        return AttemptOutcome.FAILED
    code = int(state.split()[1]) if state.startswith("ended ") else -9
    never_began = record.state is State.PENDING and not record.get("interrupted")
    if never_began and code > 0:
        return AttemptOutcome.FAILED
    return AttemptOutcome.DIED
