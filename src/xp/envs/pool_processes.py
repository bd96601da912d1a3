"""Worker processes (`xp.worker_process`) that simulate, each with some of the envs; see `xp.envs.pool`.

Pipes are all that they share with this process: no files, no shared memory.
"""

import time
import weakref
from multiprocessing.connection import Connection, wait

from xp.envs.maker import EnvMaker
from xp.envs.pool import Asked, Event, Lost
from xp.envs.rollout import Chunk, EpisodeResult, Execution
from xp.errors import UserError
from xp.worker_process import WorkerProcess, end_all

SILENCE_S = 600.0
"""Seconds that a worker with something to do may say nothing before it is taken for hung: the longest that is known, a
chunk of 50 steps of which each is drawn, takes a minute on a busy machine."""


class EnvProcesses:
    """An `EnvPool` of worker processes.

    Args:
        envs: what makes the envs; sent to the workers.
        execution: how chunks become actions.
        workers: how many processes.
        places: how many envs in all, dealt to the workers in turn.
        silence_s: seconds that a worker with something to do may say nothing; then it is killed, and replaced.
    """

    overlaps = True

    def __init__(
        self, envs: EnvMaker, execution: Execution, *, workers: int, places: int, silence_s: float = SILENCE_S
    ):
        self.places = places
        self._setup = (envs, execution)
        self._silence_s = silence_s
        self._busy: set[int] = set()
        self._owed: set[int] = set()
        """Places whose worker has something to say of them: their episode was begun, or their query answered."""
        self._workers: list[_Worker] = []
        weakref.finalize(self, end_all, self._workers)
        for _ in range(workers):
            self._workers.append(_Worker(self._setup))

    def worker(self, place: int) -> int:
        """See `EnvPool.worker`."""
        return place % len(self._workers)

    def begin(self, place: int, asked: Asked) -> None:
        """See `EnvPool.begin`."""
        self._busy.add(place)
        self._tell(place, ("begin", place, asked))

    def answer(self, place: int, chunk: Chunk) -> None:
        """See `EnvPool.answer`."""
        self._tell(place, ("answer", place, chunk))

    def poll(self, timeout: float) -> list[tuple[int, Event]]:
        """See `EnvPool.poll`."""
        numbers = {worker.pipe: number for number, worker in enumerate(self._workers)}
        events: list[tuple[int, Event]] = []
        for pipe in wait(list(numbers), timeout):
            assert isinstance(pipe, Connection)
            events += self._heard(numbers[pipe])
        for number in self._hung():
            events += self._died(number, f"it said nothing for {self._silence_s:g} s (eval.silence_s) and was ended")
        return events

    def close(self) -> None:
        """End all workers."""
        end_all(self._workers)

    def _tell(self, place: int, message: object) -> None:
        number = self.worker(place)
        if not any(self.worker(other) == number for other in self._owed):
            self._workers[number].heard_at = time.monotonic()  # it had nothing to do until now
        self._owed.add(place)
        self._workers[number].say(message)

    def _hung(self) -> list[int]:
        """Workers that have had something to do for too long without a word."""
        owing, now = {self.worker(place) for place in self._owed}, time.monotonic()
        return [number for number in owing if now - self._workers[number].heard_at > self._patience(number)]

    def _patience(self, number: int) -> float:
        """Seconds that a worker may be silent; before it is ready it imports what its suite needs."""
        return self._silence_s if self._workers[number].ready else max(self._silence_s, SILENCE_S)

    def _heard(self, number: int) -> list[tuple[int, Event]]:
        worker = self._workers[number]
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            return self._died(number)
        worker.heard_at = time.monotonic()
        if isinstance(said, UserError):
            raise said
        if said == "ready":
            worker.ready = True
            return []
        place, event = said
        self._owed.discard(place)
        if isinstance(event, EpisodeResult):
            self._busy.discard(place)
        return [(place, event)]

    def _died(self, number: int, why: str = "") -> list[tuple[int, Event]]:
        """A new worker stands where one died (`why` is given: has to die); the episodes that it had are lost."""
        worker = self._workers[number]
        if why:
            worker.process.kill()
        said = f"{why}; {worker.last_words()}" if why else worker.last_words()
        if not worker.ready:
            raise UserError(
                f"A process that simulates envs ended before it could begin ({said}). Type eval.workers=1 to simulate "
                "in the run's own process, whose error then says more."
            )
        lost = sorted(place for place in self._busy if self.worker(place) == number)
        self._busy.difference_update(lost)
        self._owed.difference_update(lost)
        self._workers[number] = _Worker(self._setup)
        return [(place, Lost(said)) for place in lost]


class _Worker(WorkerProcess):
    """A process that simulates, and when it was heard."""

    def __init__(self, setup: tuple[EnvMaker, Execution]):
        self.ready = False
        self.heard_at = time.monotonic()
        """When it last said something, or was given something to do after a rest."""
        super().__init__("xp.envs.pool_worker", setup)
