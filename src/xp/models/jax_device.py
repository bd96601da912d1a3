"""The JAX device that a policy is loaded to."""

import jax

from xp.errors import UserError


def jax_device(platform: str | None) -> jax.sharding.Sharding | None:
    """Where weights go: the first device of a jax platform such as "cpu" or "gpu"; None: jax's default.

    Raises:
        UserError: jax has no such platform here.
    """
    if platform is None:
        return None
    try:
        return jax.sharding.SingleDeviceSharding(jax.devices(platform)[0])
    except RuntimeError as error:
        raise UserError(
            f"device={platform!r}: jax has no such device here ({error}). Allowed is for instance 'cpu'; type "
            "device=cpu, or leave it out."
        ) from error
