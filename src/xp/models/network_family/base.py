"""What families of either framework share: options with bounds, cameras, and the description of a policy."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from xp.config.method_options import Option
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON, JSONObject
from xp.models.camera_maps import check_map
from xp.models.family import BuildRequest, Family, LoadRequest
from xp.models.network_family.folder import POLICY, Description, family_in, read_description
from xp.models.policy import DataTransforms, Policy, PolicySpec
from xp.models.trainable import Trainable

if TYPE_CHECKING:
    import numpy as np

    from xp.models.network_family.inputs import Inputs

COMMON_KEYS = ("name", "family", "lr_peak", "image_size", "cameras", "history")
"""Keys of the `model` section that every family here has: its name and its family's, the learning rate that schedules
take, [height, width] in pixels (null: as stored), the dataset cameras it looks through (null: all), and observed steps
(1 where it is left out)."""
MOST_HISTORY = 1000


class NetworkFamily(Family):
    """A family whose model is one network. Use its subclasses `TorchFamily` and `JaxFamily`."""

    options: ClassVar[Mapping[str, Option]] = {}
    """Its own keys of the `model` section, with defaults and bounds; `network` gets all of them."""
    reads_language: ClassVar[bool] = False
    """Whether its network is given what `encode_texts` makes of the instructions."""
    wraps_transforms = True

    def __init_subclass__(cls, **more: Any) -> None:
        """Say what its folders look like."""
        super().__init_subclass__(**more)
        if "name" in vars(cls):
            cls.folder_layout = f"{POLICY} of the family {cls.name} beside model.safetensors"

    def encode_texts(self, texts: Sequence[str]) -> "Mapping[str, np.ndarray]":
        """Instructions as arrays [B, ...], for a family that `reads_language`; they are added to the inputs."""
        return {}

    def owns(self, folder: Path) -> bool:
        """Whether the folder's description names this family."""
        return family_in(folder) == self.name

    def trained_fps(self, folder: Path) -> float | None:
        """As the folder says."""
        return read_description(folder).fps

    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> dict[str, tuple[int, int]]:
        """`model.image_size`, else what the pretrained policy was trained on, else as stored."""
        size = _image_size(model_cfg.get("image_size"))
        known = read_description(pretrained).spec.cameras if pretrained else {}
        sizes = {}
        for name in _chosen_cameras(model_cfg.get("cameras"), cameras):
            height, width = known.get(name, cameras[name])[:2]
            sizes[name] = size or (int(height), int(width))
        return sizes

    def build(self, request: BuildRequest) -> Trainable:
        """See `Family.build`; transforms are done around the model."""
        described = self.describe(request)
        folder = request.pretrained[0] if request.pretrained else None
        return self._build_network(self._inputs(described), seed=request.seed, pretrained=folder)

    def load(self, request: LoadRequest) -> Policy:
        """See `Family.load`; `device` is one of the framework."""
        described = self.saved(request.folder, request.camera_map)
        return self._load_network(self._inputs(described), request.folder, request.device)

    @abstractmethod
    def _build_network(self, inputs: "Inputs", *, seed: int, pretrained: Path | None) -> Trainable:
        """The network of these inputs to train, from the weights of `pretrained` that fit."""

    @abstractmethod
    def _load_network(self, inputs: "Inputs", folder: Path, device: str | None) -> Policy:
        """The network of these inputs with the weights of a policy's folder."""

    def _inputs(self, described: Description) -> "Inputs":
        from xp.models.network_family.inputs import Inputs

        return Inputs(described, self.encode_texts)

    def check(self, model_cfg: JSONObject, transforms: DataTransforms) -> None:
        """Refuse keys that the family does not have, and values out of their bounds."""
        self.checked_options(model_cfg)

    def checked_options(self, model_cfg: JSONObject) -> dict[str, JSON]:
        """The family's own options from the `model` section, with its defaults for those left out or null.

        Raises:
            UserError: an unknown key, or a value that does not fit.
        """
        allowed = (*COMMON_KEYS, *self.options)
        for key in model_cfg:
            if key not in allowed:
                raise UserError(
                    f"model.{key}: the family {self.name} has no such option{did_you_mean(str(key), allowed)}. Its "
                    f"options: {join_names((*COMMON_KEYS[3:], *self.options))}"
                )
        _history(model_cfg)
        given = {key: model_cfg[key] for key in self.options if model_cfg.get(key) is not None}
        return {
            key: option.check(f"model.{key}", given[key], 1) if key in given else option.default
            for key, option in self.options.items()
        }

    def describe(self, request: BuildRequest) -> Description:
        """What a new policy of this family is but its weights."""
        data, folder = request.data, request.pretrained[0] if request.pretrained else None
        sizes = self.camera_sizes(request.model_cfg, data.cameras, folder)
        spec = PolicySpec(
            horizon=request.horizon,
            action_dim=data.action_dim,
            state_dim=data.state_dim,
            environment_dim=data.environment_dim,
            cameras={name: (*size, 3) for name, size in sizes.items()},
            history=_history(request.model_cfg),
            language=self.reads_language,
            actions_before=0,
        )
        return Description(
            family=self.name,
            options=self.checked_options(request.model_cfg),
            spec=spec,
            fed={name: name for name in sizes},
            fps=data.fps,
            statistics=request.statistics,
        )

    def saved(self, folder: Path, camera_map: Mapping[str, str | None] | None) -> Description:
        """What the policy in a folder is but its weights, its cameras fed as `camera_map` says.

        Raises:
            UserError: a damaged folder, options out of their bounds, or cameras that the policy does not have.
        """
        found = read_description(folder)
        try:
            options = self.checked_options(found.options)
        except UserError as error:
            raise UserError(
                f"{folder / POLICY} has options that the family {self.name} does not take. {error}"
            ) from error
        given = camera_map or {}
        check_map(given, list(found.fed), f"camera of the policy in {folder}")
        for name, camera in given.items():
            if camera is None:
                raise UserError(
                    f"The map of cameras gives '{name}' nothing: the policy in {folder} cannot go without a camera. "
                    f"Name the camera that feeds it, for instance {{{name}: top}}"
                )
        fed = {name: str(given.get(name, camera)) for name, camera in found.fed.items()}
        return replace(found, options=options, fed=fed)


def _history(model_cfg: JSONObject) -> int:
    """How many observed steps the model sees (`model.history`)."""
    history = model_cfg.get("history", 1)
    if isinstance(history, bool) or not isinstance(history, int) or not 1 <= history <= MOST_HISTORY:
        raise UserError(
            f"model.history={history}: expected how many observed steps the model sees, 1 to {MOST_HISTORY}. Type "
            "model.history=1"
        )
    return history


def _image_size(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    try:
        height, width = (int(length) for length in given)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 8:
        raise UserError(
            f"model.image_size={given}: give [height, width] in pixels, each at least 8, or null for the size as "
            "stored. Type for instance model.image_size=[96,96]"
        )
    return height, width


def _chosen_cameras(given: Any, cameras: Mapping[str, Any]) -> list[str]:
    """The dataset cameras that `model.cameras` lists; null: all."""
    chosen = list(cameras) if given is None else [str(name) for name in given]
    for name in chosen:
        if name not in cameras:
            raise UserError(
                f"model.cameras=[{','.join(chosen)}]: the dataset has no camera '{name}'{did_you_mean(name, cameras)}. "
                f"It has {join_names(cameras)}. Type for instance model.cameras=[{next(iter(cameras), 'NAME')}]"
            )
    return chosen
