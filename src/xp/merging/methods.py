"""The built-in merge methods: what each needs and its options. Loads no numpy; the rules are in `builtin_rules`."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from xp.config.method_options import ByGroup, Choice, Number
from xp.errors import UserError
from xp.json_types import JSON
from xp.merging.method import MergeMethod, for_each

_GRADIENT = {"iterations": Number(50, 1, whole=True), "learning_rate": Number(0.05, 0)}
_ADAPTIVE = {"adaptive": Choice("gradient", ("gradient", "step")), "target": Number(None, 0, above=True)}
_SCALE = Number(1.0)
_SHARE = {"low": 0.0, "high": 1.0, "above": True, "each": True}
LEAST_ODDS = 0.001
"""The least probability of an entry that is drawn: what is kept is divided by it."""
_ODDS = Number(0.5, LEAST_ODDS, 1, each=True)
_GAMMA = Number(0.01, 0, 0.5, each=True)
_ACROSS = Choice("tensor", ("tensor", "model"))
_ALONG = Choice("tensor", ("tensor", "last", "first"))
_RESCALE, _NO_RESCALE = Choice("probability", ("probability", "l1", "none")), Choice("none", ("l1", "none"))
_NO_SUM, _SUM = Choice(False), Choice(True)


def _builtin(name: str) -> Callable[..., Any]:
    """A function of `builtin_rules`, imported when it is called."""
    return lambda *given: getattr(import_module("xp.merging.builtin_rules"), name)(*given)


def _check_odds(options: Mapping[str, JSON], count: int) -> None:
    """Refuse della's probabilities outside of what can be divided by."""
    for density, epsilon in zip(for_each(options, "density", count), for_each(options, "epsilon", count), strict=True):
        if density < 1 and not LEAST_ODDS <= density - epsilon <= density + epsilon <= 1:
            raise UserError(
                f"merge_method.density={density} and merge_method.epsilon={epsilon}: entries are kept with "
                f"probabilities from density - epsilon to density + epsilon, which must lie between {LEAST_ODDS} and "
                f"1. Type for instance merge_method.epsilon={round(min(density, 1 - density) / 2, 4)}"
            )


_WEIGHTED, _ANGULAR, _VECTORS = _builtin("weighted"), _builtin("angular"), _builtin("task_vectors")
_DESCENT: dict[str, Any] = {
    "search": _builtin("gradient_descent"),
    "gradient": True,
    "evaluations": lambda config, count: count + int(config.number("iterations")) + 1,
}
_TASK: dict[str, Any] = {"rule": _VECTORS, "base": True, "weights": "may"}
_DRAWN = {"scale": _SCALE, "density": _ODDS, "normalize": _NO_SUM, "rescale": _RESCALE}
_CRUMBS = {
    "scale": _SCALE, "density": Number(0.9, **_SHARE), "gamma": _GAMMA, "across": _ACROSS, "normalize": _NO_SUM,
    "rescale": _NO_RESCALE,
}  # fmt: skip
_TIES = {
    "scale": _SCALE, "density": Number(0.2, **_SHARE), "across": _ACROSS, "normalize": _SUM, "rescale": _NO_RESCALE,
}  # fmt: skip
_DELLA = {
    "scale": _SCALE, "density": _ODDS, "epsilon": Number(0.15, 0, 0.5, each=True), "normalize": _SUM,
    "rescale": _RESCALE,
}  # fmt: skip

AVERAGE = MergeMethod(name="average", rule=_WEIGHTED)
MANUAL = MergeMethod(name="manual", rule=_WEIGHTED, weights="must")
LINEAR = MergeMethod(name="linear", rule=_WEIGHTED, weights="must", options={"normalize": _NO_SUM})
INVERSE_LOSS = MergeMethod(
    name="inverse_loss", search=_builtin("inverse_loss"), evaluations=lambda config, count: count + 2
)
GREEDY = MergeMethod(
    name="greedy", search=_builtin("greedy"), evaluations=lambda config, count: count * (count + 1) // 2 + 1
)
GRADIENT_DESCENT = MergeMethod(name="gradient_descent", **_DESCENT, options=_GRADIENT)
ADAPTIVE_GRADIENT_DESCENT = MergeMethod(
    name="adaptive_gradient_descent", **_DESCENT, options={**_GRADIENT, **_ADAPTIVE}
)
TASK_ARITHMETIC = MergeMethod(name="task_arithmetic", **_TASK, options={"scale": Number(0.4), "normalize": _NO_SUM})
TIES = MergeMethod(name="ties", **_TASK, options=_TIES)
DARE = MergeMethod(name="dare", **_TASK, options=_DRAWN)
DARE_TIES = MergeMethod(name="dare_ties", **_TASK, options=_DRAWN)
BREADCRUMBS = MergeMethod(name="breadcrumbs", **_TASK, options=_CRUMBS)
BREADCRUMBS_TIES = MergeMethod(name="breadcrumbs_ties", **_TASK, options=_CRUMBS)
DELLA = MergeMethod(name="della", **_TASK, options=_DELLA, check=_check_odds)
SCE = MergeMethod(
    name="sce", rule=_builtin("selected"), base=True, options={"select_topk": Number(1.0, 0, 1, above=True)}
)
MODEL_STOCK = MergeMethod(name="model_stock", rule=_ANGULAR, base=True, weights="may")
INTERPOLATE = MergeMethod(
    name="interpolate", rule=_builtin("interpolated"), base=True, count=1, options={"alpha": ByGroup(0.5)}
)
SLERP = MergeMethod(name="slerp", rule=_builtin("slerp"), count=2, options={"t": Number(0.5, 0, 1)})
NUSLERP = MergeMethod(name="nuslerp", rule=_ANGULAR, base_too=True, count=2, weights="may", options={"along": _ALONG})
KARCHER = MergeMethod(name="karcher", rule=_ANGULAR, weights="may")
EMA = MergeMethod(name="ema", rule=_builtin("averaged_over_steps"), run=True, options={"decay": Number(0.9, 0, 1)})
SWA = MergeMethod(name="swa", rule=_WEIGHTED, run=True, weights="may")

METHODS: dict[str, MergeMethod] = {
    method.name: method
    for method in (
        AVERAGE, MANUAL, LINEAR, INVERSE_LOSS, GREEDY, GRADIENT_DESCENT, ADAPTIVE_GRADIENT_DESCENT, TASK_ARITHMETIC,
        TIES, DARE, DARE_TIES, BREADCRUMBS, BREADCRUMBS_TIES, DELLA, SCE, MODEL_STOCK, INTERPOLATE, SLERP, NUSLERP,
        KARCHER, EMA, SWA,
    )
}  # fmt: skip
"""The built-in methods by name; each is also an entry point of the group `xp.merge_methods`."""
