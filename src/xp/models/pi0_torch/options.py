"""The options of a pi0 in torch: those of the family in JAX, but for low-rank updates."""

from xp.errors import UserError
from xp.json_types import JSONObject
from xp.models.pi0.options import Pi0Options


def torch_options(model_cfg: JSONObject) -> Pi0Options:
    """Read the `model` section.

    Raises:
        UserError: an unknown key, a value out of its bounds, or low-rank updates.
    """
    options = Pi0Options.from_config(model_cfg)
    for name in ("language", "action"):
        chosen = getattr(options, name)
        if chosen.endswith("_lora"):
            raise UserError(
                f"model.{name}={chosen}: low-rank updates are trained in JAX (model=pi05 or pi0), and folded when they "
                f"are converted. Type model.{name}={chosen.removesuffix('_lora')}"
            )
    return options
