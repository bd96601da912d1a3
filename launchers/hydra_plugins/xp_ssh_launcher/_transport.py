"""The way to a node: one ssh connection with several channels, an agent at its end, rsync or tar for files.

The connection is a ControlMaster that is started first and alone. Every channel is told to use it and nothing else: its
`ProxyCommand` is `false`, which ssh runs only where it would have to open a connection of its own. So a node never sees
more than one connection of a controller, however many channels there are. (The control path is named by us instead of
ssh's %C, because %C covers the proxy and would differ between the master and its channels.)
"""

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

from hydra_plugins.xp_ssh_launcher._channel import STALL_S, Channel, Silence, start_code, token
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._ssh_errors import (
    TRANSPORT,
    HereFull,
    NoRoom,
    NoSession,
    Refused,
    Unreachable,
    fault_of,
    no_session,
    python_fault,
    shell_fault,
)

CHANNELS = 8
"""Channels at a time; sshd's MaxSessions allows ten of them on one connection."""
NO_PYTHON = 97
"""Exit code of the remote shell line that found no interpreter."""
ALIVE_S, ALIVE_TIMES = 5, 4
"""ssh asks every 5 s whether the other side is there, and gives up after the fourth question without an answer."""
ANSWER_S = 60.0
"""Longest wait for an answer of the agent beyond what the request itself may take."""
NO_ROOM = (28, 122)  # ENOSPC, EDQUOT

_SOCKET_PATH = 107 - 17
_OWN_PATH = len("/xp-12345678/12345678")
_PLUGINS = Path(__file__).parents[1]
_PARTS = ("xp_executor_base._gpus",
          *(f"xp_ssh_launcher._agent{part}" for part in ("_files", "_locks", "_jobs", "_work", "")))  # fmt: skip
_FIND = 'for p in {names}; do if command -v "$p" >/dev/null 2>&1; then exec "$p" -I -c {code}; fi; done; exit 97'


@lru_cache(maxsize=1)
def agent_script() -> bytes:
    """The agent's text as one script: its parts are made modules under their own names, then `main` is there."""
    texts = {f"hydra_plugins.{part}": (_PLUGINS / f"{part.replace('.', '/')}.py").read_text() for part in _PARTS}
    parents = ["hydra_plugins", "hydra_plugins.xp_executor_base", "hydra_plugins.xp_ssh_launcher"]
    lines = [
        "import sys, types",
        f"for name in {parents!r}: sys.modules[name] = types.ModuleType(name)",
        f"for name, text in {texts!r}.items():",
        "    sys.modules[name] = types.ModuleType(name)",
        "    exec(compile(text, name, 'exec'), sys.modules[name].__dict__)",
        "main = sys.modules['hydra_plugins.xp_ssh_launcher._agent'].main",
    ]
    return "\n".join(lines).encode()


def socket_folder() -> str:
    """A new private folder whose path is short and plain enough for ssh's control socket.

    A socket's path has 107 characters at most, and ssh binds it under a name 17 longer than the one it is given; in its
    options `%`, quotes and spaces have a meaning.

    Raises:
        Refused: there is no such place.
    """
    # The user's own runtime folder comes late: it is removed when its owner logs out, and a keeper outlives that.
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"]
    full = False
    for place in dict.fromkeys(filter(None, places)):
        if len(os.fsencode(place)) > _SOCKET_PATH - _OWN_PATH or not re.fullmatch(r"/[\w./+-]*", place, re.ASCII):
            continue
        try:
            folder = tempfile.mkdtemp(prefix="xp-", dir=place)
        except OSError as error:
            full = full or error.errno in NO_ROOM
            continue
        with contextlib.suppress(OSError):
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.bind(f"{folder}/probe")
                Path(folder, "probe").unlink()
                return folder
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
    if full:
        raise HereFull(", ".join(dict.fromkeys(filter(None, places))))
    raise Refused(
        f"on this machine ssh needs a folder for its control socket, with a path of at most {_SOCKET_PATH - _OWN_PATH} "
        f"plain characters, and none of these serves: {', '.join(dict.fromkeys(filter(None, places)))}. Name one: "
        "export XDG_RUNTIME_DIR=/run/user/$UID"
    )


class Link:
    """A machine and the way there. Thread-safe; channels beyond the limit wait for one another."""

    def __init__(self, host: Host, *, python: str, ssh_config: str | None = None):
        self.host, self.python = host, python
        self._config = ["-F", ssh_config] if ssh_config else []
        self._folder = ""
        self._channels = threading.BoundedSemaphore(CHANNELS)
        self.crowded = False
        """Whether a session was refused while others were open (MaxSessions): no more are asked for."""
        self.noisy = False
        """Whether the login shell prints something of its own: then rsync cannot be used."""
        self.local = host.local

    def connect(self, timeout_s: float = 10.0) -> None:
        """Open the connection unless it is open.

        Raises:
            Unreachable: it failed; may work later.
            Refused: it failed and will not work until somebody changes something.
        """
        if self.local or self.connected:
            return
        self.crowded = False
        if shutil.which("ssh") is None:
            raise Refused(f"{self.host.name}: this machine has no ssh command. Install OpenSSH's client.")
        if not Path(self._folder or "/nowhere").is_dir():  # something may clean up old temporary folders
            self._folder = socket_folder()
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        options = {
            "ControlMaster": "yes", "ControlPath": self._socket, "ControlPersist": "60", "BatchMode": "yes",
            "StrictHostKeyChecking": "yes", "ConnectTimeout": str(int(timeout_s)), "ServerAliveInterval": str(ALIVE_S),
            "ServerAliveCountMax": str(ALIVE_TIMES), "ForwardAgent": "no", "ForwardX11": "no",
            "ClearAllForwardings": "yes", "RemoteCommand": "none", "RequestTTY": "no", "LogLevel": "ERROR",
        }  # fmt: skip
        Path(self._socket).unlink(missing_ok=True)
        words = Path(self._folder, "words")
        with words.open("wb") as stderr:  # a file: the master that stays behind would keep a pipe open
            command = ["ssh", *self._config, *_options(options), "-N", "-f", *self.host.address]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, timeout=3 * timeout_s,
                    start_new_session=True,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise Unreachable(f"{self.host.name}: no answer within {3 * timeout_s:.0f} s") from None
        if done.returncode:
            fault = fault_of(self.host, words.read_text(errors="replace"))
            raise (Unreachable if fault.passing else Refused)(fault.line)

    @property
    def _socket(self) -> str:
        return os.path.join(self._folder or "/nowhere", self.host.digest)  # noqa: PTH118

    @property
    def connected(self) -> bool:
        """Whether the connection's process is there (the network may still be gone)."""
        return self.local or (os.path.exists(self._socket) and self._master("check"))  # noqa: PTH110

    def close(self) -> None:
        """Close the connection and all channels."""
        if not self.local and os.path.exists(self._socket):  # noqa: PTH110
            self._master("exit")
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def _master(self, order: str) -> bool:
        command = ["ssh", *self._config, "-O", order, "-o", f"ControlPath={self._socket}", "--", self.host.host]
        try:
            return subprocess.run(command, capture_output=True, timeout=10, stdin=subprocess.DEVNULL).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def shell(self) -> list[str]:
        """Ssh and its options for one more channel on the connection, up to but without the address."""
        options = {"ControlMaster": "no", "ControlPath": self._socket, "ProxyCommand": "false", "BatchMode": "yes",
                   "LogLevel": "ERROR"}  # fmt: skip
        return ["ssh", *self._config, *_options(options)]

    @contextlib.contextmanager
    def channel(self, mode: str) -> Iterator[Channel]:
        """An agent at the other end that has spoken; what follows on the channel is the caller's.

        Raises:
            NoSession: sshd allows no more of them on a connection.
            Unreachable: the channel broke, or the login shell keeps the agent from starting.
            Refused: what the agent said at its end.
        """
        mark = token()
        with self._channels, tempfile.TemporaryFile() as words:
            process = subprocess.Popen(
                self._agent_command(mode, mark), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words
            )
            channel = Channel(process, self.host.name)
            try:
                self._hear(channel, mark, words)
                yield channel
                channel.close_input()
                process.wait(timeout=ANSWER_S)
            except subprocess.TimeoutExpired:
                raise Unreachable(f"{self.host.name}: the other end of a channel does not end") from None
            finally:
                channel.end()
            self._judge(process.returncode, _said(words))

    def _hear(self, channel: Channel, mark: bytes, words: IO[bytes]) -> None:
        """Wait for the agent's first line, whatever the login shell prints before it."""
        try:
            noise = channel.greet(agent_script(), mark)
        except Silence as error:
            channel.end()
            said, code = _said(words), channel.process.returncode
            if error.ended and code in (NO_PYTHON, 3, 4):
                self._judge(code, said)
            if no_session(said):
                self.crowded = True
                raise NoSession(self.host) from None
            if error.ended and code == TRANSPORT and not error.noise.strip():
                self._judge(code, said)
            raise Unreachable(
                shell_fault(self.host, error.noise + said.encode(), code if error.ended else None)
            ) from None
        self.noisy = self.noisy or bool(noise.strip())

    def _agent_command(self, mode: str, mark: bytes) -> list[str]:
        code = start_code(mode, agent_script(), mark)
        if self.local:
            return [sys.executable, "-c", code]
        names = " ".join(shlex.quote(name) for name in dict.fromkeys((self.python, "python3")))
        line = _FIND.format(names=names, code=shlex.quote(code))
        return [*self.shell(), *self.host.address, f"exec sh -c {shlex.quote(line)}"]

    def _judge(self, code: int, words: str) -> None:
        """Raise what an ended channel's exit code means."""
        if code == NO_PYTHON:
            raise Refused(python_fault(self.host, self.python))
        if code == 3:
            raise Refused(f"{self.host.name}: {words.strip()}")
        if code == 4:
            raise NoRoom(f"{self.host.name}: the disk is full")
        if code:
            raise Unreachable(f"{self.host.name}: the channel ended with {code} ({words.strip()[-300:] or 'no words'})")

    def rsync(self, arguments: Sequence[str], names: Sequence[str], source: str, target: str) -> None:
        """Copy the named files from a folder to a folder, one of which is `:PATH` on the node."""
        host = self.host.host if ":" not in self.host.host else f"[{self.host.host}]"
        ends = [f"{host}{end}" if end.startswith(":") else end for end in (source, target)]
        user = ["-l", self.host.user] if self.host.user else []
        port = ["-p", str(self.host.port)] if self.host.port else []
        shell = shlex.join([*self.shell(), *user, *port])
        command = [
            "rsync",
            "-s",
            f"--timeout={STALL_S:.0f}",
            "--from0",
            "--files-from=-",
            *arguments,
            "-e",
            shell,
            "--",
            *ends,
        ]
        with self._channels:
            done = subprocess.run(command, input="\0".join(names).encode(), capture_output=True)
        words = done.stderr.decode(errors="replace").strip()
        if no_session(words):
            self.crowded = True
            raise NoSession(self.host)
        if "No space left" in words or "Disk quota" in words:
            if not target.startswith(":"):
                raise HereFull(target)
            raise NoRoom(f"{self.host.name}: the disk is full")
        if done.returncode not in (0, 23, 24):  # 23, 24: some files were not there any more; the caller compares
            raise Unreachable(f"{self.host.name}: rsync ended with {done.returncode} ({words[-300:]})")


def _options(options: Mapping[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def _said(words: IO[bytes]) -> str:
    words.seek(0)
    return words.read(1 << 16).decode(errors="replace")
