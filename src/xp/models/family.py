# pyright: strict
"""What a model family is to the rest of xp: one object that builds, loads and recognises its models.

A family is found by its name in the entry-point group `xp.families`, which names an instance of a subclass of `Family`.
The module of that instance is imported to tell whose folder a folder is, so it imports no framework at its top: what is
heavy is imported inside the methods.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSONObject
from xp.models.converter import Converter
from xp.models.policy import DataSpec, DataTransforms, Framework, Policy, Statistics
from xp.models.trainable import Trainable


@dataclass(frozen=True)
class BuildRequest:
    """What a new model is made for, and of which options."""

    model_cfg: JSONObject
    """The `model` section."""
    data: DataSpec
    """What the dataset offers."""
    statistics: Statistics
    """Of the training episodes, in the form of dataset_statistics.json; they travel with the model."""
    horizon: int
    """Actions in a chunk."""
    seed: int
    """Of the initial weights."""
    pretrained: tuple[Path, int | None] | None = None
    """Folder and step (None: the newest) of a policy of this family to start from."""
    transforms: DataTransforms = DataTransforms()  # noqa: RUF009 - frozen
    """Observation dropout and action space."""


@dataclass(frozen=True)
class LoadRequest:
    """A saved policy that is wanted, and how."""

    folder: Path
    """The policy's folder, which exists."""
    step: int | None = None
    """Which step, for a family that `has_steps`; None: the newest."""
    device: str | None = None
    """A device of the framework; None: its default."""
    camera_map: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """{the policy's camera: the camera that feeds it}; None feeds a camera nothing, where that can be."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """The family's own `load_options` that were given."""


class Family(ABC):
    """A kind of model: how it is built, loaded and recognised on disk."""

    name: ClassVar[str]
    """The name in `model.family` and in the entry-point group."""
    framework: ClassVar[Framework]
    """What its models are trained in: the loop, the objectives and the devices follow from it."""
    folder_layout: ClassVar[str]
    """What its policy folders look like, for "looked for ..." in an error."""
    load_options: ClassVar[Mapping[str, str]] = {}
    """Options of `load` that only this family takes: {name: what it chooses}."""
    has_steps: ClassVar[bool] = False
    """Whether one policy folder may hold several steps, so that `FOLDER@STEP` chooses one of them."""
    takes_relative_actions: ClassVar[bool] = False
    """Whether its models can themselves learn actions as differences (`action_space=relative`)."""
    takes_mixtures: ClassVar[bool] = False
    """Whether its models learn from several datasets at once (`DataSpec.members`): each normalised by its own
    statistics, which travel in the folder by name and of which `unnorm_key` chooses, its widths padded, its missing
    cameras dark."""
    converter: ClassVar[Converter | None] = None
    """What converts its checkpoints between the formats of several programs."""
    wraps_transforms: ClassVar[bool] = False
    """Whether xp hides states and makes actions relative around its models (`xp.models.transforms`), so that `build`
    gets data that are so already and no `transforms`. For families that do not do it themselves and whose folders no
    other program reads: it would take the differences for actions."""

    @abstractmethod
    def build(self, request: BuildRequest) -> Trainable:
        """A new model for a dataset and a horizon.

        Raises:
            UserError: options that do not fit each other, the dataset or the pretrained policy.
        """

    @abstractmethod
    def load(self, request: LoadRequest) -> Policy:
        """The policy saved in the request's folder, which `owns` recognises and whose options the family takes.

        Raises:
            UserError: a damaged or inconsistent folder, an unknown device, camera, or value of an option.
        """

    @abstractmethod
    def owns(self, folder: Path) -> bool:
        """Whether an existing folder is a policy of this family, judged by names and JSON alone.

        A PEFT adapter is one only of a family that loads adapters; where none does, `find_policy` says what to do.

        Raises:
            UserError: it is something of this family's that cannot be loaded: says what to do with it.
        """

    @abstractmethod
    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> dict[str, tuple[int, int]]:
        """Size (height, width) in pixels at which a model wants each dataset camera that it uses.

        Args:
            model_cfg: the `model` section.
            cameras: {dataset camera: (height, width, channels) as stored}.
            pretrained: folder of the policy that it is started from.
        """

    def prepare_imports(self, model_cfg: JSONObject) -> None:  # noqa: B027 - nothing more to import is common
        """Import what `build` will need for these options, the framework included, and make nothing."""

    def trained_fps(self, folder: Path) -> float | None:
        """Steps per second that the policy in `folder` was trained at; None where the folder does not say."""
        return None

    def check(  # noqa: B027 - a family may take whatever `build` takes
        self, model_cfg: JSONObject, transforms: DataTransforms
    ) -> None:
        """Refuse options and transforms that this family's models do not take; called before `build`.

        Relative actions are refused before, where the family does not take them.

        Raises:
            UserError: what was given and what to type instead.
        """

    def refuse_options(self, folder: Path, options: Mapping[str, str]) -> None:
        """Refuse options of `load` that this family does not take.

        Raises:
            UserError: the first of them, and the family's own.
        """
        for name, value in options.items():
            if name not in self.load_options:
                own = f"its own are {join_names(self.load_options)}" if self.load_options else "it has none of its own"
                raise UserError(
                    f"{name}={value}: the policy in {folder} is of the family {self.name}, which has no such "
                    f"option{did_you_mean(name, self.load_options)}; {own}. Leave {name} out."
                )
