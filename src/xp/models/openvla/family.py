"""The family `openvla`: what it is called, which folders are its own, the way to its models. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.errors import UserError
from xp.json_types import JSONObject
from xp.models.family import BuildRequest, Family, LoadRequest
from xp.models.openvla.load_options import OPTIONS
from xp.models.policy import DataTransforms

if TYPE_CHECKING:
    from xp.models.openvla.policy import OpenVLAPolicy
    from xp.models.trainable import TorchTrainable


class OpenVLAFamily(Family):
    """OpenVLA: two vision towers and a Llama that says actions as tokens."""

    name = "openvla"
    framework = "torch"
    folder_layout = "config.json of an OpenVLA beside model.safetensors or its shards (a Hugging Face folder)"
    load_options = OPTIONS

    takes_mixtures = True

    def build(self, request: BuildRequest) -> "TorchTrainable":
        """See `Family.build`; the batch says which states are hidden, of `transforms` the actions' names matter."""
        from xp.models.openvla.build import build

        return build(request)

    def load(self, request: LoadRequest) -> "OpenVLAPolicy":
        """See `Family.load`; `device` is a torch device."""
        from xp.models.openvla.build import load

        return load(request)

    def owns(self, folder: Path) -> bool:
        """Whether its config.json names an OpenVLA (an OpenVLA-OFT that is not merged has none); see `Family.owns`."""
        from xp.checkpoints.peft_adapter import is_adapter
        from xp.models.openvla.config_file import has_weights, is_openvla, is_unmerged, without_weights

        if is_unmerged(folder):
            return True
        if not is_openvla(folder):
            return False
        if not has_weights(folder) and not is_adapter(folder):
            raise UserError(without_weights(folder))
        return True

    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> dict[str, tuple[int, int]]:
        """`model.image_size` for each of `model.cameras`, by default the dataset's first."""
        from xp.models.openvla.options import cameras_of, image_size

        size = image_size(model_cfg)
        return {name: size for name in cameras_of(model_cfg, cameras)}

    def check(self, model_cfg: JSONObject, transforms: DataTransforms) -> None:
        """Refuse options that no OpenVLA has, and hidden states where none are read."""
        from xp.models.openvla.options import OpenVLAOptions

        options = OpenVLAOptions.from_config(model_cfg)
        if transforms.obs_dropout and not options.proprio:
            raise UserError(
                f"obs_dropout.rate={transforms.obs_dropout:g} hides the robot's state, which this model does not read. "
                "Type obs_dropout.rate=0, or model.proprio=true"
            )

    def prepare_imports(self, model_cfg: JSONObject) -> None:
        """Import torch, transformers and the network."""
        import xp.models.openvla.build  # noqa: F401

    def trained_fps(self, folder: Path) -> float | None:
        """What xp noted; folders of others do not say."""
        from xp.models.openvla.sidecar import noted_fps

        return noted_fps(folder)


FAMILY = OpenVLAFamily()
