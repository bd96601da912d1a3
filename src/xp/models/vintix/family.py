"""The family `vintix`: what it is called, which folders are its own, the way to its models. Imports no framework."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.errors import UserError
from xp.json_types import JSONObject
from xp.models.family import BuildRequest, Family, LoadRequest
from xp.models.policy import DataTransforms
from xp.models.vintix.folder import CONFIG, METADATA, WEIGHTS, is_vintix, trained_fps
from xp.models.vintix.options import read_section

if TYPE_CHECKING:
    from xp.models.trainable import TorchTrainable
    from xp.models.vintix.policy import VintixPolicy


class VintixFamily(Family):
    """Vintix in torch: a token a step, encoders and decoders for each group of robots, a causal transformer."""

    name = "vintix"
    framework = "torch"
    folder_layout = f"{WEIGHTS} beside {CONFIG} and {METADATA} (a Vintix folder)"
    load_options = {"origin": "by whose code a folder was trained that does not say it: upstream or fork"}

    def build(self, request: BuildRequest) -> "TorchTrainable":
        """See `Family.build`; the data are trajectories with rewards."""
        from xp.models.vintix.build import build

        return build(request)

    def load(self, request: LoadRequest) -> "VintixPolicy":
        """See `Family.load`; `device` is a torch device."""
        from xp.models.vintix.build import load

        return load(request)

    def owns(self, folder: Path) -> bool:
        """Whether model.pth lies beside a configuration and tasks in Vintix's form."""
        return is_vintix(folder)

    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> dict[str, tuple[int, int]]:
        """It looks through no cameras."""
        return {}

    def prepare_imports(self, model_cfg: JSONObject) -> None:
        """Import torch and the network."""
        import xp.models.vintix.build  # noqa: F401

    def trained_fps(self, folder: Path) -> float | None:
        """What xp noted; the original's folders do not say."""
        return trained_fps(folder)

    def check(self, model_cfg: JSONObject, transforms: DataTransforms) -> None:
        """Refuse unknown options, and hidden observations."""
        read_section(model_cfg)
        if transforms.obs_dropout:
            raise UserError(
                "obs_dropout: a Vintix model acts by nothing but its observations, actions and rewards, so there is no "
                "state to hide from it. Type obs_dropout=none"
            )


FAMILY = VintixFamily()
