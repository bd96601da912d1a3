"""A conversation with the agent of a node: requests and answers, one JSON line each, over one channel."""

import contextlib
import json
import threading
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, Unpack

from hydra_plugins.xp_ssh_launcher._ssh_errors import NoRoom, Refused, Unreachable
from hydra_plugins.xp_ssh_launcher._transport import ANSWER_S, NO_ROOM, Channel, Link

PASSING = (11, 12, 23, 24, 110, 116)  # EAGAIN, ENOMEM, ENFILE, EMFILE, ETIMEDOUT, ESTALE: a busy node or file server


class Hello(TypedDict):
    """What is said first on every channel: where jobs will live, and what of the machine may be used."""

    workdir: str
    folders: list[str]
    """Folders that jobs work in."""
    marks: dict[str, str]
    """{file of ours: its text}: an agent that reads it there shares this machine's files."""
    gpus_wanted: list[str] | None
    """Indices; None: all there are."""
    slots: int
    """Jobs at a time where no GPU is used."""
    used_max: NotRequired[float]
    """Share of a GPU's memory that others may use."""


class MachineFacts(TypedDict):
    """What an agent says of its machine."""

    hostname: str
    python: str
    workdir: str
    cores: int
    slots: list[str]
    """`gpu-INDEX` or `cpu-NUMBER`; empty before the machine was met."""
    shared: bool
    """Whether it sees this machine's files."""
    rsync: bool
    free: int
    """Bytes, on the fullest of the disks that jobs write to."""


def unmet() -> MachineFacts:
    """What is known of a machine before its agent has answered: nothing."""
    return MachineFacts(hostname="", python="", workdir="", cores=0, slots=[], shared=False, rsync=False, free=0)


class AgentClient:
    """A conversation with the agent of a node over one channel; opened when first used, again after it broke."""

    def __init__(self, link: Link):
        self._link = link
        self._lock = threading.Lock()
        self._stack: contextlib.ExitStack | None = None
        self._channel: Channel | None = None
        self._greeting: Hello | None = None

    def greet(self, **hello: Unpack[Hello]) -> MachineFacts:
        """Remember what to say first on every new channel, and say it."""
        self._greeting = hello
        return self.ask("hello", **hello)

    def ask(self, request: str, *, patience_s: float = 0.0, **fields: object) -> Any:
        """Ask and wait for the answer; `patience_s` is the time that the request itself may take.

        Raises:
            Unreachable: the channel broke or nothing came back in time; whether it was done is not known.
            Refused: the node cannot.
        """
        with self._lock:
            if self._channel is None:
                self._open()
                if request != "hello" and self._greeting:
                    self._exchange("hello", self._greeting, 0.0)
            return self._exchange(request, fields, patience_s)

    def close(self) -> None:
        """End the conversation."""
        with self._lock:
            self._drop()

    def _open(self) -> None:
        stack = contextlib.ExitStack()
        self._channel = stack.enter_context(self._link.channel("serve"))
        self._stack = stack

    def _exchange(self, request: str, fields: Mapping[str, object], patience_s: float) -> Any:
        assert self._channel is not None
        try:
            self._channel.write(json.dumps({"do": request, **fields}).encode() + b"\n")
            line = self._channel.line(patience_s + ANSWER_S)
        except OSError as error:
            line, words = b"", str(error)
        except Unreachable:
            self._drop(force=True)
            raise
        else:
            words = "no answer" if line is None else "the channel ended"
        if not line:
            self._broken(words)
        answer = json.loads(line or b"{}")
        if "refused" in answer:
            raise _kind(answer.get("errno"))(f"{self._link.host.name}: {answer['refused']}")
        return answer["ok"]

    def _broken(self, words: str) -> None:
        """Close the channel; its exit code may know more than that it ended."""
        self._drop(force=words == "no answer")
        raise Unreachable(f"{self._link.host.name}: {words}")

    def _drop(self, *, force: bool = False) -> None:
        stack, channel, self._stack, self._channel = self._stack, self._channel, None, None
        if stack is not None and channel is not None:
            if force:
                channel.process.kill()
            with contextlib.suppress(Unreachable):
                stack.close()


def _kind(number: int | None) -> type[Exception]:
    """What an error of the system on a node means: a full disk, something that passes, or a refusal."""
    return NoRoom if number in NO_ROOM else Unreachable if number in PASSING else Refused
