"""Secrets on their way to a keeper at work: through a socket that only this user can open, never through a file."""

import contextlib
import json
import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from hydra_plugins.xp_ssh_launcher._transport import socket_folder

_MOST = 64 << 20
"""Bytes of one delivery, at most."""
_WAIT_S = 10.0


class Secrets(TypedDict):
    """What goes into no file."""

    settings: dict[str, str]
    """{dotted key of the launcher's settings: value}."""
    env: dict[str, str]
    """Variables of all jobs."""
    jobs: dict[str, dict[str, str]]
    """{folder: {dotted key of its configuration: value}}."""


class Door:
    """The keeper's end: hands what arrives to a function. `place` is its path."""

    def __init__(self, take: Callable[[Secrets], None]):
        self._take = take
        self._folder = socket_folder()
        self.place = f"{self._folder}/door"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.place)
        Path(self.place).chmod(0o600)
        self._socket.listen(4)
        threading.Thread(target=self._serve, name="door", daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        with contextlib.suppress(OSError):
            self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            with caller, contextlib.suppress(OSError, ValueError):
                caller.settimeout(_WAIT_S)
                if _user_of(caller) == os.getuid():
                    self._take(json.loads(_all_of(caller)))
                    caller.sendall(b"taken")


def deliver(place: str, secrets: Secrets) -> bool:
    """Give secrets to the keeper whose door is at `place`; False if nobody is there."""
    try:
        with socket.socket(socket.AF_UNIX) as way:
            way.settimeout(_WAIT_S)
            way.connect(place)
            way.sendall(json.dumps(secrets).encode())
            way.shutdown(socket.SHUT_WR)
            return way.recv(16) == b"taken"
    except OSError:
        return False


def _all_of(caller: socket.socket) -> bytes:
    data = bytearray()
    while part := caller.recv(1 << 16):
        data += part
        if len(data) > _MOST:
            raise ValueError("too long")
    return bytes(data)


def _user_of(caller: socket.socket) -> int:
    """Who is at the other end; where the system cannot tell, the folder's permissions are what keeps others out."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid()
    found = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", found)[1]
