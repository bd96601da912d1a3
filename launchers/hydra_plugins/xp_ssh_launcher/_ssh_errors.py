"""What ssh and a node say when something is wrong, as one line that names the host and what to type."""

import re
from dataclasses import dataclass

from hydra_plugins.xp_ssh_launcher._hosts import Host

TRANSPORT = 255
"""ssh's own exit code when the connection failed; a remote command may end with it as well."""


class Unreachable(Exception):  # noqa: N818 - a state of affairs
    """The connection failed or broke; it may work later. The text is a line for people."""


class Refused(Exception):  # noqa: N818 - a state of affairs
    """The node answered that it cannot; trying again changes nothing."""


class NoRoom(Refused):
    """The node's disk is full."""


class NoSession(Unreachable):
    """sshd allows no further session on the connection."""

    def __init__(self, host: Host):
        super().__init__(
            f"{host.name}: sshd there opens no further session on a connection (MaxSessions in its sshd_config), and "
            "one is needed. Put `MaxSessions 10` there and reload sshd"
        )


class HereFull(Unreachable):
    """This machine's own disk is full; `path` is what could not be written."""

    def __init__(self, path: object):
        super().__init__(f"the disk of this machine is full ({path})")


@dataclass(frozen=True)
class Fault:
    """One line for people, and whether waiting may help."""

    line: str
    passing: bool


def fault_of(host: Host, stderr: str) -> Fault:
    """The meaning of what ssh wrote on standard error when it could not connect.

    Texts as OpenSSH 8 to 10 write them (sshconnect.c, readconf.c, packet.c).
    """
    name, text = host.name, stderr.strip()
    last = text.splitlines()[-1] if text else "no words"
    at = f"{host.host}" + (f" port {host.port}" if host.port else "")
    if "HOST IDENTIFICATION HAS CHANGED" in text or "Offending" in text:
        return Fault(
            f"{name}: its host key is not the one known here. If the machine was set up anew: {_forget(host, text)} "
            f"; then look at the new key and accept it: {host.command} . Otherwise somebody is in between.",
            False,
        )
    if "Host key verification failed" in text or re.search(r"No .*host key is known", text):
        line = f"{name}: its host key is not known here yet. Look at it and accept it once: {host.command}"
        return Fault(line, False)
    if "Could not resolve hostname" in text:
        return Fault(
            f"{name}: there is no machine '{host.host}', neither in ~/.ssh/config nor in the network's names. "
            "Correct hydra.launcher.hosts.",
            False,
        )
    if "Permission denied" in text:
        return Fault(
            f"{name}: the login was refused ({last}). Put your key there (ssh-copy-id), or name it with "
            f"{{host: {host.host}, identity: FILE}}; this must work without a question: {host.command}",
            False,
        )
    if "Bad configuration option" in text or "percent_expand" in text or "no argument after keyword" in text:
        return Fault(f"{name}: ssh does not understand its configuration ({last}).", False)
    if "Connection refused" in text:
        return Fault(f"{name}: nothing listens at {at}. Is the port right, and is the machine up? {host.command}", True)
    return Fault(f"{name}: no connection to {at} ({last}). Try by hand: {host.command}", True)


def _forget(host: Host, text: str) -> str:
    """The command that removes a host's old key: ssh's own words, else by the file and line that ssh names."""
    if said := re.search(r"ssh-keygen -f .+", text):
        return said.group().strip()
    if where := re.search(r"Offending \S+ key in (.+):(\d+)", text):
        return f"sed -i {where[2]}d {where[1]}"
    place = f"[{host.host}]:{host.port}" if host.port and host.port != 22 else host.host
    return f"ssh-keygen -R '{place}'"


def no_session(stderr: str) -> bool:
    """Whether ssh says that sshd refused one more session (mux.c, channels.c)."""
    return "Session open refused by peer" in stderr or "session request failed" in stderr


def shell_fault(host: Host, said: bytes, code: int | None) -> str:
    """The line for a login shell that never let the agent start.

    Args:
        host: the node.
        said: what was printed instead of the agent's first line.
        code: the exit code; None if it neither spoke nor ended in time.
    """
    text = "".join(each if each.isprintable() else " " for each in said[:4096].decode(errors="replace"))
    words = f"it printed {' '.join(text.split())[:160]!r}" if text.split() else "it printed nothing"
    how = "did not get to xp's command in time" if code is None else f"ended ({code}) before xp's command"
    return (
        f"{host.name}: the login shell there {how}; {words}. Its start-up files (~/.bashrc, ~/.profile, "
        f"/etc/profile, a forced command) must let commands through; this has to print ok: {host.command} echo ok"
    )


def python_fault(host: Host, python: str) -> str:
    """The line for a node without an interpreter."""
    return (
        f"{host.name}: there is no Python ({python}, python3). Install Python 3.12 there, or name one: "
        f"hydra.launcher.python=PATH or {{host: {host.host}, python: PATH}}"
    )
