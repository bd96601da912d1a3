"""The options of an Octo: the `model` section, typed. conf/model/octo_tiny.yaml says what each key means."""

from collections.abc import Mapping
from dataclasses import dataclass

from xp.json_types import JSON, JSONObject
from xp.models.section import Section


@dataclass(frozen=True)
class SlotOptions:
    """An image slot: the camera that feeds it (None: chosen by its name) and (height, width) in pixels, unchecked."""

    camera: str | None
    size: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LanguageOptions:
    """How instructions are read; `encoder` is None where they are not."""

    encoder: str | None = None
    tokenizer: str | None = None
    max_length: int = 16
    buckets: int = 512
    hashes: int = 2
    features: int = 64
    trainable: bool = True


@dataclass(frozen=True, kw_only=True)
class StemOptions:
    """The image encoder; `strides` and `kernels` are of a keypoint stem (no kernels: 3 each)."""

    type: str
    tokens_dim: int
    features: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    kernels: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """The action head: its type, how readouts are pooled, and what its class takes besides (nothing that is null)."""

    type: str
    pooling: str = "map"
    others: Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True)
class OctoOptions:
    """The section as a whole. `repeat_task_tokens` and `use_correct_attention`: None is as in the pretrained model."""

    name: str
    slots: Mapping[str, SlotOptions]
    goal_images: bool
    language: LanguageOptions
    proprio: JSON
    stem: StemOptions
    embed_dim: int
    layers: int
    num_heads: int
    mlp_dim: int
    dropout: float
    attention_dropout: float
    readouts: int
    head: HeadOptions
    history: int
    max_history: int
    repeat_task_tokens: bool | None
    use_correct_attention: bool | None
    remat: bool

    @classmethod
    def from_config(cls, model_cfg: JSONObject) -> "OctoOptions":
        """Read the `model` section.

        Raises:
            UserError: a key that is missing, or a value of another type.
        """
        section = Section(model_cfg)
        return cls(
            name=section.text("name") or "octo",
            slots=slot_options(model_cfg),
            goal_images=bool(section.flag("goal_images")),
            language=_language(section.section("language")),
            proprio=section.get("proprio"),
            stem=_stem(section.section("stem")),
            embed_dim=section.integer("embed_dim"),
            layers=section.integer("layers"),
            num_heads=section.integer("num_heads"),
            mlp_dim=section.integer("mlp_dim"),
            dropout=section.number("dropout", 0.0),
            attention_dropout=section.number("attention_dropout", 0.0),
            readouts=section.integer("readouts"),
            head=_head(section.section("head")),
            history=section.integer("history", 1),
            max_history=section.integer("max_history"),
            repeat_task_tokens=section.flag("repeat_task_tokens"),
            use_correct_attention=section.flag("use_correct_attention"),
            remat=bool(section.flag("remat")),
        )


def slot_options(model_cfg: JSONObject) -> dict[str, SlotOptions]:
    """The image slots of the `model` section by name, in its order."""
    slots = Section(model_cfg).section("cameras")
    each = {name: slots.section(name) for name in slots.content}
    return {name: SlotOptions(slot.text("camera") or None, slot.integers("size")) for name, slot in each.items()}


def _language(section: Section) -> LanguageOptions:
    return LanguageOptions(
        encoder=section.text("encoder"),
        tokenizer=section.text("tokenizer"),
        max_length=section.integer("max_length", 16),
        buckets=section.integer("buckets", 512),
        hashes=section.integer("hashes", 2),
        features=section.integer("features", 64),
        trainable=bool(section.flag("trainable")) if "trainable" in section.content else True,
    )


def _stem(section: Section) -> StemOptions:
    return StemOptions(
        type=str(section.get("type")),
        tokens_dim=section.integer("tokens_dim"),
        features=section.integers("features"),
        strides=section.integers("strides"),
        kernels=section.integers("kernels"),
        groups=section.integer("groups", 1),
    )


def _head(section: Section) -> HeadOptions:
    others = {name: value for name, value in section.content.items() if name not in ("type", "pooling")}
    return HeadOptions(
        type=str(section.get("type")),
        pooling=str(section.content.get("pooling", "map")),
        others={name: value for name, value in others.items() if value is not None},
    )
