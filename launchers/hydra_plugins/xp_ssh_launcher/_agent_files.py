"""The node's side, files: listings, hashes, writing whole, tar streams. Standard library of Python 3.8+."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import time

INLINE = 256 * 1024
"""Files up to this size travel inside answers; larger ones by rsync or tar."""
NO_ROOM = (28, 122)  # ENOSPC, EDQUOT
LIMIT_S = 20.0
"""For questions to nvidia-smi and sudo."""


class RequestRefused(Exception):  # noqa: N818 - a state of affairs
    """Cannot be done; the text goes to the controller as it is."""


def listing(root, skip=()):
    """{path below root: [size, mtime in ns, mode]} of all files, links followed, temporary ones left out.

    Args:
        root: a folder, or one file (whose path below itself is empty).
        skip: names right below the root to leave out.
    """
    found = {}
    if os.path.isfile(root):
        return {"": entry(os.stat(root))}
    seen = set()
    for folder, names, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        names[:] = [] if real in seen else sorted(each for each in names if keeps(each))
        if real in seen:
            continue
        seen.add(real)
        if folder == root:
            names[:] = [each for each in names if each not in skip]
        for name in files:
            path = os.path.join(folder, name)
            if keeps(name) and os.path.isfile(path):
                found[os.path.relpath(path, root)] = entry(os.stat(path))
    return found


def entry(stat):
    return [stat.st_size, stat.st_mtime_ns, stat.st_mode & 0o777]


def keeps(name):
    return not (name == ".lock" or name == "__pycache__" or (name.startswith(".") and ".tmp-" in name))


def read_small(path, known):
    """The content of a file in base64 if it is small and was not changed while it was read; else None."""
    if known[0] > INLINE:
        return None
    try:
        with open(path, "rb") as handle:
            data = handle.read(INLINE + 1)
            after = os.fstat(handle.fileno())
    except OSError:
        return None
    if len(data) != after.st_size or entry(after)[:2] != known[:2]:
        return None
    return base64.b64encode(data).decode()


def put(path, data, mtime_ns, mode):
    """Write one file whole: beside its place, then renamed into it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)[:80]}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as handle:
            handle.write(data)
        os.chmod(temporary, mode | 0o600)
        os.utime(temporary, ns=(mtime_ns, mtime_ns))
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def content_hash(root, skip=()):
    """SHA-256 over the names and contents of all files below a path (or of one file)."""
    digest = hashlib.sha256()
    for name in sorted(listing(root, skip)):
        inner = hashlib.sha256()
        with open(os.path.join(root, name) if name else root, "rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                inner.update(block)
        digest.update(f"{name}\0{inner.hexdigest()}\0".encode())
    return digest.hexdigest()


def quick_hash(root, skip=()):
    """A hash over names, sizes and times: tells whether something was touched without reading it all."""
    return hashlib.sha256(json.dumps(listing(root, skip), sort_keys=True).encode()).hexdigest()


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


def read_json(path, default=None):
    try:
        with open(path) as handle:
            return json.load(handle)
    except (OSError, ValueError):
        return default


def write_json(path, content):
    put(path, json.dumps(content).encode(), time.time_ns(), 0o644)


def make_folder(path):
    """Make a folder; where that is not allowed, through `sudo -n` and handed over to this user."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        user = str(os.getuid())
        command = ["sudo", "-n", "install", "-d", "-o", user, path]
        try:
            subprocess.run(command, check=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL, capture_output=True)
        except (OSError, subprocess.SubprocessError):
            raise RequestRefused(
                f"the folder {path} cannot be made ({error.strerror}), and jobs live at the same path there as here. "
                f"Make it there once: sudo install -d -o $USER {path}"
            ) from None
    if not os.access(path, os.W_OK):
        raise RequestRefused(f"the folder {path} cannot be written by this user")


def size_of(path):
    return sum(size for size, _, _ in listing(path).values()) if os.path.exists(path) else 0


def send(channel, out):
    """Write the named files below a folder as a tar stream; a file that vanished is left out."""
    request = json.loads(channel.readline())
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, dereference=True) as archive:
        for name in request["names"]:
            path = os.path.join(request["path"], name)
            try:
                with open(path, "rb") as handle:
                    member = archive.gettarinfo(arcname=name, fileobj=handle)
                    archive.addfile(member, Exactly(handle, member.size))
            except FileNotFoundError:
                continue


class Exactly:
    """A file that gives exactly `size` bytes, whatever happens to it meanwhile (zeros where it became shorter)."""

    def __init__(self, handle, size):
        self.handle, self.left = handle, size

    def read(self, wanted=-1):
        wanted = self.left if wanted < 0 else min(wanted, self.left)
        data = self.handle.read(wanted)
        data += b"\0" * (wanted - len(data))
        self.left -= len(data)
        return data


def receive(channel, out):
    """Take a tar stream into a folder."""
    request = json.loads(channel.readline())
    os.makedirs(request["path"], exist_ok=True)
    with tarfile.open(fileobj=channel, mode="r|") as archive:
        for member in archive:
            take_member(archive, member, request["path"])
    out.write(b"ok\n")
    out.flush()


def take_member(archive, member, folder):
    """Write one regular file of an archive below a folder, whole or not at all."""
    parts = member.name.split("/")
    if not member.isfile() or member.name.startswith("/") or ".." in parts:
        raise RequestRefused(f"{member.name!r} does not belong into this archive")
    path = os.path.join(folder, *parts)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.tmp-{os.getpid()}"
    with open(temporary, "wb") as handle:
        shutil.copyfileobj(archive.extractfile(member), handle, 1 << 20)
    os.chmod(temporary, member.mode & 0o777 | 0o600)
    os.utime(temporary, (member.mtime, member.mtime))
    os.replace(temporary, path)
