"""Parts of a model by the names of its weights: groups (vision, language, action and others) and layers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from xp.checkpoints.arrays import Leaf
from xp.errors import UserError, did_you_mean, join_names
from xp.merging.shapes import Indices

OTHER = "other"
"""The group of weights that no pattern matches."""
GROUPS: dict[str, tuple[str, ...]] = {
    "action": (
        "*gemma_expert*", "*/llm/*_1/*", "*action_*proj*", "*time_mlp*", "*state_proj*", "*heads_*", "*action_head*",
        "*unet*", "*diffusion*",
    ),
    "vision": (
        "*vision_tower*", "*vision_backbone*", "*vision_model*", "*multi_modal_projector*", "*/img/*",
        "*observation_tokenizers*", "*obs_*", "*backbone*", "*rgb_encoder*", "*encoder_img*",
    ),
    "language": ("*language_model*", "*lm_head*", "*/llm/*", "*task_tokenizers_language*", "*task_language*"),
}  # fmt: skip
"""fnmatch patterns on whole names, by the names in published policies in JAX and torch; the first match decides."""
STACKED = ("*/layers/*", "*/encoderblock/*", "layers/*", "encoderblock/*")
"""Leaves whose leading axis is the layer (scanned JAX modules)."""
_LAYER_IN_NAME = re.compile(r"(?:layers?|blocks?|encoderblock)[._/](\d+)(?=[._/])|encoderblock_(\d+)")
GRANULARITIES = ("checkpoint", "group", "layer")


def group_of(name: str, groups: Mapping[str, Sequence[str]]) -> str:
    """The first group with a pattern that matches; `other` if none does."""
    for group, patterns in groups.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return group
    return OTHER


def with_builtin(groups: Mapping[str, Sequence[str]] | None) -> dict[str, Sequence[str]]:
    """The user's groups, which decide first, and the built-in ones."""
    return {**(groups or {}), **{name: patterns for name, patterns in GROUPS.items() if name not in (groups or {})}}


def is_stacked(leaf: Leaf) -> bool:
    """Whether the leading axis of a leaf counts layers."""
    stacked = any(fnmatchcase(leaf.name, pattern) for pattern in STACKED)
    return stacked and len(leaf.shape) > 1 and leaf.shape[0] > 1 and not _LAYER_IN_NAME.search(leaf.name)


def rows_of(leaf: Leaf) -> int:
    """How many tensors of one layer each a leaf holds."""
    return leaf.shape[0] if is_stacked(leaf) else 1


def layer_in_name(name: str) -> int | None:
    """The layer's number where the name tells it (`...layers.3.mlp...`)."""
    match = _LAYER_IN_NAME.search(name)
    return None if match is None else int(match[1] or match[2])


@dataclass(frozen=True)
class Units:
    """The parts of a model that have weights of their own: `names` [U], and which unit each leaf's rows are in."""

    names: tuple[str, ...]
    of_leaf: Mapping[str, Indices]
    """{leaf name: indices into `names`}: one, or one a row of a stacked leaf."""

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.names)


def make_units(leaves: Mapping[str, Leaf], per: str, groups: Mapping[str, Sequence[str]]) -> Units:
    """Divide the float leaves into units: all of them one, one a group, or one a layer of each group.

    Raises:
        UserError: an unknown granularity, or a group of the user's that matches nothing.
    """
    if per not in GRANULARITIES:
        raise UserError(
            f"merge.per={per}: allowed are {join_names(GRANULARITIES)}{did_you_mean(per, GRANULARITIES)}. "
            "Type merge.per=checkpoint for one weight a checkpoint."
        )
    labels: dict[str, list[str]] = {}
    for leaf in leaves.values():
        if leaf.is_float:
            labels[leaf.name] = _labels(leaf, per, groups)
    names = sorted({label for found in labels.values() for label in found}, key=_natural)
    index = {label: number for number, label in enumerate(names)}
    return Units(tuple(names), {name: np.array([index[label] for label in found]) for name, found in labels.items()})


def _labels(leaf: Leaf, per: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    if per == "checkpoint":
        return ["all"]
    group = group_of(leaf.name, groups)
    if per == "group":
        return [group]
    if is_stacked(leaf):
        return [f"{group}.{layer}" for layer in range(leaf.shape[0])]
    layer = layer_in_name(leaf.name)
    return [group if layer is None else f"{group}.{layer}"]


def _natural(label: str) -> tuple[str, int]:
    group, _, layer = label.partition(".")
    return group, int(layer) if layer else -1


def check_groups(leaves: Mapping[str, Leaf], groups: Mapping[str, Sequence[str]] | None) -> None:
    """Refuse a group of the user's whose patterns match no weight."""
    for group, patterns in (groups or {}).items():
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in leaves):
                guess = did_you_mean(pattern.strip("*"), leaves)
                raise UserError(
                    f"merge.groups.{group}: the pattern {pattern!r} matches none of the {len(leaves)} weights{guess}. "
                    f"Patterns match whole names, for instance: {join_names(list(leaves)[:3])}"
                )
