"""Which episodes of an evaluation are finished: `episodes.csv`, whole after each, so that a killed one goes on."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from xp import atomic
from xp.envs import EpisodeResult
from xp.errors import UserError
from xp.runs.records.csvlog import Cell, read_csv

COLUMNS = ("policy", "task", "seed", "success", "steps", "queries", "max_reward")


@dataclass(frozen=True, order=True)
class Wanted:
    """An episode of a policy; they are in the file in this order."""

    policy: int
    task: int
    seed: int


class EpisodeLog:
    """The results of an evaluation's episodes by policy, task and seed.

    Args:
        path: the file; it is sorted, so its content does not depend on which episode ended first.
        policies: their names, in order.
        tasks: their names, in order.
        resuming: whether results that are there count.

    Raises:
        UserError: the file that is to go on holds something else.
    """

    def __init__(self, path: Path, policies: list[str], tasks: list[str], *, resuming: bool):
        self._path, self._policies, self._tasks = path, policies, tasks
        self._found: dict[Wanted, EpisodeResult] = {}
        for row in read_csv(path) if resuming else []:
            wanted, result = self._read(row)
            self._found[wanted] = result

    def __len__(self) -> int:
        return len(self._found)

    def has(self, policy: str, task: str, seed: int) -> bool:
        """Whether an episode is finished."""
        return self._key(policy, task, seed) in self._found

    def add(self, policy: str, result: EpisodeResult) -> None:
        """Note how an episode went; the file then has it."""
        self._found[self._key(policy, result.task, result.seed)] = result
        self.write(durable=False)

    def write(self, *, durable: bool = True) -> None:
        """Write the file, whole or not at all."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for wanted in sorted(self._found):
            found = self._found[wanted]
            success = str(found.success).lower()
            reward = "" if found.max_reward is None else repr(found.max_reward)
            row = [self._policies[wanted.policy], found.task, found.seed, success, found.steps, found.queries, reward]
            rows.writerow(row)
        atomic.write_text(self._path, text.getvalue(), durable=durable)

    def results(self, policy: str, task: str) -> list[EpisodeResult]:
        """The finished episodes of a policy and a task by seed."""
        at = (self._policies.index(policy), self._tasks.index(task))
        return [self._found[wanted] for wanted in sorted(self._found) if (wanted.policy, wanted.task) == at]

    def _key(self, policy: str, task: str, seed: int) -> Wanted:
        return Wanted(self._policies.index(policy), self._tasks.index(task), seed)

    def _read(self, row: dict[str, Cell]) -> tuple[Wanted, EpisodeResult]:
        policy, task = str(row.get("policy")), str(row.get("task"))
        seed, steps, queries, success = (row.get(name) for name in ("seed", "steps", "queries", "success"))
        numbers = [seed, steps, queries]
        reward = row.get("max_reward")
        fits = reward is None or (isinstance(reward, int | float) and not isinstance(reward, bool))
        fits &= all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers)
        if policy not in self._policies or task not in self._tasks or not fits or not isinstance(success, bool):
            raise UserError(
                f"{self._path} holds {row}, which is no result of this evaluation: expected {', '.join(COLUMNS)} of "
                "its policies and tasks. Remove the file to evaluate from the beginning."
            )
        assert reward is None or isinstance(reward, int | float)
        assert isinstance(seed, int) and isinstance(steps, int) and isinstance(queries, int)
        return self._key(policy, task, seed), EpisodeResult(
            seed=seed,
            task=task,
            success=success,
            steps=steps,
            queries=queries,
            max_reward=None if reward is None else float(reward),
        )
