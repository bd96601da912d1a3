"""The family `pi0_torch`: its name, which folders are its own, the way to its models. Imports nothing heavy."""

from pathlib import Path
from typing import TYPE_CHECKING

from xp.json_types import JSONObject
from xp.models.family import BuildRequest, LoadRequest
from xp.models.pi0.flow_family import FlowFamily
from xp.models.pi0_torch.converter import CONVERTER
from xp.models.policy import DataTransforms

if TYPE_CHECKING:
    from xp.models.pi0_torch.policy import Pi0TorchPolicy
    from xp.models.trainable import TorchTrainable


class Pi0TorchFamily(FlowFamily):
    """pi0 and pi0.5 in torch, in the folders that openpi converts its checkpoints to."""

    name = "pi0_torch"
    framework = "torch"
    folder_layout = "model.safetensors with PaliGemma's weights and a config.json without a type (openpi in torch)"
    load_options = {
        **FlowFamily.load_options,
        "vision_heads": "attention heads of the image encoder, where it is not as wide as openpi's",
    }
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
