"""OpenVLA's network: two vision towers, a projector, a Llama; with the names of weights that its folders have.

Kim et al., "OpenVLA", 2024, section 3; Karamcheti et al., "Prismatic VLMs", 2024. The sequence is [BOS, the patches of
every picture, a token for the robot's state where the model reads it, the words]. Words are padded before their
beginning, so that the last word of each row stands in the last place; what is padded is attended by nobody and has no
position of its own.

Letters: B batch, N tokens, W words, P patches of all pictures, D width of the language model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from xp.models.openvla.sizes import LanguageSizes, NetworkSizes
from xp.models.openvla.tower import Tower
from xp.models.torch_arrays import as_tensor

DINO_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of the pictures that the DINOv2 tower takes (those of ImageNet)."""
SIGLIP_NORM = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class VisionBackbone(nn.Module):
    """Both towers, whose features of a patch stand one behind the other."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        self.featurizer = Tower(sizes.dino, patch=sizes.patch, patches=sizes.patches, is_dino=True)
        self.fused_featurizer = Tower(sizes.siglip, patch=sizes.patch, patches=sizes.patches, is_dino=False)

    def forward(self, pixels: Float[torch.Tensor, "batch 6 h w"]) -> Float[torch.Tensor, "batch patches width"]:
        """Features of pictures normalised for each tower: three channels for DINOv2, then three for SigLIP."""
        return torch.cat([self.featurizer(pixels[:, :3]), self.fused_featurizer(pixels[:, 3:])], -1)


class Projector(nn.Module):
    """From features of patches to the language model's tokens (Prismatic's fused-gelu-mlp)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Float[torch.Tensor, "batch patches _"]) -> Float[torch.Tensor, "batch patches width"]:
        """One token a patch."""
        return self.fc3(functional.gelu(self.fc2(functional.gelu(self.fc1(features)))))


@dataclass(frozen=True)
class Sequence:
    """What the language model reads: embeddings [B, N, D], which of them count, and the position of each."""

    embeddings: Float[torch.Tensor, "batch tokens width"]
    is_real: Bool[torch.Tensor, "batch tokens"]

    @property
    def positions(self) -> Int[torch.Tensor, "batch tokens"]:
        """Numbers from 0 that pass over padding."""
        return (self.is_real.cumsum(1) - 1).clamp(min=0)

    def extended(self, embeddings: Float[torch.Tensor, "batch more width"]) -> "Sequence":
        """With more tokens at the end, all of which count."""
        real = self.is_real.new_ones(embeddings.shape[:2])
        return Sequence(torch.cat([self.embeddings, embeddings], 1), torch.cat([self.is_real, real], 1))

    def mask(self, slots: int = 0) -> Bool[torch.Tensor, "batch 1 tokens tokens"]:
        """Who attends to whom: each token to those before it and itself, and the last `slots` to each other too."""
        count = self.is_real.shape[1]
        sees = torch.ones(count, count, dtype=torch.bool, device=self.is_real.device).tril()
        if slots:
            sees[-slots:, -slots:] = True
        return (sees & self.is_real[:, None, :])[:, None]


class OpenVLANetwork(nn.Module):
    """The network without what turns tokens into actions (see `decoding` and `objective`)."""

    def __init__(self, sizes: NetworkSizes) -> None:
        """Weights are drawn from torch's global generator."""
        super().__init__()
        self.sizes = sizes
        self.vision_backbone = VisionBackbone(sizes)
        self.projector = Projector(sizes.dino.width + sizes.siglip.width, sizes.language.width)
        self.language_model = LlamaForCausalLM(llama_config(sizes.language))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projector.fc1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return self.projector.fc1.weight.dtype

    def image_tokens(
        self, pictures: UInt8[torch.Tensor, "batch cameras h w 3"]
    ) -> Float[torch.Tensor, "batch p width"]:
        """Tokens of all pictures of each row, camera by camera."""
        rows, cameras = pictures.shape[:2]
        features = self.vision_backbone(normalised(pictures.flatten(0, 1)).to(self.dtype))
        return self.projector(features).unflatten(0, (rows, cameras)).flatten(1, 2)

    def embed(self, ids: Int[torch.Tensor, "batch words"]) -> Float[torch.Tensor, "batch words width"]:
        """Embeddings of words."""
        return self.language_model.model.embed_tokens(ids)

    def sequence(
        self,
        images: Float[torch.Tensor, "batch patches width"],
        words: Int[torch.Tensor, "batch words"],
        is_word: Bool[torch.Tensor, "batch words"],
        bos: int,
    ) -> Sequence:
        """[BOS, images, words], where `words` are without BOS and those that are none stand before the others."""
        first = self.embed(words.new_full((len(words), 1), bos))
        embeddings = torch.cat([first, images, self.embed(words)], 1)
        real = is_word.new_ones(len(words), 1 + images.shape[1])
        return Sequence(embeddings, torch.cat([real, is_word], 1))

    def hidden(self, sequence: Sequence, *, slots: int = 0, last: int | None = None) -> Float[torch.Tensor, "b n d"]:
        """The language model's outputs before its last layer, of the `last` tokens, or of all."""
        found = self.language_model.model(
            inputs_embeds=sequence.embeddings,
            attention_mask=sequence.mask(slots),
            position_ids=sequence.positions,
            use_cache=False,
        ).last_hidden_state
        return found if last is None else found[:, -last:]

    def hidden_cached(self, sequence: Sequence, cache: Cache, fresh: int) -> Float[torch.Tensor, "b fresh d"]:
        """The outputs of the last `fresh` tokens of a sequence whose other tokens `cache` holds; it grows by these."""
        return self.language_model.model(
            inputs_embeds=sequence.embeddings[:, -fresh:],
            attention_mask=sequence.mask()[:, :, -fresh:],
            position_ids=sequence.positions[:, -fresh:],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def logits(self, hidden: Float[torch.Tensor, "batch tokens width"]) -> Float[torch.Tensor, "batch tokens words"]:
        """Scores of every word, float32."""
        return self.language_model.lm_head(hidden).float()

    def checkpoint_gradients(self) -> None:
        """In training compute each layer's inner numbers again in the backward pass instead of keeping them."""
        self.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        for tower in (self.vision_backbone.featurizer, self.vision_backbone.fused_featurizer):
            tower.is_checkpointed = True

    def take(self, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Put arrays by name in the place of every weight, whose memory they become; a network may be without any.

        A network made on the device "meta" is whole afterwards: what is no weight is made anew.
        """
        tensors = {name: as_tensor(array) for name, array in arrays.items()}
        frozen = {name for name, weight in self.named_parameters() if not weight.requires_grad}
        self.load_state_dict(tensors, strict=True, assign=True)
        for name, weight in self.named_parameters():
            weight.requires_grad_(name not in frozen)
        if self.language_model.model.rotary_emb.inv_freq.is_meta:
            self.language_model.model.rotary_emb = LlamaRotaryEmbedding(self.language_model.config)


def llama_config(sizes: LanguageSizes) -> LlamaConfig:
    """What transformers makes a Llama of."""
    named: dict[str, Any] = {  # by name: transformers makes these parameters at run time
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "max_position_embeddings": sizes.positions,
        "rms_norm_eps": sizes.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes.rope_theta},
        "tie_word_embeddings": False,
    }
    config = LlamaConfig(**named)
    config._attn_implementation = "sdpa"
    return config


def normalised(pictures: UInt8[torch.Tensor, "batch h w 3"]) -> Float[torch.Tensor, "batch 6 h w"]:
    """Pictures of 0..255 as the towers take them: three channels for DINOv2, then three for SigLIP, float32."""
    scaled = pictures.to(torch.float32).div_(255.0).movedim(-1, -3)
    parts = []
    for mean, std in (DINO_NORM, SIGLIP_NORM):
        middle, spread = (scaled.new_tensor(numbers)[:, None, None] for numbers in (mean, std))
        parts.append((scaled - middle) / spread)
    return torch.cat(parts, -3)
