"""Octo's description of a model, as in config.json: made from its options, or read and upgraded to today's form."""

from collections.abc import Collection, Mapping
from typing import NotRequired, TypedDict, cast

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON, JSONObject
from xp.models.octo.options import HeadOptions, LanguageOptions, OctoOptions, StemOptions

TOKEN_PER = ("", "action_horizon", "action_dim_and_action_horizon")
"""What one token of the discrete head answers for: the whole chunk, one step of it, or one number."""
HEADS = {
    "gaussian": ("xp.models.octo.heads", "GaussianActionHead"),
    "teleop": ("octo.model.components.action_heads", "TeleoperationActionHead"),
    "diffusion": ("octo.model.components.action_heads", "DiffusionActionHead"),
    "unet": ("octo.model.components.action_heads", "UNetDDPMActionHead"),
    "discrete": ("octo.model.components.action_heads", "DiscreteActionHead"),
    "l1": ("octo.model.components.action_heads", "L1ActionHead"),
    "mse": ("octo.model.components.action_heads", "MSEActionHead"),
}
HEAD_DEFAULTS: dict[str, JSONObject] = {
    "discrete": {"normalization_type": "normal"},
    "unet": {"max_action": 5.0, "clip_sample": 5.0},
}
"""Where the released classes' defaults (bins over 0..1, actions cut at one deviation) do not fit normalised actions."""
RELEASED_STEM = {"features": [32, 96, 192, 384], "num_groups": 32, "num_features": 512}


class ModuleSpec(TypedDict):
    """One module of the network as Octo stores it: a class by name and its arguments."""

    module: str
    name: str
    args: list[JSON]
    kwargs: dict[str, JSON]


class ModelSpec(TypedDict):
    """The entry `model` of config.json, in the form of today's release."""

    observation_tokenizers: dict[str, ModuleSpec]
    task_tokenizers: dict[str, ModuleSpec]
    heads: dict[str, ModuleSpec]
    readouts: dict[str, int]
    token_embedding_size: int
    transformer_kwargs: dict[str, JSON]
    max_horizon: int
    repeat_task_tokens: bool
    use_correct_attention: bool


class SlotNote(TypedDict):
    """What xp notes of an image slot: the camera that feeds it, and [height, width] in pixels."""

    camera: str | None
    size: list[int]


class Notes(TypedDict, total=False):
    """xp's own notes in config.json, under `xp`; `dataset` is whose statistics were chosen."""

    name: str
    cameras: dict[str, SlotNote]
    tokenizer: str | None
    fps: float
    dataset: str | None
    members: dict[str, dict[str, str]]
    """Of a model trained on a mixture: {dataset: {camera of the mixture: the dataset's own}}."""


class OctoConfig(TypedDict):
    """config.json of an Octo folder, as far as xp reads or writes it."""

    model: ModelSpec
    text_processor: NotRequired[ModuleSpec | None]
    optimizer: NotRequired[JSONObject]
    window_size: NotRequired[int]
    seed: NotRequired[int]
    frame_transform_kwargs: NotRequired[JSONObject]
    xp: NotRequired[Notes]


def module_spec(module: str, name: str, **kwargs: JSON) -> ModuleSpec:
    """One module by name, in the shape Octo stores it; ours carry names of this package."""
    return {"module": module, "name": name, "args": [], "kwargs": kwargs}


def model_spec(
    options: OctoOptions, *, slots: Collection[str], horizon: int, action_dim: int, state_dim: int
) -> ModelSpec:
    """The description of a new model from its options in conf/model (see octo_small.yaml for their meaning)."""
    observations = {name: _image_tokenizer(options.stem, name, options.goal_images) for name in slots}
    if options.proprio and state_dim:
        observations["proprio"] = _state_tokenizer(options.proprio)
    language = _language_tokenizer(options.language)
    return {
        "observation_tokenizers": observations,
        "task_tokenizers": {"language": language} if language else {},
        "heads": {"action": _head(options.head, options.readouts, horizon, action_dim)},
        "readouts": {"action": options.readouts},
        "token_embedding_size": options.embed_dim,
        "transformer_kwargs": {
            "attention_dropout_rate": options.attention_dropout,
            "add_position_embedding": False,
            "num_layers": options.layers,
            "mlp_dim": options.mlp_dim,
            "num_attention_heads": options.num_heads,
            "dropout_rate": options.dropout,
        },
        "max_horizon": options.max_history,
        "repeat_task_tokens": bool(options.repeat_task_tokens),
        "use_correct_attention": options.use_correct_attention is not False,
    }


def _image_tokenizer(stem: StemOptions, slot: str, goal_images: bool) -> ModuleSpec:
    _check_stem(stem)
    given: dict[str, JSON] = {"num_features": stem.tokens_dim}
    if stem.type == "patch":
        encoder = module_spec("octo.model.components.vit_encoders", "PatchEncoder", patch_size=16, **given)
    elif stem.type == "small16":
        given |= {"features": list(stem.features), "num_groups": stem.groups}
        changed = {name: value for name, value in given.items() if value != RELEASED_STEM[name]}
        known = "features" not in changed and "num_groups" not in changed
        home = "octo.model.components.vit_encoders" if known else "xp.models.octo.network.stems"
        encoder = module_spec(home, "SmallStem16", **changed)
    elif stem.type == "keypoints":
        given |= {"features": list(stem.features), "strides": list(stem.strides), "num_groups": stem.groups}
        given |= {"kernel_sizes": list(stem.kernels)} if stem.kernels else {}
        encoder = module_spec("xp.models.octo.network.stems", "KeypointStem", **given)
    else:
        raise UserError(
            f"model.stem.type={stem.type}: allowed are small16, patch and keypoints. Type model.stem.type=small16."
        )
    goals = [f"image_{slot}"] if goal_images else []
    return module_spec(
        "octo.model.components.tokenizers",
        "ImageTokenizer",
        obs_stack_keys=[f"image_{slot}"],
        task_stack_keys=goals,
        encoder={
            "module": encoder["module"],
            "name": encoder["name"],
            "args": encoder["args"],
            "kwargs": encoder["kwargs"],
        },
    )


def _check_stem(stem: StemOptions) -> None:
    """The widths of a convolution stem must be as many as its layers, and its groups must divide them."""
    if stem.type == "patch":
        return
    features, groups = list(stem.features), stem.groups
    layers = len(stem.strides) if stem.type == "keypoints" else 4
    if len(features) != layers or any(width % groups for width in features):
        raise UserError(
            f"model.stem.features={features} with groups={groups}: a {stem.type} stem has {layers} layers here, so "
            f"it takes {layers} widths, each a multiple of model.stem.groups. Type for instance "
            f"model.stem.features={[groups * 4] * layers}."
        )
    if stem.type == "keypoints" and stem.kernels:
        _check_kernels(stem)


def _check_kernels(stem: StemOptions) -> None:
    """A stem takes a kernel for each stride, no smaller than it."""
    alike = len(stem.kernels) == len(stem.strides)
    if not alike or any(size < stride for size, stride in zip(stem.kernels, stem.strides, strict=True)):
        raise UserError(
            f"model.stem.kernels={list(stem.kernels)} with strides={list(stem.strides)}: a stem takes a kernel size "
            f"for each stride, no smaller than it, so that every pixel is seen. Type for instance "
            f"model.stem.kernels={[max(3, stride) for stride in stem.strides]}, or null for 3 each."
        )


def _state_tokenizer(kind: JSON) -> ModuleSpec:
    if kind in (True, "vector"):
        return module_spec("xp.models.octo.network.tokenizers", "StateTokenizer", obs_keys=["proprio"])
    if kind == "numbers":
        return module_spec("octo.model.components.tokenizers", "LowdimObsTokenizer", obs_keys=["proprio"])
    raise UserError(
        f"model.proprio={kind}: allowed are true (or vector: one token for the state), numbers (a token for each of "
        "its numbers, as Octo does) and false. Type model.proprio=true."
    )


def _language_tokenizer(language: LanguageOptions) -> ModuleSpec | None:
    kind = language.encoder
    if kind is None:
        return None
    if kind == "words":
        return module_spec(
            "xp.models.octo.network.tokenizers",
            "WordTokenizer",
            buckets=language.buckets,
            hashes=language.hashes,
            features=language.features,
            max_length=language.max_length,
            trainable=language.trainable,
        )
    if kind == "t5" or kind.startswith("t5-"):
        name = "t5-base" if kind == "t5" else kind
        return module_spec(
            "octo.model.components.tokenizers", "LanguageTokenizer", encoder=name, finetune_encoder=False
        )
    raise UserError(
        f"model.language.encoder={kind}: allowed are words, t5 (t5-base), t5-small, t5-base, t5-large and null"
        f"{did_you_mean(kind, ['words', 't5'])}. Type for instance model.language.encoder=words."
    )


def _head(head: HeadOptions, readouts: int, horizon: int, action_dim: int) -> ModuleSpec:
    kind, pooling = head.type, head.pooling
    if kind not in HEADS:
        raise UserError(
            f"model.head.type={kind}: allowed are {join_names(HEADS)}{did_you_mean(kind, HEADS)}. "
            "Type for instance model.head.type=gaussian."
        )
    if pooling not in ("map", "mean"):
        raise UserError(f"model.head.pooling={pooling}: allowed are map and mean. Type model.head.pooling=map.")
    if horizon < 1:
        raise UserError(f"horizon.train={horizon}: a model predicts at least one action. Type horizon.train=1.")
    base: dict[str, JSON] = {"readout_key": "readout_action", "use_map": pooling == "map"}
    sizes: dict[str, JSON] = {"action_horizon": horizon, "action_dim": action_dim}
    given = {**HEAD_DEFAULTS.get(kind, {}), **head.others}
    if kind == "discrete":
        _check_bins(given, pooling, readouts, horizon, action_dim)
    return module_spec(*HEADS[kind], **base, **sizes, **given)


def _check_bins(given: JSONObject, pooling: str, readouts: int, horizon: int, action_dim: int) -> None:
    """The discrete head's words, and one token for each thing it reads where nothing is pooled."""
    per = given.get("token_per", "action_dim_and_action_horizon")
    for name, value, allowed in (
        ("token_per", per, TOKEN_PER),
        ("normalization_type", given["normalization_type"], ("normal", "uniform")),
    ):
        if value not in allowed:
            quoted = join_names(f"'{word}'" for word in allowed)
            raise UserError(
                f"model.head.{name}='{value}': allowed are {quoted}{did_you_mean(str(value), allowed)}. "
                f"Type model.head.{name}={allowed[-1]}."
            )
    needed = {"": 1, "action_horizon": horizon}.get(str(per), horizon * action_dim)
    if pooling == "mean" and readouts != needed:
        raise UserError(
            f"model.head.pooling=mean: a discrete head without pooling reads one readout for each of its {needed} "
            f"outputs, and model.readouts={readouts}. Type model.head.pooling=map, or model.readouts={needed}."
        )


def upgrade_spec(model: JSONObject) -> ModelSpec:
    """An Octo `config["model"]` of any release in today's form; `open_folder` has checked what is in it.

    Older folders say `pred_horizon`; the first release lacks `use_correct_attention` and `repeat_task_tokens`, and was
    trained without either.
    """
    heads: dict[str, JSON] = {}
    for name, head in _entries(model["heads"]).items():
        kwargs = dict(_entries(_entries(head)["kwargs"]))
        if "pred_horizon" in kwargs:
            kwargs.setdefault("action_horizon", kwargs.pop("pred_horizon"))
        heads[name] = {**_entries(head), "kwargs": kwargs}
    added = {name: False for name in ("use_correct_attention", "repeat_task_tokens") if name not in model}
    return cast(ModelSpec, {**model, **added, "heads": heads})


def _entries(node: JSON) -> JSONObject:
    assert isinstance(node, Mapping)
    return node
