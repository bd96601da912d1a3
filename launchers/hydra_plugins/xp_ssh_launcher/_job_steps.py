"""What is done with one job at one node: send it and its inputs, start it, bring back what it writes, judge its end.

These are the keeper's methods (their first argument is the keeper), kept apart because they are what a node's pool
runs, several at a time.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.xp_ssh_launcher._agent_files import NO_ROOM, content_hash, listing, quick_hash
from hydra_plugins.xp_ssh_launcher._inputs import inputs_of, skipped_in
from hydra_plugins.xp_ssh_launcher._lease_queue import End
from hydra_plugins.xp_ssh_launcher._node import REST_S
from hydra_plugins.xp_ssh_launcher._ssh_errors import HereFull, NoRoom, Refused, Unreachable
from xp.atomic import write_json
from xp.runs.execution import threads
from xp.runs.execution.execute import mark_failed, mark_interrupted
from xp.runs.executors.protocol import JobState
from xp.runs.jobs import snapshot
from xp.runs.jobs.frozen import Job, open_job
from xp.runs.jobs.secrets import redacted_keys
from xp.runs.records.folder import RECORD
from xp.runs.records.heartbeat import HANDLE_VARIABLE
from xp.runs.records.json_io import read_json
from xp.runs.records.lock import locked
from xp.runs.records.record import Record, State

if TYPE_CHECKING:
    from hydra_plugins.xp_ssh_launcher._keeper import Keeper
    from hydra_plugins.xp_ssh_launcher._node import Node
    from hydra_plugins.xp_ssh_launcher._settings import Settings

_MODULE = "hydra_plugins.xp_ssh_launcher._job"
_FULL = ("No space left on device", "The disk is full", "Disk quota exceeded")
_PULLS = 5


def code_of(folder: Path) -> Path:
    """The snapshot that a job runs from; taken now if it was frozen without one."""
    key = open_job(folder).snapshot or snapshot.take(folder.parent)
    return folder.parent / ".code" / key


def environment(settings: "Settings", folder: Path, code: Path) -> dict[str, str]:
    """Code first on the path, its threads by the rule of `xp.runs.execution.threads`, the job's handle."""
    places = [str(code / part) for part in ("src", "launchers") if (code / part).is_dir()] or [str(code)]
    given = dict(settings.env)
    path = ":".join([*places, *filter(None, [given.pop("PYTHONPATH", "")])])
    counts = threads.environment(settings.threads, {**os.environ, **given})
    return {**counts, **given, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", HANDLE_VARIABLE: str(folder)}


def launch(keeper: "Keeper", node: "Node", folder: Path, attempt: int) -> None:
    """Send a leased job and start it; it goes elsewhere if this node has no room or cannot have what it needs."""
    try:
        answer = _start(keeper, node, folder, attempt)
    except NoRoom as error:
        answer = {"started": False, "why": "full"}
        keeper.note(f"{folder.name}: {error}")
    except (HereFull, OSError) as error:  # it was not sent, or the note of it could not be made: not the node's fault
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise
        keeper.lose_own(folder, attempt)
        raise
    except Refused as error:
        keeper.ledger_end(folder, attempt, End.UNFIT, str(error))
        keeper.note(f"{folder.name}: {error}")
        return
    if node.host.local and answer.get("why") == "full":
        keeper.lose_own(folder, attempt)
        raise HereFull(folder)
    keeper.answered(folder, attempt, answer)
    if answer["started"]:
        keeper.note(f"{folder.name}: attempt {attempt} at {node.name}")
    elif answer["why"] != "full":
        if answer.get("line"):
            keeper.note(f"{folder.name} waits: {node.name}: {answer['line']}")
        node.rest(REST_S)


def _start(keeper: "Keeper", node: "Node", folder: Path, attempt: int) -> dict[str, Any]:
    job, code = open_job(folder), code_of(folder)
    unknown = set(redacted_keys(job.config)) - keeper.secrets_for(folder).keys()
    if unknown:
        keeper.hold(folder, sorted(unknown))
        return {"started": False, "why": "held"}
    if not node.shared:
        if code not in keeper.codes():
            node.send_code(code)
        send(keeper, node, job)
    order = {
        "folder": str(folder), "attempt": attempt, "experiment": str(folder.parent), "cwd": str(keeper.cwd),
        "argv": [node.filled_python(code), "-u", "-m", _MODULE, keeper.settings.target, str(folder)],
        "env": environment(keeper.settings, folder, code), "secret_env": keeper.secret_env(),
        "stdin": _json(keeper.secrets_for(folder)),
    }  # fmt: skip
    return node.work.ask(
        "start", key=keeper.key(folder, attempt), order=order, slots=node.facts["slots"],
        number=keeper.slots_of(folder, node), min_free=0 if node.host.local else keeper.settings.min_free_gb * 1e9,
        patience_s=30,
    )  # fmt: skip


def send(keeper: "Keeper", node: "Node", job: Job) -> None:
    """Everything the job reads, and its own folder as it is here."""
    inputs = inputs_of(job)
    for path in inputs.fixed:
        with node.placing:
            place(keeper, node, job, path)
    for path in (*inputs.runs, *inputs.parts):
        with node.placing:
            if path.is_dir():
                node.courier.push(path, path, skip=skipped_in(path, job))
            elif path.exists():
                node.courier.push(path.parent, path.parent, names=[path.name])
    node.courier.push(job.folder, job.folder)


def place(keeper: "Keeper", node: "Node", job: Job, path: Path) -> None:
    """Put a dataset or checkpoint from elsewhere on the node, unless it has that very content at that very path.

    Raises:
        Refused: it is larger than what is sent by itself and not there, or other content lies there.
    """
    skip = skipped_in(path, job)
    size = sum(entry[0] for entry in listing(str(path), skip).values())
    if size > keeper.settings.sync_max_gb * 1e9:
        if node.work.ask("list", path=str(path), patience_s=300)["exists"]:
            return
        raise Refused(
            f"{node.name}: {path} is not there, and with {size / 1e9:.1f} GB it is larger than hydra.launcher."
            f"sync_max_gb={keeper.settings.sync_max_gb:g}. Copy it there yourself, or raise that limit"
        )
    sha256 = _content(keeper, path, skip)
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
        node.courier.push(path, coming, skip=skip)
        node.work.ask("install", source=str(coming), path=str(path), sha256=sha256, skip=skip, patience_s=600)
    else:
        node.courier.push(path.parent, coming, names=[path.name])
        node.work.ask("install", source=str(coming / path.name), path=str(path), sha256=sha256, patience_s=600)
    keeper.note(f"{node.name}: {path} is there now ({size / 1e6:.1f} MB)")


def _content(keeper: "Keeper", path: Path, skip: tuple[str, ...]) -> str:
    """The hash of a path's content; remembered as long as no size or time in it changes."""
    quick = quick_hash(str(path), skip)
    with keeper.lock:
        known = read_json(keeper.desk.folder / "hashes.json", default={})
        if quick not in known:
            known[quick] = content_hash(str(path), skip)
            with contextlib.suppress(OSError):  # only to be quicker the next time
                write_json(keeper.desk.folder / "hashes.json", known)
        return known[quick]


def sync(keeper: "Keeper", node: "Node", folder: Path, attempt: int) -> None:
    """Bring back what a job at work has written so far."""
    _pull(keeper, node, folder, attempt)


def _pull(keeper: "Keeper", node: "Node", folder: Path, attempt: int) -> bool:
    with keeper.writing(folder, attempt) as mine:
        if not mine:
            return False
        with locked(folder):
            return node.courier.pull(folder, keeper.desk.staging(folder))


def collect(keeper: "Keeper", node: "Node", folder: Path, attempt: int, state: str) -> None:
    """A job's processes have ended: bring everything back, then judge how it ended."""
    if not node.shared:
        for _ in range(_PULLS):
            if _pull(keeper, node, folder, attempt):
                break
        else:
            with keeper.writing(folder, attempt) as mine:
                if mine:
                    raise Unreachable(f"{node.name}: {folder.name} does not come back whole")
    words = node.work.ask("words", key=keeper.key(folder, attempt))["text"]
    with keeper.writing(folder, attempt) as mine:
        if not mine:
            return
        end = judge(folder, state, words)
        if end is End.DONE and not node.shared:
            for output in inputs_of(open_job(folder)).outputs:
                node.courier.pull(output, keeper.desk.staging(output))
        _write_down(keeper, folder, end, state, words)
    new = keeper.ledger_end(folder, attempt, end)
    if new is JobState.FAILED and end is not End.FAILED:
        why = (
            "the disks of the hosts are full"
            if end is End.DISPLACED
            else f"the job's process was killed (last: {state})"
        )
        mark_failed(folder, f"{why}; tried {attempt} times, last at {node.name}"
                    + (f": {words.splitlines()[-1]}" if words else ""))  # fmt: skip
    keeper.note(f"{folder.name}: attempt {attempt} at {node.name} ended: {end}")


def judge(folder: Path, state: str, words: str) -> End:
    """How an attempt ended, from its record and from what is known of its process (`ended CODE` or `gone`)."""
    record = Record(folder / RECORD)
    if record.state is State.DONE:
        return End.DONE
    error = str((record.get("error") or {}).get("message", "")) if record.state is State.FAILED else ""
    if any(text in error or text in words for text in _FULL):
        return End.DISPLACED
    if record.state is State.FAILED:
        return End.FAILED
    code = int(state.split()[1]) if state.startswith("ended ") else -9
    never_began = record.state is State.PENDING and not record.get("interrupted")
    if never_began and code > 0:
        return End.FAILED
    return End.DIED


def _write_down(keeper: "Keeper", folder: Path, end: End, state: str, words: str) -> None:
    """Make the record here say what became of a run whose process could not."""
    record = Record(folder / RECORD)
    if end is End.FAILED and record.state is not State.FAILED:
        mark_failed(folder, words.splitlines()[-1] if words else f"the job's process {state} before it began")
    elif end in (End.DIED, End.DISPLACED):
        mark_interrupted(folder, f"its process {state}" if end is End.DIED else "the node's disk is full")
        if end is End.DISPLACED:
            record = Record(folder / RECORD)
            record.update(state=State.PENDING, interrupted=True, error=None, traceback=None)
    shutil.rmtree(keeper.desk.staging(folder), ignore_errors=True)


def _json(content: Any) -> str:
    import json

    return json.dumps(content)
