"""A family of one JAX network: what its author writes. Imports no framework."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xp.json_types import JSONObject
from xp.models.network_family.base import NetworkFamily
from xp.models.network_family.jax_network import JaxNetwork
from xp.models.policy import PolicySpec

if TYPE_CHECKING:
    from xp.models.network_family.inputs import Inputs
    from xp.models.network_family.jax_policy import JaxNetworkPolicy
    from xp.models.trainable import JaxTrainable


class JaxFamily(NetworkFamily):
    """A family whose model is one `JaxNetwork`. A subclass writes `name`, `options` and `network`.

    The inputs are float32: `observation.images.NAME` [B, T, h, w, 3] from 0 to 1, `observation.state` [B, T, S] and
    `observation.environment_state` [B, T, E] normalised (those that there are), `observation_is_pad` [B, T] bool, and
    what `encode_texts` made. For `loss` they hold `action` [B, H, A] normalised and `action_is_pad` [B, H] too.
    """

    framework = "jax"

    @abstractmethod
    def network(self, options: Mapping[str, Any], spec: PolicySpec) -> JaxNetwork:
        """The network's functions.

        Args:
            options: all of `options`, checked.
            spec: what it takes and gives; the names of cameras are those in the inputs.

        Raises:
            UserError: options that do not fit each other or the data.
        """

    def _build_network(self, inputs: "Inputs", *, seed: int, pretrained: Path | None) -> "JaxTrainable":
        """See `NetworkFamily._build_network`."""
        from xp.models.network_family.jax_policy import build

        return build(
            self.network(inputs.described.options, inputs.described.spec), inputs, seed=seed, pretrained=pretrained
        )

    def _load_network(self, inputs: "Inputs", folder: Path, device: str | None) -> "JaxNetworkPolicy":
        """See `NetworkFamily._load_network`."""
        from xp.models.network_family.jax_policy import load

        return load(self.network(inputs.described.options, inputs.described.spec), inputs, folder, device)

    def prepare_imports(self, model_cfg: JSONObject) -> None:
        """Import jax."""
        import xp.models.network_family.jax_policy  # noqa: F401
