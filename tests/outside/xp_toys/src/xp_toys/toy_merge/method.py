"""The method `toy_power`: checkpoint k (from 1) of n counts k^p / (1^p + ... + n^p). Imports nothing heavy."""

from xp.merging import Linear, MergeMethod, Number, weight_table


def rule(config, inputs):
    """A weighted sum: later checkpoints count more, the more the larger the option `power`."""
    raw = [number ** config.options["power"] for number in range(1, inputs.count + 1)]
    weights = [each / sum(raw) for each in raw]
    return Linear(inputs.units, weight_table(weights, inputs.units, inputs.count, normalize=False))


METHOD = MergeMethod(name="toy_power", rule=rule, options={"power": Number(1.0, low=0, high=8)})
