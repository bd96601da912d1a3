"""What an experiment file lets depend on the command line: options of groups, and lists that are swept.

`experiment.choices` are options of groups for all stages, as in a defaults list, but they may be interpolations, which
no defaults list can have: `{model: "${by_scale:octo_tiny_l1,act_smooth_scaled}"}`. So may be the lists of a stage's
`sweep` and `zip`. Both are resolved once for all jobs, in the experiment's configuration with the options of groups and
the keys of `experiment` that the command line gives.

Priority of an option: a stage's `fix`, the command line, the stage, `experiment.choices`, the defaults list.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._stages import NO_VALUE, CommandLine
from hydra_plugins.xp_staged_sweeper._values import bare
from xp.errors import UserError, did_you_mean, join_names

CHOICES = "experiment.choices"


def compose_file(composer: Composer, chosen: list[str], line: CommandLine) -> tuple[DictConfig, list[str]]:
    """The experiment's own configuration, its swept lists resolved, and `group=option` of each of its choices.

    A choice that the command line makes itself is left out.

    Raises:
        UserError: a choice that is no option of a group; or the command line sweeps what choices or lists depend on.
    """
    typed = [
        key if value == NO_VALUE else f"{key}={value}" for key, value in line.single.items() if _decides(key, composer)
    ]
    base = composer.compose([*chosen, *typed])
    resolved = _resolve(base, composer)
    for key, values in line.sweeps.items():
        if resolved and _decides(key, composer):
            others = [_resolve(composer.compose([*chosen, *typed, f"{key}={value}"]), composer) for value in values]
            _refuse_difference(key, values, others)
    options = {name.removeprefix(f"{CHOICES}."): value for name, value in resolved.items() if name.startswith(CHOICES)}
    return base, [f"{group}={option}" for group, option in options.items() if line.choices(group) is None]


def _decides(key: str, composer: Composer) -> bool:
    """Whether what is typed for a key may count for a choice; and what is typed about stages counts for stages."""
    return composer.is_group(bare(key)) or bare(key).startswith(("experiment.", "stages."))


def _resolve(base: DictConfig, composer: Composer) -> dict[str, object]:
    """{where: value} of all choices, and of the swept lists that are interpolations; those are put in their places."""
    found: dict[str, object] = {}
    for group, option in _choices(base).items():
        if not composer.is_group(group):
            groups = [str(key) for key in base if composer.is_group(str(key))]
            raise UserError(
                f"{CHOICES}.{group}: there is no such group{did_you_mean(group, groups)}. Groups: {join_names(groups)}"
            )
        found[f"{CHOICES}.{group}"] = option
    for where, block, key in _swept(base):
        node = block._get_node(key)
        if node is not None and node._is_interpolation():  # type: ignore[union-attr]
            values = block[key]
            block[key] = values
            found[f"{where}.{key}"] = list(values) if isinstance(values, ListConfig) else values
    return found


def _choices(base: DictConfig) -> dict[str, str]:
    given: Any = OmegaConf.select(base, CHOICES)
    plain = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    if plain is None:
        return {}
    if not isinstance(plain, Mapping) or not all(isinstance(option, str) for option in plain.values()):
        raise UserError(f"{CHOICES}={plain!r}: expected options by group, such as {{model: octo_tiny}}")
    return {str(group): str(option) for group, option in plain.items()}


def _swept(base: DictConfig) -> Iterator[tuple[str, DictConfig, str]]:
    """(name, block, key) of all keys that stages sweep."""
    stages = base.get("stages")
    for stage in stages if isinstance(stages, DictConfig) else ():
        for kind in ("sweep", "zip"):
            given = stages[stage].get(kind) if isinstance(stages[stage], DictConfig) else None
            for block in [given] if isinstance(given, DictConfig) else given or ():
                if isinstance(block, DictConfig):
                    yield from ((f"stages.{stage}.{kind}", block, str(key)) for key in block)


def _refuse_difference(key: str, values: tuple[str, ...], found: list[dict[str, object]]) -> None:
    """Refuse a sweep over what choices depend on: jobs of one value would be told those of another."""
    differing = sorted({where for each in found for where in each if each[where] != found[0].get(where)})
    if differing:
        raise UserError(
            f"{key}={','.join(values)}: {join_names(differing)} of this experiment differ between these, so each is an "
            f"experiment of its own. Type them one by one: {key}={values[0]} hydra.sweep.dir=FOLDER"
        )
