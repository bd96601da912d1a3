"""Runs many offline replays at once: recorded observations go to the policy in batches, and its chunks come back."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from xp.data import Dataset, Windows
from xp.data.frame_source import CameraFrames
from xp.data.windows import Batch
from xp.errors import UserError
from xp.metrics.replay import Query, ReplayStream
from xp.runs.execution.run import leave_if_asked

if TYPE_CHECKING:
    from xp.models.policy import Batch as Observation
    from xp.models.policy import Policy
    from xp.runs import Run


class BatchedReplayer:
    """A policy, the recorded episodes it sees, and how it is told its prefix."""

    def __init__(
        self,
        run: "Run",
        dataset: Dataset,
        frames: CameraFrames,
        policy: "Policy",
        episodes: Sequence[int],
    ):
        self.dataset, self.spec = dataset, policy.spec
        self._run, self._policy = run, policy
        self._windows = Windows(dataset, frames, episodes, history=policy.spec.history, horizon=1)
        lengths = dataset.episodes.lengths[np.asarray(episodes)]
        self._begin = dict(zip(episodes, (np.cumsum(lengths) - lengths).tolist()))

    def run(self, streams: Sequence[tuple[ReplayStream, int]]) -> None:
        """Work through all streams (each with its episode) to their ends."""
        total = sum(1 + (len(stream.truth) - self.spec.horizon) // stream.execution.advance for stream, _ in streams)
        with self._run.progress(total, "replaying", unit="answer") as bar:
            while asked := _queries(streams):
                for batch in self._batches(asked):
                    leave_if_asked(self._run)
                    chunks = self._ask([(episode, query) for _, episode, query in batch])
                    for (stream, _, _), chunk in zip(batch, chunks):
                        stream.answer(chunk)
                    bar.advance(len(batch))

    def first_observations(self, episodes: Sequence[int]) -> list[Batch]:
        """The first observation of each episode that has everything before it, as batches of one."""
        frame = self.spec.prefix_past
        return [self._windows.batch([self._begin[episode] + frame]) for episode in episodes]

    def predict(self, observation: "Observation", *, seed: int = 0) -> np.ndarray:
        """The policy's answer to observations alone; one that needs a prefix is told the demonstration's."""
        if not self.spec.prefix_future:
            return self._policy.predict(observation, seed=seed)
        episode, frame = np.asarray(observation["episode_index"]), np.asarray(observation["frame_index"])
        rows = self.dataset.episodes.starts[episode] + frame
        prefix = self.dataset.action[rows[:, None] + np.arange(self.spec.prefix_future)]
        past = self.dataset.action[rows[:, None] + np.arange(-self.spec.prefix_past, 0)]
        return self._policy.predict(observation, seed=seed, prefix=prefix, past=past)

    def _batches(self, asked: list[tuple[ReplayStream, int, Query]]) -> Iterable[list[tuple[ReplayStream, int, Query]]]:
        """Queries with equally long prefixes, at most `eval.batch_size` together."""
        size = self._run.config.eval.batch_size
        for prefix_len in sorted({len(query.prefix) for _, _, query in asked}):
            group = [each for each in asked if len(each[2].prefix) == prefix_len]
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def _ask(self, queries: list[tuple[int, Query]]) -> np.ndarray:
        batch = self._windows.batch([self._begin[episode] + query.frame for episode, query in queries])
        options = {}
        if self.spec.prefix_future:
            options["prefix"] = np.stack([query.prefix for _, query in queries]).astype(np.float32)
            options["past"] = np.stack([query.past for _, query in queries]).astype(np.float32)
        chunks = np.asarray(self._policy.predict(batch, seed=self._run.config.seed, **options))
        self._check(chunks, queries)
        return chunks

    def _check(self, chunks: np.ndarray, queries: list[tuple[int, Query]]) -> None:
        wanted = (len(queries), self.spec.horizon, self.dataset.action_dim)
        if chunks.shape != wanted:
            raise UserError(
                f"The policy gave actions of shape {chunks.shape} where {wanted} is needed; the dataset "
                f"{self.dataset.root} has {self.dataset.action_dim} action dimensions. Give a policy trained on it."
            )
        broken = np.flatnonzero(~np.isfinite(chunks).all(axis=(1, 2)))
        if len(broken):
            episode, query = queries[broken[0]]
            raise UserError(
                f"The policy gave a NaN or infinite action in episode {episode}, frame {query.frame}: its weights are "
                "broken (look at the training log); give another checkpoint."
            )


def _queries(streams: Sequence[tuple[ReplayStream, int]]) -> list[tuple[ReplayStream, int, Query]]:
    """The next query of each stream that is not at its end."""
    queries = ((stream, episode, stream.query()) for stream, episode in streams)
    return [(stream, episode, query) for stream, episode, query in queries if query is not None]


def run_hold_last(streams: Iterable[ReplayStream]) -> None:
    """Work through streams with the policy that goes on with the last action it knows."""
    for stream in streams:
        while (query := stream.query()) is not None:
            stream.answer(np.repeat(query.held[None], stream.horizon, axis=0))
