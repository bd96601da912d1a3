"""Makes the rules and runs the searches of the built-in methods; imported when a merge begins."""

from collections.abc import Callable, Mapping

import numpy as np

from xp.merging import rules, search
from xp.merging.angular import Angular, Lines
from xp.merging.merge_rules import Linear, MergeRule
from xp.merging.method import MergeInputs, MethodConfig
from xp.merging.relative import Selected, TaskVectors
from xp.merging.trims import Largest, Random, Ranked, Trim, Whole
from xp.merging.weights import not_negative, weight_table

ELECTING = ("ties", "dare_ties", "breadcrumbs_ties", "della")
"""Methods that add only what has an entry's elected sign."""


def weighted(config: MethodConfig, inputs: MergeInputs) -> Linear:
    """average, manual, linear and swa: merge.weights, or equal ones."""
    normalize = config.flag("normalize") if "normalize" in config.options else True
    return Linear(inputs.units, weight_table(config.weights, inputs.units, inputs.count, normalize=normalize))


def interpolated(config: MethodConfig, inputs: MergeInputs) -> Linear:
    """interpolate: [1 - alpha, alpha] of the base and the checkpoint."""
    alpha = config.options["alpha"]
    parts = alpha if isinstance(alpha, Mapping) else {"*": alpha}
    pairs = {key: [1 - a, a] for key, a in parts.items() if isinstance(a, int | float)}
    return Linear(inputs.units, weight_table(pairs, inputs.units, 2, normalize=False))


def averaged_over_steps(config: MethodConfig, inputs: MergeInputs) -> Linear:
    """ema: see `rules.ema_weights`."""
    weights = rules.ema_weights(inputs.count, config.number("decay"))
    return Linear(inputs.units, np.tile(weights, (inputs.units.count, 1)))


def slerp(config: MethodConfig, inputs: MergeInputs) -> Angular:
    """slerp: at t along the great circle."""
    t = config.number("t")
    return Angular("slerp", inputs.units, weight_table([1 - t, t], inputs.units, 2, normalize=False))


def angular(config: MethodConfig, inputs: MergeInputs) -> MergeRule:
    """karcher, model_stock and nuslerp: merge.weights, or equal ones, by angles."""
    table = weight_table(config.weights, inputs.units, inputs.count, normalize=True)
    if config.name != "model_stock":
        not_negative(table, config.name)
    along = config.options.get("along")
    if config.name == "nuslerp" and along in ("last", "first"):
        return Lines(inputs.units, table, str(along), inputs.has_base)
    return Angular(config.name, inputs.units, table, inputs.has_base)


def selected(config: MethodConfig, inputs: MergeInputs) -> Selected:
    """Sce."""
    table = weight_table(None, inputs.units, inputs.count, normalize=True)
    return Selected(inputs.units, table, config.number("select_topk"))


def task_vectors(config: MethodConfig, inputs: MergeInputs) -> TaskVectors:
    """task_arithmetic, and the methods that thin task vectors out first."""
    normalize = config.flag("normalize")
    table = weight_table(
        config.weights,
        inputs.units,
        inputs.count,
        normalize=False,
        divided=normalize,
        default=1.0 if config.name == "task_arithmetic" else None,
        parts_may_be_zero=True,
    )
    return TaskVectors(
        inputs.units,
        table,
        _trim(config, inputs),
        config.number("scale"),
        normalize=normalize,
        elect=config.name in ELECTING,
        match_l1=config.options.get("rescale") == "l1",
    )


def _trim(config: MethodConfig, inputs: MergeInputs) -> Trim:
    """How a method thins task vectors out."""
    name, options, count = config.name, config.options, inputs.count
    density = config.each("density", count)
    if name == "task_arithmetic":
        return Whole()
    if name in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        floats = sum(leaf.size for leaf in inputs.leaves.values() if leaf.is_float)
        whole = floats if options["across"] == "model" else 0
        return Largest(density, config.each("gamma", count) or None, whole)
    divide = options["rescale"] == "probability"
    if name == "della":
        return Ranked(density, inputs.seed, divide, epsilon=config.each("epsilon", count))
    return Random(density, inputs.seed, divide)


def inverse_loss(config: MethodConfig, evaluator: search.Evaluator, tick: Callable[[], None]) -> search.Search:
    """See `search.inverse_loss`."""
    return search.inverse_loss(evaluator, search.Candidates(evaluator, tick))


def greedy(config: MethodConfig, evaluator: search.Evaluator, tick: Callable[[], None]) -> search.Search:
    """See `search.greedy`."""
    return search.greedy(evaluator, search.Candidates(evaluator, tick))


def gradient_descent(config: MethodConfig, evaluator: search.Evaluator, tick: Callable[[], None]) -> search.Search:
    """See `search.gradient_descent`."""
    target, adaptive = config.options.get("target"), config.options.get("adaptive")
    return search.gradient_descent(
        evaluator,
        search.Candidates(evaluator, tick),
        iterations=int(config.number("iterations")),
        learning_rate=config.number("learning_rate"),
        adaptive=None if adaptive is None else str(adaptive),
        target=None if target is None else config.number("target"),
    )
