"""The family `vintix`: what it is called, which folders are its own, the way to its models. Imports no framework."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.errors import UserError
from xp.json_types import JSONObject
from xp.models.family import Family
from xp.models.policy import DataSpec, DataTransforms, Statistics
from xp.models.vintix.folder import CONFIG, METADATA, WEIGHTS, is_vintix, trained_fps
from xp.models.vintix.options import ORIGINS, read_section

if TYPE_CHECKING:
    from xp.models.trainable import TorchTrainable
    from xp.models.vintix.policy import VintixPolicy


class VintixFamily(Family):
    """Vintix in torch: a token a step, encoders and decoders for each group of robots, a causal transformer."""

    name = "vintix"
    framework = "torch"
    folder_layout = f"{WEIGHTS} beside {CONFIG} and {METADATA} (a Vintix folder)"
    load_options = {"origin": "by whose code a folder was trained that does not say it: upstream or fork"}

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
    ) -> "TorchTrainable":
        """See `Family.build`; the data are trajectories with rewards."""
        from xp.models.vintix.build import build

        return build(
            model_cfg,
            data=data,
            statistics=statistics,
            horizon=horizon,
            seed=seed,
            pretrained=pretrained[0] if pretrained else None,
        )

    def load(
        self,
        folder: Path,
        *,
        step: int | None = None,
        device: str | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> "VintixPolicy":
        """See `Family.load`; `device` is a torch device."""
        given = dict(options or {})
        self.refuse_options(folder, given)
        if camera_map:
            raise UserError(f"The Vintix model in {folder} looks through no cameras. Leave the map of cameras out.")
        origin = given.get("origin")
        if origin is not None and origin not in ORIGINS:
            raise UserError(f"origin={origin}: expected upstream or fork. Type origin=upstream or origin=fork")
        from xp.models.vintix.build import load

        return load(folder, device=device, origin=origin)

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
