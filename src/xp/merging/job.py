# pyright: strict
"""A merge at work: its inputs are opened and fit each other; then weights are chosen, written and read back."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from xp import atomic
from xp.checkpoints.arrays import BFLOAT16, Leaf, Reader
from xp.checkpoints.open import Checkpoint, create_like, open_checkpoint, place_in
from xp.errors import UserError
from xp.merging import disk, statistics
from xp.merging.candidate_evaluator import CandidateEvaluator
from xp.merging.diagnostics import Angles, Barrier, GroupAngles, alike, midpoints, warnings
from xp.merging.engine import Stream, verify
from xp.merging.groups import Units, check_groups, make_units, with_builtin
from xp.merging.hooks import Hooks
from xp.merging.merge_rules import Linear, MergeRule
from xp.merging.method import MergeInputs, MethodConfig
from xp.merging.objective import Objective
from xp.merging.preflight import agree, check_places
from xp.merging.quantised import refuse_quantised
from xp.merging.reconcile import configurations_differ, reconciled, refuse_other_descriptions
from xp.merging.record import InputRecord, MergeRecord, chosen_by
from xp.merging.search import Search, mix_of
from xp.merging.sidecar import copy_sidecar, kept_files, refuse_parts, sweep_stale, write_statistics
from xp.runs.records.record import versions

RECORD = "merge.json"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": BFLOAT16, "float16": np.dtype(np.float16)}
MIDPOINTS_UP_TO = 4
"""With more checkpoints the pairs are too many to measure each one's midpoint."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What holds for every method; see `merge`."""

    base: str | Path | None = None
    overwrite: bool = False
    mismatch: str = "error"
    statistics: str = "pool"
    memory: str = "ram"
    per: str = "checkpoint"
    groups: Mapping[str, Sequence[str]] | None = None
    dtype: str | None = None
    lora_scale: float = 1.0
    midpoints: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Merged:
    """What came out: the folder, and merge.json's content."""

    path: Path
    record: MergeRecord


type GivenObjective = Objective | Callable[[], Objective] | None
"""An objective, or a function that makes it when it is needed."""


@dataclass
class MergeJob:
    """A merge whose inputs are open and fit each other."""

    config: MethodConfig
    options: Options
    output: Path
    hooks: Hooks
    given: list[str]
    """What the checkpoints were called."""
    tuned: list[Checkpoint]
    base: Checkpoint | None
    readers: list[Reader]
    leaves: dict[str, Leaf]
    differences: list[str]
    pooled: statistics.Pooled
    notes: list[str]
    """What was seen of the inputs and is no reason to refuse them."""
    warned: list[str] = field(default_factory=list[str])

    @classmethod
    def open(cls, paths: list[str], output: Path, config: MethodConfig, options: Options, hooks: Hooks) -> "MergeJob":
        """Everything that can be refused before data is read."""
        if options.dtype not in (None, *DTYPES):
            raise UserError(f"merge.dtype={options.dtype}: allowed are {', '.join(DTYPES)}, or null to keep it.")
        opened, base, notes = _opened(paths, options)
        relative = base is not None and (config.method.base or config.method.base_too)
        inputs = [base, *opened] if relative and base is not None else opened
        check_places([*inputs, *([base] if base else [])], output, overwrite=options.overwrite)
        readers, leaves, found = agree(
            inputs, options.mismatch, base=base, dtype=DTYPES[options.dtype] if options.dtype else None
        )
        check_groups(leaves, options.groups)
        disk.check_room(output, leaves)
        folders = [c.sidecar for c in opened if c.sidecar is not None]
        refuse_parts(folders)
        for folder in opened[0].layers or folders[:1]:
            kept_files(folder)  # refused now, not when hours of work are written
        pooled = statistics.merge_files(folders, options.statistics)
        return cls(
            config, options, output, hooks, paths, opened, base if relative else None, readers, leaves, found, pooled,
            notes,
        )  # fmt: skip

    def run(self, objective: GivenObjective) -> Merged:
        """Choose weights, write, read back, rename."""
        started = time.time()
        groups = with_builtin(self.options.groups)
        units = make_units(self.leaves, self._granularity(), groups)
        for line in (*self.differences, *self.notes, *self.pooled.warnings):
            self.hooks.log(f"note: {line}")
        rule, found, barriers = self._chosen_rule(units, objective)
        self._log_weights(units, rule)
        angles = Angles(groups, has_base=self.base is not None)
        sweep_stale(self.output)
        with atomic.folder(self.output) as folder:
            stream = self._stream(rule, folder, angles)
            record = self._record(units, rule, found, stream, angles.report(), barriers)
            record["seconds"] = round(time.time() - started, 3)
            self._write_sidecar(folder)
            atomic.write_json(folder / RECORD, record)
            self._read_back(folder, stream)
        return Merged(self.output, record)

    def _granularity(self) -> str:
        """Weights given by group need units by group."""
        by_name = any(isinstance(given, Mapping) for given in (self.config.weights, *self.config.options.values()))
        return "group" if by_name and self.options.per == "checkpoint" else self.options.per

    def _chosen_rule(self, units: Units, objective: GivenObjective) -> tuple[MergeRule, Search | None, list[Barrier]]:
        method = self.config.method
        if method.rule is not None:
            return method.rule(self.config, self._inputs(units)), None, []
        assert method.search is not None
        evaluator = self._evaluator(units, objective)
        pairs = list(combinations(range(len(self.tuned)), 2)) if self.options.midpoints else []
        pairs = pairs if len(self.tuned) <= MIDPOINTS_UP_TO else []
        total = method.evaluations(self.config, len(self.tuned)) + len(pairs)
        with self.hooks.bar(total, f"searching ({self.config.name})", "evaluation") as bar:

            def tick() -> None:
                bar.advance(1)
                self.hooks.stop()

            found = method.search(self.config, evaluator, tick)
            losses: dict[tuple[int, int], float] = {}
            for pair in pairs:
                losses[pair] = evaluator.loss(mix_of(evaluator, list(pair)))
                tick()
            ends = [evaluator.loss(mix_of(evaluator, [k])) for k in range(len(self.tuned))]
        self.hooks.log(f"chosen: {found.chosen}, loss {found.loss:.6g}")
        best = min(found.candidates, key=lambda entry: entry["loss"], default=None)
        if best and best["loss"] < found.loss:
            self.warned.append(
                f"merge_method={self.config.name} chose weights with a loss of {found.loss:.6g}; '{best['name']}' has "
                f"{best['loss']:.6g}: take that, or merge_method=greedy, which keeps the best it measures."
            )
        return Linear(units, found.weights), found, midpoints(losses, ends)

    def _inputs(self, units: Units) -> MergeInputs:
        return MergeInputs(
            units=units,
            count=len(self.tuned),
            leaves=self.leaves,
            has_base=self.base is not None,
            seed=self.options.seed,
        )

    def _log_weights(self, units: Units, rule: MergeRule) -> None:
        """One line with the weights, by checkpoint, of the first units."""
        rows = list(zip(units.names, rule.weights))
        names = told_apart(self.given)
        names = ["base", *names] if rule.weights.shape[1] > len(names) else names
        for unit, row in rows[:8]:
            told = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(names, row))
            self.hooks.log(f"weights{'' if len(rows) == 1 else f' of {unit}'}: {told}")
        if len(rows) > 8:
            self.hooks.log(f"weights of {len(rows) - 8} more parts: see {RECORD}")

    def _evaluator(self, units: Units, objective: GivenObjective) -> CandidateEvaluator:
        if objective is None:
            raise UserError(
                f"merge_method={self.config.name} chooses weights by a loss and needs something to measure: "
                "merge.validation=FILE (made with: xp task=dump)"
            )
        made = objective if isinstance(objective, Objective) else objective()
        return CandidateEvaluator(self.readers, self.leaves, units, made, self.options.memory)

    def _stream(self, rule: MergeRule, folder: Path, angles: Angles) -> Stream:
        writer = create_like(self.tuned[0], folder, self.leaves)
        stream = Stream(self.readers, self.leaves, stop=self.hooks.stop, sample=angles.sample)
        jobs = stream.jobs(rule, writer)
        with self.hooks.bar(stream.steps(jobs, rule), f"merging ({self.config.name})", "part") as bar:
            stream.advance = lambda: bar.advance(1)
            try:
                stream.run(jobs, rule, writer)
            finally:
                writer.close()
        return stream

    def _read_back(self, folder: Path, stream: Stream) -> None:
        """Open the output as anyone would, strictly, and compare every byte."""
        written = open_checkpoint(place_in(self.tuned[0].kind, folder))
        verify(written.reader, self.leaves, stream.written, self.hooks.stop)

    def _write_sidecar(self, folder: Path) -> None:
        first = self.tuned[0]
        if first.sidecar is not None:
            copy_sidecar(first.kind, first.layers or (first.sidecar,), folder)
            write_statistics(first.kind, [c.sidecar for c in self.tuned if c.sidecar is not None], folder, self.pooled)

    def _record(
        self,
        units: Units,
        rule: MergeRule,
        found: Search | None,
        stream: Stream,
        angles: dict[str, GroupAngles],
        barriers: list[Barrier],
    ) -> MergeRecord:
        """All that is known when the weights are written; `seconds` is added at the end."""
        read = self._inputs_read(stream)
        for name in sorted(stream.unequal):
            self.hooks.log(
                f"note: {name} is {self.leaves[name].dtype.name} and differs: the first checkpoint's was kept"
            )
        return MergeRecord(
            method=self.config.name,
            options=dict(self.config.options),
            per=self._granularity(),
            base=read[0] if self.base else None,
            checkpoints=read[1:] if self.base else read,
            weights={unit: row.tolist() for unit, row in zip(units.names, rule.weights)},
            tensors=rule.report(),
            chosen=chosen_by(found),
            output={"content": stream.written.hexdigest(self.leaves), "format": self.tuned[0].kind},
            mismatch={"policy": self.options.mismatch, "differences": self.differences},
            notes=self.notes,
            statistics={"how": self.pooled.how, "policy": self.options.statistics},
            kept_from_first=sorted(stream.unequal),
            seed=self.options.seed,
            xp=dict(versions()).get("xp"),
            angles=angles,
            barriers=barriers,
            warnings=self._warnings(read, angles, barriers, found),
            seconds=0.0,
        )

    def _inputs_read(self, stream: Stream) -> list[InputRecord]:
        """The base, where it is an input, and the checkpoints."""
        inputs = ([self.base] if self.base else []) + self.tuned
        given = ([str(self.options.base)] if self.base else []) + self.given
        read: list[InputRecord] = []
        for checkpoint, text, content, reader in zip(inputs, given, stream.contents, self.readers):
            entry = InputRecord(
                path=str(checkpoint.path),
                given=text,
                place=str(checkpoint.place.absolute()),
                content=content.hexdigest(reader.leaves),
            )
            if checkpoint.base:
                entry["folded_into"] = str(checkpoint.base.absolute())
            read.append(entry)
        return read

    def _warnings(
        self,
        read: list[InputRecord],
        angles: dict[str, GroupAngles],
        barriers: list[Barrier],
        found: Search | None,
    ) -> list[str]:
        """All warnings; those that were not said before are said now."""
        contents, names = [entry["content"] for entry in read], [entry["given"] for entry in read]
        self.warned += alike(contents, names, has_base=self.base is not None)
        if self.config.options.get("scale") == 0:
            self.warned.append("merge_method.scale=0 adds nothing to merge.base: the result is merge.base itself.")
        ends = [entry["loss"] for entry in (found.candidates if found else ())][: len(self.tuned)]
        self.warned += warnings(angles, barriers, ends)
        for line in self.warned:
            self.hooks.log(f"warning: {line}")
        return [*self.pooled.warnings, *self.warned]


def _opened(paths: Sequence[str], options: Options) -> tuple[list[Checkpoint], Checkpoint | None, list[str]]:
    """The checkpoints and the base, each whole, of weights that can be added up, and at one with itself; and notes."""
    given = [open_checkpoint(path, base=options.base, lora_scale=options.lora_scale) for path in paths]
    if options.base is not None:
        given.append(open_checkpoint(options.base))
    notes: list[str] = []
    found: list[Checkpoint] = []
    for checkpoint in given:
        refuse_quantised(checkpoint)
        checkpoint, more = reconciled(checkpoint)
        found.append(checkpoint)
        notes += more
    refuse_other_descriptions(found[: len(paths)])
    notes += configurations_differ(found)
    return found[: len(paths)], found[-1] if options.base is not None else None, notes


def told_apart(given: Sequence[str]) -> list[str]:
    """The last parts of paths, as few of them as tell the paths apart: run1/90000 and run2/90000."""
    parts = [Path(text).parts for text in given]
    for count in range(1, max(map(len, parts))):
        names = [str(Path(*each[-count:])) for each in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return list(given)
