"""Makes the network that a description names: modules are looked up by name, never imported from strings."""

import dataclasses
from collections.abc import Collection
from typing import Any

from flax import linen as nn

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON
from xp.models.octo import heads
from xp.models.octo.io.spec import ModelSpec, ModuleSpec
from xp.models.octo.network.module import OctoModule
from xp.models.octo.network.stems import KeypointStem, PatchEncoder, SmallStem
from xp.models.octo.network.t5 import KNOWN_T5, T5Sizes
from xp.models.octo.network.tokenizers import (
    ImageTokenizer,
    LanguageTokenizer,
    LowdimObsTokenizer,
    StateTokenizer,
    WordTokenizer,
)
from xp.models.octo.network.transformer import TransformerSizes
from xp.models.octo.network.trunk import OctoTransformer

_HEADS: dict[str, type[heads.ActionHead]] = {
    head.__name__: head
    for head in (
        heads.ContinuousActionHead,
        heads.DiffusionActionHead,
        heads.DiscreteActionHead,
        heads.GaussianActionHead,
        heads.L1ActionHead,
        heads.MSEActionHead,
        heads.TeleoperationActionHead,
        heads.TokenPerDimActionHead,
        heads.UNetDDPMActionHead,
    )
}
_ENCODERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "SmallStem": (SmallStem, {}),
    "SmallStem16": (SmallStem, {"patch_size": 16}),
    "SmallStem32": (SmallStem, {"patch_size": 32}),
    "PatchEncoder": (PatchEncoder, {}),
    "KeypointStem": (KeypointStem, {}),
}
_SIMPLE = {kind.__name__: kind for kind in (LowdimObsTokenizer, StateTokenizer, WordTokenizer)}
_TOKENIZERS = ("ImageTokenizer", "LanguageTokenizer", *_SIMPLE)
_HARMLESS = {
    "use_token_learner": (False,),
    "num_tokens": None,
    "conditioning_type": ("none",),
    "task_film_keys": ([], ()),
    "use_film": (False,),
    "img_norm_type": ("default",),
    "add_position_embedding": (False,),
}
"""Options of the original that are accepted at these values only (None: any), since they ask for nothing here."""


def build_module(model: ModelSpec, t5: T5Sizes | None = None, *, remat: bool = False) -> OctoModule:
    """The network that `model` (the entry `model` of config.json) describes.

    Args:
        model: the modules by role.
        t5: sizes of the T5 encoder where weights say them; None takes them from the encoder's name.
        remat: compute layers and image encoders again in the backward pass instead of keeping what is inside them.

    Raises:
        UserError: a module or option that is unknown here.
    """
    try:
        trunk = OctoTransformer(
            observation_tokenizers={
                name: _tokenizer(spec, t5, remat) for name, spec in model["observation_tokenizers"].items()
            },
            task_tokenizers={name: _tokenizer(spec, t5) for name, spec in model["task_tokenizers"].items()},
            readouts={name: int(tokens) for name, tokens in model["readouts"].items()},
            transformer_kwargs=TransformerSizes(
                **_checked(dict(model["transformer_kwargs"]), _TRANSFORMER, "the transformer"), remat=remat
            ),
            token_embedding_size=int(model["token_embedding_size"]),
            max_horizon=int(model["max_horizon"]),
            repeat_task_tokens=bool(model["repeat_task_tokens"]),
            use_correct_attention=bool(model["use_correct_attention"]),
        )
        return OctoModule(trunk, {name: _head(head) for name, head in model["heads"].items()})
    except KeyError as error:
        raise UserError(
            f"The model description (config.json, entry 'model') lacks {error}: it is not that of an Octo. Give the "
            "config.json that was saved with the weights."
        ) from error


_TRANSFORMER = ("num_layers", "mlp_dim", "num_attention_heads", "dropout_rate", "attention_dropout_rate")


def _tokenizer(spec: ModuleSpec, t5: T5Sizes | None, remat: bool = False) -> nn.Module:
    name, kwargs = spec["name"], dict(spec["kwargs"])
    _known(name, _TOKENIZERS, "tokenizer")
    if name == "ImageTokenizer":
        return _image_tokenizer(kwargs, remat)
    if name == "LanguageTokenizer":
        encoder = str(kwargs.pop("encoder"))
        sizes = t5 or KNOWN_T5.get(encoder.removeprefix("google-t5/"))
        if sizes is None:
            raise UserError(f"The language encoder '{encoder}' is unknown; allowed are {join_names(KNOWN_T5)}.")
        return LanguageTokenizer(sizes, **_checked(kwargs, ("finetune_encoder", "proper_pad_mask"), name))
    kind = _SIMPLE[name]
    return kind(**_checked(kwargs, _fields(kind), name))


def _image_tokenizer(kwargs: dict[str, Any], remat: bool) -> ImageTokenizer:
    encoder: ModuleSpec = kwargs.pop("encoder")
    _known(encoder["name"], _ENCODERS, "image encoder")
    kind, preset = _ENCODERS[encoder["name"]]
    options = {**preset, **_checked(dict(encoder["kwargs"]), _fields(kind), encoder["name"])}
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    known = ("obs_stack_keys", "task_stack_keys", "proper_pad_mask")
    given = _checked(kwargs, known, "ImageTokenizer")
    return ImageTokenizer(kind, encoder["name"], frozen, remat=remat, **given)


def _head(spec: ModuleSpec) -> heads.ActionHead:
    _known(spec["name"], _HEADS, "action head")
    kind = _HEADS[spec["name"]]
    return kind(**_checked(dict(spec["kwargs"]), _fields(kind), spec["name"]))


def _known(name: str, allowed: Collection[str], role: str) -> None:
    if name not in allowed:
        raise UserError(
            f"The {role} '{name}' of this model cannot be built here: allowed are {join_names(allowed)}"
            f"{did_you_mean(name, allowed)}. Choose a checkpoint, or a model option, that uses one of these."
        )


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in ("parent", "name"))


def _checked(kwargs: dict[str, JSON], allowed: tuple[str, ...], owner: str) -> dict[str, Any]:
    """Keep the options that are known, the arguments of `owner`; one that is not must ask for nothing."""
    kept = {}
    for name, value in kwargs.items():
        if name in allowed:
            kept[name] = value
        elif name not in _HARMLESS or (_HARMLESS[name] is not None and value not in _HARMLESS[name]):
            raise UserError(
                f"{owner} has the option {name}={value!r}, which is not supported here: allowed are "
                f"{join_names(allowed)}"
                f"{did_you_mean(name, allowed)}. Leave it out."
            )
    return kept
