"""Streams every leaf of every input through a rule into a writer, in ranges, as often as the method needs.

Nothing is held but the ranges at work. Formats that can be read anywhere are cut into jobs of `SEGMENT` elements;
leaves that are decoded from their front or as a whole (Orbax) are one job each, the largest first, as many at once as
fit into `MEMORY` bytes. Content digests are over segments, so they do not depend on how a format stores its arrays.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from xp.checkpoints.arrays import BFLOAT16, Leaf, Reader, Writer
from xp.checkpoints.ranges import cut, rounded_up
from xp.errors import UserError
from xp.merging.content import SEGMENT, Content, LeafDigest
from xp.merging.interruptible import InterruptibleReader, as_completed
from xp.merging.merge_rules import MergeRule
from xp.merging.shapes import Values

BLOCK = 1 << 17
"""Elements read at once from formats that can be read anywhere: buffers of half a megabyte stay in the cache."""
MEMORY = 700_000_000
"""Bytes of ranges in work at once, as far as one job alone does not need more."""
WORKERS = 2
"""Threads; numpy and tensorstore work outside the interpreter lock."""

SAMPLED_AT_ONCE = 64
"""Ranges whose samples are handed on together."""

Sampler = Callable[[Leaf, Sequence[Values]], None]


class NotFinite(Exception):  # noqa: N818 - a finding, turned into a message where the inputs are known
    """A merged value is NaN or infinite, or becomes so in the type that is written."""

    def __init__(self, leaf: str, index: int, value: float) -> None:
        super().__init__(leaf)
        self.leaf, self.index, self.value = leaf, index, value


@dataclass(frozen=True)
class Job:
    """Elements [start, stop) of a leaf, read and worked on `step` at a time, written `write_step` at a time."""

    leaf: Leaf
    start: int
    stop: int
    step: int
    write_step: int
    cost: int


@dataclass
class Stream:
    """One pass over the inputs. `sample` sees a part of each range (`diagnostics`); `stop` is asked often."""

    readers: Sequence[Reader]
    leaves: Mapping[str, Leaf]
    """What is written: names and shapes that all readers have; the dtype is the written one."""
    advance: Callable[[], None] = lambda: None
    """Called after each job."""
    stop: Callable[[], None] = lambda: None
    sample: Sampler | None = None
    contents: list[Content] = field(default_factory=list)
    written: Content = field(default_factory=Content)
    unequal: list[str] = field(default_factory=list)
    """Integer leaves in which the inputs differ: the first input's values were taken."""

    def __post_init__(self) -> None:
        self.contents = [Content() for _ in self.readers]
        self._abandoned, self._plain = threading.Event(), self.readers
        self.readers = [InterruptibleReader(reader, self._abandoned) for reader in self.readers]
        self._bound = _MemoryBound(MEMORY)

    def run(self, jobs: Sequence[Job], rule: MergeRule, writer: Writer) -> None:
        """Do all jobs, after as many passes over the whole model as the method asks for.

        Raises:
            UserError: an input holds NaN or infinity; names the input, the weight and the element.
            CorruptFileError: an input's data is not there.
        """
        for pass_index in range(rule.model_passes):
            self._each(
                [job for job in jobs if job.leaf.is_float],
                lambda job, pass_index=pass_index: self._observe_model(pass_index, job, rule),
            )
        self._each(jobs, lambda job: self._work(job, rule, writer))

    def steps(self, jobs: Sequence[Job], rule: MergeRule) -> int:
        """How often `advance` is called."""
        return len(jobs) + rule.model_passes * sum(job.leaf.is_float for job in jobs)

    def _each(self, jobs: Sequence[Job], work: Callable[[Job], None]) -> None:
        with ThreadPoolExecutor(WORKERS, "merge") as pool:
            running = [pool.submit(work, job) for job in jobs]
            try:
                for done in as_completed(running, self.stop):
                    done.result()
                    self.advance()
            except NotFinite as error:
                self._abandoned.set()
                raise self._not_finite(error) from None
            except BaseException:
                self._abandoned.set()
                raise
            finally:
                for future in running:
                    future.cancel()

    def jobs(self, rule: MergeRule, writer: Writer) -> list[Job]:
        """The work cut up: ranges of leaves, the largest first."""
        jobs = []
        for leaf in self.leaves.values():
            alignment = max(reader.alignment(leaf.name) for reader in self.readers)
            written = getattr(writer, "alignment", _anywhere)(leaf.name)
            together = rule.alignment(leaf) if leaf.is_float else 1
            step = BLOCK if alignment == 1 else rounded_up(BLOCK, max(alignment, written))
            write_step = step if alignment > 1 else rounded_up(BLOCK, written)
            if together > 1:
                step = write_step = rounded_up(BLOCK, math.lcm(max(alignment, written), together))
            ordered = any(reader.requires_sequential_read(leaf.name) for reader in self.readers)
            whole = max(alignment, written, together) > 1 or ordered or rule.leaf_passes or leaf.size <= SEGMENT
            length = max(leaf.size, 1) if whole else SEGMENT
            jobs += [
                Job(
                    leaf,
                    start,
                    min(start + length, leaf.size),
                    step,
                    write_step,
                    self._cost(leaf, step, write_step, rule),
                )
                for start in range(0, max(leaf.size, 1), length)
            ]
        return sorted(jobs, key=lambda job: job.start - job.stop)

    def _cost(self, leaf: Leaf, step: int, write_step: int, rule: MergeRule) -> int:
        """About how many bytes a job holds: what is written, and the ranges it is made of."""
        size = leaf.dtype.itemsize
        inputs = 2 * size if rule.leaf_passes == 0 else (4 + size) * len(self.readers)
        return min(write_step, leaf.size) * (4 + size) + min(step, leaf.size) * inputs

    def _work(self, job: Job, rule: MergeRule, writer: Writer) -> None:
        with self._bound.holding(job.cost):
            if not job.leaf.is_float:
                self._copy(job, writer)
                return
            for pass_index in range(rule.leaf_passes):
                for start, stop in cut(job.start, job.stop, job.step):
                    rule.observe(
                        pass_index, job.leaf, start, [r.read(job.leaf.name, start, stop) for r in self.readers]
                    )
            self._merge(job, rule, writer)

    def _observe_model(self, pass_index: int, job: Job, rule: MergeRule) -> None:
        """Show a method the ranges of a job, before anything is merged."""
        with self._bound.holding(job.cost):
            for start, stop in cut(job.start, job.stop, job.step):
                rule.observe_model(
                    pass_index, job.leaf, start, [r.read(job.leaf.name, start, stop) for r in self.readers]
                )

    def _merge(self, job: Job, rule: MergeRule, writer: Writer) -> None:
        leaf = job.leaf
        wide = np.dtype(np.float64 if leaf.dtype == np.float64 else np.float32)
        out = np.empty(min(job.step, job.stop - job.start), wide)
        ready = np.empty(min(job.write_step, job.stop - job.start), leaf.dtype)
        digests = [LeafDigest() for _ in range(len(self.readers) + 1)]
        sampled: list[list[np.ndarray]] = []
        for first, last in cut(job.start, job.stop, job.write_step):
            for start, stop in cut(first, last, job.step):
                part = out[: stop - start]
                sampled.append([])
                arrays = self._arrays(leaf, start, stop, digests, sampled[-1])
                rule.apply(leaf, start, arrays, part)
                for _ in arrays:  # what the method left unread counts in the digests
                    pass
                data = ready[start - first : stop - first]
                _cast(leaf, start, part, data)
                digests[-1].update(data)
                if len(sampled) == SAMPLED_AT_ONCE or stop == job.stop:
                    self._sample(leaf, sampled)
            writer.write(leaf.name, first, ready[: last - first])
        for content, digest in zip((*self.contents, self.written), digests):
            content.add(leaf.name, job.start, digest)

    def _sample(self, leaf: Leaf, sampled: list[list[np.ndarray]]) -> None:
        """Hand on the samples of some ranges, joined for each input."""
        if self.sample is not None:
            self.sample(leaf, [np.concatenate(arrays) for arrays in zip(*sampled)])
        sampled.clear()

    def _arrays(
        self, leaf: Leaf, start: int, stop: int, digests: list[LeafDigest], sampled: list[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """The inputs' ranges, each read when it is asked for."""
        for reader, digest in zip(self.readers, digests):
            array = reader.read(leaf.name, start, stop)
            digest.update(array)
            if self.sample is not None:
                sampled.append(_sampled_elements(array))
            yield array

    def _copy(self, job: Job, writer: Writer) -> None:
        """Integers and truth values: the first input's, which the others should share."""
        leaf = job.leaf
        digests = [LeafDigest() for _ in range(len(self.readers) + 1)]
        differs = False
        for start, stop in cut(job.start, job.stop, job.write_step):
            first = self.readers[0].read(leaf.name, start, stop).copy()
            writer.write(leaf.name, start, first)
            digests[-1].update(first)
            for reader, digest in zip(self.readers, digests):
                array = reader.read(leaf.name, start, stop)
                digest.update(array)
                differs |= not np.array_equal(first, array)
        for content, digest in zip((*self.contents, self.written), digests):
            content.add(leaf.name, job.start, digest)
        if differs:
            self.unequal.append(leaf.name)

    def _not_finite(self, error: NotFinite) -> UserError:
        """Which input holds a value that is not finite: an angle spreads one over its whole tensor."""
        leaf = self.leaves[error.leaf]
        for reader in self._plain:
            found = _first_not_finite(reader, leaf)
            if found is not None:
                value, index = found
                return UserError(
                    f"{reader.files[0]} holds {value} in {leaf.name} at {_index_in(leaf, index)}. A checkpoint with "
                    "NaN or infinite weights cannot be merged: leave it out of merge.checkpoints, or take an earlier "
                    "step of its run."
                )
        largest = largest_of(leaf.dtype)
        remedy = "merge.dtype=bfloat16 or float32, or " if largest < largest_of(BFLOAT16) else ""
        return UserError(
            f"{leaf.name} is {error.value:.6g} at {_index_in(leaf, error.index)} when merged, although every input is "
            f"finite, and {leaf.dtype.name}, in which it would be written, holds at most {largest:.6g}. Give {remedy}"
            "smaller weights (merge.weights, merge_method.scale)."
        )


def largest_of(dtype: np.dtype) -> float:
    """The largest finite value of a float type."""
    return float(ml_dtypes.finfo(dtype).max)


def _cast(leaf: Leaf, start: int, values: np.ndarray, data: np.ndarray) -> None:
    """Put values into the type they are written in.

    Raises:
        NotFinite: one is NaN or infinite there: a narrow type overflows where float32 does not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(data, values, casting="unsafe")
    most = largest_of(data.dtype)
    if len(values) and not (-most <= values.min() and values.max() <= most):  # NaN is not, either
        finite = np.isfinite(data)  # just above the largest value some still round to it
        if not finite.all():
            index = int(np.argmin(finite))
            raise NotFinite(leaf.name, start + index, float(values[index]))


def _first_not_finite(reader: Reader, leaf: Leaf) -> tuple[float, int] | None:
    """The first value of a leaf that is NaN or infinite, and its index."""
    step = rounded_up(BLOCK, reader.alignment(leaf.name))
    for start in range(0, leaf.size, step):
        values = reader.read(leaf.name, start, min(start + step, leaf.size)).astype(np.float32)
        finite = np.isfinite(values)
        if not finite.all():
            index = int(np.argmin(finite))
            return float(values[index]), start + index
    return None


def _index_in(leaf: Leaf, index: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(index, leaf.shape)) if leaf.shape else ()


def _anywhere(name: str) -> int:
    return 1


def _sampled_elements(array: np.ndarray) -> np.ndarray:
    """The first 2048 of each 65536 elements, as float32."""
    if len(array) <= 1 << 16:
        return array[:2048].astype(np.float32)
    whole = len(array) >> 16
    return array[: whole << 16].reshape(whole, 1 << 16)[:, :2048].astype(np.float32).reshape(-1)


class _MemoryBound:
    """Lets jobs in while their costs fit; one alone always gets in."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def holding(self, cost: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + cost <= self._limit)
            self._used += cost
        try:
            yield
        finally:
            with self._changed:
                self._used -= cost
                self._changed.notify_all()


def verify(
    reader: Reader, leaves: Mapping[str, Leaf], written: Content, stop: Callable[[], None] = lambda: None
) -> None:
    """Read back what was written: the same names, shapes, dtypes and bytes; `stop` is asked often.

    Raises:
        UserError: the disk gave back something else.
    """
    assert dict(reader.leaves) == dict(leaves), "headers differ from what was to be written"

    abandoned = threading.Event()
    source = InterruptibleReader(reader, abandoned)

    def read(leaf: Leaf, start: int, end: int) -> tuple[Leaf, int, LeafDigest]:
        step = rounded_up(BLOCK, reader.alignment(leaf.name))
        digest = LeafDigest()
        for first in range(start, end, step):
            digest.update(source.read(leaf.name, first, min(first + step, end)))
        return leaf, start, digest

    found = Content()
    with ThreadPoolExecutor(WORKERS, "verify") as pool:
        futures = []
        for leaf in leaves.values():
            anywhere = reader.alignment(leaf.name) == 1 and not reader.requires_sequential_read(leaf.name)
            length = SEGMENT if anywhere else max(leaf.size, 1)
            futures += [
                pool.submit(read, leaf, start, min(start + length, leaf.size))
                for start in range(0, max(leaf.size, 1), length)
            ]
        try:
            for future in as_completed(futures, stop):
                leaf, start, digest = future.result()
                found.add(leaf.name, start, digest)
        except BaseException:
            abandoned.set()
            raise
    wrong = found.differing(written)
    if wrong:
        raise UserError(
            f"What was written is not what is read back, in {len(wrong)} weights ({', '.join(wrong[:3])}): the disk or "
            "its cache is faulty. Nothing was kept. Try again on another disk: merge.output=FOLDER"
        )
