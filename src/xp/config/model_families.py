"""Which model families are installed, which options of the group `model` are of which, and what a family cannot learn.

Nothing heavy is imported: a family says what it takes in a module without a framework.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Protocol, cast

from omegaconf import DictConfig

from xp.config.compose import group_options
from xp.errors import UserError, did_you_mean, join_names
from xp.plugins import entries, load_plugin

GROUP = "xp.families"
"""The entry-point group of model families: `model.family` is the name of one."""


class Learner(Protocol):
    """What `xp.models.family.Family`, which is in a package above, says of what its models learn from."""

    name: ClassVar[str]
    takes_relative_actions: ClassVar[bool]
    wraps_transforms: ClassVar[bool]
    takes_mixtures: ClassVar[bool]


def learner(name: str) -> Learner:
    """The family of this name, as far as it is known here.

    Raises:
        UserError: none is installed, or it cannot be imported.
    """
    return cast(Learner, load_plugin(GROUP, name, "model.family"))


def refuse_unknown_family(name: str) -> None:
    """Make sure that a package brings the family of this name.

    Raises:
        UserError: none does (names the families and the models that there are), or two do.
    """
    families = entries(GROUP)
    if name not in families:
        raise UserError(
            f"model.family={name}: allowed are {join_names(families)}{did_you_mean(name, families)}. Choose a model "
            f"that exists: {models_of(families)}; packages add families through the entry-point group {GROUP}."
        )
    families[name].refuse_contested()


def refuse_relative(family: Learner) -> None:
    """Make sure that the models of a family can learn actions as differences.

    Raises:
        UserError: they cannot; names the models that can.
    """
    if not _takes_relative_actions(family):
        raise UserError(
            f"action_space=relative: models of the family {family.name} take actions as the dataset has them. Type "
            f"action_space=absolute, or take a model that can: {_models_that(_takes_relative_actions)}."
        )


def refuse_mixture(family: Learner) -> None:
    """Make sure that the models of a family can learn from several datasets.

    Raises:
        UserError: they cannot; names the models that can.
    """
    if not family.takes_mixtures:
        raise UserError(
            f"data.mix: models of the family {family.name} learn from one dataset. Type data.mix=null "
            "data.root=FOLDER, or take a model that learns from several: "
            f"{_models_that(lambda other: other.takes_mixtures)}."
        )


def _takes_relative_actions(family: Learner) -> bool:
    return family.takes_relative_actions or family.wraps_transforms


def _models_that(can: Callable[[Learner], bool]) -> str:
    return models_of(name for name in entries(GROUP) if can(learner(name)))


def models_of(families: Iterable[str]) -> str:
    """`model=NAME, NAME`: the options of the group `model` that are of these families."""
    chosen, options = set(families), group_options("model")
    return "model=" + ", ".join(name for name in sorted(options) if _family_in(name, options) in chosen)


def _family_in(name: str, options: Mapping[str, tuple[DictConfig, list[str]]]) -> str | None:
    """The family that an option of `group_options` names, itself or through what it builds on."""
    if name not in options:
        return None
    own, built_on = options[name]
    if "family" in own:
        return str(own["family"])
    return next(filter(None, (_family_in(other, options) for other in built_on)), None)
