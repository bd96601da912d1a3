# pyright: strict
"""Several equal envs stepped together, an actor that acts in all of them, and the attempts that come of it.

A suite whose simulation can step many envs at once offers `make_batch` and `batch_expert` beside what every suite has
(`xp.envs.suite`). Its task is `observation.state`, its actions and rewards: what a policy that learns from rewards
reads. No camera is looked through.

Letters: N envs, S state, A action.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import numpy as np

from xp.array_types import Floats
from xp.envs.suite import Suite
from xp.errors import UserError

if TYPE_CHECKING:
    from xp.array_types import Numbers


@dataclass(frozen=True, eq=False)
class BatchStep:
    """What follows an action of N envs."""

    observation: Floats
    """[N, S] float32."""
    reward: Floats
    """[N]."""
    ended: "Numbers"
    """[N] bool: the attempt is over by what happened, not by its length."""


@runtime_checkable
class BatchEnv(Protocol):
    """N envs of one task. An attempt is a pure function of (seed, actions); what stands beside it changes nothing."""

    @property
    def count(self) -> int:
        """N."""
        ...

    @property
    def max_steps(self) -> int:
        """Steps after which an attempt is cut."""
        ...

    @property
    def largest_return(self) -> float:
        """What the rewards of an attempt can sum to at most."""
        ...

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    def reset(self, seeds: Sequence[int], rows: Sequence[int] | None = None) -> Floats:
        """Begin the attempts of `seeds` in `rows` (all, where none are given); first observations [rows, S]."""
        ...

    def step(self, actions: Floats) -> BatchStep:
        """One control step of all envs with actions [N, A]."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@runtime_checkable
class BatchActor(Protocol):
    """What acts in N envs in lockstep: a policy with its history, or an expert."""

    def act(self, observation: Floats, reward: Floats, begins: "Numbers", *, executed: Floats | None = None) -> Floats:
        """The next action of each env, [N, at least A].

        Args:
            observation: [N, S].
            reward: [N], what the action before brought; without meaning where an attempt begins.
            begins: [N] bool, where an attempt begins.
            executed: [N, A], the action before as it was executed, where that is not what was given (noise).
        """
        ...


@runtime_checkable
class Forgetful(Protocol):
    """An actor that can begin its memory of some envs anew."""

    def forget(self, rows: "Numbers") -> None:
        """Begin the memory of the envs `rows` [N] bool anew."""
        ...


@runtime_checkable
class BatchSuite(Suite, Protocol):
    """A suite that steps many envs at once."""

    @property
    def signs(self) -> tuple[Sequence[float], Sequence[float]]:
        """Signs of observations [S] and actions [A] relative to what all robots of the suite share."""
        ...

    def make_batch(self, task: str, count: int, *, threads: int = 1) -> BatchEnv:
        """`count` envs of a task, the physics of a step shared by `threads`."""
        ...

    def batch_expert(self, env: BatchEnv) -> BatchActor:
        """The suite's expert in all of them.

        Raises:
            UserError: there is none.
        """
        ...


def batch_suite(suite: Suite, key: str) -> BatchSuite:
    """The suite, if it steps many envs at once; `key` is what asked for that.

    Raises:
        UserError: it does not.
    """
    if isinstance(suite, BatchSuite):
        return suite
    raise UserError(
        f"{key}: the suite {suite.name} simulates one env at a time and tells no rewards to learn from. Choose one "
        "that steps many together, e.g. env=go2"
    )


@runtime_checkable
class Noise(Protocol):
    """What is added to an actor's actions, for the sake of exploring."""

    def begin(self, row: int, seed: int, progress: float) -> None:
        """An attempt begins in a row; `progress` in 0..1 says how much of the row's history has passed."""
        ...

    def applied(self, actions: Floats, progress: "Numbers") -> Floats:
        """The actions [N, A] to execute."""
        ...


@dataclass(frozen=True, eq=False)
class Attempt:
    """One attempt of n steps: `state` [n, S], `action` [n, A] as executed, `reward` [n] float32."""

    row: int
    """Which env's history it belongs to."""
    seed: int
    state: Floats
    action: Floats
    reward: Floats
    ended: bool
    """By what happened; otherwise it was cut at the limit."""

    @property
    def total(self) -> float:
        """Its return."""
        return float(self.reward.sum(dtype=np.float64))


def attempts(
    env: BatchEnv,
    actor: BatchActor,
    plan: Sequence[Sequence[int]],
    *,
    noise: Noise | None = None,
    forgets: bool = False,
    max_steps: int | None = None,
) -> Iterator[Attempt]:
    """Act in all envs until each has made its attempts; gives them as they end.

    An env whose attempts are made goes on unseen, since all step together.

    Args:
        env: N envs.
        actor: who acts.
        plan: the seeds of each env's attempts, one after the other [N][...].
        noise: what is added to the actions.
        forgets: whether the actor's memory begins anew with each attempt (otherwise it learns in its context).
        max_steps: a shorter limit than the env's own.
    """
    limit = env.max_steps if max_steps is None else min(max_steps, env.max_steps)
    rows = [_Row(row, list(seeds), limit) for row, seeds in enumerate(plan)]
    observation = np.array(env.reset([row.seed for row in rows]), np.float32)
    reward, begins = np.zeros(env.count, np.float32), np.ones(env.count, bool)
    executed = np.zeros((env.count, env.action_dim), np.float32)
    progress = np.zeros(env.count)
    for row in rows:
        _begin(noise, row)
    while any(row.is_wanted for row in rows):
        if forgets and begins.any():
            cast("Forgetful", actor).forget(begins)
        actions = np.asarray(actor.act(observation, reward, begins, executed=executed), np.float32)[:, : env.action_dim]
        for row in rows:
            progress[row.number] = row.progress
        executed = actions if noise is None else np.asarray(noise.applied(actions, progress), np.float32)
        stepped = env.step(executed)
        reward = np.asarray(stepped.reward, np.float32)
        ended = np.asarray(stepped.ended, bool)
        for row in rows:
            row.note(observation[row.number], executed[row.number], float(reward[row.number]))
        observation = np.array(stepped.observation, np.float32)
        begins = ended | np.array([row.length >= limit for row in rows])
        for number in np.flatnonzero(begins):
            row = rows[int(number)]
            made = row.made(bool(ended[row.number]))
            if made is not None:
                yield made
            observation[row.number] = env.reset([row.seed], [row.number])[0]
            _begin(noise, row)


def _begin(noise: Noise | None, row: "_Row") -> None:
    if noise is not None:
        noise.begin(row.number, row.seed, row.progress)


class _Row:
    """The attempts of one env: those that are still wanted, and the one that is being made."""

    def __init__(self, number: int, seeds: list[int], limit: int) -> None:
        self.number, self._seeds, self._limit = number, seeds, limit
        self._done = 0
        self._state: list[Floats] = []
        self._action: list[Floats] = []
        self._reward: list[float] = []

    @property
    def is_wanted(self) -> bool:
        return self._done < len(self._seeds)

    @property
    def seed(self) -> int:
        """Of the present attempt; the last one's where no more is wanted."""
        return self._seeds[min(self._done, len(self._seeds) - 1)] if self._seeds else 0

    @property
    def length(self) -> int:
        return len(self._reward)

    @property
    def progress(self) -> float:
        """Attempts that are made and the share of the present one, of all."""
        return min((self._done + self.length / self._limit) / max(len(self._seeds), 1), 1.0)

    def note(self, state: Floats, action: Floats, reward: float) -> None:
        self._state.append(state)
        self._action.append(action)
        self._reward.append(reward)

    def made(self, ended: bool) -> Attempt | None:
        """The attempt that is over; None where it was not wanted."""
        found = None
        if self.is_wanted:
            found = Attempt(
                row=self.number,
                seed=self.seed,
                state=np.stack(self._state),
                action=np.stack(self._action),
                reward=np.array(self._reward, np.float32),
                ended=ended,
            )
        self._done += 1
        self._state, self._action, self._reward = [], [], []
        return found
