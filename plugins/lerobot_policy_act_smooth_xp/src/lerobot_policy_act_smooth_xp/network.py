"""The network of ACT-smooth: observation, past and N branches of committed actions in, N chunks out, in one pass.

B batch, K past slots, D slots of a branch, N branches, C chunk, A action, E model width, S encoder tokens.
"""

from collections.abc import Mapping
from itertools import chain

import torch
import torchvision
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.misc import FrozenBatchNorm2d

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig
from lerobot_policy_act_smooth_xp.layers import Decoder, Encoder, sinusoid_1d, sinusoid_2d
from lerobot_policy_act_smooth_xp.prefix import decoder_masks, encoder_mask


class ACTSmoothNetwork(nn.Module):
    """Names and shapes of the weights are those of the first ACT-smooth.

    Encoder tokens: cameras (row by row), latent, environment state, robot state, K past actions, then D slots per
    branch. A slot without an action holds `action_prefix_pad_embed` and is attended like any other.
    """

    vae_encoder_pos_enc: Tensor

    def __init__(self, config: ACTSmoothConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim_model
        action_dim = config.action_dim
        if config.use_vae:
            self._build_vae(config, action_dim)
        if config.image_features:
            resnet = getattr(torchvision.models, config.vision_backbone)(
                replace_stride_with_dilation=[False, False, config.replace_final_stride_with_dilation],
                weights=config.pretrained_backbone_weights,
                norm_layer=FrozenBatchNorm2d,
            )
            self.backbone = IntermediateLayerGetter(resnet, return_layers={"layer4": "feature_map"})
            self.encoder_img_feat_input_proj = nn.Conv2d(resnet.fc.in_features, dim, kernel_size=1)
        self.encoder = Encoder(config, config.n_encoder_layers)
        self.decoder = Decoder(config)
        if config.robot_state_feature:
            self.encoder_robot_state_input_proj = nn.Linear(config.robot_state_feature.shape[0], dim)
        if config.env_state_feature:
            self.encoder_env_state_input_proj = nn.Linear(config.env_state_feature.shape[0], dim)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, dim)
        self.encoder_action_prefix_input_proj = nn.Linear(action_dim, dim)
        self.action_prefix_pad_embed = nn.Parameter(torch.zeros(dim))
        if config.obs_dropout_token:
            self.state_dropped_embed = nn.Parameter(torch.zeros(dim))
        tokens = 1 + bool(config.env_state_feature) + bool(config.robot_state_feature)
        slots = config.length_prefix_past + config.length_prefix_future
        self.encoder_1d_feature_pos_embed = nn.Embedding(tokens + slots, dim)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, dim)
        self.action_head = nn.Linear(dim, action_dim)
        for parameter in chain(self.encoder.parameters(), self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def _build_vae(self, config: ACTSmoothConfig, action_dim: int) -> None:
        dim = config.dim_model
        self.vae_encoder = Encoder(config, config.n_vae_encoder_layers)
        self.vae_encoder_cls_embed = nn.Embedding(1, dim)
        if config.robot_state_feature:
            self.vae_encoder_robot_state_input_proj = nn.Linear(config.robot_state_feature.shape[0], dim)
        self.vae_encoder_action_input_proj = nn.Linear(action_dim, dim)
        self.vae_encoder_latent_output_proj = nn.Linear(dim, config.latent_dim * 2)
        tokens = 1 + bool(config.robot_state_feature) + config.chunk_size
        self.register_buffer("vae_encoder_pos_enc", sinusoid_1d(tokens, dim).unsqueeze(0))

    def latent_distribution(
        self, batch: Mapping[str, Tensor], target: Tensor, target_is_pad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(mean, log variance), each [B, L], of the style latent of targets [B, C, A] with padding [B, C] bool."""
        size = target.shape[0]
        tokens = [self.vae_encoder_cls_embed.weight.expand(size, 1, -1)]
        if self.config.robot_state_feature:
            tokens.append(self.vae_encoder_robot_state_input_proj(batch[OBS_STATE])[:, None])
        padding = torch.cat([target_is_pad.new_zeros(size, len(tokens)), target_is_pad], dim=1)
        tokens.append(self.vae_encoder_action_input_proj(target))
        x = torch.cat(tokens, dim=1).transpose(0, 1)
        out = self.vae_encoder(x, self.vae_encoder_pos_enc.transpose(0, 1), None, padding)[0]
        mean, log_variance = self.vae_encoder_latent_output_proj(out).chunk(2, dim=-1)
        return mean, log_variance

    def forward(
        self,
        batch: Mapping[str, Tensor],
        latent: Tensor,
        past: tuple[Tensor, Tensor],
        branches: tuple[Tensor, Tensor],
        *,
        masked: bool = True,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Predict one chunk per branch.

        Args:
            batch: Normalised observations; cameras [B, 3, h, w], states [B, n].
            latent: [B, L].
            past: Actions [B, K, A] and is_pad [B, K].
            branches: Actions [B, N, D, A] and is_pad [B, N, D].
            masked: Keep shared tokens from looking at branches (needed for N > 1).
            dropped: Samples [B] bool whose robot state is replaced by the learned token.

        Returns:
            Actions [B, N, C, A].
        """
        x, position, shared = self.encoder_input(batch, latent, past, branches, dropped=dropped)
        count, width = branches[0].shape[1:3]
        assert masked or count == 1, "several branches are told apart by the mask alone"
        mask = encoder_mask(shared, count, width, x.device) if masked else None
        memory = self.encoder(x, position, mask)
        chunk = self.config.chunk_size
        query = self.decoder_pos_embed.weight.repeat(count, 1)[:, None]
        masks = decoder_masks(shared, count, width, chunk, x.device)
        out = self.decoder(memory.new_zeros(count * chunk, *memory.shape[1:]), query, memory, position, masks)
        return self.action_head(out.transpose(0, 1)).unflatten(1, (count, chunk))

    def encoder_input(
        self,
        batch: Mapping[str, Tensor],
        latent: Tensor,
        past: tuple[Tensor, Tensor],
        branches: tuple[Tensor, Tensor],
        *,
        dropped: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, int]:
        """(tokens [S, B, E], positions [S, 1, E], how many tokens all branches share)."""
        config = self.config
        single = [self.encoder_latent_input_proj(latent)]
        if config.env_state_feature:
            single.append(self.encoder_env_state_input_proj(batch[OBS_ENV_STATE]))
        if config.robot_state_feature:
            single.append(self._state_token(batch[OBS_STATE], dropped))
        images, image_positions = self._image_tokens(batch)
        count, width = branches[0].shape[1:3]
        past_tokens = self._prefix_tokens(*past)
        branch_tokens = self._prefix_tokens(branches[0].flatten(1, 2), branches[1].flatten(1, 2))
        x = torch.cat([*images, torch.stack(single), past_tokens, branch_tokens])
        table = self.encoder_1d_feature_pos_embed.weight
        slots = table[len(table) - width :].repeat(count, 1)
        position = torch.cat([*image_positions, table[: len(table) - width], slots])[:, None]
        return x, position, len(x) - count * width

    def _state_token(self, state: Tensor, dropped: Tensor | None) -> Tensor:
        token = self.encoder_robot_state_input_proj(state)
        if dropped is None or not self.config.obs_dropout_token:
            return token
        return torch.where(dropped[:, None], self.state_dropped_embed.to(token.dtype), token)

    def _prefix_tokens(self, actions: Tensor, is_pad: Tensor) -> Tensor:
        """Actions [B, n, A] and is_pad [B, n] to tokens [n, B, E]."""
        tokens = self.encoder_action_prefix_input_proj(actions)
        tokens = torch.where(is_pad[..., None], self.action_prefix_pad_embed.to(tokens.dtype), tokens)
        return tokens.transpose(0, 1)

    def _image_tokens(self, batch: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per camera, tokens [hw, B, E] and positions [hw, E]; cameras of one size go through the backbone together."""
        by_size: dict[torch.Size, list[str]] = {}
        for name in self.config.image_features:
            by_size.setdefault(batch[name].shape, []).append(name)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for names in by_size.values():
            features = self.backbone(torch.cat([batch[name] for name in names]))["feature_map"]
            height, width = features.shape[-2:]
            position = sinusoid_2d(height, width, self.config.dim_model, features.device).to(features.dtype)
            tokens = self.encoder_img_feat_input_proj(features).flatten(2).permute(2, 0, 1)
            found |= {name: (part, position) for name, part in zip(names, tokens.chunk(len(names), dim=1))}
        ordered = [found[name] for name in self.config.image_features]
        return [tokens for tokens, _ in ordered], [position for _, position in ordered]
