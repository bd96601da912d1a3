"""The protocol of turns as a state machine: machines whose locks do not reach one another, crashes, silence, skew."""

import os
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xp.data import turns
from xp.data.locks import FileLock
from xp.data.turns import PATIENCE_S, Turn
from xp.errors import UserError

ACTORS = st.integers(0, 5)


class Turns(RuleBasedStateMachine):
    """Six processes on three machines. Locks of two machines know nothing of one another when `reach` is false."""

    def __init__(self):
        super().__init__()
        self.now, self.stamp = 1000.0, 0
        self.real = turns.time.monotonic, turns._beat
        turns.time.monotonic = lambda: self.now
        turns._beat = lambda descriptor, ended: os.close(descriptor)  # the machine beats itself
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "entry"
        self.holds: set[int] = set()
        self.silent: dict[int, float] = {}

    @initialize(reach=st.booleans())
    def begin(self, reach):
        self.reach = reach
        self.turn = {actor: self.new(actor) for actor in range(6)}

    def new(self, actor: int) -> Turn:
        machine = f"machine{actor % 3}"
        turn = Turn(self.path, machine=machine)
        if not self.reach:
            turn._lock = FileLock(self.path.with_name(f"entry.{machine}.build.lock"))
        return turn

    def may_be_replaced(self, actor: int) -> bool:
        return actor in self.silent and self.now - self.silent[actor] >= PATIENCE_S

    @rule(actor=ACTORS)
    def take(self, actor):
        if actor in self.holds or not self.turn[actor].take():
            return
        assert all(self.may_be_replaced(other) for other in self.holds), "two at work, and neither was silent"
        assert self.turn[actor].held
        for other in self.holds:
            assert not self.turn[other].held
        self.holds.add(actor)

    @rule(actor=ACTORS)
    def end(self, actor):
        self.turn[actor].release()
        self.holds.discard(actor)
        self.silent.pop(actor, None)

    @rule(actor=ACTORS)
    def is_killed(self, actor):
        """kill -9, or its machine is gone: the lock goes with it, the claim stays and is never touched again."""
        turn = self.turn[actor]
        turn._lock.release()
        if turn._descriptor is not None:
            os.close(turn._descriptor)
            turn._descriptor = None
        self.turn[actor] = self.new(actor)
        self.holds.discard(actor)
        self.silent.pop(actor, None)

    @rule(actor=ACTORS)
    def falls_silent(self, actor):
        """SIGSTOP, or a network that is gone: it holds what it holds, and touches nothing."""
        if actor in self.holds:
            self.silent.setdefault(actor, self.now)

    @rule(seconds=st.floats(0, 40), skew=st.integers(-(10**12), 10**12))
    def time_passes(self, seconds, skew):
        """Whoever lives touches its claim every two seconds; the times that this writes are the file server's own."""
        for _ in range(int(seconds // turns.BEAT_S) or 1):
            self.now += min(seconds, turns.BEAT_S)
            self.stamp += 1
            for actor in self.holds - self.silent.keys():
                if self.turn[actor].held:
                    os.utime(self.path.with_name("entry.claim"), ns=(0, 10**18 + skew * 10**3 + self.stamp))
            for turn in self.turn.values():
                turn._others()  # everybody looks

    @invariant()
    def no_draft_is_left(self):
        names = {path.name for path in Path(self.folder.name).iterdir()}
        assert not {name for name in names if name.startswith("entry.claim.")}

    def teardown(self):
        """Whatever happened: once nobody is at work, the turn can be had after the patience, by exactly one."""
        for actor in range(6):
            self.is_killed(actor)
        self.time_passes(0, 0)
        self.now += PATIENCE_S + 1
        assert sum(self.turn[actor].take() for actor in range(6)) == 1
        for turn in self.turn.values():
            turn.release()
        turns.time.monotonic, turns._beat = self.real
        self.folder.cleanup()


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_claim_of_a_machine_that_is_gone_is_believed_for_the_patience_and_no_longer(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(turns.time, "monotonic", lambda: clock[0])
    (tmp_path / "a.claim").write_text("another-machine host 1 0123\n")
    os.utime(tmp_path / "a.claim", (2**33, 2**33))  # a clock that is centuries ahead
    turn = Turn(tmp_path / "a")
    assert not turn.take()
    clock[0] = PATIENCE_S - 0.1
    assert not turn.take()
    clock[0] = PATIENCE_S + 0.1
    assert turn.take() and turn.held
    turn.release()
    assert [path.name for path in tmp_path.iterdir()] == ["a.build.lock"]


def test_a_claim_left_on_this_machine_does_not_keep_anybody_waiting(tmp_path):
    (tmp_path / "a.claim").write_text(f"{turns.this_machine()} host 1 0123\n")
    turn = Turn(tmp_path / "a")
    assert turn.take()
    turn.release()


def test_a_claim_is_touched_while_its_holder_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "BEAT_S", 0.01)
    turn = Turn(tmp_path / "a")
    assert turn.take()
    os.utime(tmp_path / "a.claim", (1, 1))
    while (tmp_path / "a.claim").stat().st_mtime < 2:
        turns.time.sleep(0.01)
    turn.release()


def test_a_forked_child_does_not_keep_the_turn_of_a_killed_parent(tmp_path):
    turn = Turn(tmp_path / "a")
    assert turn.take()
    begun, going_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begun[1], b"x")
        os.close(going_on[1])
        os.read(going_on[0], 1)
        os._exit(0)
    os.read(begun[0], 1)
    turn._lock.release()  # as the system does when the parent is killed
    second = Turn(tmp_path / "a")
    taken = second.take()
    for end in (*begun, *going_on):
        os.close(end)
    os.waitpid(child, 0)
    second.release()
    assert taken


@pytest.mark.parametrize("what", ["frame cache", "cache of predictions"])
def test_a_folder_that_cannot_be_written_is_named_with_its_cache(what, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"The {what} folder .* cannot be written .*paths.cache=<folder>"):
        Turn(tmp_path / "file" / "a", what).take()
