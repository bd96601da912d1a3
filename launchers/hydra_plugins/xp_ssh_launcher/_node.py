"""One node as the keeper sees it: connect, make ready, take jobs, watch them, bring back what they write."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.xp_ssh_launcher._agent_files import NO_ROOM, listing
from hydra_plugins.xp_ssh_launcher._files import Courier
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._lease_queue import Offer
from hydra_plugins.xp_ssh_launcher._ssh_errors import HereFull, NoRoom, NoSession, Refused, Unreachable
from hydra_plugins.xp_ssh_launcher._transport import Agent, Link
from xp.runs.records.lock import Busy
from xp.shell import command

if TYPE_CHECKING:
    from hydra_plugins.xp_ssh_launcher._keeper import Keeper

PROBE = """\
import sys
assert sys.version_info >= (3, 12), "Python 3.12 or newer is wanted, this is %d.%d" % sys.version_info[:2]
import numpy, omegaconf
"""
"""What the jobs' interpreter must be able to do."""

AT_ONCE = 4
"""Jobs that are sent to or fetched from one node at the same time."""
WATCH_S = 0.5
"""How long the node itself waits for a change before it answers."""
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between tries to reach a node; sshd drops connections when many arrive at once (MaxStartups)."""
REST_S = 2.0
"""How long a node takes no job after somebody else's job had what it needs."""
_LOOK_AT_GPUS_S = 120.0
"""Patience with nvidia-smi, which may take long on a machine under load."""
PATIENT_TRIES = 3
"""Tries before a node that was never reached is reported as silent."""


_UV_NEEDS = (
    ". hydra.launcher.environment=uv fetches packages, so the host needs a network, or a proxy: "
    "+hydra.launcher.env.HTTPS_PROXY=URL. Or make the environment there by hand, and name it: "
    "hydra.launcher.python=PATH"
)


class Standing(StrEnum):
    """How a node stands."""

    CONNECTING = "connecting"
    SETTING_UP = "setting up"
    READY = "ready"
    SILENT = "silent"
    FULL = "full"
    TAKEN = "taken"
    """Others use its GPUs."""
    REFUSED = "refused"
    """Something must be changed by a person; the other nodes go on."""


class Node:
    """A thread that drives one machine. Everything about who works on what is asked of the keeper."""

    def __init__(self, host: Host, keeper: "Keeper"):
        self.host, self.keeper = host, keeper
        self.name = host.name
        self.standing, self.line = Standing.CONNECTING, ""
        self.heard = time.monotonic()
        self.facts: dict[str, Any] = {}
        self.python = host.python or keeper.settings.interpreter
        self.link = Link(host, python=self.python, ssh_config=keeper.settings.ssh_config)
        self.watch, self.work = Agent(self.link), Agent(self.link)
        self.courier = Courier(self.link, self.work, rsync=False)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix=host.name)
        self.placing = threading.Lock()
        """Held while something that several jobs read is brought here."""
        self._busy: set[Path] = set()
        self._synced: dict[Path, float] = {}
        self._rest_until = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=host.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Let go of the node; what runs there goes on."""
        self._stop.set()
        self._thread.join(timeout=10)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for agent in (self.watch, self.work):
            agent.close()
        self.link.close()

    @property
    def offer(self) -> Offer:
        """What the node has for jobs."""
        slots = self.facts.get("slots", [])
        gpus = any(name.startswith("gpu-") for name in slots)
        taken = sum(self.keeper.slots_of(folder, self) for folder in self.keeper.leases(self.name))
        tasks = frozenset(self.keeper.settings.here) if self.host.local else None
        number = len(slots) or 1
        return Offer(name=self.name, tags=frozenset(self.host.tags), slots=number, free=number - taken, gpus=gpus,
                     tasks=tasks)  # fmt: skip

    @property
    def offered(self) -> str:
        """The offer in words."""
        offer = self.offer
        kind = "GPUs" if offer.gpus else "CPU slots"
        return f"{self.name}: {offer.slots} {kind}, tags {sorted(offer.tags)}"

    def say(self, standing: Standing, line: str = "") -> None:
        """Change the standing."""
        line = self.keeper.clean(line)
        if (standing, line) != (self.standing, self.line):
            self.standing, self.line = standing, line
            self.keeper.note(f"{self.name}: {standing}" + (f" ({line})" if line else ""))

    # -- the thread

    def _run(self) -> None:
        tries = 0
        while not self._stop.is_set():
            try:
                self._make_ready()
                tries = 0
                while not self._stop.is_set():
                    self._round()
            except HereFull as error:
                self._wait_for_room(error)
            except Unreachable as error:
                tries += 1
                if self.standing in (Standing.READY, Standing.TAKEN) or tries >= PATIENT_TRIES:
                    self.say(Standing.SILENT, str(error))
                self._stop.wait(BACKOFF_S[min(tries, len(BACKOFF_S)) - 1])
            except NoRoom as error:
                if self.host.local:
                    self._wait_for_room(HereFull(self.keeper.desk.experiment))
                    continue
                self.say(Standing.FULL, str(error))
                self._stop.wait(BACKOFF_S[-1])
            except Refused as error:
                self.say(Standing.REFUSED, str(error))
                break
            except OSError as error:
                if error.errno not in NO_ROOM:
                    self.keeper.trace()
                    self.say(Standing.REFUSED, f"{self.name}: {type(error).__name__}: {error}")
                    break
                self._wait_for_room(error)
            except Exception as error:  # noqa: BLE001 - one node's trouble must not end the others
                self.keeper.trace()
                self.say(Standing.REFUSED, f"{self.name}: {type(error).__name__}: {error}")
                break
        self._attend_refused()

    def _wait_for_room(self, error: Exception) -> None:
        """It is this machine whose disk is full: no fault of the node's."""
        self.keeper.here_full(error)
        self.heard = time.monotonic()  # the node is not silent: nobody can listen
        self._stop.wait(BACKOFF_S[2])

    def _make_ready(self) -> None:
        """Connect, look around, send the code, run the set-up commands, end what was given up here."""
        settings, desk = self.keeper.settings, self.keeper.desk
        self.link.connect()
        hello = {
            "workdir": self.host.workdir or settings.workdir,
            "folders": [str(self.keeper.cwd)],
            "marks": {str(desk.mark): desk.identity()},
            "gpus_wanted": None if self.host.gpus is None else list(self.host.gpus),
            "slots": self.host.slots,
            "used_max": settings.gpu_used_max,
        }
        if self.host.local:
            hello |= {"gpus_wanted": [], "workdir": str(desk.folder / "here")}
        self.facts = self.work.greet(**hello)
        if self.host.local:
            self.facts["slots"] = [f"here-{desk.identity()[:8]}"]
        self._open_watch(hello)
        self.heard = time.monotonic()
        self.courier = Courier(self.link, self.work, rsync=self.facts["rsync"])
        if not self.shared:
            self.work.ask("claim", experiment=str(desk.experiment), owner=desk.identity(), patience_s=60)
        if self.standing is not Standing.READY:
            self.say(Standing.SETTING_UP)
        for code in self.keeper.codes():
            self.send_code(code)
        self._end_given_up()
        self.say(Standing.READY)

    def _open_watch(self, hello: dict[str, Any]) -> None:
        """A second channel, so that looking at jobs need not wait for files; none where sshd allows one session."""
        self.watch.close()
        self.watch = Agent(self.link)
        try:
            self.watch.greet(**hello)
        except NoSession:
            self.watch = self.work
            self.keeper.note(f"{self.name}: sshd allows one session there (MaxSessions); everything goes through it")

    @property
    def shared(self) -> bool:
        """Whether the node sees this machine's files: then nothing needs to be carried."""
        return bool(self.facts.get("shared"))

    def send_code(self, code: Path) -> None:
        """Push a snapshot of the code and set the node up for it; quick where that was done before."""
        if not self.shared:
            self.courier.push(code, code, names=sorted(listing(str(code))))  # what set-up commands made there stays
        if self.host.local:
            return
        words = {"code": str(code), "workdir": self.facts["workdir"], "python": self.python}
        commands = [_filled(command, words) for command in self.keeper.settings.set_up(gpus=self.offer.gpus)]
        if commands and not self.keeper.missing:  # without their secrets they would be other commands
            env = {**self.keeper.settings.env, "XP_CODE": str(code), "XP_WORKDIR": self.facts["workdir"]}
            key = self.keeper.digest("\0".join(commands))
            try:
                self.work.ask("set_up", commands=commands, cwd=str(code), key=key, env=env, patience_s=7200)
            except Refused as error:
                raise Refused(f"{error}{_UV_NEEDS if self.keeper.settings.environment else ''}") from None
        python = _filled(self.python, words)
        if self.work.ask("check_python", python=python, code=PROBE, patience_s=120).get("slow"):
            raise Unreachable(f"{self.name}: {python} takes more than 120 s to start there; it is tried again")

    def _end_given_up(self) -> None:
        """End here what was taken from this node; what does not end is tried again in the next round."""
        for folder, attempt in self.keeper.fences(self.name).items():
            key = self.keeper.key(folder, attempt)
            try:
                self.work.ask("fence", key=key, folder=str(folder), attempt=attempt + 1, discard=not self.shared,
                              patience_s=30)  # fmt: skip
            except Refused as error:
                self.keeper.note(f"{folder.name}: {error}")
                self.rest(BACKOFF_S[2])
                continue
            self.keeper.fenced(self.name, folder, attempt)

    def _attend_refused(self) -> None:
        """A node that cannot be used may still be reached: end there what goes on elsewhere."""
        while not self._stop.wait(BACKOFF_S[3]):
            if not self.keeper.fences(self.name):
                continue
            try:
                self.link.connect()
                self.work.greet(workdir=self.host.workdir or self.keeper.settings.workdir, folders=[],
                                marks={str(self.keeper.desk.mark): self.keeper.desk.identity()},
                                gpus_wanted=[], slots=1)  # fmt: skip
                self.heard = time.monotonic()
                self._end_given_up()
            except (Unreachable, Refused) as error:
                self.keeper.note(f"{self.name}: {error}")
            except Exception:  # noqa: BLE001 - it is written down, and tried again
                self.keeper.trace()

    def _round(self) -> None:
        """One look at the jobs here, and at whether there is room for another."""
        self._end_given_up()
        self._ask_to_leave()
        mine = self.keeper.leases(self.name)
        keys = {self.keeper.key(folder, attempt): folder for folder, attempt in mine.items()}
        idle = not keys and not self._busy or self.watch is self.work
        answer = self.watch.ask("poll", keys=list(keys), known=dict.fromkeys(keys, "running"),
                                wait_s=0.0 if idle or self._busy else WATCH_S, patience_s=WATCH_S)  # fmt: skip
        self.heard = time.monotonic()
        self._judge_room(answer["free"])
        for key, state in answer["jobs"].items():
            self._see(keys[key], mine[keys[key]], state)
        if self.standing in (Standing.READY, Standing.TAKEN) and time.monotonic() >= self._rest_until:
            self._take()
        if idle or self._busy:
            self.keeper.wake.wait(0.05 if self._busy else WATCH_S)

    def _judge_room(self, free: int) -> None:
        low = self.keeper.settings.min_free_gb * 1e9
        if free < low and not self.host.local:
            line = f"{free / 1e9:.1f} GB are free, below hydra.launcher.min_free_gb={low / 1e9:g}"
            look = f"See what lies there: {command('task=gc', gc__folder=self.keeper.desk.experiment)}"
            self.say(Standing.FULL, f"{self.name}: {line}. {look}")
        elif self.standing is Standing.FULL:
            self.keeper.forgive(self.name)
            self.say(Standing.READY)

    def _see(self, folder: Path, attempt: int, state: str) -> None:
        if folder in self._busy:
            return
        if state == "unknown":
            self._in_pool(folder, lambda: self.keeper.launch(self, folder, attempt))
        elif state != "running":
            self._in_pool(folder, lambda: self.keeper.collect(self, folder, attempt, state))
        elif not self.shared and time.monotonic() >= self._synced.get(folder, 0.0):
            self._synced[folder] = time.monotonic() + self.keeper.settings.sync_every_s
            self._in_pool(folder, lambda: self.keeper.sync(self, folder, attempt))

    def _take(self) -> None:
        most, gpus, found = self._free_now(), self.offer.gpus, False
        while len(self._busy) < AT_ONCE and most > 0:
            taken = self.keeper.take(self, most)
            if taken is None:
                break
            found = True
            most -= self.keeper.slots_of(taken[0], self)
            folder, attempt = taken
            self._in_pool(folder, lambda folder=folder, attempt=attempt: self.keeper.launch(self, folder, attempt))
        if gpus and not found:
            self.rest(REST_S)  # looking at GPUs is not cheap

    def _free_now(self) -> int:
        """Slots that nobody uses, as far as that is known before a job is sent: other people's too for GPUs."""
        offer = self.offer
        if not offer.gpus or offer.free <= 0 or not self.keeper.wanted(self):
            return offer.free
        room = self.watch.ask("room", slots=self.facts["slots"], patience_s=_LOOK_AT_GPUS_S)
        starting = sum(self.keeper.slots_of(folder, self) for folder in self.keeper.leases(self.name)
                       if folder in self._busy)  # fmt: skip
        if room["free"] > 0:
            self.say(Standing.READY)
        elif not self.keeper.leases(self.name):
            self.taken("; ".join(room["lines"]))
        if room["free"] <= starting:
            self.rest(REST_S)
        return room["free"] - starting

    def taken(self, line: str) -> None:
        """Say that others have what the jobs here need; it is looked at again soon, and jobs may go elsewhere."""
        self.say(Standing.TAKEN, f"{self.name} waits: {line}. hydra.launcher.gpu_used_max=1 takes it nevertheless")

    def _ask_to_leave(self) -> None:
        for folder, attempt, grace_s in self.keeper.leaving(self.name):
            self.work.ask("stop", key=self.keeper.key(folder, attempt), grace_s=grace_s)

    def rest(self, seconds: float) -> None:
        """Take no job for a while: somebody else's jobs have the machine."""
        self._rest_until = time.monotonic() + seconds

    def _in_pool(self, folder: Path, work: Callable[[], None]) -> None:
        self._busy.add(folder)

        def run() -> None:
            try:
                work()
            except HereFull as error:
                self._wait_for_room(error)
            except (Unreachable, Refused, Busy) as error:
                self.keeper.note(f"{folder.name} at {self.name}: {error}")
                self._stop.wait(1.0)
            except OSError as error:
                if error.errno in NO_ROOM:
                    self._wait_for_room(error)
                    return
                self.keeper.trace()
                self._stop.wait(1.0)
            except Exception:  # noqa: BLE001 - it is written down, and the next round tries again
                self.keeper.trace()
                self._stop.wait(1.0)
            finally:
                self._busy.discard(folder)
                self.keeper.wake.set()

        self._pool.submit(run)

    def filled_python(self, code: Path) -> str:
        """The interpreter of jobs here."""
        if self.host.local:
            import sys

            return sys.executable
        return _filled(self.python, {"code": str(code), "workdir": self.facts["workdir"]})


def _filled(text: str, words: Mapping[str, str]) -> str:
    """Put {code}, {workdir} and {python} into a text; other braces stay."""
    for name, value in words.items():
        text = text.replace("{" + name + "}", value)
    return text
