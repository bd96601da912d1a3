"""The family `octo`: what it is called, which folders are its own, and the way to its models. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.json_types import JSONObject
from xp.models.family import Family
from xp.models.policy import DataSpec, DataTransforms, Statistics

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

    def build(
        self,
        model_cfg: JSONObject,
        *,
        data: DataSpec,
        statistics: Statistics,
        horizon: int,
        seed: int,
        pretrained: tuple[Path, int | None] | None = None,
        transforms: DataTransforms | None = None,
    ) -> "JaxTrainable":
        """See `Family.build`; which states are hidden is said by the batch, so nothing of `transforms` is needed."""
        from xp.models.octo.build import build

        return build(model_cfg, data=data, statistics=statistics, horizon=horizon, seed=seed, pretrained=pretrained)

    def load(
        self,
        folder: Path,
        *,
        step: int | None = None,
        device: str | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> "OctoPolicy":
        """See `Family.load`; `device` is a jax platform such as "cpu" or "gpu"."""
        given = dict(options or {})
        self.refuse_options(folder, given)
        from xp.models.octo.build import load

        return load(folder, step, device, camera_map, **given)

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
