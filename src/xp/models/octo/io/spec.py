"""Octo's model description: a dict of ModuleSpecs, as in config.json. Made from conf/model, or read and mended."""

from collections.abc import Mapping
from typing import Any

from xp.errors import UserError, did_you_mean, join_names

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
HEAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "discrete": {"normalization_type": "normal"},
    "unet": {"max_action": 5.0, "clip_sample": 5.0},
}
"""Where the released classes' defaults (bins over 0..1, actions cut at one deviation) do not fit normalised actions."""
RELEASED_STEM = {"features": [32, 96, 192, 384], "num_groups": 32, "num_features": 512}


def module_spec(module: str, name: str, **kwargs: Any) -> dict[str, Any]:
    """One module by name, in the shape Octo stores it; ours carry names of this package."""
    return {"module": module, "name": name, "args": [], "kwargs": kwargs}


def model_spec(
    model_cfg: Mapping[str, Any],
    *,
    slots: Mapping[str, Any],
    horizon: int,
    action_dim: int,
    state_dim: int,
) -> dict[str, Any]:
    """The description of a new model from its options in conf/model (see octo_small.yaml for their meaning)."""
    observations = {name: _image_tokenizer(model_cfg, name) for name in slots}
    if model_cfg.get("proprio") and state_dim:
        observations["proprio"] = _state_tokenizer(model_cfg["proprio"])
    language = _language_tokenizer(model_cfg)
    return {
        "observation_tokenizers": observations,
        "task_tokenizers": {"language": language} if language else {},
        "heads": {"action": _head(model_cfg, horizon, action_dim)},
        "readouts": {"action": int(model_cfg["readouts"])},
        "token_embedding_size": int(model_cfg["embed_dim"]),
        "transformer_kwargs": {
            "attention_dropout_rate": float(model_cfg.get("attention_dropout", 0.0)),
            "add_position_embedding": False,
            "num_layers": int(model_cfg["layers"]),
            "mlp_dim": int(model_cfg["mlp_dim"]),
            "num_attention_heads": int(model_cfg["num_heads"]),
            "dropout_rate": float(model_cfg.get("dropout", 0.0)),
        },
        "max_horizon": int(model_cfg["max_history"]),
        "repeat_task_tokens": bool(model_cfg.get("repeat_task_tokens") or False),
        "use_correct_attention": model_cfg.get("use_correct_attention") is not False,
    }


def _image_tokenizer(model_cfg: Mapping[str, Any], slot: str) -> dict[str, Any]:
    stem = model_cfg["stem"]
    _check_stem(stem)
    given: dict[str, Any] = {"num_features": int(stem["tokens_dim"])}
    if stem["type"] == "patch":
        encoder = module_spec("octo.model.components.vit_encoders", "PatchEncoder", patch_size=16, **given)
    elif stem["type"] == "small16":
        given["features"] = [int(width) for width in stem["features"]]
        given["num_groups"] = int(stem["groups"])
        changed = {name: value for name, value in given.items() if value != RELEASED_STEM[name]}
        known = "features" not in changed and "num_groups" not in changed
        home = "octo.model.components.vit_encoders" if known else "xp.models.octo.network.stems"
        encoder = module_spec(home, "SmallStem16", **changed)
    elif stem["type"] == "keypoints":
        given["features"] = [int(width) for width in stem["features"]]
        strides = [int(stride) for stride in stem["strides"]]
        encoder = module_spec(
            "xp.models.octo.network.stems", "KeypointStem", strides=strides, num_groups=int(stem["groups"]), **given
        )
    else:
        raise UserError(
            f"model.stem.type={stem['type']}: allowed are small16, patch and keypoints. Type model.stem.type=small16."
        )
    goals = [f"image_{slot}"] if model_cfg.get("goal_images") else []
    return module_spec(
        "octo.model.components.tokenizers",
        "ImageTokenizer",
        obs_stack_keys=[f"image_{slot}"],
        task_stack_keys=goals,
        encoder=encoder,
    )


def _check_stem(stem: Mapping[str, Any]) -> None:
    """The widths of a convolution stem must be as many as its layers, and its groups must divide them."""
    if stem["type"] == "patch":
        return
    features, groups = list(stem.get("features") or []), int(stem.get("groups") or 1)
    layers = len(stem.get("strides") or []) if stem["type"] == "keypoints" else 4
    if len(features) != layers or any(width % groups for width in features):
        raise UserError(
            f"model.stem.features={features} with groups={groups}: a {stem['type']} stem has {layers} layers here, so "
            f"it takes {layers} widths, each a multiple of model.stem.groups. Type for instance "
            f"model.stem.features={[groups * 4] * layers}."
        )


def _state_tokenizer(kind: Any) -> dict[str, Any]:
    if kind in (True, "vector"):
        return module_spec("xp.models.octo.network.tokenizers", "StateTokenizer", obs_keys=["proprio"])
    if kind == "numbers":
        return module_spec("octo.model.components.tokenizers", "LowdimObsTokenizer", obs_keys=["proprio"])
    raise UserError(
        f"model.proprio={kind}: allowed are true (or vector: one token for the state), numbers (a token for each of "
        "its numbers, as Octo does) and false. Type model.proprio=true."
    )


def _language_tokenizer(model_cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    language = model_cfg.get("language") or {}
    kind = language.get("encoder")
    if kind is None:
        return None
    if kind == "words":
        return module_spec(
            "xp.models.octo.network.tokenizers",
            "WordTokenizer",
            buckets=int(language.get("buckets", 512)),
            hashes=int(language.get("hashes", 2)),
            features=int(language.get("features", 64)),
            max_length=int(language["max_length"]),
            trainable=bool(language.get("trainable", True)),
        )
    if kind == "t5" or str(kind).startswith("t5-"):
        name = "t5-base" if kind == "t5" else str(kind)
        return module_spec(
            "octo.model.components.tokenizers", "LanguageTokenizer", encoder=name, finetune_encoder=False
        )
    raise UserError(
        f"model.language.encoder={kind}: allowed are words, t5 (t5-base), t5-small, t5-base, t5-large and null"
        f"{did_you_mean(str(kind), ['words', 't5'])}. Type for instance model.language.encoder=words."
    )


def _head(model_cfg: Mapping[str, Any], horizon: int, action_dim: int) -> dict[str, Any]:
    options = dict(model_cfg["head"])
    kind, pooling = str(options.pop("type")), options.pop("pooling", "map")
    if kind not in HEADS:
        raise UserError(
            f"model.head.type={kind}: allowed are {join_names(HEADS)}{did_you_mean(kind, HEADS)}. "
            "Type for instance model.head.type=gaussian."
        )
    if pooling not in ("map", "mean"):
        raise UserError(f"model.head.pooling={pooling}: allowed are map and mean. Type model.head.pooling=map.")
    if horizon < 1:
        raise UserError(f"horizon.train={horizon}: a model predicts at least one action. Type horizon.train=1.")
    base = {"readout_key": "readout_action", "use_map": pooling == "map"}
    sizes = {"action_horizon": horizon, "action_dim": action_dim}
    given = {name: value for name, value in options.items() if value is not None}
    given = {**HEAD_DEFAULTS.get(kind, {}), **given}
    if kind == "discrete":
        _check_bins(given, pooling, int(model_cfg["readouts"]), horizon, action_dim)
    return module_spec(*HEADS[kind], **base, **sizes, **given)


def _check_bins(given: Mapping[str, Any], pooling: str, readouts: int, horizon: int, action_dim: int) -> None:
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
    needed = {"": 1, "action_horizon": horizon}.get(per, horizon * action_dim)
    if pooling == "mean" and readouts != needed:
        raise UserError(
            f"model.head.pooling=mean: a discrete head without pooling reads one readout for each of its {needed} "
            f"outputs, and model.readouts={readouts}. Type model.head.pooling=map, or model.readouts={needed}."
        )


def mended_spec(model: Mapping[str, Any]) -> dict[str, Any]:
    """An Octo `config["model"]` of any release in today's form.

    Older folders say `pred_horizon`; the first release lacks `use_correct_attention` and `repeat_task_tokens`, and was
    trained without either.
    """
    mended = {**model, "heads": {}}
    for name, head in model["heads"].items():
        kwargs = dict(head["kwargs"])
        if "pred_horizon" in kwargs:
            kwargs.setdefault("action_horizon", kwargs.pop("pred_horizon"))
        mended["heads"][name] = {**head, "kwargs": kwargs}
    mended.setdefault("use_correct_attention", False)
    mended.setdefault("repeat_task_tokens", False)
    return mended
