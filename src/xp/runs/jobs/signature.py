"""What this user wrote: a keyed hash over content, so that settings in a folder from somebody else are not obeyed.

The key is made once per user, in `$XDG_STATE_HOME/xp/signing.key` (default `~/.local/state`), readable by the user
alone. A signature says that xp, run by this user, wrote the content; it does not say where.
"""

import hashlib
import hmac
import json
import os
import secrets
from functools import lru_cache
from pathlib import Path

from xp.json_types import JSON

_BYTES = 32


def sign(content: JSON) -> str:
    """The signature of plain content (64 hex digits); '' where this user has no place to keep a key."""
    key = _key(_place(), make=True)
    return _digest(key, content) if key else ""


def is_own(content: JSON, signature: object) -> bool:
    """Whether `signature` is this user's for the content."""
    key = _key(_place(), make=False)
    return key is not None and isinstance(signature, str) and hmac.compare_digest(_digest(key, content), signature)


def _digest(key: bytes, content: JSON) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _place() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "xp" / "signing.key"


def _key(place: Path, *, make: bool) -> bytes | None:
    key = _read(place)
    if key is None and make:
        key = _make(place)
    return key


@lru_cache(maxsize=4)
def _checked(place: Path, status: tuple[int, ...]) -> bytes | None:  # noqa: ARG001 - a changed file is read again
    with place.open("rb") as file:
        key = file.read(_BYTES + 1)
    return key if len(key) == _BYTES else None


def _read(place: Path) -> bytes | None:
    """The key, if it is there and nobody else can have put it there."""
    try:
        status = place.lstat()
        own = status.st_uid == os.geteuid() and place.is_file() and not place.is_symlink()
        return _checked(place, (status.st_ino, status.st_mtime_ns, status.st_size)) if own else None
    except OSError:
        return None


def _make(place: Path) -> bytes | None:
    """A new key, whole from its first moment: of several processes that make one at once, the first one's counts."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(temporary, place)
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return None
    return _read(place)
