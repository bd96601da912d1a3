"""The family `lerobot`: every policy type that LeRobot and its plugins know. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.errors import UserError
from xp.json_types import JSONObject
from xp.models.family import BuildRequest, Family, LoadRequest

if TYPE_CHECKING:
    from xp.models.lerobot.policy import LeRobotPolicy
    from xp.models.trainable import TorchTrainable


class LeRobotFamily(Family):
    """Policies of LeRobot, told apart by `model.type`."""

    name = "lerobot"
    framework = "torch"
    folder_layout = "config.json with a policy type beside model.safetensors (a LeRobot pretrained_model)"
    load_options = {
        "mask": "of an act_smooth, its attention when acting: training or original",
        "unnorm_key": "of a policy of a mixture, whose statistics and cameras it has from now on",
    }
    takes_relative_actions = True
    takes_mixtures = True

    def build(self, request: BuildRequest) -> "TorchTrainable":
        """See `Family.build`; the transforms become processor steps, or the policy's own."""
        from xp.models.lerobot.build import build

        return build(request)

    def load(self, request: LoadRequest) -> "LeRobotPolicy":
        """See `Family.load`; `device` is a torch device."""
        from xp.models.lerobot.build import load

        return load(request)

    def owns(self, folder: Path) -> bool:
        """Whether weights lie beside a configuration that names a policy type."""
        from xp.models.lerobot.sidecar import names_policy_type

        return names_policy_type(folder)

    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> dict[str, tuple[int, int]]:
        """`model.image_size`, else what the pretrained policy was trained on, else as stored."""
        from xp.models.lerobot.cameras import camera_sizes
        from xp.models.lerobot.options import LeRobotOptions

        return camera_sizes(LeRobotOptions.from_config(model_cfg), cameras, pretrained)

    def prepare_imports(self, model_cfg: JSONObject) -> None:
        """Import torch, LeRobot and the class of the policy's type, where that is known."""
        import xp.models.lerobot.build  # noqa: F401

        if model_cfg.get("type"):
            from xp.models.lerobot.catalog import policy_class

            policy_class(str(model_cfg["type"]))

    def trained_fps(self, folder: Path) -> float | None:
        """What xp noted in xp.json; LeRobot's own folders do not say."""
        from xp.models.lerobot.sidecar import read_sidecar

        return read_sidecar(folder).fps

    def refuse_options(self, folder: Path, options: Mapping[str, str]) -> None:
        """Say of `unnorm_key`, which a policy with several statistics takes, why there is nothing to choose here."""
        from xp.models.lerobot.sidecar import read_sidecar

        if "unnorm_key" in options and not read_sidecar(folder).members:
            raise UserError(
                f"unnorm_key={options['unnorm_key']}: {folder} holds a LeRobot policy, whose "
                f"statistics are those of its "
                "one training, so there are no others to choose from. Leave unnorm_key out (predict.unnorm_key=null, "
                "eval.unnorm_key=null)."
            )
        super().refuse_options(folder, options)


FAMILY = LeRobotFamily()
