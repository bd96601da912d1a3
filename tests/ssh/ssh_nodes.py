"""Rented boxes on one machine: each a network namespace with its own sshd, host key, home and host name.

A node sees this machine's programs, but its home, the tests' working folder and the checkout's sources are covered by
folders of its own: what is in them came over ssh. Names of namespaces, bridges and addresses belong to one test run,
and `close` takes everything down, the jobs that were left at work included.
"""

import contextlib
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PORT = 2222
"""Where the boxes' sshd listens; on the next port it shows a machine on which nothing is installed."""
SESSIONS = {0: PORT + 2, 1: PORT + 3, 2: PORT + 4}
"""{sessions that are allowed on a connection: the port where that is so}."""
CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = ("sshd", "ssh", "ssh-keygen", "ip", "unshare", "mount", "rsync")


def missing() -> str:
    """Why nodes cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: openssh-server rsync iproute2)"
    name = f"xq{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "network namespaces are not allowed here"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def sh(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@dataclass
class Box:
    """One node."""

    name: str
    folder: Path
    namespace: str
    device: str
    address: str
    daemon: subprocess.Popen | None = None

    @property
    def home(self) -> Path:
        """The node's private home, seen from outside."""
        return self.folder / "home"

    @property
    def place(self) -> Path:
        """What the node has where the tests' working folder is, seen from outside (unless it is a tmpfs)."""
        return self.folder / "place"

    @property
    def connections(self) -> int:
        """Connections that this node's sshd has accepted so far."""
        return len(re.findall(r"Accepted publickey", (self.folder / "sshd.log").read_text()))

    def cut(self) -> None:
        """Pull the network cable."""
        sh("ip", "link", "set", self.device, "down")

    def mend(self) -> None:
        """Plug it in again."""
        sh("ip", "link", "set", self.device, "up")

    def inside(self, *command: str) -> subprocess.CompletedProcess:
        """Run something in the node's namespaces."""
        assert self.daemon is not None
        enter = ["nsenter", "-t", str(self.daemon.pid), "-m", "-n", "-u"]
        return subprocess.run([*enter, *command], capture_output=True, text=True)

    def processes(self) -> list[int]:
        """Everything that runs in the node."""
        done = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    def jobs(self) -> list[int]:
        """Process ids of the node's jobs."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if b"xp_ssh_launcher._job" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def kill_all(self) -> None:
        """A power cut for every process of the node but its sshd."""
        assert self.daemon is not None
        for pid in self.processes():
            if pid != self.daemon.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def clear(self) -> None:
        """End what runs there and remove what a test has left: files in the home and all that the agent noted."""
        limit = time.monotonic() + 30
        while any(self.daemon is None or pid != self.daemon.pid for pid in self.processes()):
            assert time.monotonic() < limit, f"{self.name}: {self.processes()} do not end"
            self.kill_all()
            time.sleep(0.02)
        for each in self.home.iterdir():
            if each.is_file():
                each.unlink()
        shutil.rmtree(self.home / ".xp", ignore_errors=True)


class Nodes:
    """Boxes on a bridge, and the ssh configuration that leads to them."""

    def __init__(self, folder: Path, place: Path, names: tuple[str, ...] = ("node1", "node2"), *, tmpfs: str = ""):
        """Bring boxes up.

        Args:
            folder: keys, logs and the boxes' private files.
            place: the working folder that every box has one of its own of.
            names: one box each.
            tmpfs: size of a small disk for the place of the last box, such as 3m.
        """
        self.folder, self.place = folder, place
        self.token = secrets.token_hex(2)
        self.net = f"10.{random.randrange(64, 250)}.{random.randrange(1, 250)}"
        self.config, self.known, self.key = folder / "config", folder / "known_hosts", folder / "id"
        self.bridge = f"xb{self.token}"
        self.boxes: list[Box] = []
        folder.mkdir(parents=True, exist_ok=True)
        try:
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
            sh("ip", "link", "add", self.bridge, "type", "bridge")
            sh("ip", "addr", "add", f"{self.net}.1/24", "dev", self.bridge)
            sh("ip", "link", "set", self.bridge, "up")
            for number, name in enumerate(names):
                self._up(number, name, tmpfs if number == len(names) - 1 else "")
            self._wait()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Box:
        return next(box for box in self.boxes if box.name == name)

    def command(self, name: str) -> str:
        """The `ssh root@ip -p PORT` that a provider would show."""
        return f"ssh root@{self[name].address} -p {PORT} -i {self.key}"

    def _up(self, number: int, name: str, tmpfs: str) -> None:
        box = Box(
            name, self.folder / name, f"x{self.token}{number}", f"xv{self.token}{number}", f"{self.net}.{11 + number}"
        )
        self.boxes.append(box)
        for each in (box.home / ".ssh", box.place, box.folder / "empty", self.place):
            each.mkdir(parents=True, exist_ok=True)
        self._network(box)
        self._configure(box)
        script = "\n".join(
            [f"hostname xp-{name}", *self._mounts(box, tmpfs), f"exec /usr/sbin/sshd -D -e -f {box.folder}/sshd_config"]
        )
        with (box.folder / "sshd.log").open("wb") as log:
            box.daemon = subprocess.Popen(
                ["ip", "netns", "exec", box.namespace, "unshare", "--uts", "--mount", "--propagation", "private",
                 "bash", "-ec", script], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def _network(self, box: Box) -> None:
        sh("ip", "netns", "add", box.namespace)
        sh("ip", "link", "add", box.device, "type", "veth", "peer", "name", "eth0", "netns", box.namespace)
        sh("ip", "link", "set", box.device, "master", self.bridge, "up")
        sh("ip", "-n", box.namespace, "addr", "add", f"{box.address}/24", "dev", "eth0")
        sh("ip", "-n", box.namespace, "link", "set", "eth0", "up")
        sh("ip", "-n", box.namespace, "link", "set", "lo", "up")

    def _mounts(self, box: Box, tmpfs: str) -> list[str]:
        """Cover what must not be shared; keep the interpreter visible if it lies in the home."""
        home, base = Path(pwd.getpwuid(os.getuid()).pw_dir), Path(sys.base_prefix)  # where sshd puts people
        lines = []
        if base.is_relative_to(home):
            kept = box.home / base.relative_to(home)
            kept.mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {base} {kept}")
        lines.append(f"mount --rbind {box.home} {home}")
        if tmpfs:
            lines.append(f"mount -t tmpfs -o size={tmpfs} tmpfs {self.place}")
        else:
            lines.append(f"mount --bind {box.place} {self.place}")
        lines += [f"mount --bind {box.folder}/empty {CHECKOUT / part}" for part in ("src", "launchers", "conf")]
        return lines

    def _configure(self, box: Box) -> None:
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", box.folder / "hostkey")
        Path("/run/sshd").mkdir(exist_ok=True)
        (box.folder / "sshd_config").write_text(
            "".join(f"Port {port}\n" for port in (PORT, PORT + 1, *SESSIONS.values()))
            + f"ListenAddress {box.address}\n"
            f"HostKey {box.folder}/hostkey\nPidFile {box.folder}/sshd.pid\nAuthorizedKeysFile {self.key}.pub\n"
            "StrictModes no\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin prohibit-password\nLogLevel INFO\n"
            f"Match LocalPort {PORT + 1}\n SetEnv PATH={box.folder}/bare\n"
            + "".join(f"Match LocalPort {port}\n MaxSessions {number}\n" for number, port in SESSIONS.items())
        )
        (box.folder / "bare").mkdir()
        (box.folder / "bare" / "sh").symlink_to("/bin/sh")
        public = (box.folder / "hostkey.pub").read_text().split()[:2]
        with self.known.open("a") as known:
            for port in (PORT, PORT + 1, *SESSIONS.values(), 2299):
                known.write(f"[{box.address}]:{port} {' '.join(public)}\n")
        with self.config.open("a") as config:
            config.write(
                f"Host {box.name}\n HostName {box.address}\n Port {PORT}\n User root\n IdentityFile {self.key}\n"
            )
            config.write(f"Match all\n IdentitiesOnly yes\n UserKnownHostsFile {self.known}\n")

    def _wait(self) -> None:
        limit = time.monotonic() + 30
        for box in self.boxes:
            while "Server listening" not in (box.folder / "sshd.log").read_text():
                assert box.daemon is not None
                if box.daemon.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError(f"{box.name} did not come up: {(box.folder / 'sshd.log').read_text()}")
                time.sleep(0.02)

    def close(self) -> None:
        """Take everything down."""
        for box in self.boxes:
            for _ in range(50):
                pids = box.processes()
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                if not pids:
                    break
                time.sleep(0.02)
            if box.daemon is not None:
                box.daemon.kill()
                box.daemon.wait()
            subprocess.run(["ip", "netns", "del", box.namespace], capture_output=True)
            subprocess.run(["ip", "link", "del", box.device], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
