"""The policy `act_smooth`: training on all delays at once, and three ways to ask it for actions.

B batch, K past slots, D committed slots, C chunk, A action.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from lerobot_policy_act_smooth_xp.configuration_act_smooth import (
    BESIDE,
    ACTSmoothConfig,
    Hold,
    ParameterGroup,
    read_beside,
    write_beside,
)
from lerobot_policy_act_smooth_xp.history import ActionQueue, Timeline
from lerobot_policy_act_smooth_xp.hold import hold_affine
from lerobot_policy_act_smooth_xp.loading import HubOptions, folder_of, load_checked
from lerobot_policy_act_smooth_xp.network import ACTSmoothNetwork
from lerobot_policy_act_smooth_xp.prefix import build_inference_action_prefix
from lerobot_policy_act_smooth_xp.relative import HasRoot, branch_anchors, dataset_deltas
from lerobot_policy_act_smooth_xp.statistics import Statistics

PREFIX, PREFIX_IS_PAD = "inference_action", "inference_action_is_pad"
HOLD = "observation.hold_action"
"""The normalised action that keeps the robot where it is, [B, A]; preprocessors of earlier versions put it there."""
DROPPED = "observation_is_dropped"


class ACTSmoothPolicy(PreTrainedPolicy):
    """ACT conditioned on past and committed actions; see `ACTSmoothConfig` for the windows.

    Args:
        config: Hyper-parameters and features.
        dataset_stats: LeRobot's statistics; with relative actions also `action_delta` (see `delta_statistics`).
        dataset_meta: LeRobot's dataset metadata, to compute `action_delta` where the statistics lack it.
        kwargs: What else LeRobot's factory passes; not used.

    Raises:
        ValueError: features that do not fit, or statistics that lack `action_delta`.
    """

    config_class = ACTSmoothConfig  # pyright: ignore[reportAssignmentType]
    name = "act_smooth"  # pyright: ignore[reportAssignmentType]
    _indices_target: Tensor
    action_delta_mean: Tensor
    action_delta_std: Tensor
    _hold_scale: Tensor | None
    _hold_offset: Tensor | None

    def __init__(
        self,
        config: ACTSmoothConfig,
        dataset_stats: Statistics | None = None,
        dataset_meta: HasRoot | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(config)
        config.validate_features()
        if config.mask is None:
            config.mask = "training"
        self.config: ACTSmoothConfig = config
        for name, value in zip(("_hold_scale", "_hold_offset"), hold_affine(config, dataset_stats)):
            self.register_buffer(name, value, persistent=False)  # beside the weights: the first ACT-smooth has none
        delays = torch.arange(1, config.length_prefix_future + 1)
        steps = config.length_prefix_past + delays[:, None] + torch.arange(config.chunk_size)
        self.register_buffer("_indices_target", steps)
        self._deltas_known = not config.relative_actions
        if config.relative_actions:
            width = config.action_dim
            self.register_buffer("action_delta_mean", torch.zeros(width))
            self.register_buffer("action_delta_std", torch.ones(width))
            self.register_load_state_dict_post_hook(_deltas_were_loaded)
            if dataset_stats is not None or dataset_meta is not None:
                mean, std = dataset_deltas(config, dataset_stats, dataset_meta)
                self.action_delta_mean.copy_(mean)
                self.action_delta_std.copy_(std)
                self._deltas_known = True
        self.model = ACTSmoothNetwork(config)
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        strict: bool = False,
        cli_overrides: list[str] | None = None,
        dataset_stats: Statistics | None = None,
        dataset_meta: HasRoot | None = None,
        **options: Unpack[HubOptions],
    ) -> "ACTSmoothPolicy":
        """As LeRobot's, but every weight is checked, and the backbone's own weights are not fetched first.

        Statistics of another dataset do not replace those that the weights were trained with: they are not used.
        """
        if config is None:
            asked = cli_overrides or []
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path, cli_overrides=asked, **options)
        assert isinstance(config, ACTSmoothConfig)
        config.mask = config.mask or "original"
        backbone, config.pretrained_backbone_weights = config.pretrained_backbone_weights, None
        try:
            policy = super().from_pretrained(pretrained_name_or_path, config=config, strict=strict, **options)
        finally:
            config.pretrained_backbone_weights = backbone
        folder = folder_of(pretrained_name_or_path, **options)
        hold = read_beside(folder).get("hold") if folder is not None else None
        if hold:
            policy.set_hold(hold["scale"], hold["offset"])
        return policy

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """As LeRobot's, and the held action beside config.json."""
        super()._save_pretrained(save_directory, state_dict)
        scale, offset = self._hold_scale, self._hold_offset
        known: Hold | None = None
        if scale is not None and offset is not None:
            known = {"scale": scale.tolist(), "offset": offset.tolist()}
        write_beside(Path(save_directory), hold=known)

    def set_hold(self, scale: Sequence[float], offset: Sequence[float]) -> None:
        """How a normalised state becomes the normalised action that holds the robot in place (see `hold_affine`)."""
        device = self._indices_target.device
        for name, given in (("_hold_scale", scale), ("_hold_offset", offset)):
            value = torch.tensor(given, dtype=torch.float32, device=device)
            if value.shape != (self.config.action_dim,):
                raise ValueError(f"act_smooth: {BESIDE} has a held action of shape {tuple(value.shape)}.")
            setattr(self, name, value)

    @classmethod
    def _load_as_safetensor(
        cls, model: "ACTSmoothPolicy", model_file: str, map_location: str, strict: bool
    ) -> "ACTSmoothPolicy":
        """See `load_checked`, whatever `strict` says."""
        load_checked(model, model_file, str(map_location))
        return model

    def get_optim_params(self) -> list[ParameterGroup]:
        """Two groups: all but the backbone, and the backbone at `optimizer_lr_backbone`."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return [
            {"params": [p for name, p in named if not name.startswith("model.backbone.")]},
            {
                "params": [p for name, p in named if name.startswith("model.backbone.")],
                "lr": self.config.optimizer_lr_backbone,
            },
        ]

    def reset(self) -> None:
        """Forget executed and planned actions; to be called when an episode begins."""
        self._queue = ActionQueue(self.config.length_prefix_past)
        self._timeline = Timeline(self.config.length_prefix_past)

    def supports_rtc(self) -> bool:
        """True: real-time chunking freezes the committed prefix, which is what this policy is trained on."""
        return True

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss, and its parts as numbers: `l1_loss`, `l1_loss_d1` .. per delay, `kld_loss` with a VAE."""
        loss, parts = self.losses(batch)
        return loss, dict(zip(parts, torch.stack(list(parts.values())).tolist()))

    def losses(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The training objective on windows, all delays in one pass.

        Args:
            batch: Normalised; `action` [B, K+D+C, A], `action_is_pad` [B, K+D+C] bool, observations; optionally
                `observation_is_dropped` [B] bool, which counts in training mode alone.

        Returns:
            (scalar loss = L1 + kl_weight * KL, scalar tensors by name). In evaluation mode the latent is its mean.

        Raises:
            ValueError: actions of another shape.
        """
        out = self.predict_window(batch)
        error = (out["target"] - out["actions"]).abs() * ~out["target_is_pad"][..., None]
        if self.config.loss_reduction == "valid":
            count = (~out["target_is_pad"]).sum((0, 2)) * error.shape[-1]
            per_delay = error.sum((0, 2, 3)) / count.clamp(min=1)
            l1 = error.sum() / count.sum().clamp(min=1)
        else:
            per_delay = error.mean((0, 2, 3))
            l1 = error.mean()
        parts = {"l1_loss": l1} | {f"l1_loss_d{d}": value for d, value in enumerate(per_delay.unbind(), start=1)}
        loss = l1
        if self.config.use_vae:
            mean, log_variance = out["mean"], out["log_variance"]
            # KL(N(mean, variance) || N(0, 1)), Kingma & Welling, arXiv:1312.6114, appendix B.
            kld = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1).mean()
            parts["kld_loss"] = kld
            loss = l1 + self.config.kl_weight * kld
        return loss, {name: value.detach().float() for name, value in parts.items()}

    def predict_window(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the network says about training windows, in the units it is trained in (relative ones, if on).

        Returns `actions` and `target` [B, D, C, A], `target_is_pad` [B, D, C]; with VAE `mean`, `log_variance` [B, L].
        """
        config = self.config
        window, is_pad = self._window(batch)
        past_end, future_end = config.length_prefix_past, config.length_prefix_past + config.length_prefix_future
        future = window[:, past_end:future_end]
        anchors = branch_anchors(config, future)
        branches = self._to_relative(future[:, None], anchors[:, :, None])
        slot = torch.arange(config.length_prefix_future, device=window.device)
        branches_pad = is_pad[:, None, past_end:future_end] | (slot[None, :] > slot[:, None])
        past = self._to_relative(window[:, :past_end], self._past_anchor(future))
        target = self._to_relative(window[:, self._indices_target], anchors[:, :, None])
        target_is_pad = is_pad[:, self._indices_target]
        batch, dropped = self._drop_state(batch)
        out = {"target": target, "target_is_pad": target_is_pad}
        latent = window.new_zeros(len(window), config.latent_dim)
        if config.use_vae:
            mean, log_variance = self.model.latent_distribution(batch, target[:, 0], target_is_pad[:, 0])
            latent = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
            out |= {"mean": mean, "log_variance": log_variance}
        pasts = (past, is_pad[:, :past_end])
        out["actions"] = self.model(batch, latent, pasts, (branches, branches_pad), dropped=dropped)
        return out

    def build_inference_action_prefix(self, future: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Committed actions [B, d, A] and past ones [B, k, A], normalised, as `inference_action` and its `_is_pad`."""
        self._check_width(future)
        return build_inference_action_prefix(
            future, past, length_past=self.config.length_prefix_past, length_future=self.config.length_prefix_future
        )

    @torch.no_grad()
    def continue_prefix(self, batch: Mapping[str, Tensor], future: Tensor, past: Tensor | None = None) -> Tensor:
        """The chunk [B, C, A] from a_{t+d} on, after the committed [B, d, A] and past ones [B, k, A]; normalised."""
        actions, is_pad = self.build_inference_action_prefix(future, past)
        return self.predict_action_chunk({**batch, PREFIX: actions, PREFIX_IS_PAD: is_pad})

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Normalised actions, in one of two forms.

        With `inference_action` [B, K+D, A] and `inference_action_is_pad` in the batch: the C actions after that prefix,
        [B, C, A], the first being a_{t+d}.

        Else as LeRobot's real-time-chunking engine asks: actions from the present step on, the d committed ones first
        and C predicted ones behind them, [B, d + C, A].

        Args:
            batch: Normalised observations.
            inference_delay: Steps that the robot executes while this call runs; clipped to 1..D and to what is planned.
            prev_chunk_left_over: Rows of the chunk given last that are not executed yet, [E, A] or [B, E, A], perhaps
                filled with zeros. None: nothing is planned, the robot holds its place.
            kwargs: Other options of LeRobot's policies; not used.
        """
        self.eval()
        if PREFIX in batch:
            return self._predict(batch, batch[PREFIX], batch[PREFIX_IS_PAD])
        if prev_chunk_left_over is None:
            planned, past = self._hold(batch), None
            if planned is None:
                return self._start_anywhere(batch)
        else:
            planned, past = self._timeline.locate(prev_chunk_left_over)
        committed = planned[:, : self._delay(inference_delay)]
        chunk = torch.cat([committed, self.continue_prefix(batch, committed, past)], dim=1)
        self._timeline.give(past, chunk)
        return chunk

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **kwargs: object) -> Tensor:
        """The next action [B, A], normalised. One step before the plan ends, the last planned action is committed and
        the `n_action_steps` behind it are predicted. An episode begins by holding the robot's place for one step.
        """
        self.eval()
        queue = self._queue
        if not queue.planned:
            hold = self._hold(batch)
            queue.plan(self._start_anywhere(batch)[:, : self.config.n_action_steps] if hold is None else hold)
        if len(queue.planned) == 1:
            chunk = self.continue_prefix(batch, queue.planned[0][:, None], queue.past)
            queue.plan(chunk[:, : self.config.n_action_steps])
        return queue.execute()

    def _predict(self, batch: Mapping[str, Tensor], actions: Tensor, is_pad: Tensor) -> Tensor:
        config = self.config
        expected = (config.length_prefix_past + config.length_prefix_future, config.action_dim)
        if actions.ndim != 3 or actions.shape[1:] != expected or is_pad.shape != actions.shape[:2]:
            raise ValueError(
                f"act_smooth: {PREFIX} must be [B, {expected[0]}, {expected[1]}] (past and committed actions, A) and "
                f"{PREFIX_IS_PAD} [B, {expected[0]}]; given {tuple(actions.shape)} and {tuple(is_pad.shape)}."
            )
        self._require_deltas()
        past, future = actions.split([config.length_prefix_past, config.length_prefix_future], dim=1)
        past_pad, future_pad = is_pad.split([config.length_prefix_past, config.length_prefix_future], dim=1)
        last = ((~future_pad).sum(1) - 1).clamp(min=0)
        anchor = branch_anchors(config, future)[torch.arange(len(last), device=last.device), last][:, None]
        branch = (self._to_relative(future, anchor)[:, None], future_pad[:, None])
        pasts = (self._to_relative(past, self._past_anchor(future)), past_pad)
        latent = actions.new_zeros(len(actions), config.latent_dim)
        chunk = self.model(batch, latent, pasts, branch, masked=config.mask == "training")[:, 0]
        return self._from_relative(chunk, anchor)

    def _window(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        self._require_deltas()
        actions, is_pad = batch[ACTION], batch["action_is_pad"]
        expected = (len(self.config.action_delta_indices), self.config.action_dim)
        if actions.ndim != 3 or actions.shape[1:] != expected or is_pad.shape != actions.shape[:2]:
            raise ValueError(
                f"act_smooth: action must be [B, {expected[0]}, {expected[1]}] (K + D + C steps, A) and action_is_pad "
                f"[B, {expected[0]}]; given {tuple(actions.shape)} and {tuple(is_pad.shape)}."
            )
        return actions, is_pad

    def _check_width(self, actions: Tensor) -> None:
        width = self.config.action_dim
        if actions.shape[-1] != width:
            raise ValueError(f"act_smooth: this policy has {width} action dimensions; given {actions.shape[-1]}.")

    def _require_deltas(self) -> None:
        if not self._deltas_known:
            dataset_deltas(self.config, None, None)

    def _past_anchor(self, future: Tensor) -> Tensor:
        """What past actions are relative to: the committed action at the observed step, which all branches share."""
        return branch_anchors(self.config, future[:, :1])

    def _to_relative(self, actions: Tensor, anchor: Tensor) -> Tensor:
        difference = actions - anchor
        if not self.config.relative_actions:
            return difference
        return (difference - self.action_delta_mean) / self.action_delta_std

    def _from_relative(self, actions: Tensor, anchor: Tensor) -> Tensor:
        if self.config.relative_actions:
            actions = actions * self.action_delta_std + self.action_delta_mean
        return actions + anchor

    def _drop_state(self, batch: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Hide the state of some samples, in training mode: those marked in the batch, else a draw per sample."""
        if not self.training or OBS_STATE not in batch:
            return batch, None
        state = batch[OBS_STATE]
        dropped = batch.get(DROPPED)
        if dropped is None:
            if self.config.obs_dropout_rate == 0:
                return batch, None
            dropped = torch.rand(len(state), device=state.device) < self.config.obs_dropout_rate
        dropped = torch.as_tensor(dropped, dtype=torch.bool, device=state.device)
        return {**batch, OBS_STATE: state.masked_fill(dropped[:, None], 0.0)}, dropped

    def _hold(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The action [B, 1, A] that keeps the robot in its place; None where states are no actions."""
        state = batch.get(HOLD, batch.get(OBS_STATE))
        if state is None or state.shape[-1] != self.config.action_dim:
            return None
        if HOLD not in batch and self._hold_scale is not None and self._hold_offset is not None:
            state = state * self._hold_scale + self._hold_offset
        return state[:, None]

    def _start_anywhere(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A first chunk [B, C, A] where no action can stand for holding still: behind the mean action."""
        example = next(batch[name] for name in self.config.input_features or {} if name in batch)
        width = self.config.action_dim
        chunk = self.continue_prefix(batch, torch.zeros(len(example), 1, width, device=example.device))
        self._timeline.give(None, chunk)
        return chunk

    def _delay(self, inference_delay: int | None) -> int:
        asked = max(1, inference_delay or 1)
        longest = self.config.length_prefix_future
        if asked > longest and not getattr(self, "_late", False):
            self._late = True
            logging.warning(
                f"act_smooth: the delay of {asked} steps exceeds length_prefix_future={longest}, so new chunks join "
                f"the old ones with a jump. Train with length_prefix_future={asked} or more, or make inference faster."
            )
        return min(asked, longest)


def _deltas_were_loaded(policy: nn.Module, keys: _IncompatibleKeys) -> None:
    """After loading weights: the statistics of differences are known, unless the file lacked them."""
    assert isinstance(policy, ACTSmoothPolicy)
    if "action_delta_std" not in keys.missing_keys:
        policy._deltas_known = True
