"""One host as it can be reached: its channels, what it has, the code and the environment that jobs need there."""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from hydra_plugins.xp_ssh_launcher._agent_client import AgentClient, Hello, unmet
from hydra_plugins.xp_ssh_launcher._agent_files import listing
from hydra_plugins.xp_ssh_launcher._assignments import Assignments
from hydra_plugins.xp_ssh_launcher._files import FileSync
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._lease_queue import NodeCapacity
from hydra_plugins.xp_ssh_launcher._ssh_errors import NoSession, Refused, Unreachable
from hydra_plugins.xp_ssh_launcher._transport import Link

PROBE = """\
import sys
assert sys.version_info >= (3, 12), "expected Python 3.12 or newer, this is %d.%d" % sys.version_info[:2]
import numpy, omegaconf
"""
"""What the jobs' interpreter must be able to do."""

_UV_NEEDS = (
    ". hydra.launcher.environment=uv fetches packages, so the host needs a network, or a proxy: "
    "+hydra.launcher.env.HTTPS_PROXY=URL. Or make the environment there by hand, and name it: "
    "hydra.launcher.python=PATH"
)


class Connection:
    """The way to a host. Everything about who works on what is asked of `Assignments`."""

    def __init__(self, host: Host, assignments: Assignments):
        self.host, self.assignments = host, assignments
        self.name = host.name
        self.facts = unmet()
        """What the agent said of its machine."""
        self.python = host.python or assignments.settings.interpreter
        self.link = Link(host, python=self.python, ssh_config=assignments.settings.ssh_config)
        self.watch, self.work = AgentClient(self.link), AgentClient(self.link)
        self.files = FileSync(self.link, self.work, rsync=False)
        self.placing = threading.Lock()
        """Held while something that several jobs read is brought here."""

    def close(self) -> None:
        """Let go of the host; what runs there goes on."""
        for agent in (self.watch, self.work):
            agent.close()
        self.link.close()

    def greet(self) -> None:
        """Connect, look around, open the second channel."""
        settings, store = self.assignments.settings, self.assignments.store
        self.link.connect()
        hello = Hello(
            workdir=self.host.workdir or settings.workdir,
            folders=[str(self.assignments.cwd)],
            marks={str(store.mark): store.identity()},
            gpus_wanted=None if self.host.gpus is None else list(self.host.gpus),
            slots=self.host.slots,
            used_max=settings.gpu_used_max,
        )
        if self.host.local:
            hello["gpus_wanted"], hello["workdir"] = [], str(store.folder / "here")
        self.facts = self.work.greet(**hello)
        if self.host.local:
            self.facts["slots"] = [f"here-{store.identity()[:8]}"]
        self._open_watch(hello)
        self.files = FileSync(self.link, self.work, rsync=self.facts["rsync"])

    def claim(self) -> None:
        """Say on the host whose the experiment's folder there is; not where it is this machine's own."""
        store = self.assignments.store
        if not self.shares_files:
            self.work.ask("claim", experiment=str(store.experiment), owner=store.identity(), patience_s=60)

    def greet_refused(self) -> None:
        """Connect to a host that gets no jobs, to end there what goes on elsewhere."""
        settings, store = self.assignments.settings, self.assignments.store
        self.link.connect()
        self.work.greet(workdir=self.host.workdir or settings.workdir, folders=[],
                        marks={str(store.mark): store.identity()}, gpus_wanted=[], slots=1)  # fmt: skip

    def _open_watch(self, hello: Hello) -> None:
        """A second channel, so that looking at jobs need not wait for files; none where sshd allows one session."""
        self.watch.close()
        self.watch = AgentClient(self.link)
        try:
            self.watch.greet(**hello)
        except NoSession:
            self.watch = self.work
            self.assignments.note(
                f"{self.name}: sshd allows one session there (MaxSessions); everything goes through it"
            )

    @property
    def shares_files(self) -> bool:
        """Whether the node sees this machine's files: then nothing needs to be carried."""
        return self.facts["shared"]

    @property
    def has_gpus(self) -> bool:
        """Whether its slots are GPUs."""
        return any(name.startswith("gpu-") for name in self.facts["slots"])

    def slots_of(self, folder: Path) -> int:
        """Slots that a job takes here."""
        return self.assignments.slots_of(folder, gpus=self.has_gpus)

    @property
    def capacity(self) -> NodeCapacity:
        """What the node has for jobs."""
        slots = self.facts["slots"]
        taken = sum(self.slots_of(folder) for folder in self.assignments.leases(self.name))
        tasks = frozenset(self.assignments.settings.here) if self.host.local else None
        number = len(slots) or 1
        return NodeCapacity(
            name=self.name,
            tags=frozenset(self.host.tags),
            slots=number,
            free=number - taken,
            gpus=self.has_gpus,
            tasks=tasks,
        )

    @property
    def capacity_text(self) -> str:
        """The capacity for people."""
        capacity = self.capacity
        kind = "GPUs" if capacity.gpus else "CPU slots"
        return f"{self.name}: {capacity.slots} {kind}, tags {sorted(capacity.tags)}"

    def send_code(self, code: Path) -> None:
        """Push a snapshot of the code and set the node up for it; quick where that was done before."""
        if not self.shares_files:
            self.files.push(code, code, names=sorted(listing(str(code))))  # what set-up commands made there stays
        if self.host.local:
            return
        fields = {"code": str(code), "workdir": self.facts["workdir"], "python": self.python}
        commands = [_filled(command, fields) for command in self.assignments.settings.set_up(gpus=self.has_gpus)]
        if commands and not self.assignments.missing:  # without their secrets they would be other commands
            env = {**self.assignments.settings.env, "XP_CODE": str(code), "XP_WORKDIR": self.facts["workdir"]}
            key = self.assignments.digest("\0".join(commands))
            try:
                self.work.ask("set_up", commands=commands, cwd=str(code), key=key, env=env, patience_s=7200)
            except Refused as error:
                raise Refused(f"{error}{_UV_NEEDS if self.assignments.settings.environment else ''}") from None
        python = _filled(self.python, fields)
        if self.work.ask("check_python", python=python, code=PROBE, patience_s=120).get("slow"):
            raise Unreachable(f"{self.name}: {python} takes more than 120 s to start there; it is tried again")

    def filled_python(self, code: Path) -> str:
        """The interpreter of jobs here."""
        if self.host.local:
            return sys.executable
        return _filled(self.python, {"code": str(code), "workdir": self.facts["workdir"]})


def _filled(text: str, fields: Mapping[str, str]) -> str:
    """Put {code}, {workdir} and {python} into a text; other braces stay."""
    for name, value in fields.items():
        text = text.replace("{" + name + "}", value)
    return text
