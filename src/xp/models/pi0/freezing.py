"""What of a pi0 is frozen, by the paths of its leaves: presets by name, and what openpi freezes beside an update."""

from xp.models.pi0.network.sizes import Sizes

FREEZE_PRESETS = {
    "none": (),
    "vision": ("PaliGemma/img/*",),
    "language": (
        "PaliGemma/llm/embedder/*", "PaliGemma/llm/layers/attn/*einsum/w", "PaliGemma/llm/layers/mlp/gating_einsum",
        "PaliGemma/llm/layers/mlp/linear", "PaliGemma/llm/layers/*_norm/scale", "PaliGemma/llm/final_norm/scale",
    ),
    "action": (
        "PaliGemma/llm/layers/attn/*einsum_1/w", "PaliGemma/llm/layers/mlp_1/gating_einsum",
        "PaliGemma/llm/layers/mlp_1/linear", "PaliGemma/llm/layers/*_norm_1/*", "PaliGemma/llm/final_norm_1/*",
    ),
}  # fmt: skip
"""What `trainer.freeze` may name: the image encoder, the language expert, the action expert."""


def frozen_patterns(sizes: Sizes) -> tuple[str, ...]:
    """What openpi freezes where an expert has low-rank updates: all other weights of that expert."""
    language = FREEZE_PRESETS["language"] if sizes.language.lora_rank else ()
    return (*language, *(FREEZE_PRESETS["action"] if sizes.action.lora_rank else ()))
