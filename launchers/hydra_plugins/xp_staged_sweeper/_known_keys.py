"""Which stages a typed key concerns: those whose configuration has it.

`eval.videos=2` beside a stage with `eval=expert`, which makes none, is for the other evaluations. A key that no stage
has stays with all of them, and is refused as the mistake it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.xp_staged_sweeper._compose import Composer, is_there
from hydra_plugins.xp_staged_sweeper._stages import NO_VALUE, CommandLine, Stage, assignments, overrides_of

_LOOKED_THROUGH = 1000
"""Jobs of a stage that are looked through for a choice of groups in which a key is known."""


@dataclass(frozen=True)
class Concerns:
    """What of the command line is for which stage."""

    lines: Mapping[str, CommandLine]
    """{stage: what it is told}."""

    partial: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """{key as typed: the stages that do not have it}, of the keys that others have."""


def concerns(
    composer: Composer, stages: Sequence[Stage], line: CommandLine, chosen: Sequence[str], all_swept: set[str]
) -> Concerns:
    """Say which stage each typed key is for.

    Args:
        composer: composes the stages' configurations.
        stages: of one experiment.
        line: all that was typed.
        chosen: the overrides that choose the experiment.
        all_swept: keys that some stage sweeps; they concern the stages that do.
    """
    doubtful = [key for key in (*line.single, *line.sweeps) if _may_be_partial(key, line, composer, all_swept)]
    if not doubtful or len(stages) < 2:
        return Concerns({stage.key: line for stage in stages})
    typed = _without(line, doubtful)
    known = {stage.key: _known(composer, stage, typed, chosen, all_swept, doubtful) for stage in stages}
    lacking = {key: [stage.key for stage in stages if key not in known[stage.key]] for key in doubtful}
    partial = {key: without for key, without in lacking.items() if 0 < len(without) < len(stages)}
    return Concerns(
        {stage.key: _without(line, [key for key, where in partial.items() if stage.key in where]) for stage in stages},
        partial,
    )


def _may_be_partial(key: str, line: CommandLine, composer: Composer, all_swept: set[str]) -> bool:
    """A plain `key=value`: signs say what shall happen where the key is not there, and groups are there everywhere."""
    return (
        key[:1] not in "+~"
        and "." in key
        and key not in all_swept
        and line.single.get(key) != NO_VALUE
        and not composer.is_group(key)
        and not key.startswith("stages.")
    )


def _without(line: CommandLine, keys: Sequence[str]) -> CommandLine:
    if not keys:
        return line
    return replace(
        line,
        single={key: value for key, value in line.single.items() if key not in keys},
        sweeps={key: values for key, values in line.sweeps.items() if key not in keys},
    )


def _known(
    composer: Composer,
    stage: Stage,
    typed: CommandLine,
    chosen: Sequence[str],
    all_swept: set[str],
    keys: Sequence[str],
) -> set[str]:
    """Those of the keys that the configuration of one of the stage's jobs has, before they are set."""
    known: set[str] = set()
    seen: set[tuple[tuple[str, str], ...]] = set()
    for assignment, _ in islice(assignments(stage, typed, all_swept), _LOOKED_THROUGH):
        choice = tuple((key, value) for key, value in assignment.items() if composer.is_group(key))
        if choice in seen:
            continue
        seen.add(choice)
        config = _composed(composer, [*chosen, *overrides_of(stage, assignment, typed, all_swept)])
        if config is None:
            return set(keys)
        known |= {key for key in keys if is_there(config, key)}
    return known


def _composed(composer: Composer, overrides: Sequence[str]) -> DictConfig | None:
    """The configuration; None where it cannot be composed, which is said when the job itself is."""
    try:
        return composer.compose(overrides)
    except (HydraException, OmegaConfBaseException):
        return None
