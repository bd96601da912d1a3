"""The family `pi0`: what it is called, which folders are its own, the way to its models. Imports nothing heavy."""

from pathlib import Path
from typing import TYPE_CHECKING

from xp.json_types import JSONObject
from xp.models.family import BuildRequest, LoadRequest
from xp.models.pi0.flow_family import FlowFamily
from xp.models.policy import DataTransforms

if TYPE_CHECKING:
    from xp.models.pi0.policy import Pi0Policy
    from xp.models.trainable import JaxTrainable


class Pi0Family(FlowFamily):
    """pi0 and pi0.5 in Flax NNX, in openpi's folders; which of the two a folder holds is told by its weights."""

    name = "pi0"
    framework = "jax"
    folder_layout = "STEP/params with PaliGemma's weights (an openpi folder)"
    has_steps = True

    def build(self, request: BuildRequest) -> "JaxTrainable":
        """See `Family.build`."""
        from xp.models.pi0.build import build

        return build(request)

    def load(self, request: LoadRequest) -> "Pi0Policy":
        """See `Family.load`; `device` is a jax platform such as "cpu" or "gpu"."""
        from xp.models.pi0.build import load

        return load(request)

    def owns(self, folder: Path) -> bool:
        """Whether the names of the weights in its newest `STEP/params` are PaliGemma's."""
        from xp.models.pi0.io.folder import is_pi0

        return is_pi0(folder)

    def prepare_imports(self, model_cfg: JSONObject) -> None:
        """Import jax, flax and the network."""
        import xp.models.pi0.build  # noqa: F401

    def check(self, model_cfg: JSONObject, transforms: DataTransforms) -> None:
        """Refuse options of the section that are unknown or out of their bounds."""
        from xp.models.pi0.options import Pi0Options

        Pi0Options.from_config(model_cfg)

    def trained_fps(self, folder: Path) -> float | None:
        """As xp's notes in the newest step say."""
        from xp.models.pi0.io.folder import open_step

        notes = open_step(folder).notes
        return None if notes is None else notes.fps


FAMILY = Pi0Family()
