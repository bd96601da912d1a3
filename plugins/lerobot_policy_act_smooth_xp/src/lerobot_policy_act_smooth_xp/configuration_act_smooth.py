"""Hyper-parameters of ACT-smooth, checked when they are given."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig
from torch import nn

type JSON = None | bool | int | float | str | Sequence[JSON] | Mapping[str, JSON]


class Hold(TypedDict):
    """How a normalised state becomes the normalised action that holds the robot in its place; [A] each."""

    scale: list[float]
    offset: list[float]


class Beside(TypedDict, total=False):
    """The content of a folder's `BESIDE`."""

    training: dict[str, JSON]
    hold: Hold


class ParameterGroup(TypedDict):
    """Parameters of one learning rate; without `lr` it is the optimiser's own."""

    params: list[nn.Parameter]
    lr: NotRequired[float]


ANCHORS = ("a_t0", "last_prefix")
MASKS = ("training", "original")
REDUCTIONS = ("valid", "all")
BESIDE = "act_smooth.json"
"""What config.json of the first ACT-smooth has no field for, beside it: settings of training, the held action."""
FIRST_HAS = {"relative_actions": False, "mask": "original", "obs_dropout_token": False}
"""Fields that the first ACT-smooth does not know, and what it does: with these values they are not written."""
OF_TRAINING = {"obs_dropout_rate": 0.0, "loss_reduction": "valid", "relative_episodes": None}
"""Fields that it does not know and that change nothing once trained: they are written beside config.json."""


def _one_of(name: str, given: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless `given` is allowed; the text names the closest choice."""
    if given in allowed:
        return
    close = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.4)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"act_smooth: {name}={given!r} is not one of the choices{hint}. Allowed: {', '.join(allowed)}.")


@PreTrainedConfig.register_subclass("act_smooth")
@dataclass
class ACTSmoothConfig(PreTrainedConfig):
    """ACT that is told which actions are already committed.

    With K = `length_prefix_past`, D = `length_prefix_future`, C = `chunk_size`, a training window holds the actions
    a_{t-K} .. a_{t+D+C-1} around the observed step t. For each delay d in 1..D the model sees the past a_{t-K} ..
    a_{t-1} and the committed a_t .. a_{t+d-1}, and predicts a_{t+d} .. a_{t+d+C-1}. A latency of L seconds at f frames
    per second needs D >= ceil(L f) + 1.

    The fields from `vision_backbone` on mean what they mean in LeRobot's ACT (Zhao et al., arXiv:2304.13705).
    """

    n_obs_steps: int = 1
    chunk_size: int = 100
    n_action_steps: int = 100
    """Actions executed by `select_action` before the next prediction, at most C."""
    length_prefix_past: int = 0
    """K >= 0 executed actions before the observed step."""
    length_prefix_future: int = 1
    """D >= 1 committed actions from the observed step on; every d in 1..D is trained, and can be asked for."""

    relative_actions: bool = False
    """Predict differences to an anchor action, normalised with statistics of those differences."""
    relative_anchor: str = "a_t0"
    """`a_t0`: the committed action at the observed step. `last_prefix`: the last committed action a_{t+d-1}, so that
    the first predicted action is that action plus one predicted increment."""
    use_action_relative: bool = False
    """The first ACT-smooth's form of relative actions, for its checkpoints: a_t is subtracted from actions that were
    normalised as absolute ones, and the differences are not scaled again."""
    relative_episodes: list[int] | None = None
    """Episodes whose differences make the statistics when LeRobot gives a dataset but no statistics of differences;
    None: all of that dataset."""
    mask: str | None = None
    """Attention at inference. `training`: the mask of training. `original`: none, as the first ACT-smooth did. None:
    `training` for a new policy; `original` for a saved one, which is the first ACT-smooth's if it does not say."""

    obs_dropout_rate: float = 0.0
    """Probability per sample, in training only, that `observation.state` is hidden."""
    obs_dropout_token: bool = False
    """Put a learned token in place of a hidden state; False: a normalised state of zeros."""

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.MEAN_STD,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    vision_backbone: str = "resnet18"
    pretrained_backbone_weights: str | None = "ResNet18_Weights.IMAGENET1K_V1"
    replace_final_stride_with_dilation: bool = False
    pre_norm: bool = False
    dim_model: int = 512
    n_heads: int = 8
    dim_feedforward: int = 3200
    feedforward_activation: str = "relu"
    n_encoder_layers: int = 4
    n_decoder_layers: int = 1
    use_vae: bool = True
    latent_dim: int = 32
    n_vae_encoder_layers: int = 4
    dropout: float = 0.1
    kl_weight: float = 10.0
    loss_reduction: str = "valid"
    """Mean of |error| over the `valid` actions, as LeRobot's ACT; `all`: padded ones count as zero error, as the first
    ACT-smooth did."""

    optimizer_lr: float = 1e-5
    optimizer_weight_decay: float = 1e-4
    optimizer_lr_backbone: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_lengths()
        _one_of("relative_anchor", self.relative_anchor, ANCHORS)
        if self.mask is not None:
            _one_of("mask", self.mask, MASKS)
        _one_of("loss_reduction", self.loss_reduction, REDUCTIONS)
        _one_of("feedforward_activation", self.feedforward_activation, ("relu", "gelu"))
        if self.relative_actions and self.use_action_relative:
            raise ValueError(
                "act_smooth: relative_actions and use_action_relative are two forms of one thing; set one of them. "
                "use_action_relative is the form of old checkpoints."
            )
        if not 0 <= self.obs_dropout_rate <= 1:
            raise ValueError(f"act_smooth: obs_dropout_rate={self.obs_dropout_rate} is not a probability (0 to 1).")
        if not self.vision_backbone.startswith("resnet"):
            raise ValueError(f"act_smooth: vision_backbone={self.vision_backbone!r} is not a torchvision ResNet.")
        if self.dim_model % self.n_heads or self.dim_model % 4:
            raise ValueError(
                f"act_smooth: dim_model={self.dim_model} must be a multiple of n_heads={self.n_heads} and of 4."
            )

    def _check_lengths(self) -> None:
        if self.n_obs_steps != 1:
            raise ValueError(f"act_smooth sees one observation: n_obs_steps={self.n_obs_steps} must be 1.")
        if self.chunk_size < 1:
            raise ValueError(f"act_smooth: chunk_size={self.chunk_size} must be 1 or more.")
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(
                f"act_smooth: n_action_steps={self.n_action_steps} must lie in 1..chunk_size={self.chunk_size}."
            )
        if self.length_prefix_past < 0:
            raise ValueError(f"act_smooth: length_prefix_past={self.length_prefix_past} must be 0 or more.")
        if self.length_prefix_future < 1:
            raise ValueError(
                f"act_smooth: length_prefix_future={self.length_prefix_future} must be 1 or more: the action at the "
                "observed step is always committed. Give 1, or take the type act, which has no committed prefix."
            )
        if max(self.length_prefix_past, self.length_prefix_future) > self.chunk_size:
            raise ValueError(
                f"act_smooth: the prefix (length_prefix_past={self.length_prefix_past}, length_prefix_future="
                f"{self.length_prefix_future}) is longer than the chunk that it is taken from (chunk_size="
                f"{self.chunk_size}). Shorten the prefix or lengthen the chunk."
            )

    def _save_pretrained(self, save_directory: Path) -> None:
        """As LeRobot's, without the fields in which this policy is a first ACT-smooth, so that its plugin opens it."""
        super()._save_pretrained(save_directory)
        file = Path(save_directory) / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        training = {name: content.pop(name) for name in OF_TRAINING if name in content}
        for name, value in FIRST_HAS.items():
            if content.get(name, value) == value:
                content.pop(name, None)
        if not self.relative_actions:
            content.pop("relative_anchor", None)
        file.write_text(json.dumps(content, indent=4), encoding="utf-8")
        write_beside(Path(save_directory), training={k: v for k, v in training.items() if v != OF_TRAINING[k]})

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW at `optimizer_lr`; the backbone's rate is in the policy's parameter groups."""
        return AdamWConfig(lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay)

    def get_scheduler_preset(self) -> None:
        """No schedule."""
        return

    def validate_features(self) -> None:
        """Raise ValueError unless there are actions to predict and something to see."""
        if self.action_feature is None:
            raise ValueError("act_smooth needs the output feature 'action'.")
        if not self.image_features and not self.env_state_feature:
            raise ValueError("act_smooth needs a camera or 'observation.environment_state' among the input features.")
        if self.obs_dropout_token and not self.robot_state_feature:
            raise ValueError("act_smooth: obs_dropout_token=true needs the input feature 'observation.state'.")

    @property
    def action_dim(self) -> int:
        """A."""
        feature = self.action_feature
        assert feature is not None, "validate_features comes first"
        return feature.shape[0]

    @property
    def observation_delta_indices(self) -> None:
        """The present observation only."""
        return

    @property
    def action_delta_indices(self) -> list[int]:
        """Steps -K .. D+C-1 around the observed one."""
        return list(range(-self.length_prefix_past, self.length_prefix_future + self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return

    @property
    def delta_lags(self) -> list[tuple[int, int]]:
        """Pairs (anchor step, predicted step) relative to the observed one, for every d in 1..D and step of a chunk."""
        delays = range(1, self.length_prefix_future + 1)
        last = self.relative_anchor == "last_prefix"
        return [(d - 1 if last else 0, d + i) for d in delays for i in range(self.chunk_size)]


def read_beside(folder: Path) -> Beside:
    """The content of a folder's `BESIDE`; empty where there is none."""
    file = folder / BESIDE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write_beside(folder: Path, **entries: Hold | dict[str, JSON] | None) -> None:
    """Set entries of a folder's `BESIDE`, named as it has them; empty ones are removed, and the file with the last."""
    content = {name: entry for name, entry in {**read_beside(folder), **entries}.items() if entry}
    if content:
        (folder / BESIDE).write_text(json.dumps(content, indent=4), encoding="utf-8")
    else:
        (folder / BESIDE).unlink(missing_ok=True)
