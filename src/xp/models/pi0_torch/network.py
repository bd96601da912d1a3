"""LeRobot's pi0 and pi05 (0.6.1) at any size, with the names of their weights, as functions on prepared inputs.

LeRobot's classes know two variants of Gemma and fix vocabulary, image encoder and unused parts in their constructors;
the constructors here take sizes, all that computes is LeRobot's. The table of text has one name, that of the file
(`lm_head`), where LeRobot's has two that share memory.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Pytorch
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PaliGemmaWithExpertModel, PI05Pytorch
from lerobot.policies.pi_gemma import PaliGemmaForConditionalGenerationWithPiGemma, PiGemmaForCausalLM
from torch import nn
from transformers.models.auto import CONFIG_MAPPING

from xp.errors import UserError
from xp.models.pi0.cameras import SLOTS
from xp.models.pi0.inputs.mixed import DIM_IS_PAD
from xp.models.pi0.io.key_map import HEADS, UNUSED
from xp.models.pi0.network.sizes import ExpertSizes, Sizes
from xp.models.pi0.real_time import PLAN, PLAN_MASK, PLAN_WEIGHT
from xp.models.pi0_torch.guidance import Guide
from xp.models.pi0_torch.low_rank import add_updates

type Inputs = Mapping[str, torch.Tensor]
"""What `xp.models.pi0.inputs.prepare.Prepare` makes, as tensors on the network's device."""
type Seen = tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor]
"""Pictures [B, 3, h, w] of -1..1, whether each is there [B], tokens [B, L] and which of them are there [B, L]."""

_IMAGE, _IMAGE_MASK = "image/", "image_mask/"
EARLIEST = 0.001
"""The earliest time that is trained on."""


class Experts(PaliGemmaWithExpertModel):
    """SigLIP, PaliGemma and the action expert of some sizes."""

    def __init__(self, sizes: Sizes) -> None:
        nn.Module.__init__(self)
        self.freeze_vision_encoder = self.train_expert_only = False
        self.paligemma = PaliGemmaForConditionalGenerationWithPiGemma(config=_paligemma_config(sizes))
        self.gemma_expert = PiGemmaForCausalLM(config=_expert_config(sizes))
        self.gemma_expert.model.embed_tokens = None  # pyright: ignore - as LeRobot does, which never asks it
        self.paligemma.model.language_model.embed_tokens = None  # pyright: ignore - its table is that of lm_head
        self.embed_scale = sizes.language.width**0.5
        add_updates(self.paligemma.model.language_model, sizes.language)
        add_updates(self.gemma_expert.model, sizes.action)

    def embed_language_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Gemma's embedding: rows of the table times the root of their width, in the table's type."""
        table = self.paligemma.lm_head.weight
        return nn.functional.embedding(tokens, table) * torch.tensor(self.embed_scale).to(table.dtype)


class Guided:
    """Whether a plan guides sampling: LeRobot's own classes ask their configuration, which has no place for `Guide`."""

    rtc_processor: Guide | None

    def _rtc_enabled(self) -> bool:
        return self.rtc_processor is not None


class SizedPi05(Guided, PI05Pytorch):
    """pi0.5 of some sizes."""

    def __init__(self, config: PI05Config, sizes: Sizes) -> None:
        nn.Module.__init__(self)
        _set_up(self, config, sizes)
        width = sizes.action.width
        self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)


class SizedPi0(Guided, PI0Pytorch):
    """pi0 of some sizes."""

    def __init__(self, config: PI0Config, sizes: Sizes) -> None:
        nn.Module.__init__(self)
        _set_up(self, config, sizes)
        width = sizes.action.width
        self.state_proj = nn.Linear(sizes.action_dim, width)
        self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * width, width), nn.Linear(width, width)


type Model = SizedPi0 | SizedPi05


def _set_up(model: Any, config: PI0Config | PI05Config, sizes: Sizes) -> None:
    model.config, model.rtc_processor = config, None
    model.paligemma_with_expert = Experts(sizes)
    model.action_in_proj = nn.Linear(sizes.action_dim, sizes.action.width)
    model.action_out_proj = nn.Linear(sizes.action.width, sizes.action_dim)
    model.gradient_checkpointing_enabled = False


def make_model(sizes: Sizes, horizon: int, sample_steps: int, *, remat: bool = False) -> Model:
    """A network without memory for its weights (on the device meta); `take` gives it some.

    Raises:
        UserError: experts with another number of heads than LeRobot's code has.
    """
    if sizes.language.heads != HEADS or sizes.action.heads != HEADS:
        raise UserError(
            f"The experts have {sizes.language.heads} and {sizes.action.heads} attention heads; in torch a pi0 has "
            f"{HEADS} in each, as in all of openpi's variants. Take the family in JAX for this model."
        )
    kind = PI05Config if sizes.is_pi05 else PI0Config
    config = kind(
        device="cpu",
        chunk_size=horizon,
        n_action_steps=horizon,
        max_state_dim=sizes.action_dim,
        max_action_dim=sizes.action_dim,
        num_inference_steps=sample_steps,
        image_resolution=(sizes.vision.side, sizes.vision.side),
    )
    with torch.device("meta"):
        model = SizedPi05(config, sizes) if isinstance(config, PI05Config) else SizedPi0(config, sizes)
    if remat:
        model.gradient_checkpointing_enable()
    return model


def take(model: Model, weights: Mapping[str, torch.Tensor]) -> Model:
    """Give a network made by `make_model` its weights, which it keeps (no copy); all of them, and no other."""
    model.load_state_dict(dict(weights), strict=True, assign=True)
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "rotary_emb"):
            module.rotary_emb = type(module.rotary_emb)(config=module.config)
        if hasattr(module, "position_ids"):
            positions = torch.arange(int(module.num_positions))
            module.register_buffer("position_ids", positions.expand((1, -1)), persistent=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != UNUSED)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, f"no values for {left[:4]}"
    return model


def _paligemma_config(sizes: Sizes) -> Any:
    config = CONFIG_MAPPING["paligemma"]()
    config._vocab_size = config.image_token_index = sizes.vocabulary  # noqa: SLF001 - as LeRobot sets it
    for name, value in _gemma_fields(sizes.language, sizes.vocabulary).items():
        setattr(config.text_config, name, value)
    config.text_config.use_adarms, config.text_config.adarms_cond_dim = False, None
    vision = config.vision_config
    own = sizes.vision
    vision.image_size, vision.patch_size, vision.intermediate_size = own.side, own.patch, own.mlp
    vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads = own.width, own.depth, own.heads
    vision.projection_dim = sizes.language.width
    vision.projector_hidden_act, vision.dtype = "gelu_fast", "float32"
    return config


def _expert_config(sizes: Sizes) -> Any:
    adaptive = {"use_adarms": sizes.is_pi05, "adarms_cond_dim": sizes.action.width if sizes.is_pi05 else None}
    return CONFIG_MAPPING["gemma"](**_gemma_fields(sizes.action, sizes.vocabulary), **adaptive)


def _gemma_fields(own: ExpertSizes, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": own.width,
        "intermediate_size": own.mlp,
        "num_attention_heads": own.heads,
        "head_dim": own.head_dim,
        "num_hidden_layers": own.depth,
        "num_key_value_heads": own.kv_heads,
        "hidden_activation": "gelu_pytorch_tanh",
        "dtype": "float32",
        "vocab_size": vocabulary,
    }


def seen(inputs: Inputs) -> Seen:
    """Pictures and text of prepared inputs, as the network takes them; an input that nothing feeds is left out."""
    names = [name for name in SLOTS if f"{_IMAGE}{name}" in inputs]
    pictures = [_pixels(inputs[f"{_IMAGE}{name}"]) for name in names]
    there = [inputs[f"{_IMAGE_MASK}{name}"] for name in names]
    return pictures, there, inputs["tokens"].long(), inputs["token_mask"]


def _pixels(picture: torch.Tensor) -> Float[torch.Tensor, "batch 3 height width"]:
    scaled = picture.to(torch.float32) / 255.0 * 2.0 - 1.0 if picture.dtype == torch.uint8 else picture
    return scaled.permute(0, 3, 1, 2).contiguous()


def errors(
    model: Model, inputs: Inputs, noise: Float[torch.Tensor, "batch horizon dim"], time: Float[torch.Tensor, " batch"]
) -> Float[torch.Tensor, "batch horizon dim"]:
    """Squared error of the velocity, element by element."""
    actions = inputs["action"]
    if isinstance(model, SizedPi0):
        return model(*seen(inputs), inputs["state"], actions, noise, time)
    return model(*seen(inputs), actions, noise, time)


def sample(
    model: Model, inputs: Inputs, noise: Float[torch.Tensor, "batch horizon dim"], steps: int
) -> Float[torch.Tensor, "batch horizon dim"]:
    """Actions from noise by `steps` steps of Euler's method; the prefix is read once.

    Where `inputs` have a plan (`xp.models.pi0.real_time`), the actions are led to fall in with it.
    """
    state = (inputs["state"],) if isinstance(model, SizedPi0) else ()
    ask = cast(Callable[..., torch.Tensor], model.sample_actions)
    guide: Any = Guide(inputs[PLAN], inputs[PLAN_MASK], inputs[PLAN_WEIGHT]) if PLAN in inputs else None
    try:
        model.rtc_processor = guide
        return ask(*seen(inputs), *state, noise=noise, num_steps=steps)
    finally:
        model.rtc_processor = None


def loss(model: Model, inputs: Inputs, counted: int | None) -> torch.Tensor:
    """The mean error over steps that are no padding and over the first `counted` dimensions (None: all), or over those
    of each row's dataset where `inputs` say them (`DIM_IS_PAD`).

    Noise and time are drawn from torch's generator unless `inputs` has them: one draw a window, or several [B, D, ...],
    over which the mean is taken.
    """
    actions = inputs["action"]
    if "noise" in inputs:
        noise, time = inputs["noise"], inputs["time"]
    else:
        noise = torch.randn(actions.shape, device=actions.device)
        share = torch.rand(actions.shape[:1], device=actions.device)
        time = share ** (2 / 3) * (1 - EARLIEST) + EARLIEST  # of Beta(1.5, 1), whose distribution is t^1.5
    if noise.dim() == 3:
        noise, time = noise[:, None], time[:, None]
    found = [errors(model, inputs, noise[:, draw], time[:, draw]) for draw in range(noise.shape[1])]
    by_step = torch.stack([_over_dims(each, inputs, counted) for each in found]).mean(0)
    if "action_is_pad" not in inputs:
        return by_step.mean()
    real = ~inputs["action_is_pad"]
    return torch.where(real, by_step, 0.0).sum() / real.sum().clamp(min=1)


def _over_dims(
    values: Float[torch.Tensor, "batch horizon dim"], inputs: Inputs, counted: int | None
) -> Float[torch.Tensor, "batch horizon"]:
    if DIM_IS_PAD not in inputs:
        return values[..., :counted].mean(-1)
    counts = ~inputs[DIM_IS_PAD][:, None]
    return torch.where(counts, values, 0.0).sum(-1) / counts.sum(-1)
