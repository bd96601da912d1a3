"""Families of models that are one network: a subclass of `TorchFamily` or `JaxFamily` gives it, the rest is here.

A network maps normalised observations to a normalised chunk of actions. Normalising, resizing, batches, losses without
padding, prediction, merging's loss, and the policy folder (`folder`), whose weights are verified key by key, are the
same for all of them. Importing this package imports no framework.
"""

from xp.config.method_options import Choice, Number
from xp.models.network_family.base import NetworkFamily
from xp.models.network_family.jax_family import JaxFamily
from xp.models.network_family.jax_network import JaxNetwork
from xp.models.network_family.torch_family import TorchFamily

__all__ = ["Choice", "JaxFamily", "JaxNetwork", "NetworkFamily", "Number", "TorchFamily"]
