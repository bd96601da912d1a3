"""The family `octo`: what it is called, which folders are its own, and the way to its models. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.json_types import JSONObject
from xp.models.family import BuildRequest, Family, LoadRequest

if TYPE_CHECKING:
    from xp.models.octo.policy import OctoPolicy
    from xp.models.trainable import JaxTrainable


class OctoFamily(Family):
    """Octo in Flax: slots for images, a transformer with readouts, a head for the chunk."""

    name = "octo"
    framework = "jax"
    folder_layout = "STEP/default/checkpoint (an Octo folder)"
    load_options = {"unnorm_key": "whose statistics bring the actions to dataset units, where the folder has several"}
    has_steps = True
    takes_mixtures = True

    def build(self, request: BuildRequest) -> "JaxTrainable":
        """See `Family.build`; which states are hidden is said by the batch, so nothing of `transforms` is needed."""
        from xp.models.octo.build import build

        return build(request)

    def load(self, request: LoadRequest) -> "OctoPolicy":
        """See `Family.load`; `device` is a jax platform such as "cpu" or "gpu"."""
        from xp.models.octo.build import load

        return load(request)

    def owns(self, folder: Path) -> bool:
        """Whether it holds at least one `STEP/default/checkpoint`."""
        from xp.models.octo.io.folder import steps_of

        return bool(steps_of(folder))

    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> dict[str, tuple[int, int]]:
        """As the slots of `model.cameras` say, whatever the model is started from."""
        from xp.models.octo.cameras import camera_sizes
        from xp.models.octo.options import slot_options

        return camera_sizes(slot_options(model_cfg), cameras)

    def prepare_imports(self, model_cfg: JSONObject) -> None:
        """Import jax, flax and the network."""
        import xp.models.octo.build  # noqa: F401


FAMILY = OctoFamily()
