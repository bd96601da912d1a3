"""At most one attempt of a job at work, and at least one as long as a host can run it: the protocol as a state machine.

The keeper's side is the queue of leases itself and what it wrote down; the node's side decides by the agent's own
`verdict` and `concluded`. Everything that can go wrong between them does: requests and answers are lost, late or
doubled, the keeper is killed before or after it wrote, hosts are cut off, given up, refused and rebooted, jobs die,
and another controller hands the same jobs over again.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hydra_plugins.xp_ssh_launcher._agent_locks import concluded, verdict
from hydra_plugins.xp_ssh_launcher._lease_queue import AttemptOutcome, LeaseQueue, NodeCapacity
from xp.runs.executors.protocol import JobState, Submission

JOBS = [Path("/x/a"), Path("/x/b")]
HOSTS = ("one", "two")
PROTOCOL = settings(
    max_examples=200, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


class ModelNode:
    """What a node knows: a lock and a fence per job, and what was begun and ended."""

    def __init__(self):
        self.holder, self.fence, self.begun, self.ended = {}, {}, set(), {}
        self.taken = False  # by somebody else's job

    def start(self, job, attempt):
        self.fence[job] = max(self.fence.get(job, 0), attempt)
        if self.say(job, attempt) == "end":
            del self.holder[job]
        what = self.say(job, attempt)
        if what == "go" and (self.holder or self.taken):  # there is one slot
            self.fence[job] = attempt + 1
            return {"started": False, "why": "busy"}
        if what == "go":
            self.begun.add((job, attempt))
            self.holder[job] = attempt
        return {"started": what != "fenced", "why": what}

    def say(self, job, attempt):
        return verdict(attempt, self.fence[job], self.holder.get(job), (job, attempt) in self.begun)

    def end_below(self, job, number):
        self.fence[job] = max(self.fence.get(job, 0), number)
        if self.holder.get(job, number) < number:
            del self.holder[job]

    def poll(self, job, attempt):
        held = self.holder.get(job) == attempt
        return concluded(self.ended.get((job, attempt)), held, (job, attempt) in self.begun)


class Protocol(RuleBasedStateMachine):
    """Keeper, nodes and the network between them."""

    @initialize()
    def begin(self):
        self.nodes = {name: ModelNode() for name in HOSTS}
        self.cut, self.late, self.given_up = set(), [], set()
        self.book = self.fresh()
        self.saved = self.earlier = self.book.to_json()

    def fresh(self):
        book = LeaseQueue(retries=10**6)
        book.add([Submission(folder=job, handle=str(job)) for job in JOBS])
        return book

    def save(self):
        self.earlier, self.saved = self.saved, self.book.to_json()

    def ask(self, host, outcome, kind, job, attempt):
        """The answer to a request, or None: lost, or not yet there."""
        self.earlier = self.saved  # what follows from a decision is asked after the decision was written down
        if outcome == "late":
            self.late.append((host, kind, job, attempt))
        if outcome == "lost" or outcome == "late" or host in self.cut:
            return None
        answer = self.arrive(host, kind, job, attempt)
        return None if outcome == "answer lost" else answer

    def arrive(self, host, kind, job, attempt):
        node = self.nodes[host]
        if kind == "fence":
            node.end_below(job, attempt + 1)
            return True
        return node.start(job, attempt) if kind == "start" else node.poll(job, attempt)

    outcomes = st.sampled_from(["ok", "ok", "ok", "lost", "answer lost", "late"])

    def take(self, host):
        free = 1 - len(self.book.of(host))
        if self.book.take(NodeCapacity(name=host, slots=1, free=free)):
            self.save()

    @rule(host=st.sampled_from(HOSTS), first=outcomes, second=outcomes)
    def rounds(self, host, first, second):
        """Two rounds of a host's thread, and what it takes between them."""
        self.look(host, first)
        self.take(host)
        self.look(host, "ok", second)

    @rule(host=st.sampled_from(HOSTS))
    def somebody_else_takes_the_slot_or_leaves_it(self, host):
        self.nodes[host].taken = not self.nodes[host].taken

    def look(self, host, outcome, start=None):
        """A round of a host's thread: fences first, then a poll, and what follows from it."""
        for job, attempt in dict(self.book.fences.get(host, {})).items():
            if not self.ask(host, outcome, "fence", job, attempt):
                return
            self.book.fenced(host, job, attempt)
            self.given_up.discard((host, job))
            self.save()
        for job, attempt in self.book.of(host).items():
            state = self.ask(host, outcome, "poll", job, attempt)
            if state == "unknown":
                answer = self.ask(host, start or outcome, "start", job, attempt)
                if answer:
                    self.book.answered(job, attempt, answer)
                    self.save()
            elif state not in (None, "running"):
                self.book.end(job, attempt, AttemptOutcome.DONE if state == "ended 0" else AttemptOutcome.DIED)
                self.save()

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 99), again=st.booleans())
    def late_request_arrives(self, which, again):
        index = which % len(self.late)
        host, kind, job, attempt = self.late[index]
        if not again:
            del self.late[index]
        if host not in self.cut:
            self.arrive(host, kind, job, attempt)  # its channel is gone: nobody hears the answer

    @rule(host=st.sampled_from(HOSTS), code=st.sampled_from([0, -9, None]))
    def a_job_ends(self, host, code):
        node = self.nodes[host]
        for job, attempt in list(node.holder.items())[:1]:
            del node.holder[job]
            if code is not None:
                node.ended[job, attempt] = code

    @rule(host=st.sampled_from(HOSTS))
    def a_host_is_cut_off(self, host):
        self.cut.add(host)

    @rule(host=st.sampled_from(HOSTS))
    def it_is_back(self, host):
        self.cut.discard(host)

    @rule(host=st.sampled_from(HOSTS))
    def it_reboots(self, host):
        self.nodes[host].holder.clear()

    @precondition(lambda self: self.cut and len(self.cut) < len(HOSTS))
    @rule(which=st.integers(0, 2))
    def a_silent_host_is_given_up(self, which):
        host = sorted(self.cut)[which % len(self.cut)]
        for job in self.book.of(host):
            self.book.lose(job)
        self.given_up |= {(host, job) for job in self.book.fences.get(host, {})}
        self.book.give_up(host)
        self.save()

    @rule(host=st.sampled_from(HOSTS))
    def a_host_is_refused(self, host):
        """It is there but cannot be used any more: nothing goes elsewhere before it was ended here."""
        for job in self.book.of(host):
            self.book.lose(job)
        self.save()

    @rule(written=st.booleans())
    def the_keeper_is_killed(self, written):
        saved = self.saved if written else self.earlier
        self.book = self.fresh()
        self.book.restore(saved)
        self.save()
        self.earlier = self.saved

    @rule(job=st.sampled_from(JOBS), anew=st.booleans())
    def another_controller_hands_it_over(self, job, anew):
        self.book.add([Submission(folder=job, handle="" if anew else str(job))])
        self.save()

    @invariant()
    def at_most_one_attempt_is_at_work(self):
        if not hasattr(self, "nodes"):
            return
        for job in JOBS:
            at = [host for host, node in self.nodes.items() if job in node.holder and (host, job) not in self.given_up]
            assert len(at) <= 1, (job, at)

    def teardown(self):
        """When nothing goes wrong any more, every job is done."""
        if not hasattr(self, "nodes"):
            return
        self.cut.clear()
        for node in self.nodes.values():
            node.taken = False
        for host, kind, job, attempt in self.late:
            self.arrive(host, kind, job, attempt)
        for _ in range(20):
            for host in HOSTS:
                self.look(host, "ok")
                self.take(host)
                self.look(host, "ok")
                self.at_most_one_attempt_is_at_work()
                self.a_job_ends(host, 0)
        assert all(state is JobState.DONE for state in self.book.queue.states.values()), self.book.queue.states
        assert not any(node.holder for node in self.nodes.values())


TestProtocol = pytest.mark.filterwarnings("ignore")(Protocol.TestCase)
TestProtocol.settings = PROTOCOL
