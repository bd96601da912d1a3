"""Which model families are installed, and which options of the group `model` are of which; loads no family."""

from collections.abc import Iterable, Mapping

from omegaconf import DictConfig

from xp.config.compose import group_options
from xp.errors import UserError, did_you_mean, join_names
from xp.plugins import entries

GROUP = "xp.families"
"""The entry-point group of model families: `model.family` is the name of one."""


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
