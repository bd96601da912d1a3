"""One channel to a node's agent: a process whose input and output are pipes, with a limit on every wait.

What a login shell prints before the agent speaks (`echo` in ~/.bashrc, a message of the day, binary junk) is skipped up
to the agent's own first line; what it reads before the agent does (`read` in ~/.bashrc) finds empty lines.
"""

import contextlib
import os
import secrets
import select
import subprocess
import time

from hydra_plugins.xp_ssh_launcher._ssh_errors import Unreachable

GREETING_S = 45.0
"""Longest wait for the agent's first line: a login shell and an interpreter have to start."""
STALL_S = 120.0
"""Longest time without a byte going either way while files are carried."""
NOISE = 1 << 20
"""Bytes that a login shell may print before the agent speaks."""
_EMPTY_LINES = 16
_START = (
    "import sys;f=sys.stdin.buffer;next(x for x in iter(lambda:f.readline(4096),b'') if x.strip()=={token!r});"
    "sys.stdout.buffer.write(b'\\n'+{token!r}[::-1]+b'\\n');sys.stdout.flush();"
    "exec(compile(f.read({size}),'xp_agent','exec'));main({mode!r},f)"
)
"""One line without `!`: a login shell may be csh, which takes neither inside quotes."""


class Silence(Exception):  # noqa: N818 - a state of affairs
    """The agent did not speak: `noise` is what came instead, `ended` whether the channel ended."""

    def __init__(self, noise: bytes, *, ended: bool):
        super().__init__(noise)
        self.noise, self.ended = noise, ended


def token() -> bytes:
    """A line that nobody else writes; the agent answers with it in reverse."""
    return b"xp-" + secrets.token_hex(12).encode()


def start_code(mode: str, script: bytes, mark: bytes) -> str:
    """What `python -c` gets: it waits for the mark on its input, answers, reads the agent and enters it."""
    return _START.format(size=len(script), mode=mode, token=mark)


class Channel:
    """A process's pipes as one binary file. `host` is the name for messages."""

    def __init__(self, process: "subprocess.Popen[bytes]", host: str):
        assert process.stdin is not None and process.stdout is not None
        self.process, self.host = process, host
        self._in, self._out = process.stdin, process.stdout
        os.set_blocking(self._in.fileno(), False)
        self._ahead = bytearray()

    def greet(self, script: bytes, mark: bytes) -> bytes:
        """Send the agent and wait for its first line; gives what was printed before it.

        Raises:
            Silence: it did not come.
        """
        with contextlib.suppress(OSError):  # its output says why
            self.write(b"\n" * _EMPTY_LINES + mark + b"\n" + script)
        until, wanted = time.monotonic() + GREETING_S, b"\n" + mark[::-1] + b"\n"
        while (at := self._ahead.find(wanted)) < 0:
            if len(self._ahead) > NOISE:
                raise Silence(bytes(self._ahead), ended=False)
            data = self._some(until - time.monotonic())
            if not data:
                raise Silence(bytes(self._ahead), ended=data is not None)
            self._ahead += data
        noise = bytes(self._ahead[:at])
        del self._ahead[: at + len(wanted)]
        return noise

    def write(self, data: bytes) -> int:
        """Write all of it.

        Raises:
            BrokenPipeError: nobody reads any more.
            Unreachable: nothing was taken for a long time.
        """
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [self._in], [], STALL_S)
            if not ready:
                raise Unreachable(f"{self.host}: nothing was taken for {STALL_S:.0f} s")
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._in.fileno(), view[: 1 << 16]) :]
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Some bytes, at most `size`; all until the end for -1; empty at the end.

        Raises:
            Unreachable: nothing came for a long time.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 16), b""))
        if not self._ahead:
            data = self._some(STALL_S)
            if data is None:
                raise Unreachable(f"{self.host}: nothing came for {STALL_S:.0f} s")
            self._ahead += data
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data

    def line(self, seconds: float) -> bytes | None:
        """The next line; empty at the end of the stream, None if nothing whole came in time."""
        until = time.monotonic() + seconds
        while (end := self._ahead.find(b"\n")) < 0:
            data = self._some(until - time.monotonic())
            if not data:
                return data
            self._ahead += data
        line = bytes(self._ahead[: end + 1])
        del self._ahead[: end + 1]
        return line

    def close_input(self) -> None:
        """Nothing more will be written."""
        with contextlib.suppress(OSError):
            self._in.close()

    def end(self) -> None:
        """Close the pipes and be rid of the process."""
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _some(self, seconds: float) -> bytes | None:
        """What comes next; empty at the end of the stream, None if nothing came in time."""
        ready, _, _ = select.select([self._out], [], [], max(0.0, seconds))
        return os.read(self._out.fileno(), 1 << 16) if ready else None
