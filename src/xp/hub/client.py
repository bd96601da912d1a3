"""What is asked of a hub: the commit of a revision, the files of a commit, and their download into the hub's cache."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xp.errors import UserError
from xp.foreign.paths import RefusedError, inside
from xp.foreign.text import printable
from xp.hub.address import COMMIT, HubAddress
from xp.hub.failures import is_offline, told

if TYPE_CHECKING:
    import httpx

_MOST_FILES = 500_000
_NAMES_IN_THE_CACHE = ("ETag", "X-Linked-ETag", "X-Repo-Commit")
"""Headers that huggingface_hub makes names of files and folders of."""


def commit_of(address: HubAddress) -> str:
    """The commit that a revision stands for now; offline what it stood for when the cache last heard.

    Raises:
        UserError: no such repository or revision, no access, no network; offline: the cache does not know.
    """
    if address.is_fixed:
        return address.revision
    from huggingface_hub import HfApi

    _careful()
    with told(address, "its revisions"):
        api = HfApi()
        offline = is_offline()
        if not offline:  # resolve_revision takes a hub that is silent for one that was not asked, and says nothing
            api.repo_info(address.repo, repo_type=address.kind, revision=address.revision)
        found = api.resolve_revision(
            address.repo, repo_type=address.kind, revision=address.revision, local_files_only=offline
        ).resolved
    if not COMMIT.fullmatch(found):
        raise UserError(f"{address}: the hub names {printable(found, 80)} as its commit, which is none.")
    return found


def files_of(address: HubAddress, commit: str) -> Mapping[str, int]:
    """{name: bytes} of the files of a commit; offline those of it that the cache holds.

    Raises:
        UserError: as `commit_of`; or a name that leads out of the repository's folder.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    _careful()
    with told(address, "its files"):
        snapshot = _snapshot(address, commit, [])
        try:
            tree = get_cached_repo_tree(address.repo, repo_type=address.kind, revision=commit)
            found = {entry.path: entry.size for entry in tree}
        except CachedRepoTreeNotFoundError:  # the cache cannot be written, or was filled file by file
            found = _files_below(snapshot) if is_offline() else _listed(address, commit)
    if len(found) > _MOST_FILES:
        raise UserError(f"{address} has {len(found):,} files: at most {_MOST_FILES:,} are listed.")
    for name in found:
        try:
            inside("/", name, "")
        except RefusedError:
            raise UserError(
                f"{address}: the hub lists a file called {printable(repr(name), 80)}, which would lead out of the "
                "repository's folder: nothing is taken from it."
            ) from None
    return found


def download(address: HubAddress, commit: str, names: Sequence[str], known: Iterable[str]) -> Path:
    """Bring files of a commit into the hub's cache, those that are there already excepted; gives their folder.

    Args:
        address: the repository.
        commit: the commit.
        names: which files.
        known: all files of the commit (`files_of`).

    Raises:
        UserError: as `commit_of`; or a download broke off (what has arrived is kept).
    """
    _careful()
    with told(address, "its files"):
        return _snapshot(address, commit, patterns_of(names, known), quiet=len(names) < 4)


def patterns_of(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Few patterns (of `fnmatch`) that fit exactly `names` among the files `known`: a folder wanted whole is one.

    huggingface_hub compares every file with every pattern, and a dataset may have a file for each episode.
    """
    wanted = set(names)
    partly = {folder for name in known if name not in wanted for folder in _folders_of(name)}
    found: dict[str, None] = {}
    for name in sorted(wanted):
        whole = next((folder for folder in _folders_of(name) if folder not in partly), None)
        found[_literal(name) if whole is None else f"{_literal(whole)}/*"] = None
    return list(found)


def _folders_of(name: str) -> list[str]:
    """The folders that a file lies in, outermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _snapshot(address: HubAddress, commit: str, patterns: list[str], *, quiet: bool = True) -> Path:
    from huggingface_hub import snapshot_download

    more: dict[str, Any] = {"tqdm_class": _silent()} if quiet else {}
    folder = snapshot_download(address.repo, repo_type=address.kind, revision=commit, allow_patterns=patterns, **more)
    return Path(folder)


def _listed(address: HubAddress, commit: str) -> dict[str, int]:
    from huggingface_hub import HfApi

    entries = HfApi().list_repo_tree(address.repo, repo_type=address.kind, revision=commit, recursive=True)
    return {entry.path: size for entry in entries if (size := getattr(entry, "size", None)) is not None}


def _files_below(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


@cache
def _silent() -> type:
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


@cache
def _careful() -> None:
    """Have every answer of a hub looked at: huggingface_hub writes to files whose names come from its headers."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory  # what is used where nothing else is set

    def looked_at() -> "httpx.Client":
        client = default_client_factory()
        client.event_hooks["response"] = [*client.event_hooks["response"], _refuse_paths]
        return client

    set_client_factory(looked_at)


def _refuse_paths(response: "httpx.Response") -> None:
    for header in _NAMES_IN_THE_CACHE:
        value = response.headers.get(header, "")
        if "/" in value.removeprefix("W/") or os.sep in value.removeprefix("W/") or ".." in value:
            raise UserError(
                f"{response.url.host} answers with {header}: {printable(value, 80)}, which is a path: nothing is taken "
                "from it. If HF_ENDPOINT is set, it should name a mirror of the hub: unset HF_ENDPOINT"
            )
