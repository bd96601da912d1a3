"""The family `toy_jax`: its name, its options and the way to its network. Imports nothing heavy."""

from xp.models.network_family import JaxFamily, Number


class ToyJaxFamily(JaxFamily):
    """Flow matching over chunks, with a small convolution over each camera."""

    name = "toy_jax"
    options = {
        "width": Number(128, low=1, high=4096, whole=True),
        "draws": Number(8, low=1, high=100, whole=True),
    }

    def network(self, options, spec):
        """See `JaxFamily.network`."""
        from xp_toys.toy_jax.network import make_network

        return make_network(spec, **options)


FAMILY = ToyJaxFamily()
