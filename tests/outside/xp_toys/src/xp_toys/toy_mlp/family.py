"""The family `toy_mlp`: its name, its options and the way to its network. Imports nothing heavy."""

from xp.models.network_family import Choice, Number, TorchFamily


class ToyMlpFamily(TorchFamily):
    """A small convolution over each camera, then a perceptron that gives the whole chunk at once."""

    name = "toy_mlp"
    options = {
        "width": Number(128, low=1, high=4096, whole=True),
        "dropout": Number(0.0, low=0, high=0.9),
        "activation": Choice("relu", ("relu", "gelu")),
    }

    def network(self, options, spec):
        """See `TorchFamily.network`."""
        from xp_toys.toy_mlp.network import ToyMlp

        return ToyMlp(spec, **options)


FAMILY = ToyMlpFamily()
