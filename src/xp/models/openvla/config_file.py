"""config.json of an OpenVLA and the files that follow from it: which network it describes. Imports nothing heavy.

A folder is data: code that it brings (`*.py`, `auto_map`) is never run. Every field of config.json is honoured, known
to be without effect here, or refused by its name.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xp.checkpoints.open import PICKLES
from xp.checkpoints.peft_adapter import is_adapter
from xp.checkpoints.safetensors import INDEX, MODEL
from xp.errors import UserError, join_names, some
from xp.foreign.json_file import Fields, read_object
from xp.foreign.paths import RefusedError
from xp.foreign.text import printable
from xp.json_types import JSON, JSONObject
from xp.models.openvla.action_tokens import BINS
from xp.models.openvla.options import PADDING
from xp.models.openvla.sizes import DINO, SIGLIP, LanguageSizes, NetworkSizes, Shapes, TowerSizes, tower_of

CONFIG, GENERATION, PREPROCESSOR = "config.json", "generation_config.json", "preprocessor_config.json"
COMPONENT = re.compile(r"(?P<part>[a-z][a-z_]*)--(?P<step>[0-9]{1,18}|latest)_checkpoint\.pt")
"""Files in which OpenVLA-OFT keeps a part of a model beside the weights; see `oft`."""
ADAPTER_FOLDER = "lora_adapter"
"""Where OpenVLA-OFT keeps the adapter of a model that is not merged yet."""
MODEL_TYPE, ARCHITECTURE = "openvla", "OpenVLAForActionPrediction"
WHAT = "an OpenVLA's configuration"
_MOST = 1_000_000
TIMM = ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224")
"""timm's names of the towers, as config.json has them."""
KNOWN = (
    TowerSizes(width=1024, layers=24, heads=16, mlp=4096),
    TowerSizes(width=1152, layers=27, heads=16, mlp=4304),
)
"""Their published sizes."""
_FIXED: Mapping[str, JSON] = {
    "model_type": MODEL_TYPE,
    "arch_specifier": "no-align+fused-gelu-mlp",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "timm_model_ids": list(TIMM),
    "timm_override_act_layers": [None, None],
    "use_fused_vision_backbone": True,
    "image_resize_strategy": "resize-naive",
    "output_projector_states": False,
    "llm_backbone_id": "llama2-7b-pure",
    "n_action_bins": BINS,
}
"""Fields of config.json that describe the one network that there is here."""
_WITHOUT_EFFECT = (
    "architectures", "auto_map", "hf_llm_id", "llm_max_length", "torch_dtype", "dtype", "transformers_version",
    "return_dict", "_name_or_path", "image_sizes", "pad_to_multiple_of", "pad_token_id", "text_config", "norm_stats",
)  # fmt: skip
"""Fields that are read elsewhere, or say nothing about what the network computes."""
_TEXT_WITHOUT_EFFECT = (
    "model_type", "pad_token_id", "torch_dtype", "dtype", "bos_token_id", "eos_token_id", "use_cache", "_name_or_path",
    "initializer_range", "pretraining_tp", "transformers_version", "architectures", "attention_dropout", "return_dict",
)  # fmt: skip
_TEXT_FIXED: Mapping[str, JSON] = {
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
}  # fmt: skip


def is_openvla(folder: Path) -> bool:
    """Whether a folder's config.json names an OpenVLA; one that cannot be read names nothing."""
    if not os.path.lexists(folder / CONFIG):
        return False
    try:
        content = read_object(folder / CONFIG, WHAT)
    except RefusedError:
        return False
    names = content.get("architectures")
    return content.get("model_type") == MODEL_TYPE or (isinstance(names, list) and ARCHITECTURE in names)


def own_code(folder: Path) -> list[str]:
    """What a folder brings to be run, which is not: Python files, and the classes that config.json names."""
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".py"))
    has_classes = os.path.lexists(folder / CONFIG) and "auto_map" in read_object(folder / CONFIG, WHAT)
    return files or (["auto_map in config.json"] if has_classes else [])


def warn_text(folder: Path, code: Sequence[str]) -> str:
    """What is said of a folder that brings code."""
    return (
        f"{printable(folder)} brings code of its own ({printable(join_names(code))}). It is not run: the network is "
        "xp's own, the weights are data."
    )


def has_weights(folder: Path) -> bool:
    """Whether a folder has safetensors, whole or listed by an index."""
    return any(os.path.lexists(folder / name) for name in (MODEL, INDEX))


def is_unmerged(folder: Path) -> bool:
    """Whether a folder is that of an OpenVLA-OFT of which an adapter alone was saved, its base being elsewhere."""
    is_alone = not has_weights(folder) and is_adapter(folder / ADAPTER_FOLDER)
    return is_alone and any(COMPONENT.fullmatch(entry.name) for entry in folder.iterdir())


def without_weights(folder: Path) -> str:
    """What is said of a folder that has no safetensors."""
    names = sorted(entry.name for entry in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES) and not COMPONENT.fullmatch(name)]
    if pickles:
        return (
            f"{folder} has its weights as pickle files ({printable(some(pickles, 4), 400)}), which can run code when "
            "they are read: they are not opened. Save them as safetensors where you trust them: "
            "save_pretrained(FOLDER, safe_serialization=True)"
        )
    return f"{folder} has {CONFIG} of an OpenVLA and no weights: {MODEL} or {INDEX} with its shards. Copy them too."


def read_sizes(folder: Path, config: Fields, shapes: Shapes, heads: tuple[int, int] | None) -> NetworkSizes:
    """The sizes of the network that a folder holds, its config.json checked field by field.

    Args:
        folder: for messages.
        config: config.json.
        shapes: of the weights, which say the sizes that config.json leaves out.
        heads: attention heads of the towers; None: the published ones, where the sizes are.

    Raises:
        UserError: a field that is not honoured here, or weights that are no OpenVLA's.
    """
    _refuse_other_fields(config)
    towers = _towers(folder, shapes, heads)
    height, width = config.integers("image_sizes", count=2, low=1, high=1 << 14)
    language = _language(config.object("text_config"))
    last = f"language_model.model.layers.{language.layers - 1}.mlp.up_proj.weight"
    if language.layers > len(shapes) or last not in shapes:
        raise config.object("text_config").refusal("num_hidden_layers", "as many layers as there are weights of")
    return NetworkSizes(
        image=(height, width), patch=_patch(folder, shapes), dino=towers[0], siglip=towers[1], language=language
    )


def new_config(sizes: NetworkSizes, *, dtype: str) -> dict[str, JSON]:
    """config.json of a new model, with the fields of published ones; norm_stats is added in writing."""
    language, default = sizes.language, LanguageSizes()
    text: dict[str, JSON] = {"model_type": "llama", "vocab_size": language.vocabulary, "torch_dtype": dtype}
    text["pad_token_id"] = language.vocabulary - PADDING
    if language != default:
        text |= {
            "hidden_size": language.width,
            "intermediate_size": language.mlp,
            "num_hidden_layers": language.layers,
            "num_attention_heads": language.heads,
            "num_key_value_heads": language.kv_heads or language.heads,
        }
    own = {"rms_norm_eps": "norm_eps", "rope_theta": "rope_theta", "max_position_embeddings": "positions"}
    values = {word: getattr(language, name) for word, name in own.items()}
    text |= {word: value for word, value in values.items() if value != getattr(default, own[word])}
    return {
        **_FIXED,
        "architectures": [ARCHITECTURE],
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "image_sizes": list(sizes.image),
        "llm_max_length": default.positions,
        "pad_to_multiple_of": PADDING,
        "pad_token_id": language.vocabulary - PADDING,
        "text_config": text,
        "torch_dtype": dtype,
        "transformers_version": "4.40.1",  # whose layout this is
    }


def _refuse_other_fields(config: Fields) -> None:
    for name, value in config.content.items():
        if name in _FIXED:
            _refuse_unless(config, name, value, _FIXED[name])
        elif name not in _WITHOUT_EFFECT and value not in (None, False, [], {}):
            raise config.refusal(name, f"no such field, or one of {', '.join((*_FIXED, *_WITHOUT_EFFECT))}")


def _refuse_unless(fields: Fields, name: str, value: JSON, wanted: JSON) -> None:
    if value is not None and value != wanted:
        raise fields.refusal(name, f"{wanted}, the only one that xp's OpenVLA has")


def _language(text: Fields) -> LanguageSizes:
    """A Llama's sizes: what is left out is what LlamaConfig has by default."""
    default = LanguageSizes()
    read = {
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "intermediate_size", "rms_norm_eps", "rope_theta", "max_position_embeddings", "rope_scaling", "rope_parameters",
    }  # fmt: skip
    for name, value in text.content.items():
        if name in _TEXT_FIXED:
            _refuse_unless(text, name, value, _TEXT_FIXED[name])
        elif name not in (*read, *_TEXT_WITHOUT_EFFECT) and value not in (None, False, [], {}):
            raise text.refusal(name, "a field of Llama's configuration that xp's OpenVLA honours")
    width = text.integer("hidden_size", default.width, low=1, high=_MOST)
    heads = text.integer("num_attention_heads", default.heads, low=1, high=_MOST)
    _refuse_unless(text, "rope_scaling", text.content.get("rope_scaling"), None)
    _refuse_unless(text, "head_dim", text.content.get("head_dim"), width // heads)
    theta = text.number("rope_theta", default.rope_theta, low=1, high=1e9)
    if "rope_parameters" in text:
        rope = text.object("rope_parameters")
        rope.text("rope_type", "default", among=("default",))
        theta = rope.number("rope_theta", theta, low=1, high=1e9)
    return LanguageSizes(
        vocabulary=text.integer("vocab_size", 32000, low=BINS, high=_MOST),
        width=width,
        layers=text.integer("num_hidden_layers", default.layers, low=1, high=10_000),
        heads=heads,
        kv_heads=text.integer("num_key_value_heads", None, low=1, high=_MOST),
        mlp=text.integer("intermediate_size", default.mlp, low=1, high=_MOST),
        norm_eps=text.number("rms_norm_eps", default.norm_eps, low=0, high=1),
        rope_theta=theta,
        positions=text.integer("max_position_embeddings", default.positions, low=1, high=_MOST),
    )


def _towers(folder: Path, shapes: Shapes, heads: tuple[int, int] | None) -> list[TowerSizes]:
    found = []
    for number, prefix in enumerate((DINO, SIGLIP)):
        try:
            tower = tower_of(shapes, prefix, heads[number] if heads else KNOWN[number].heads)
        except (KeyError, IndexError) as error:
            raise UserError(
                f"{folder} has no weights of a vision tower under {prefix}: it is no OpenVLA with the towers "
                f"{join_names(TIMM)}. Take the folder again from where it was trained."
            ) from error
        if not 2 <= tower.layers <= len(shapes):
            raise UserError(
                f"{folder} has weights of {tower.layers} layers of {prefix.rstrip('.')} by their names, and "
                f"{len(shapes)} weights in all: it is damaged. Take the folder again from where it was trained."
            )
        if heads is None and tower != KNOWN[number]:
            raise UserError(
                f"The vision tower {prefix.rstrip('.')} of {folder} has {tower.layers} layers of width {tower.width}, "
                f"not those of {TIMM[number]}, and nothing in the folder says how many attention heads it has. Say it "
                "of both towers: tower_heads=4,4 (in Python: load_policy(path, tower_heads='4,4'))"
            )
        found.append(tower)
    return found


def _patch(folder: Path, shapes: Shapes) -> int:
    shape = shapes.get(f"{DINO}patch_embed.proj.weight", ())
    if len(shape) != 4 or shape[2] != shape[3] or shape[2] < 1:
        raise UserError(f"{folder}: {DINO}patch_embed.proj.weight has the shape {list(shape)}. Take it again.")
    return shape[2]


def generation_config(config: JSONObject) -> dict[str, JSON]:
    """generation_config.json as the original writes it beside such a config.json."""
    return {
        "_from_model_config": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": config.get("pad_token_id"),
        "transformers_version": config.get("transformers_version"),
    }


def preprocessor_config(sizes: NetworkSizes) -> dict[str, JSON]:
    """preprocessor_config.json as `PrismaticImageProcessor` of the original writes it for two towers."""
    size = list(sizes.image)
    means, stds = [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]], [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]]
    normalise = [
        {"inplace": False, "mean": _as_float32(mean), "std": _as_float32(std)} for mean, std in zip(means, stds)
    ]
    resize = {"antialias": True, "interpolation": 3, "max_size": None, "size": size}
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, *size]] * 2,
        "interpolations": ["bicubic"] * 2,
        "means": means,
        "stds": stds,
        "tvf_crop_params": [{"output_size": size}] * 2,
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        "tvf_normalize_params": normalise,
        "tvf_resize_params": [resize] * 2,
        "use_fused_vision_backbone": True,
    }


def _as_float32(numbers: Sequence[float]) -> list[float]:
    """As the original writes what was a tensor."""
    return [float(np.float32(number)) for number in numbers]
