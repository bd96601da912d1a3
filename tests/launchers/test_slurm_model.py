"""The SLURM launcher's decisions in a made-up world: crashes, delays, duplicates, lost answers, two controllers.

The world moves by rules that hypothesis draws; every decision in it is the launcher's own (`_protocol`). Whatever
comes, two attempts of the job are never at work at once; and from wherever the world stands, calls of the command and
a cluster that goes on working finish the job.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hydra_plugins.xp_slurm_launcher._protocol import (
    FORGOTTEN_S,
    Attempt,
    Heard,
    Move,
    Start,
    before_submitting,
    conclude,
    may_settle,
    may_start,
)
from xp.runs.executors.protocol import JobState
from xp.runs.records.record import State


@dataclass
class Order:
    """A submission on disk."""

    token: str
    number: int
    withdrawn: bool = False
    job_id: str | None = None


@dataclass
class Task:
    """A job at SLURM: pending, running, completing or ended."""

    job_id: str
    token: str
    state: str = "pending"
    restarts: int = 0
    forgotten: bool = False


@dataclass(eq=False)
class Process:
    """An attempt on a node: starting, working or gone; frozen while its node is cut off."""

    attempt: Attempt
    task: Task
    phase: str = "starting"
    frozen: bool = False
    given_up: bool = False
    """Nobody has heard of it for long: its lock is dropped by the server, its heartbeat is stale."""


@dataclass(eq=False)
class Controller:
    """A call of the command: planning (holding the experiment's lock), or waiting for sbatch's answer."""

    order: Order | None = None


@dataclass
class Sent:
    """A call of sbatch under way; `caller` is None when it was killed, `lock` whether sbatch itself still lives."""

    order: Order
    caller: Controller | None
    lock: bool = True


@dataclass
class World:
    """Everything that there is."""

    locks: bool
    state: State = State.PENDING
    holder: Process | None = None
    last: Attempt | None = None
    orders: list[Order] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    controllers: list[Controller] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    silent: bool = False
    count: int = 0

    @property
    def handing_in(self) -> bool:
        """Whether somebody holds the experiment's lock."""
        return self.locks and (bool(self.controllers) or any(each.lock for each in self.sent))

    @property
    def working(self) -> list[Process]:
        return [each for each in self.processes if each.phase == "working" and not each.frozen]

    def busy(self) -> bool:
        """Whether a controller finds the run held, or alive."""
        held = self.locks and self.holder is not None
        return held or any(each.phase == "working" and not each.given_up for each in self.processes)

    def valid(self) -> Order | None:
        found = [each for each in self.orders if not each.withdrawn]
        return max(found, key=lambda order: (order.number, order.token), default=None)

    def heard(self, order: Order | None) -> Heard:
        if self.silent:
            return Heard.SILENT
        if order is None or order.job_id is None:
            return Heard.UNKNOWN
        (task,) = [each for each in self.tasks if each.job_id == order.job_id]
        words = {"pending": Heard.OPEN, "running": Heard.OPEN, "completing": Heard.ENDING, "ended": Heard.ENDED}
        return Heard.UNKNOWN if task.forgotten else words[task.state]

    def decide(self, controller: Controller) -> None:
        """What a call does under the lock, up to sbatch."""
        if not self.silent:
            for order in self.orders:  # asked by name
                named = [each for each in self.tasks if each.token == order.token and not each.forgotten]
                order.job_id = order.job_id or (named[0].job_id if named else None)
        valid = self.valid()
        move = before_submitting(self.state, busy=self.busy(), submitted=valid is not None, heard=self.heard(valid))
        if move is not Move.SUBMIT:
            self.controllers.remove(controller)
            return
        if self.locks:
            for each in self.orders:
                each.withdrawn = True
        elif valid is not None:
            valid.withdrawn = True
        self.state = State.PENDING
        self.count += 1
        number = 1 + max((each.number for each in self.orders), default=0)
        controller.order = Order(f"t{self.count:03d}", number)
        self.orders.append(controller.order)
        self.sent.append(Sent(controller.order, controller))

    def accept(self, sent: Sent) -> None:
        self.sent.remove(sent)
        task = Task(str(100 + len(self.tasks)), sent.order.token)
        self.tasks.append(task)
        if sent.caller is not None:
            sent.order.job_id = task.job_id
            self.controllers.remove(sent.caller)

    def start(self, task: Task) -> None:
        task.state = "running"
        self.processes.append(Process(Attempt(task.token, task.job_id, task.restarts), task))

    def admit(self, process: Process) -> None:
        """The attempt's first step under the run's lock."""
        if self.locks and self.holder is not None:
            if self.order_of(process).withdrawn:
                self.leave(process)
            return
        if self.state is State.DONE:
            self.leave(process)
            return
        mine, valid = self.order_of(process), self.valid()
        latest = valid is None or (valid.number, valid.token) <= (mine.number, mine.token)
        others = any(each is not process and each.phase == "working" and not each.given_up for each in self.processes)
        start = may_start(withdrawn=mine.withdrawn, latest=latest, others_alive=others)
        if start is Start.LEAVE:
            self.leave(process)
        elif start is Start.WORK:
            process.phase, self.state, self.last = "working", State.RUNNING, process.attempt
            self.holder = process if self.locks else None

    def order_of(self, process: Process) -> Order:
        return next(each for each in self.orders if each.token == process.attempt.token)

    def leave(self, process: Process) -> None:
        """Gone without a word; a task that is still this process's own ends."""
        self.processes.remove(process)
        self.release(process)
        if process.task.restarts == process.attempt.restarts and process.task.state in ("running", "completing"):
            process.task.state = "ended"

    def release(self, process: Process) -> None:
        if self.holder is process:
            self.holder = None

    def guard(self, process: Process) -> None:
        """What an attempt at work does every two seconds, and first of all when its node is back."""
        if self.last != process.attempt or self.order_of(process).withdrawn:
            self.leave(process)

    def die(self, process: Process, with_shell: bool) -> None:
        began = process.phase == "working"
        self.processes.remove(process)
        self.release(process)
        if with_shell:
            process.task.state = "ended"
            return
        process.task.state = "completing"
        allowed = may_settle(process.attempt, self.last, withdrawn=self.order_of(process).withdrawn)
        if allowed and not self.busy() and self.state is not State.DONE:
            self.state = State.PENDING
            if began:
                process.task.state, process.task.restarts = "pending", process.task.restarts + 1
                return
        process.task.state = "ended"

    def finish(self, process: Process) -> None:
        self.state = State.DONE
        self.leave(process)


class Machine(RuleBasedStateMachine):
    """Rules that may be drawn in any order."""

    locks = True

    def __init__(self):
        super().__init__()
        self.world = World(self.locks)

    @initialize(steps=st.integers(0, 5))
    def a_first_call_has_come_so_far(self, steps):
        self.world.controllers.append(Controller())
        for _ in range(steps):
            self.things_go_on()

    @rule()
    def things_go_on(self):
        world = self.world
        if planning := [each for each in world.controllers if each.order is None]:
            world.decide(planning[0])
        elif world.sent:
            world.accept(world.sent[0])
        elif pending := [each for each in world.tasks if each.state == "pending"]:
            world.start(pending[-1])
        elif ready := [each for each in world.processes if each.phase == "starting" and not each.frozen]:
            world.admit(ready[-1])

    @precondition(lambda self: not self.world.handing_in and len(self.world.controllers) < 3)
    @rule()
    def somebody_issues_the_command(self):
        self.world.controllers.append(Controller())

    @precondition(lambda self: any(each.order is None for each in self.world.controllers))
    @rule(silent=st.sampled_from([False, False, True]))
    def a_controller_decides(self, silent):
        self.world.silent = silent
        self.world.decide(next(each for each in self.world.controllers if each.order is None))
        self.world.silent = False

    @precondition(lambda self: self.world.controllers)
    @rule(data=st.data(), sbatch_lives=st.booleans())
    def a_controller_is_killed(self, data, sbatch_lives):
        controller = data.draw(st.sampled_from(self.world.controllers))
        self.world.controllers.remove(controller)
        for sent in self.world.sent:
            if sent.caller is controller:
                sent.caller, sent.lock = None, sbatch_lives

    @precondition(lambda self: self.world.sent)
    @rule(data=st.data())
    def slurm_accepts(self, data):
        self.world.accept(data.draw(st.sampled_from(self.world.sent)))

    @precondition(lambda self: any(each.caller for each in self.world.sent))
    @rule()
    def an_answer_is_lost(self):
        sent = next(each for each in self.world.sent if each.caller)
        assert sent.caller is not None
        self.world.controllers.remove(sent.caller)
        sent.caller, sent.lock = None, False

    @precondition(lambda self: self.world.sent)
    @rule()
    def a_submission_is_never_taken(self):
        sent = self.world.sent.pop()
        if sent.caller is not None:
            self.world.controllers.remove(sent.caller)

    @precondition(lambda self: any(each.state == "pending" for each in self.world.tasks))
    @rule(data=st.data())
    def a_task_starts(self, data):
        self.world.start(data.draw(st.sampled_from([each for each in self.world.tasks if each.state == "pending"])))

    @precondition(lambda self: any(each.phase == "starting" and not each.frozen for each in self.world.processes))
    @rule(data=st.data())
    def an_attempt_asks_to_begin(self, data):
        ready = [each for each in self.world.processes if each.phase == "starting" and not each.frozen]
        self.world.admit(data.draw(st.sampled_from(ready)))

    @precondition(lambda self: self.world.working)
    @rule(how=st.sampled_from(["done", "killed", "killed with its shell", "looks"]))
    def an_attempt_at_work(self, how):
        process = self.world.working[0]
        if how == "done":
            self.world.finish(process)
        elif how == "looks":
            self.world.guard(process)
        else:
            self.world.die(process, with_shell=how != "killed")

    @precondition(lambda self: any(not each.frozen for each in self.world.processes))
    @rule(data=st.data(), requeues=st.booleans(), back=st.booleans(), cancelled=st.booleans())
    def a_node_is_cut_off(self, data, requeues, back, cancelled):
        process = data.draw(st.sampled_from([each for each in self.world.processes if not each.frozen]))
        process.frozen = not back
        if cancelled and process.task.state == "running":
            process.task.state = "ended"
        elif requeues and process.task.state == "running":
            process.task.state, process.task.restarts = "pending", process.task.restarts + 1

    @precondition(lambda self: any(each.frozen and not each.given_up for each in self.world.processes))
    @rule()
    def a_lost_node_is_given_up(self):
        process = next(each for each in self.world.processes if each.frozen and not each.given_up)
        process.given_up = True
        self.world.release(process)

    @precondition(lambda self: any(each.frozen for each in self.world.processes))
    @rule(data=st.data())
    def a_lost_node_is_back(self, data):
        process = data.draw(st.sampled_from([each for each in self.world.processes if each.frozen]))
        process.frozen = process.given_up = False
        if process.phase == "working":
            self.world.guard(process)
            if process in self.world.processes and self.world.locks and self.world.holder is None:
                self.world.holder = process

    @precondition(lambda self: any(each.state in ("pending", "ended") for each in self.world.tasks))
    @rule(data=st.data())
    def somebody_requeues_or_cancels(self, data):
        task = data.draw(st.sampled_from([each for each in self.world.tasks if each.state in ("pending", "ended")]))
        if task.state == "pending":
            task.state = "ended"
        elif not task.forgotten:
            task.state, task.restarts = "pending", task.restarts + 1

    @precondition(lambda self: any(each.state == "ended" and not each.forgotten for each in self.world.tasks))
    @rule()
    def slurm_forgets(self):
        next(each for each in self.world.tasks if each.state == "ended" and not each.forgotten).forgotten = True

    @invariant()
    def one_attempt_at_most_is_at_work(self):
        assert len(self.world.working) <= 1

    @invariant()
    def what_is_at_work_has_the_job(self):
        assert not self.locks or not any(self.world.order_of(each).withdrawn for each in self.world.working)
        assert not self.world.working or self.world.state is State.RUNNING

    @invariant()
    def one_submission_at_most_has_the_job(self):
        assert not self.locks or sum(not each.withdrawn for each in self.world.orders) <= 1

    def teardown(self):
        """From here the job is finished: everything answers, and the command is issued until nothing is missing."""
        world = self.world
        for process in list(world.processes):
            if process.frozen:
                process.frozen = process.given_up = False
                if process.phase == "working":
                    world.guard(process)
        for sent in list(world.sent):
            world.accept(sent)
        world.controllers.clear()
        for _ in range(12):
            for process in list(world.working):
                world.finish(process)
            for task in world.tasks:
                if task.state == "completing":
                    task.state = "ended"
                if task.state == "pending":
                    world.start(task)
            for process in list(world.processes):
                if process.phase == "starting":
                    world.admit(process)
                self.one_attempt_at_most_is_at_work()
            if world.state is State.DONE:
                return
            if not world.handing_in:
                controller = Controller()
                world.controllers.append(controller)
                world.decide(controller)
            for sent in list(world.sent):
                world.accept(sent)
        raise AssertionError(f"never finished: {world}")


class WithoutLocks(Machine):
    """A file system whose locks do nothing: the later submission decides, and heartbeats."""

    locks = False


@pytest.mark.parametrize("machine", [Machine, WithoutLocks])
def test_one_attempt_at_most_is_at_work_and_one_is_as_long_as_anything_can_run_it(machine):
    budget = settings(
        max_examples=400,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        database=None,
    )
    run_state_machine_as_test(machine, settings=budget)


ENDS = (JobState.INTERRUPTED, JobState.FAILED, JobState.DONE, JobState.BLOCKED)


@pytest.mark.parametrize("before", [JobState.WAITING, JobState.RUNNING])
@pytest.mark.parametrize("state", list(State))
def test_unknown_and_silent_never_mean_ended(state, before):
    for heard in (Heard.UNKNOWN, Heard.SILENT):
        told = conclude(state, alive=False, heard=heard, seen=None, final=False, for_s=FORGOTTEN_S - 1, before=before)
        written = state in (State.DONE, State.CANCELLED) or (state is State.FAILED and heard is Heard.UNKNOWN)
        assert (told in ENDS) == (written if heard is Heard.UNKNOWN else state is State.DONE)
    told = conclude(state, alive=True, heard=Heard.UNKNOWN, seen=None, final=False, for_s=999.0, before=before)
    assert told is (JobState.DONE if state is State.DONE else JobState.RUNNING)


def test_a_job_that_slurm_has_forgotten_is_given_up_after_its_last_sign_of_life_is_old():
    facts = {"alive": False, "seen": None, "final": False, "before": JobState.RUNNING}
    assert conclude(State.RUNNING, heard=Heard.UNKNOWN, for_s=FORGOTTEN_S, **facts) is JobState.INTERRUPTED
    failed = {**facts, "seen": JobState.FAILED}
    assert conclude(State.RUNNING, heard=Heard.ENDED, for_s=1.0, **failed) is JobState.RUNNING
    assert conclude(State.RUNNING, heard=Heard.ENDED, for_s=FORGOTTEN_S, **failed) is JobState.FAILED
    cancelled = {**facts, "seen": JobState.INTERRUPTED, "final": True}
    assert conclude(State.RUNNING, heard=Heard.ENDED, for_s=0.0, **cancelled) is JobState.INTERRUPTED
