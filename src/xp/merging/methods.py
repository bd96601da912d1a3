"""The merge methods by name: what each needs, its options, and how its mixture is made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xp.checkpoints.arrays import Leaf
from xp.errors import UserError, did_you_mean, join_names
from xp.merging import rules, search
from xp.merging.angular import ALONG, Angular, Lines
from xp.merging.groups import Units
from xp.merging.mixer import Mixer
from xp.merging.mixtures import Linear, Mixture
from xp.merging.objective import GRADIENT_METHODS, LOSS_METHODS
from xp.merging.options import ByGroup, Choice, Number, Option, checked
from xp.merging.relative import Selected, TaskVectors
from xp.merging.trims import Largest, Random, Ranked, Trim, Whole
from xp.merging.weights import example, not_negative, weight_table


@dataclass(frozen=True)
class Method:
    """What a method needs. `count`: exactly so many checkpoints; `options`: its own keys and what they may be."""

    base: bool = False
    base_too: bool = False
    """Whether it takes a base and needs none."""
    weights: str = "no"
    """no, may or must be given."""
    count: int | None = None
    run: bool = False
    """Whether one run's folder stands for all its steps."""
    options: Mapping[str, Option] = field(default_factory=dict)


_GRADIENT = {"iterations": Number(50, 1, whole=True), "learning_rate": Number(0.05, 0)}
_ADAPTIVE = {"adaptive": Choice("gradient", ("gradient", "step")), "target": Number(None, 0, above=True)}
_SCALE = Number(1.0)
_SHARE = {"low": 0.0, "high": 1.0, "above": True, "each": True}
LEAST_ODDS = 0.001
"""The least probability of an entry that is drawn: what is kept is divided by it."""
_ODDS = Number(0.5, LEAST_ODDS, 1, each=True)
_GAMMA = Number(0.01, 0, 0.5, each=True)
_ACROSS = Choice("tensor", ("tensor", "model"))
_RESCALE, _NO_RESCALE = Choice("probability", ("probability", "l1", "none")), Choice("none", ("l1", "none"))
METHODS: dict[str, Method] = {
    "average": Method(),
    "manual": Method(weights="must"),
    "linear": Method(weights="must", options={"normalize": Choice(False)}),
    "inverse_loss": Method(),
    "greedy": Method(),
    "gradient_descent": Method(options=_GRADIENT),
    "adaptive_gradient_descent": Method(options={**_GRADIENT, **_ADAPTIVE}),
    "task_arithmetic": Method(
        base=True, weights="may", options={"scale": Number(0.4), "normalize": Choice(False)}
    ),
    "ties": Method(
        base=True,
        weights="may",
        options={
            "scale": _SCALE, "density": Number(0.2, **_SHARE), "across": _ACROSS, "normalize": Choice(True),
            "rescale": _NO_RESCALE,
        },
    ),
    "dare": Method(
        base=True,
        weights="may",
        options={"scale": _SCALE, "density": _ODDS, "normalize": Choice(False), "rescale": _RESCALE},
    ),
    "dare_ties": Method(
        base=True,
        weights="may",
        options={"scale": _SCALE, "density": _ODDS, "normalize": Choice(False), "rescale": _RESCALE},
    ),
    "breadcrumbs": Method(
        base=True,
        weights="may",
        options={
            "scale": _SCALE, "density": Number(0.9, **_SHARE), "gamma": _GAMMA, "across": _ACROSS,
            "normalize": Choice(False), "rescale": _NO_RESCALE,
        },
    ),
    "breadcrumbs_ties": Method(
        base=True,
        weights="may",
        options={
            "scale": _SCALE, "density": Number(0.9, **_SHARE), "gamma": _GAMMA, "across": _ACROSS,
            "normalize": Choice(False), "rescale": _NO_RESCALE,
        },
    ),
    "della": Method(
        base=True,
        weights="may",
        options={
            "scale": _SCALE, "density": _ODDS, "epsilon": Number(0.15, 0, 0.5, each=True),
            "normalize": Choice(True), "rescale": _RESCALE,
        },
    ),
    "sce": Method(base=True, options={"select_topk": Number(1.0, 0, 1, above=True)}),
    "model_stock": Method(base=True, weights="may"),
    "interpolate": Method(base=True, count=1, options={"alpha": ByGroup(0.5)}),
    "slerp": Method(count=2, options={"t": Number(0.5, 0, 1)}),
    "nuslerp": Method(base_too=True, count=2, weights="may", options={"along": Choice("tensor", ALONG)}),
    "karcher": Method(weights="may"),
    "ema": Method(run=True, options={"decay": Number(0.9, 0, 1)}),
    "swa": Method(run=True, weights="may"),
}  # fmt: skip
NEEDS_OBJECTIVE = (*LOSS_METHODS, *GRADIENT_METHODS)
_TASK_VECTORS = ("task_arithmetic", "ties", "dare", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della")
_ELECT = ("ties", "dare_ties", "breadcrumbs_ties", "della")
"""Methods that add only what has an entry's elected sign."""


@dataclass(frozen=True)
class Asked:
    """A method with everything the user said about it, checked."""

    name: str
    weights: Any
    options: Mapping[str, Any]

    @property
    def method(self) -> Method:
        """What the method needs."""
        return METHODS[self.name]


def ask(name: str, count: int, *, has_base: bool, weights: Any, options: Mapping[str, Any]) -> Asked:
    """Check a method's needs before anything is opened.

    Raises:
        UserError: an unknown method or option, or what is missing or does not fit.
    """
    if name not in METHODS:
        raise UserError(f"merge_method={name}: allowed are {join_names(METHODS)}{did_you_mean(name, METHODS)}")
    method = METHODS[name]
    filled = checked(name, method.options, options, count)
    _check_needs(name, method, count, has_base, weights)
    for density, epsilon in zip(_each(filled, "density", count), _each(filled, "epsilon", count)):
        if density < 1 and not LEAST_ODDS <= density - epsilon <= density + epsilon <= 1:
            raise UserError(
                f"merge_method.density={density} and merge_method.epsilon={epsilon}: entries are kept with "
                f"probabilities from density - epsilon to density + epsilon, which must lie between {LEAST_ODDS} and "
                f"1. Type for instance merge_method.epsilon={round(min(density, 1 - density) / 2, 4)}"
            )
    return Asked(name, weights, filled)


def _each(options: Mapping[str, Any], key: str, count: int) -> list[float]:
    """An option as one number for each checkpoint; none where the method has no such option."""
    value = options.get(key)
    return [] if value is None else list(value) if isinstance(value, Sequence) else [value] * count


def _check_needs(name: str, method: Method, count: int, has_base: bool, weights: Any) -> None:
    if method.base and not has_base:
        raise UserError(
            f"merge_method={name} works on what fine-tuning changed and needs the model it started from: "
            "merge.base=FOLDER"
        )
    if method.count is not None and count != method.count:
        raise UserError(
            f"merge_method={name} takes {method.count} checkpoint{'s' if method.count > 1 else ' and merge.base'}; "
            f"merge.checkpoints has {count}. merge_method=average, manual, karcher and others take any number."
        )
    if count < (1 if method.base or method.run else 2):
        raise UserError(f"merge.checkpoints has {count} entries; give two or more: merge.checkpoints=[A,B,C]")
    if weights is None and method.weights == "must":
        raise UserError(
            f"merge_method={name} needs one weight a checkpoint, for instance merge.weights={example(count)}"
        )
    if weights is not None and method.weights == "no":
        raise UserError(
            f"merge_method={name} finds its weights itself, and merge.weights is given. Leave that out, or take them "
            "as they are: merge_method=manual"
        )


def build(
    asked: Asked,
    units: Units,
    count: int,
    *,
    mixer: Callable[[], Mixer],
    tick: Callable[[], None],
    seed: int,
    leaves: Mapping[str, Leaf],
    has_base: bool = False,
) -> tuple[Mixture, search.Search | None]:
    """The mixture of a method, and what a search for its weights tried.

    Args:
        asked: the checked method.
        units: parts with weights of their own.
        count: number of checkpoints, without the base.
        mixer: makes losses of mixes; called by the methods that need them.
        tick: called after each loss.
        seed: of the methods that draw.
        leaves: of the checkpoints.
        has_base: whether the first input is a base.
    """
    name = asked.name
    if name in NEEDS_OBJECTIVE:
        found = _searched(asked, mixer(), tick)
        return Linear(units, found.weights), found
    if name in _TASK_VECTORS:
        return _task_vectors(asked, units, count, seed, leaves), None
    if name == "sce":
        return Selected(units, weight_table(None, units, count, normalize=True), **asked.options), None
    return _closed_form(asked, units, count, has_base), None


def _task_vectors(asked: Asked, units: Units, count: int, seed: int, leaves: Mapping[str, Leaf]) -> TaskVectors:
    name, options = asked.name, asked.options
    table = weight_table(
        asked.weights,
        units,
        count,
        normalize=False,
        divided=options["normalize"],
        default=1.0 if name == "task_arithmetic" else None,
        parts_may_be_zero=True,
    )
    return TaskVectors(
        units,
        table,
        _trim(asked, count, seed, leaves),
        options["scale"],
        normalize=options["normalize"],
        elect=name in _ELECT,
        match_l1=options.get("rescale") == "l1",
    )


def _trim(asked: Asked, count: int, seed: int, leaves: Mapping[str, Leaf]) -> Trim:
    """How a method thins task vectors out."""
    name, options = asked.name, asked.options
    density = _each(options, "density", count)
    if name == "task_arithmetic":
        return Whole()
    if name in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        whole = sum(leaf.size for leaf in leaves.values() if leaf.is_float) if options["across"] == "model" else 0
        return Largest(density, _each(options, "gamma", count) or None, whole)
    divide = options["rescale"] == "probability"
    if name == "della":
        return Ranked(density, seed, divide, epsilon=_each(options, "epsilon", count))
    return Random(density, seed, divide)


def _closed_form(asked: Asked, units: Units, count: int, has_base: bool) -> Mixture:
    name, options = asked.name, asked.options
    if name == "interpolate":
        alpha = options["alpha"]
        pairs = {key: [1 - a, a] for key, a in alpha.items()} if isinstance(alpha, Mapping) else [1 - alpha, alpha]
        return Linear(units, weight_table(pairs, units, 2, normalize=False))
    if name == "slerp":
        return Angular(name, units, weight_table([1 - options["t"], options["t"]], units, 2, normalize=False))
    if name in ("karcher", "model_stock", "nuslerp"):
        table = weight_table(asked.weights, units, count, normalize=True)
        if name != "model_stock":
            not_negative(table, name)
        if name == "nuslerp" and options["along"] != "tensor":
            return Lines(units, table, options["along"], has_base)
        return Angular(name, units, table, has_base)
    if name == "ema":
        return Linear(units, np.tile(rules.ema_weights(count, options["decay"]), (units.count, 1)))
    normalize = options.get("normalize", True)
    return Linear(units, weight_table(asked.weights, units, count, normalize=normalize))


def _searched(asked: Asked, mixer: Mixer, tick: Callable[[], None]) -> search.Search:
    tried = search.Candidates(mixer, tick)
    if asked.name == "inverse_loss":
        return search.inverse_loss(mixer, tried)
    if asked.name == "greedy":
        return search.greedy(mixer, tried)
    return search.gradient_descent(mixer, tried, **asked.options)


def evaluations(asked: Asked, count: int) -> int:
    """At most how many losses a method measures."""
    if asked.name in GRADIENT_METHODS:
        return count + int(asked.options["iterations"]) + 1
    return count + 2 if asked.name == "inverse_loss" else count * (count + 1) // 2 + 1
