"""What a run reads of a hub: a repository, the commit that was frozen, and the folder that holds the files of it.

The folder is xp's own, `CACHE/hub/KIND/ORG/NAME/COMMIT-CHOICE`: it holds the files that the run reads, no others, so
what another run downloads changes nothing in it; it can be sent to another machine as any folder can. Its files are
hard links into the hub's cache (copies where that lies on another disk).
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xp import atomic
from xp.errors import UserError, human_size
from xp.foreign.paths import member
from xp.hub import client
from xp.hub.address import DATASET, HubAddress
from xp.hub.choice import chosen_files
from xp.hub.part import write_left_out
from xp.json_types import JSON

FOLDER = "hub"
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)


@dataclass(frozen=True)
class HubInput:
    """A repository of a hub at a commit, and which of its files are read."""

    address: HubAddress
    commit: str
    choice: str
    """Eight hex digits that name the choice of files."""
    names: tuple[str, ...] = field(default=(), compare=False)
    """The files that are read; empty where they are known by `choice` alone (of a frozen job)."""

    @property
    def fixed(self) -> str:
        """`hf://datasets/ORG/NAME@COMMIT`: what the repository counts as in the identity of a run."""
        return f"{self.address.name}@{self.commit}"

    def folder(self, cache: str | Path) -> Path:
        """Where the files are put, below `paths.cache`."""
        place = Path(os.path.abspath(cache)) / FOLDER / f"{self.address.kind}s" / self.address.repo  # noqa: PTH100
        return place / f"{self.commit}-{self.choice}"

    def path(self, cache: str | Path) -> str:
        """The path that takes the place of the address in a configuration: its folder or file, `@STEP` behind it."""
        inside = self.folder(cache) / self.address.path if self.address.path else self.folder(cache)
        return str(inside) if self.address.step is None else f"{inside}@{self.address.step}"


Choose = Callable[[HubAddress, str, Mapping[str, int]], Sequence[str]]
"""Which files of a repository are read, out of {name: bytes} of all of a commit."""
_commits: dict[HubAddress, str] = {}
"""{address, whatever part is read: its commit}."""
_resolved: dict[HubAddress, HubInput] = {}
_described: dict[HubInput, Path] = {}
_pinned: dict[HubAddress, tuple[str, str]] = {}
"""{address: (commit, choice)} as frozen jobs have it."""


def pin(address: HubAddress, commit: str, choice: str) -> None:
    """From now on this process takes an address for what a frozen job took it for, wherever its branch is now."""
    _pinned[address] = commit, choice
    _commits.setdefault(address.whole, commit)


def forget() -> None:
    """Ask the hub anew for everything."""
    _commits.clear()
    _resolved.clear()
    _described.clear()
    _pinned.clear()


def every_file(address: HubAddress, commit: str, known: Mapping[str, int]) -> Sequence[str]:
    """The `Choose` of who knows nothing of data formats."""
    del commit
    return chosen_files(address, known)


def resolve(address: HubAddress, choose: Choose = every_file) -> HubInput:
    """The commit of an address and the files of it that are read; asked once in a process.

    Raises:
        UserError: what `client.commit_of`, `client.files_of` and `choose` refuse.
    """
    if address not in _resolved:
        commit, choice = _pinned.get(address, ("", ""))
        if commit:
            _resolved[address] = HubInput(address, commit, choice)
            if not address.is_fixed:
                print(f"hub: {address.name}: {address.revision} is {commit}, as it was frozen here")
        else:
            commit = _commit_of(address.whole)
            names = tuple(sorted(choose(address, commit, client.files_of(address, commit))))
            _resolved[address] = HubInput(address, commit, _digest(names), names)
    return _resolved[address]


def _commit_of(address: HubAddress) -> str:
    """The commit of an address, asked once: also where several parts of it are read."""
    if address not in _commits:
        _commits[address] = client.commit_of(address)
        if not address.is_fixed:
            print(f"hub: {address.name}: {address.revision} is {_commits[address]}")
    return _commits[address]


def described(found: HubInput, describe: Choose) -> Path:
    """A folder with the small files that describe a dataset, for the checks before a run: they are downloaded now."""
    if found not in _described:
        known = client.files_of(found.address, found.commit)
        names = describe(found.address, found.commit, known)
        folder = client.download(found.address, found.commit, names, known)
        _described[found] = folder / found.address.path
    return _described[found]


def fetch(found: HubInput, cache: str | Path, choose: Choose = every_file) -> Path:
    """Make sure that the folder of a repository is there: download what is missing, and put it together.

    Raises:
        UserError: as `client.download`; or what was frozen is not what this version would choose.
    """
    place = found.folder(cache)
    if place.is_dir():
        return place
    known = client.files_of(found.address, found.commit)
    names = found.names or tuple(sorted(choose(found.address, found.commit, known)))
    if _digest(names) != found.choice:
        raise UserError(
            f"{found.address.at(found.commit)}: the run was frozen with another choice of files (by another version of "
            f"xp), and {place} is gone. Start a new run: hydra.run.dir=FOLDER"
        )
    print(f"hub: {found.address.at(found.commit)}: {len(names)} files, {human_size(sum(known[n] for n in names))}")
    snapshot = client.download(found.address, found.commit, names, known)
    with atomic.folder(place) as temporary:
        for name in names:
            _put(member(snapshot, name, f"a file of {found.address}"), temporary / name, known[name], found.address)
        if not found.address.part.is_whole:
            _say_what_is_left_out(found, choose(found.address.whole, found.commit, known), names, temporary)
    return place


def _say_what_is_left_out(found: HubInput, whole: Iterable[str], names: Iterable[str], folder: Path) -> None:
    inside = f"{found.address.path}/" if found.address.path else ""
    left = [name.removeprefix(inside) for name in set(whole).difference(names)]
    if left:
        write_left_out(folder / found.address.path, found.address.at(found.commit), left)


def _put(source: Path, target: Path, size: int, address: HubAddress) -> None:
    real = Path(os.path.realpath(source))
    if real.stat().st_size != size:
        raise UserError(
            f"{address}: {source} has {real.stat().st_size:,} bytes, and the hub says {size:,}. Remove it, and give "
            "the same command again."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(real, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(real, target)


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:8]


def origin_of(path: str | Path) -> str:
    """The id, at its commit, of a folder that `fetch` made, wherever it lies; else ""."""
    parts = Path(path).parts
    for index in range(len(parts) - 4):
        kind, org, name, last = parts[index + 1 : index + 5]
        commit = last.partition("-")[0]
        if parts[index] == FOLDER and kind in ("models", "datasets") and len(commit) == 40:
            prefix = "datasets/" if kind == f"{DATASET}s" else ""
            return f"hf://{prefix}{org}/{name}@{commit}"
    return ""


def frozen_fields(found: HubInput, cache: str | Path) -> dict[str, JSON]:
    """What job.json and record.json say of a repository."""
    return {
        "asked": str(found.address),
        "repository": found.address.name,
        "revision": found.address.revision,
        "commit": found.commit,
        "files": found.choice,
        "all_steps": found.address.all_steps,
        **({} if found.address.part.is_whole else {"part": found.address.part.fields()}),
        "folder": str(found.folder(cache)),
    }
