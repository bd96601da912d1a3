"""The options of a pi0 in torch: those of the family in JAX, but for given actions."""

from xp.errors import UserError
from xp.json_types import JSONObject
from xp.models.pi0.options import Pi0Options


def torch_options(model_cfg: JSONObject) -> Pi0Options:
    """Read the `model` section.

    Raises:
        UserError: an unknown key, a value out of its bounds, or actions that are to be given in training.
    """
    options = Pi0Options.from_config(model_cfg)
    if options.max_delay:
        raise UserError(
            f"model.max_delay={options.max_delay}: given actions are learned in JAX (model=pi05 or pi0); in torch a "
            "policy is guided to its plan, which needs no training. Type model.max_delay=0"
        )
    return options
