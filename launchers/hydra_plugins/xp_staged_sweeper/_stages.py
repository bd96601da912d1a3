"""What an experiment file says about its stages, and what the command line makes of it. Pure: no Hydra here.

A stage has `needs` (stages), `name` (template of job names), `sweep` (mapping: product of its lists; list of mappings:
one product after the other), `zip` (lists of equal length, taken together), `set` (overrides), `fix` (overrides that
beat the command line), `when` (no jobs if false), `skip` (take finished jobs as they are, run none), `once` (sweeps
that only the command line names do not multiply it), `always` (runs even if some of its needs failed), `resources`
(what a cluster shall give each of its jobs, such as {gpus: 1, time_min: 60}, where that is not the launcher's default),
`about_s` (seconds that a job takes on two quiet cores: the forecast until jobs like it have run here).

Priority of one key: fix, then command line, then sweep and zip, then set. A key on the command line that some stage
sweeps narrows or widens that sweep in every stage that has it and concerns no other stage. A key that is swept on the
command line and by no stage multiplies every stage that is not `once`, and its value is put behind the jobs' names.
A key that only some stages have is for those alone (`_known_keys`).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra_plugins.xp_staged_sweeper._values import bare, flat
from xp.config.override_text import text
from xp.config.shorthand import expand_shorthand
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSONObject

NO_VALUE = "\0"
"""Stands for the missing value of `~key`."""
_KEYS = ("name", "needs", "when", "skip", "set", "fix", "sweep", "zip", "once", "always", "resources", "about_s")
Assignment = dict[str, str]
"""{key as in the override, signs included: value as text}."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of an experiment."""

    key: str
    needs: tuple[str, ...] = ()
    template: bool = True
    """Whether the experiment file gives a name; else it is made from the swept keys."""
    products: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    zipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sets: Assignment = field(default_factory=dict)
    fixed: Assignment = field(default_factory=dict)
    when: Any = True
    skip: Any = False
    once: bool = False
    always: bool = False
    resources: JSONObject = field(default_factory=dict)
    """What a scheduler shall give each job, beside what the launcher's configuration says."""

    about_s: float | None = None
    """Seconds that a job takes on two quiet cores; counts until jobs like it have run here."""

    @property
    def swept(self) -> set[str]:
        """Keys that the stage sweeps, without signs."""
        return {bare(key) for block in (*self.products, self.zipped) for key in block}


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """The overrides that a user typed (hydra.* and the experiment's name left out), by key."""

    single: Mapping[str, str] = field(default_factory=dict)
    sweeps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    implied: frozenset[str] = frozenset()
    """Keys of `single` that nobody typed: another choice sets them as if typed."""

    def choices(self, key: str) -> tuple[str, ...] | None:
        """Values that the command line gives to a key, if it names the key at all."""
        for given, values in self.sweeps.items():
            if bare(given) == bare(key):
                return values
        for given, value in self.single.items():
            if bare(given) == bare(key):
                return (value,)
        return None


def parse_stages(raw: Mapping[str, object]) -> list[Stage]:
    """Read the `stages` section (unresolved), needs before those that need them.

    Raises:
        UserError: an unknown key, an unknown or circular need, a sweep that is not lists.
    """
    stages = {key: _stage(str(key), spec) for key, spec in raw.items()}
    for stage in stages.values():
        for need in stage.needs:
            if need not in stages:
                raise UserError(
                    f"stages.{stage.key}.needs names '{need}', which is not a stage{did_you_mean(need, stages)}. "
                    f"Stages: {join_names(stages)}"
                )
    return _in_order(stages)


def assignments(stage: Stage, line: CommandLine, all_swept: set[str]) -> list[tuple[Assignment, Assignment]]:
    """The jobs of a stage: each as (values of its swept keys, those among them that only the command line sweeps)."""
    added = {key: values for key, values in line.sweeps.items() if bare(key) not in all_swept and not stage.once}
    zipped = _zip(stage, line)
    found: list[tuple[Assignment, Assignment]] = []
    known: set[tuple[frozenset[tuple[str, str]], ...]] = set()
    for block in stage.products or ({},):
        lists = [[(key, value) for value in line.choices(key) or values] for key, values in block.items()]
        extra = [[(key, value) for value in values] for key, values in added.items()]
        for chosen, together, more in itertools.product(
            list(itertools.product(*lists)), zipped, list(itertools.product(*extra))
        ):
            pair = ({**dict(chosen), **together, **dict(more)}, dict(more))
            alike = tuple(frozenset(each.items()) for each in pair)
            if alike not in known:
                known.add(alike)
                found.append(pair)
    return found


def overrides_of(stage: Stage, assignment: Assignment, line: CommandLine, all_swept: set[str]) -> list[str]:
    """All overrides of one job, each key once, by priority."""
    chosen: dict[str, tuple[str, str]] = {}
    typed = {key: value for key, value in line.single.items() if bare(key) not in all_swept}
    for layer in (stage.sets, assignment, typed, stage.fixed):
        for key, value in layer.items():
            chosen[bare(key)] = (key, value)
    return [word for key, value in chosen.values() for word in _words(key, value)]


def _words(key: str, value: str) -> list[str]:
    """An override as Hydra needs it: what replaces a whole mapping is two of them, from a stage as from a user."""
    replacing = expand_shorthand([f"{bare(key)}={value}"])
    if value != NO_VALUE and len(replacing) > 1:
        return replacing
    return [key if value == NO_VALUE else f"{key}={value}"]


def _stage(key: str, spec: Any) -> Stage:
    if not isinstance(spec, Mapping):
        raise UserError(f"stages.{key} must be a mapping with some of: {join_names(_KEYS)}")
    for given in spec:
        if given not in _KEYS:
            raise UserError(f"stages.{key}.{given}: there is no such key{did_you_mean(str(given), _KEYS)}. "
                            f"Keys of a stage: {join_names(_KEYS)}")  # fmt: skip
    sweep = spec.get("sweep") or {}
    blocks = sweep if isinstance(sweep, Sequence) else [sweep]
    zipped = _lists(key, "zip", spec.get("zip") or {})
    if len({len(values) for values in zipped.values()}) > 1:
        sizes = ", ".join(f"{name} has {len(values)}" for name, values in zipped.items())
        raise UserError(f"stages.{key}.zip: the lists are taken together and must be equally long; {sizes}.")
    needs = spec.get("needs") or ()
    return Stage(
        key=key,
        needs=(needs,) if isinstance(needs, str) else tuple(needs),
        template=spec.get("name") is not None,
        products=tuple(_lists(key, "sweep", block) for block in blocks if block),
        zipped=zipped,
        sets=flat(spec.get("set") or {}),
        fixed=flat(spec.get("fix") or {}),
        when=spec.get("when", True),
        skip=spec.get("skip", False),
        once=bool(spec.get("once", False)),
        always=bool(spec.get("always", False)),
        resources=dict(spec.get("resources") or {}),
        about_s=_seconds(key, spec.get("about_s")),
    )


def _seconds(stage: str, given: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1e9:
        raise UserError(f"stages.{stage}.about_s={given!r}: expected the seconds that a job takes, such as 60")
    return float(given)


def _lists(stage: str, kind: str, block: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(block, Mapping) or not all(isinstance(values, list | tuple) for values in block.values()):
        raise UserError(f"stages.{stage}.{kind}={block!r}: expected lists by key, such as {{lr.peak: [1e-5, 1e-4]}}")
    return {str(key): tuple(text(value) for value in values) for key, values in block.items()}


def _zip(stage: Stage, line: CommandLine) -> list[Assignment]:
    """The rows of the zipped lists, with what the command line says about their keys."""
    if not stage.zipped:
        return [{}]
    length = len(next(iter(stage.zipped.values())))
    columns = {}
    for key, values in stage.zipped.items():
        given = line.choices(key)
        if given is not None and len(given) not in (1, length):
            raise UserError(
                f"{key}={','.join(given)}: stage '{stage.key}' takes {join_names(stage.zipped)} "
                f"together, {length} values "
                f"each. Give one value or {length}."
            )
        columns[key] = values if given is None else given * (length // len(given))
    rows: list[Assignment] = []
    for number in range(length):
        row = {key: values[number] for key, values in columns.items()}
        if row not in rows:
            rows.append(row)
    return rows


def _in_order(stages: Mapping[str, Stage]) -> list[Stage]:
    """Topological order that keeps the file's order where it can."""
    done: dict[str, Stage] = {}
    while len(done) < len(stages):
        free = [s for s in stages.values() if s.key not in done and all(need in done for need in s.needs)]
        if not free:
            rest = [key for key in stages if key not in done]
            raise UserError(f"The stages {join_names(rest)} need each other in a circle. Take one of their needs away.")
        done[free[0].key] = free[0]
    return list(done.values())
