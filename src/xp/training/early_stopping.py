"""When a training ends before its last step: validations in a row that are no better than the best before them."""

import math
from collections.abc import Iterable, Mapping


def higher_is_better(metric: str) -> bool:
    """Whether a column of validation_log.csv is a share of right answers; the others are losses and errors."""
    return metric.endswith("accuracy")


def validations_without_improvement(values: Iterable[float], *, threshold: float, higher: bool) -> int:
    """How many of the last validations in a row did not improve on the best before them.

    The rule of Lightning's `EarlyStopping`: a value improves if it passes the best by more than `threshold`,
    and only then becomes the best, so that many small steps forward count once their sum does. What is not finite does
    not improve; the first finite value does.

    Args:
        values: of the metric, one per validation, in their order.
        threshold: in the metric's units, at least 0.
        higher: whether a higher value is better.
    """
    best, waited = math.nan, 0
    for value in values:
        gain = value - best if higher else best - value
        if math.isfinite(value) and (math.isnan(best) or gain > threshold):
            best, waited = value, 0
        else:
            waited += 1
    return waited


def waited_for(metric: str, rows: Iterable[Mapping[str, object]], threshold: float) -> int:
    """`validations_without_improvement` by rows of validation_log.csv, from which a resumed run counts the same."""
    found = (row.get(metric) for row in rows)
    values = (float(value) if isinstance(value, int | float) else math.nan for value in found)
    return validations_without_improvement(values, threshold=threshold, higher=higher_is_better(metric))
