"""The merge methods by name: what each needs, its options, and how its mixture is made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from xp.errors import UserError, closest, listing
from xp.merging import rules, search
from xp.merging.groups import Units
from xp.merging.mixer import Mixer
from xp.merging.mixtures import Angular, BaseRelative, Linear, Mixture
from xp.merging.objective import GRADIENT_METHODS, LOSS_METHODS


@dataclass(frozen=True)
class Method:
    """What a method needs. `count`: exactly so many checkpoints; `options`: its own keys with their defaults."""

    base: bool = False
    weights: str = "no"
    """no, may or must be given."""
    count: int | None = None
    run: bool = False
    """Whether one run's folder stands for all its steps."""
    options: Mapping[str, Any] = field(default_factory=dict)


_GRADIENT = {"iterations": 50, "learning_rate": 0.05}
METHODS: dict[str, Method] = {
    "average": Method(),
    "manual": Method(weights="must"),
    "linear": Method(weights="must", options={"normalize": False}),
    "inverse_loss": Method(),
    "greedy": Method(),
    "gradient_descent": Method(options=_GRADIENT),
    "adaptive_gradient_descent": Method(options={**_GRADIENT, "adaptive": "gradient", "target": None}),
    "task_arithmetic": Method(base=True, weights="may", options={"scale": 1.0}),
    "ties": Method(base=True, weights="may", options={"scale": 1.0, "density": 0.2}),
    "dare": Method(base=True, weights="may", options={"scale": 1.0, "density": 0.5}),
    "model_stock": Method(base=True),
    "interpolate": Method(base=True, count=1, options={"alpha": 0.5}),
    "slerp": Method(count=2, options={"t": 0.5}),
    "karcher": Method(weights="may"),
    "ema": Method(run=True, options={"decay": 0.9}),
    "swa": Method(run=True),
}
NEEDS_OBJECTIVE = (*LOSS_METHODS, *GRADIENT_METHODS)
_BOUNDS = {"density": (0.0, 1.0), "decay": (0.0, 1.0), "iterations": (1, None), "learning_rate": (0.0, None)}


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
        raise UserError(f"merge_method={name}: allowed are {listing(METHODS)}{closest(name, METHODS)}")
    method = METHODS[name]
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in method.options:
            raise UserError(
                f"merge_method={name} has no option '{key}'; its options: {listing(method.options)}"
                f"{closest(key, method.options)}"
            )
    _check_needs(name, method, count, has_base, weights)
    filled = {**method.options, **given}
    for key, (low, high) in _BOUNDS.items():
        if key in filled and (filled[key] < low or (high is not None and filled[key] > high)):
            raise UserError(
                f"merge_method.{key}={filled[key]}: must be at least {low}" + (f", at most {high}" if high else "")
            )
    if filled.get("adaptive", "step") not in ("gradient", "step"):
        raise UserError(f"merge_method.adaptive={filled['adaptive']}: allowed are gradient, step")
    if name == "dare" and filled["density"] <= 0:
        raise UserError("merge_method.density=0 would drop every entry of dare. Give a share to keep, such as 0.5")
    return Asked(name, weights, filled)


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
            f"merge_method={name} needs one weight a checkpoint, for instance merge.weights={_example(count)}"
        )
    if weights is not None and method.weights == "no":
        raise UserError(
            f"merge_method={name} finds its weights itself, and merge.weights is given. Leave that out, or take them "
            "as they are: merge_method=manual"
        )


def _example(count: int) -> str:
    return "[" + ",".join(["0.5", *["0.3"] * (count - 2), "0.2"][:count]) + "]"


def weight_table(weights: Any, units: Units, count: int, *, normalize: bool) -> np.ndarray:
    """[U, N] from the user's weights: a list of N, or {pattern of a group or unit: list of N}; None: equal ones.

    Raises:
        UserError: a wrong count, a value that is no finite number, weights that sum to 0, or a unit without weights.
    """
    if weights is None:
        return np.full((units.count, count), 1.0 / count)
    if not isinstance(weights, Mapping):
        return np.tile(_row("merge.weights", weights, count, normalize), (units.count, 1))
    rows = []
    for unit in units.names:
        key = next((key for key in weights if fnmatchcase(unit, key) or fnmatchcase(unit.partition(".")[0], key)), None)
        if key is None:
            raise UserError(
                f"merge.weights says nothing about '{unit}'. Groups here: {listing(units.names)}. "
                f"Add its weights, or those of the rest: merge.weights={{...,*:{_example(count)}}}"
            )
        rows.append(_row(f"merge.weights.{key}", weights[key], count, normalize))
    return np.stack(rows)


def _row(key: str, given: Any, count: int, normalize: bool) -> np.ndarray:
    values = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if len(values) != count:
        raise UserError(
            f"{key}={values}: {len(values)} weights for {count} checkpoints. Give one each: {_example(count)}"
        )
    try:
        row = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        raise UserError(f"{key}={values}: weights are numbers, for instance {_example(count)}") from None
    if not np.isfinite(row).all():
        raise UserError(f"{key}={values}: weights must be finite numbers, for instance {_example(count)}")
    if not normalize:
        return row
    total = row.sum()
    if abs(total) < 1e-12 * max(np.abs(row).sum(), 1.0):
        raise UserError(
            f"{key}={values} sum to 0, so they cannot be normalised. Give weights with another sum, or take them "
            "as they are: merge_method=linear"
        )
    return row / total


def build(
    asked: Asked, units: Units, count: int, *, mixer: Callable[[], Mixer], tick: Callable[[], None], seed: int
) -> tuple[Mixture, search.Search | None]:
    """The mixture of a method, and what a search for its weights tried.

    Args:
        asked: the checked method.
        units: parts with weights of their own.
        count: number of checkpoints, without the base.
        mixer: makes losses of mixes; called by the methods that need them.
        tick: called after each loss.
        seed: of dare's draws.
    """
    name, options = asked.name, asked.options
    if name in NEEDS_OBJECTIVE:
        found = _searched(asked, mixer(), tick)
        return Linear(units, found.weights), found
    if name in ("task_arithmetic", "ties", "dare"):
        table = weight_table(asked.weights, units, count, normalize=False)
        density = options.get("density", 1.0)
        return BaseRelative(name, units, table, options["scale"], density, seed), None
    return _closed_form(asked, units, count), None


def _closed_form(asked: Asked, units: Units, count: int) -> Mixture:
    name, options = asked.name, asked.options
    if name == "interpolate":
        alpha = options["alpha"]
        pairs = {key: [1 - a, a] for key, a in alpha.items()} if isinstance(alpha, Mapping) else [1 - alpha, alpha]
        return Linear(units, weight_table(pairs, units, 2, normalize=False))
    if name == "slerp":
        return Angular(name, units, weight_table([1 - options["t"], options["t"]], units, 2, normalize=False))
    if name in ("karcher", "model_stock"):
        return Angular(name, units, weight_table(asked.weights, units, count, normalize=True))
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
