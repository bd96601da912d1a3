"""Folders here and on a node, kept alike: what differs is found by size and time, small files travel inside answers,
large ones by rsync or, where it is missing, as a tar stream.

What comes back appears here whole or not at all. A folder inside a run (`checkpoints/checkpoint-N`, `best`, a dataset)
is a unit: it is put together beside its place from the files that arrived and those that did not change, and exchanged
in one step, once every file is the one that the node had listed. `record.json` comes last: who reads `done` in it finds
the rest.
"""

import base64
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from hydra_plugins.xp_ssh_launcher._agent_client import AgentClient
from hydra_plugins.xp_ssh_launcher._agent_files import INLINE, listing, put, take_member
from hydra_plugins.xp_ssh_launcher._ssh_errors import NoRoom, NoSession, Refused, Unreachable
from hydra_plugins.xp_ssh_launcher._transport import Link
from xp import atomic
from xp.runs.records.folder import RECORD

Listing = Mapping[str, Sequence[int]]
"""{path below a folder: [size, mtime in ns, mode]}."""
ROUNDING_NS = 1000
"""Tar keeps times as a binary float of seconds: exact to less than this."""
BATCH = 2 * 1024 * 1024
"""Bytes of small files in one request, about."""


def changed(source: Listing, target: Listing) -> list[str]:
    """Names whose size or time differ from the source's, or that the target lacks."""
    return sorted(name for name, entry in source.items() if name not in target or _differ(entry, target[name]))


def gone(source: Listing, target: Listing, keep: Iterable[str] = ()) -> list[str]:
    """Names that the target has and the source has not, outside of the top-level names in `keep`."""
    kept = set(keep)
    return sorted(name for name in target if name not in source and name.split("/")[0] not in kept)


def unit_of(name: str) -> str | None:
    """The folder that a file appears with as one: `checkpoints/checkpoint-2`, `best`; None for a loose file."""
    parts = PurePosixPath(name).parts
    if parts[0] == "checkpoints":
        return "/".join(parts[:2]) if len(parts) > 2 else None
    return parts[0] if len(parts) > 1 and not parts[0].startswith(".") else None


def sound(names: Iterable[str]) -> None:
    """Refuse names from a node that would lead out of the folder."""
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not name or "\0" in name or "\n" in name:
            raise Refused(f"the node lists a file called {name!r}; nothing is taken from it")


class FileSync:
    """Carries folders between this machine and one node."""

    def __init__(self, link: Link, agent: AgentClient, *, rsync: bool):
        self._link, self._agent, self._rsync = link, agent, rsync and shutil.which("rsync") is not None

    def push(self, source: Path, target: Path, *, skip: Sequence[str] = (), names: Sequence[str] | None = None) -> None:
        """Make `target` on the node like `source` here, except for the top-level names in `skip`.

        Args:
            source: a folder here.
            target: the folder's place on the node.
            skip: top-level names that are neither sent nor removed.
            names: send these files only, and remove nothing.
        """
        ours = listing(str(source), tuple(skip))
        if names is not None:
            ours = {name: ours[name] for name in names if name in ours}
        for _ in range(3):
            theirs = self._agent.ask("list", path=str(target), patience_s=300)["files"]
            sound(theirs)
            todo = changed(ours, theirs)
            extra = gone(ours, theirs, skip) if names is None else []
            if not todo and not extra:
                return
            small = [name for name in todo if ours[name][0] <= INLINE]
            self._write(source, target, small, ours, extra)
            large = [name for name in todo if ours[name][0] > INLINE]
            if large:
                self._send(source, target, large)
                self._agent.ask("settle", path=str(target), times={name: ours[name][1] for name in large})
        raise Unreachable(f"{self._link.host.name}: {source} does not arrive as it was sent")

    def _write(self, source: Path, target: Path, small: list[str], ours: Listing, extra: list[str]) -> None:
        batch: dict[str, list[object]] = {}
        size = 0
        for name in small:
            data = (source / name).read_bytes()
            batch[name] = [ours[name][1], ours[name][2], base64.b64encode(data).decode()]
            size += len(data)
            if size > BATCH:
                self._agent.ask("write", path=str(target), files=batch, gone=[])
                batch, size = {}, 0
        if batch or extra:
            self._agent.ask("write", path=str(target), files=batch, gone=extra)

    def _send(self, source: Path, target: Path, names: list[str]) -> None:
        try:
            if self._link.crowded:
                self._send_parts(source, target, names)
            elif self._rsync and not self._link.noisy:
                self._agent.ask("make", path=str(target))
                self._link.rsync(["-tpL", "--partial"], names, f"{source}/", f":{target}/")
            else:
                self._send_tar(source, target, names)
        except NoSession:
            self._send_parts(source, target, names)

    def _send_tar(self, source: Path, target: Path, names: list[str]) -> None:
        with self._link.channel("receive") as channel:
            channel.write(_request(target, names[:0]))
            try:
                with tarfile.open(fileobj=channel, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
                    for name in names:
                        archive.add((source / name).resolve(), arcname=name, recursive=False)
                channel.close_input()
            except BrokenPipeError:
                return  # the exit code says why
            channel.read()

    def _send_parts(self, source: Path, target: Path, names: list[str]) -> None:
        """Inside answers of the one channel that sshd allows: slower, and everything else waits."""
        for name in names:
            known, offset = (source / name).stat(), 0
            with (source / name).open("rb") as handle:
                while data := handle.read(BATCH):
                    part = {"path": str(target), "name": name, "offset": offset, "mode": known.st_mode & 0o777}
                    offset += len(data)
                    text = base64.b64encode(data).decode()
                    self._agent.ask("write_part", **part, data=text, last=offset >= known.st_size)

    def pull(self, folder: Path, staging: Path, *, source: Path | None = None) -> bool:
        """Bring what is new in a folder on the node; True if all that the node lists is here now.

        Args:
            folder: the run's folder, here and (unless `source` is given) there.
            staging: a folder on the same file system where files wait until their unit is complete.
            source: the folder's place on the node.
        """
        there = source or folder
        answer = self._agent.ask("list", path=str(there), patience_s=300)
        if not answer["exists"]:
            return False
        theirs: Listing = answer["files"]
        sound(theirs)
        ours = listing(str(folder)) if folder.is_dir() else {}
        todo = changed(theirs, ours)
        if todo:
            self._fetch(there, staging, todo, theirs)
        return publish(folder, staging, theirs, ours, todo)

    def _fetch(self, folder: Path, staging: Path, todo: list[str], theirs: Listing) -> None:
        """Bring files into the staging folder, those of an earlier try that still fit excepted."""
        staging.mkdir(parents=True, exist_ok=True)
        have = listing(str(staging))
        todo = [name for name in todo if name not in have or _differ(theirs[name], have[name])]
        small = [name for name in todo if theirs[name][0] <= INLINE]
        while small:
            found = self._agent.ask("read", path=str(folder), names=small)["files"]
            for name, ((_, mtime_ns, mode), data) in found.items():
                put(str(staging / name), base64.b64decode(data), mtime_ns, mode)
            last = max((small.index(name) for name in found), default=len(small) - 1)
            small = small[last + 1 :]
        large = [name for name in todo if theirs[name][0] > INLINE]
        if large:
            self._receive(folder, staging, large)
            _settle(staging, large, theirs)

    def _receive(self, folder: Path, staging: Path, names: list[str]) -> None:
        try:
            if self._link.crowded:
                self._receive_parts(folder, staging, names)
            elif self._rsync and not self._link.noisy:
                self._link.rsync(["-tpL", "--partial"], names, f":{folder}/", f"{staging}/")
            else:
                self._receive_tar(folder, staging, names)
        except NoSession:
            self._receive_parts(folder, staging, names)

    def _receive_tar(self, folder: Path, staging: Path, names: list[str]) -> None:
        wanted = set(names)
        with self._link.channel("send") as channel:
            channel.write(_request(folder, names))
            try:
                with tarfile.open(fileobj=channel, mode="r|") as archive:  # type: ignore[call-overload]
                    for member in archive:
                        if member.name in wanted:
                            take_member(archive, member, str(staging))
            except tarfile.TarError as error:
                raise Unreachable(f"{self._link.host.name}: a tar stream broke off ({error})") from None

    def _receive_parts(self, folder: Path, staging: Path, names: list[str]) -> None:
        for name in names:
            place = staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name[:80]}.tmp-part")
            with temporary.open("wb") as handle:
                while True:
                    answer = self._agent.ask("read_part", path=str(folder), name=name, offset=handle.tell(), size=BATCH)
                    handle.write(base64.b64decode(answer["data"]))
                    if not answer["data"]:
                        break
            if answer["entry"]:
                os.utime(temporary, ns=(answer["entry"][1], answer["entry"][1]))
                temporary.chmod(answer["entry"][2] | 0o600)
                temporary.replace(place)


def publish(folder: Path, staging: Path, theirs: Listing, ours: Listing, todo: Sequence[str]) -> bool:
    """Move what is complete in the staging folder into the run's folder; True if nothing is missing any more."""
    arrived = listing(str(staging)) if staging.is_dir() else {}
    exact = {name for name in todo if name in arrived and not _differ(theirs[name], arrived[name])}
    units: dict[str, list[str]] = {}
    for name in todo:
        unit = unit_of(name)
        if unit is not None:
            units.setdefault(unit, []).append(name)
    missing = [unit for unit, names in units.items() if not exact.issuperset(names)]
    for unit in units.keys() - set(missing):
        _exchange(folder, staging, unit, theirs)
    loose = [name for name in todo if unit_of(name) is None and name in arrived]
    for name in loose:
        if name != RECORD and (name in exact or _grows(name)):
            _move(staging / name, folder / name)
    complete = not missing and exact.issuperset(todo)
    stale = gone(theirs, ours)
    if not missing:
        _remove(folder, stale, theirs)
    if RECORD in exact and not missing:
        _move(staging / RECORD, folder / RECORD)
    if complete:
        shutil.rmtree(staging, ignore_errors=True)
    return complete


def _exchange(folder: Path, staging: Path, unit: str, theirs: Listing) -> None:
    """Put a unit together from new and unchanged files, and exchange it for the one that is there."""
    with atomic.folder(folder / unit) as whole:
        for name in theirs:
            if unit_of(name) != unit:
                continue
            place = whole / PurePosixPath(name).relative_to(unit)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (staging / name).exists():
                (staging / name).rename(place)
            else:
                _link(folder / name, place)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _remove(folder: Path, stale: Sequence[str], theirs: Listing) -> None:
    """Remove what the node has removed: whole units (an old checkpoint) and loose files."""
    kept = {unit_of(name) for name in theirs}
    for name in stale:
        unit = unit_of(name)
        if unit is not None and unit not in kept:
            shutil.rmtree(folder / unit, ignore_errors=True)
        elif unit is None:
            (folder / name).unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _settle(staging: Path, names: Sequence[str], theirs: Listing) -> None:
    for name in names:
        path, wanted = staging / name, theirs[name]
        if path.exists() and not _differ(wanted, _entry(path)):
            os.utime(path, ns=(wanted[1], wanted[1]))


def _entry(path: Path) -> Sequence[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _differ(one: Sequence[int], other: Sequence[int]) -> bool:
    return one[0] != other[0] or abs(one[1] - other[1]) > ROUNDING_NS


def _grows(name: str) -> bool:
    """Logs only grow and progress is only looked at: a version newer than the listed one does no harm."""
    return name.endswith((".txt", ".csv")) or name in ("progress.json", "heartbeat.json")


def _request(folder: Path, names: Sequence[str]) -> bytes:
    import json

    return json.dumps({"path": str(folder), "names": list(names)}).encode() + b"\n"


__all__ = ["FileSync", "NoRoom", "changed", "gone", "listing", "publish", "sound", "unit_of"]
