"""Jobs on machines reached by ssh, as xp's sweeper sees them: hand over to the keeper, read its files."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra_plugins.xp_ssh_launcher._door import Secrets, deliver
from hydra_plugins.xp_ssh_launcher._keeper_store import KeeperState, KeeperStore
from hydra_plugins.xp_ssh_launcher._lease_queue import tags_of
from hydra_plugins.xp_ssh_launcher._settings import Settings, settings_of
from xp.errors import UserError, join_names
from xp.foreign.text import printable
from xp.json_types import JSON
from xp.runs.executors.protocol import Executor, JobState, Leftover, Submission, by_record
from xp.runs.jobs.frozen import secrets_of
from xp.runs.jobs.secrets import REDACTED, redact
from xp.runs.records.folder import RECORD
from xp.runs.records.json_io import explain_write_errors
from xp.runs.records.record import Record

MEETING_S = 45.0
"""Longest wait for the first word of every host."""
_LOOK_S = 0.05
_EARLY = ("connecting", "setting up")
_RESTARTS = 3


class SshExecutor(Executor):
    """Gives jobs to a keeper process per experiment. The handle of a job is its folder."""

    name = "ssh"
    detachable = True

    def __init__(self, **settings: JSON):
        self._given = settings
        self._folders: list[Path] = []
        self._restarts = 0
        self._told: set[str] = set()

    @property
    def settings(self) -> Settings:
        """The checked settings."""
        return settings_of(**self._given)

    @property
    def n_jobs(self) -> int:
        """Jobs at a time, as far as that is known before anything is asked of the hosts."""
        return sum(len(host.gpus) if host.gpus else host.slots for host in self.settings.hosts)

    def submit(self, jobs: Sequence[Submission]) -> list[str]:
        """Hand jobs to the keeper of their experiment, starting it if there is none; waits until it met every host.

        Raises:
            UserError: no host can be used; the lines say why. Or a job asks for tags that no host has.
        """
        self._refuse_unknown_tags(jobs)
        for experiment in dict.fromkeys(job.folder.parent for job in jobs):
            mine = [job for job in jobs if job.folder.parent == experiment]
            self._hand_over(KeeperStore(experiment), mine)
        self._folders += [job.folder for job in jobs]
        return [str(job.folder) for job in jobs]

    def poll(self, timeout_s: float = 0.0) -> dict[str, JobState]:
        """What the keeper says of the submitted jobs; a keeper that was killed is replaced."""
        until = time.monotonic() + timeout_s
        before = self.states([str(folder) for folder in self._folders])
        while time.monotonic() < until:
            time.sleep(min(_LOOK_S, timeout_s))
            if self.states(list(before)) != before:
                break
        states = self.states([str(folder) for folder in self._folders])
        left = [folder for folder in self._folders if not states.get(str(folder), JobState.WAITING).ended]
        for experiment in dict.fromkeys(folder.parent for folder in left):
            store = KeeperStore(experiment)
            self._tell(store)
            if not store.attended and self._restarts < _RESTARTS and timeout_s > 0:
                self._restarts += 1
                jobs = [Submission(folder=f, handle=str(f)) for f in left if f.parent == experiment]
                self._hand_over(store, jobs)
        return {str(folder): states.get(str(folder), JobState.WAITING) for folder in self._folders}

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """How jobs stand by the keeper's files, whether it is there or not; what has ended is told by the record."""
        states = {
            folder: KeeperStore(folder).state().get("jobs", {}) for folder in {Path(each).parent for each in handles}
        }
        found: dict[str, JobState] = {}
        for handle in handles:
            entry = states[Path(handle).parent].get(handle)
            if entry is not None:
                found[handle] = JobState(entry["state"])
            elif (Path(handle) / RECORD).exists():
                state = by_record(Record(Path(handle) / RECORD))
                if state.ended:
                    found[handle] = state
        return found

    def cancel(self, handles: Sequence[str] | None = None, *, grace_s: float = 30.0) -> None:
        """Ask jobs to write a checkpoint and leave; the nodes end what is late."""
        folders = [Path(handle) for handle in handles] if handles is not None else self._folders
        for experiment in dict.fromkeys(folder.parent for folder in folders):
            store = KeeperStore(experiment)
            mine = [folder for folder in folders if folder.parent == experiment]
            store.request(do="cancel", folders=[str(folder) for folder in mine], grace_s=grace_s)
            if not store.attended:
                open_jobs = [Submission(folder=f, handle=str(f)) for f in mine if not _ended(store, f)]
                if open_jobs:
                    self._hand_over(store, open_jobs)

    def controller_is_running(self, experiment: Path) -> bool:
        """Whether the experiment's keeper is at work."""
        return KeeperStore(experiment).attended

    def host_errors(self, experiment: Path) -> list[str]:
        """What is wrong with hosts, or keeps them from work yet, a line each."""
        store = KeeperStore(experiment)
        state, attended = store.state(), store.attended
        hosts = state.get("hosts", {})
        general = [*filter(None, [store.said() if attended else ""]), *state.get("trouble", ())]
        early = {name: f"{name}: {host['standing']}" for name, host in hosts.items()
                 if attended and host["standing"] in _EARLY}  # fmt: skip
        return general + [line for name, host in hosts.items() if (line := host["line"] or early.get(name))]

    def survey(self, experiment: Path) -> list[Leftover]:
        """What is on the hosts: one entry per experiment, per dataset that was sent, per host without an answer."""
        from hydra_plugins.xp_ssh_launcher._survey import survey

        return survey(self.settings, experiment)

    def _refuse_unknown_tags(self, jobs: Sequence[Submission]) -> None:
        known = {tag for host in self.settings.hosts for tag in (*host.tags, host.name)}
        for job in jobs:
            missing = [tag for tag in tags_of(job) if tag not in known]
            if missing:
                raise UserError(
                    f"{job.folder.name} asks for a host with the tag '{missing[0]}', and none has it. The tags and "
                    f"names in hydra.launcher.hosts: {join_names(sorted(known))}."
                )

    def _hand_over(self, store: KeeperStore, jobs: Sequence[Submission]) -> None:
        with explain_write_errors(store.folder), store.submission_lock():
            store.identity()
            if store.attended:
                self._deliver(store, jobs)
                store.request_submission(jobs)
                return
            store.write_queue(self.settings, jobs)
            keeper = self._start_keeper(store, jobs)
        self._wait_for_hosts(store, keeper)

    def _secrets(self, jobs: Sequence[Submission]) -> Secrets:
        """What goes into no file: `settings` by dotted key, `env` of all jobs, and `jobs` by folder and dotted key."""
        settings = self.settings
        found = redact(settings.to_json())[1]
        for name, value in settings.env.items():
            if value == REDACTED and name in os.environ:
                found[f"env.{name}"] = os.environ[name]
        names = [name for name in settings.secret_names if name in os.environ and name not in settings.env]
        return {
            "settings": found,
            "env": {name: os.environ[name] for name in names},
            "jobs": {str(job.folder): kept for job in jobs if (kept := secrets_of(job.folder))},
        }

    def _deliver(self, store: KeeperStore, jobs: Sequence[Submission]) -> None:
        """Bring secrets to the keeper at work: those of new jobs, and those that an earlier command did not have."""
        secrets, state = self._secrets(jobs), store.state()
        wanted = set(state.get("missing", ())) & secrets["settings"].keys()
        if not wanted and not secrets["jobs"]:
            return
        if not deliver(str(state.get("door", "")), secrets):
            raise UserError(
                f"The keeper of {store.experiment} (process {state.get('pid')}) cannot be given the secrets of this "
                "command: it runs on another machine or as another user. Give the command there."
            )

    def _start_keeper(self, store: KeeperStore, jobs: Sequence[Submission]) -> "subprocess.Popen[bytes]":
        """A process in a session of its own; secrets go through its standard input."""
        secrets = self._secrets(jobs)
        descriptor = os.open(store.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-u", "-m", "hydra_plugins.xp_ssh_launcher._keeper", str(store.experiment)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert keeper.stdin is not None
        keeper.stdin.write(json.dumps(secrets).encode())
        keeper.stdin.close()
        return keeper

    def _wait_for_hosts(self, store: KeeperStore, keeper: "subprocess.Popen[bytes]") -> None:
        """Until every host was met, so that what is wrong with one is said while somebody is there to read it."""
        until = time.monotonic() + MEETING_S
        state: KeeperState = {}
        while time.monotonic() < until and keeper.poll() is None:
            state = store.state()
            if state.get("pid") == keeper.pid and state.get("ready"):
                break
            time.sleep(_LOOK_S)
        if keeper.poll() not in (None, 0):
            lines = store.log.read_text(errors="replace").strip().splitlines()
            said = printable(lines[-1], 500) if lines else "nothing"
            raise UserError(f"The keeper of {store.experiment} did not start. Its last line: {said}. See {store.log}")
        far = [host for host in store.state().get("hosts", {}).values() if not host["local"]]
        if far and all(host["standing"] == "refused" for host in far):
            raise UserError("No host can be used.\n  " + "\n  ".join(host["line"] for host in far))
        self._tell(store)

    def _tell(self, store: KeeperStore) -> None:
        """Print what is wrong with hosts, each line once."""
        state = store.state()
        for line in (
            store.said(),
            *state.get("trouble", ()),
            *(host["line"] for host in state.get("hosts", {}).values()),
        ):
            if line and line not in self._told:
                self._told.add(line)
                print(f"xp: {line}", file=sys.stderr, flush=True)


def _ended(store: KeeperStore, folder: Path) -> bool:
    entry = store.state().get("jobs", {}).get(str(folder))
    return entry is None or JobState(entry["state"]).ended
