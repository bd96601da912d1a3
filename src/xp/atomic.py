"""Files and folders that appear whole or not at all: written beside their place, then renamed into it."""

import ctypes
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, overload, runtime_checkable

from xp.json_types import JSON

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h: swap two paths in one step
_SYNCS = 8
"""Files flushed at the same time."""


@runtime_checkable
class HasList(Protocol):
    """An array or scalar of numpy, recognised without importing numpy."""

    def tolist(self) -> object:
        """The value as Python's own numbers and lists."""
        ...


def write_bytes(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, replacing what is there; the folder is made if it is missing.

    `durable=False` skips the fsync: enough against a killed process, not against a power cut; for files that are
    rewritten several times a second.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open(path, durable) as handle:
        handle.write(data)


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Write `text` as UTF-8 to `path`, replacing what is there."""
    write_bytes(path, text.encode(), durable=durable)


def write_json(path: str | Path, obj: object, *, durable: bool = True) -> None:
    """Write `obj` as JSON (indent 2, keys in the order given).

    JSON has no NaN and no infinity: they become null. Paths become strings; numpy scalars and arrays become numbers
    and lists. Anything else that JSON cannot say raises TypeError before the file is touched.
    """
    write_text(path, json.dumps(plain(obj), indent=2, allow_nan=False) + "\n", durable=durable)


@overload
def plain(obj: Mapping[str, object]) -> dict[str, JSON]: ...


@overload
def plain(obj: object) -> JSON: ...


def plain(obj: object) -> JSON:
    """Turn `obj` into what JSON can hold: dicts with string keys, lists, strings, finite numbers, booleans, None."""
    if obj is None or isinstance(obj, bool | int | str):
        return obj
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple | set | frozenset):
        return [plain(value) for value in (sorted(obj) if isinstance(obj, set | frozenset) else obj)]
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if isinstance(obj, HasList):
        return plain(obj.tolist())
    raise TypeError(f"JSON cannot hold a {type(obj).__name__}: {obj!r}")


@contextmanager
def file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for the caller to write; it becomes `path` if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it becomes `path` if the block ends well.

    Everything in it is fsynced first. An existing folder at `path` is exchanged in one step and then removed, so a
    reader finds the old one or the new one. On error the temporary folder is removed and `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _sync_all(list(temporary.rglob("*")))
        _sync(temporary)
        _put(temporary, path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _open(path: Path, durable: bool) -> Iterator[BinaryIO]:
    temporary = _beside(path)
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    """A new name in the same folder (a rename must not cross file systems), hidden, marked as temporary."""
    return path.with_name(f".{path.name[:80]}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def _put(temporary: Path, path: Path) -> None:
    """Rename a folder over another. rename(2) refuses a target that is not empty, hence the exchange."""
    if not path.exists():
        temporary.rename(path)
        return
    if not _exchange(temporary, path):
        aside = _beside(path)
        path.rename(aside)
        temporary.rename(path)
        temporary = aside
    shutil.rmtree(temporary, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths (renameat2); False where the system or the file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _sync_all(paths: Sequence[Path]) -> None:
    """Flush many files and folders, several at a time: the disk then writes them together."""
    if len(paths) < 2 * _SYNCS:
        for path in paths:
            _sync(path)
        return
    with ThreadPoolExecutor(_SYNCS) as pool:
        list(pool.map(_sync, paths))


def _sync(path: Path) -> None:
    """Flush one file or folder to disk; file systems that cannot sync a folder are let off."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
