"""A family of one torch network: what its author writes. Imports no framework."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xp.json_types import JSONObject
from xp.models.network_family.base import NetworkFamily
from xp.models.policy import PolicySpec

if TYPE_CHECKING:
    import torch

    from xp.models.network_family.inputs import Inputs
    from xp.models.network_family.torch_policy import TorchNetworkPolicy
    from xp.models.trainable import TorchTrainable


class TorchFamily(NetworkFamily):
    """A family whose model is one `torch.nn.Module`. A subclass writes `name`, `options` and `network`.

    `module(inputs)` gives a chunk [B, H, A] in normalised units. The inputs are float32 on the module's device:
    `observation.images.NAME` [B, T, 3, h, w] from 0 to 1, `observation.state` [B, T, S] and
    `observation.environment_state` [B, T, E] normalised (those that there are), `observation_is_pad` [B, T] bool, and
    what `encode_texts` made. A module may also have `loss(inputs)`, which gives the scalar objective and a dict of
    scalar parts; the inputs then hold `action` [B, H, A] normalised and `action_is_pad` [B, H] too. Without it the
    objective is the mean absolute error over actions that are no padding. Every draw comes from torch's global
    generators; training and evaluation mode are set from outside.
    """

    framework = "torch"

    @abstractmethod
    def network(self, options: Mapping[str, Any], spec: PolicySpec) -> "torch.nn.Module":
        """A new module; its weights are drawn from torch's global generator, which is seeded.

        Args:
            options: all of `options`, checked.
            spec: what it takes and gives; the names of cameras are those in the inputs.

        Raises:
            UserError: options that do not fit each other or the data.
        """

    def _build_network(self, inputs: "Inputs", *, seed: int, pretrained: Path | None) -> "TorchTrainable":
        """See `NetworkFamily._build_network`."""
        from xp.models.network_family.torch_policy import build

        return build(
            lambda: self.network(inputs.described.options, inputs.described.spec),
            inputs,
            seed=seed,
            pretrained=pretrained,
        )

    def _load_network(self, inputs: "Inputs", folder: Path, device: str | None) -> "TorchNetworkPolicy":
        """See `NetworkFamily._load_network`."""
        from xp.models.network_family.torch_policy import load

        return load(lambda: self.network(inputs.described.options, inputs.described.spec), inputs, folder, device)

    def prepare_imports(self, model_cfg: JSONObject) -> None:
        """Import torch."""
        import xp.models.network_family.torch_policy  # noqa: F401
