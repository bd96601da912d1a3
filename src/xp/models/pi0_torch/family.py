"""The family `pi0_torch`: its name, which folders are its own, the way to its models. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.json_types import JSONObject
from xp.models.family import BuildRequest, Family, LoadRequest
from xp.models.pi0_torch.converter import CONVERTER
from xp.models.policy import DataTransforms

if TYPE_CHECKING:
    from xp.models.pi0_torch.policy import Pi0TorchPolicy
    from xp.models.trainable import TorchTrainable


class Pi0TorchFamily(Family):
    """pi0 and pi0.5 in torch, in the folders that openpi converts its checkpoints to."""

    name = "pi0_torch"
    framework = "torch"
    folder_layout = "model.safetensors with PaliGemma's weights and a config.json without a type (openpi in torch)"
    load_options = {
        "asset_id": "whose statistics are used, where the folder has several",
        "horizon": "actions in a chunk, where the folder does not say (default: 50)",
        "prompt_length": "tokens of a prompt, which openpi's folders do not say (default: 200 for pi0.5, 48 for pi0)",
        "tokenizer": "the folder of PaliGemma's tokenizer, where it does not lie beside the weights",
        "vision_heads": "attention heads of the image encoder, where it is not as wide as openpi's",
        "dtype": "float32 or bfloat16, which the weights are cast to",
    }
    takes_relative_actions = True
    converter = CONVERTER

    def build(self, request: BuildRequest) -> "TorchTrainable":
        """See `Family.build`."""
        from xp.models.pi0_torch.build import build

        return build(request)

    def load(self, request: LoadRequest) -> "Pi0TorchPolicy":
        """See `Family.load`; `device` is one of torch's."""
        from xp.models.pi0_torch.build import load

        return load(request)

    def owns(self, folder: Path) -> bool:
        """Whether its tensors are PaliGemma's with an expert, and no configuration names a type of LeRobot's."""
        from xp.models.pi0.io.torch_folder import is_openpi_torch

        return is_openpi_torch(folder)

    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> dict[str, tuple[int, int]]:
        """As stored: the policy fits pictures into its square itself, so that their shape is kept."""
        from xp.models.pi0.cameras import stored_sizes
        from xp.models.pi0.options import camera_options

        return stored_sizes(camera_options(model_cfg), cameras)

    def prepare_imports(self, model_cfg: JSONObject) -> None:
        """Import torch, LeRobot's modules and the network."""
        import xp.models.pi0_torch.build  # noqa: F401

    def check(self, model_cfg: JSONObject, transforms: DataTransforms) -> None:
        """Refuse options of the section that are unknown or out of their bounds."""
        from xp.models.pi0_torch.options import torch_options

        torch_options(model_cfg)

    def trained_fps(self, folder: Path) -> float | None:
        """As xp's notes in the folder say."""
        from xp.models.pi0.io.notes import read_notes

        notes = read_notes(folder)
        return None if notes is None else notes.fps


FAMILY = Pi0TorchFamily()
