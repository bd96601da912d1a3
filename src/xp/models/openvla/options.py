"""The options of an OpenVLA: the `model` section, typed. conf/model/openvla_tiny.yaml says what each key means."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON, JSONObject
from xp.models.openvla.action_tokens import BINS
from xp.models.openvla.sizes import LanguageSizes, NetworkSizes, TowerSizes
from xp.models.section import Section

KEYS = (
    "name", "family", "lr_peak", "cameras", "image_size", "patch", "dino", "siglip", "language", "tokenizer",
    "unnorm_key", "chunk_mode", "head", "proprio", "rotation_unit", "lora", "gradient_checkpointing",
)  # fmt: skip
LORA_KEYS = ("r", "alpha", "dropout", "targets", "init", "dora", "base")
ALL_LINEAR = "all-linear"
"""`model.lora.targets`: every linear layer but the language model's head."""
INITS = ("gaussian", "kaiming")
"""How A is drawn: peft's "gaussian" (upstream's), or its default, uniform after Kaiming; B is 0."""
BASES = ("bfloat16", "float32", "nf4", "int8")
"""How the weights of the base are held; the last two quantise the language model's linear layers, see `quantised`."""
_TOWER, _LANGUAGE = ("width", "layers", "heads", "mlp"), ("vocabulary", "width", "layers", "heads", "kv_heads", "mlp")
PADDING = 64
"""Rows of the embedding that no word has: upstream pads the vocabulary by one multiple of 64."""
_LARGEST = 1 << 20
"""The most of anything that is counted here."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The section `model.lora`: which adapter is trained, and how the base below it is held."""

    rank: int = 32
    alpha: float = 16
    """The update counts alpha / rank."""
    dropout: float = 0.0
    targets: str | tuple[str, ...] = ALL_LINEAR
    """Names of layers or their ends, as peft's `target_modules`."""
    init: str = "gaussian"
    is_dora: bool = False
    base: str = "bfloat16"

    @classmethod
    def from_section(cls, section: Section) -> "Adaptation":
        """Read the section.

        Raises:
            UserError: an unknown key, or a value that no adapter has.
        """
        _refuse_others(section.at, section.content, LORA_KEYS)
        given, default = section.get("targets"), cls()
        for name, allowed in (("init", INITS), ("base", BASES)):
            value = section.text(name)
            if value is not None and value not in allowed:
                raise UserError(
                    f"{section.at}.{name}={value}: allowed are {join_names(allowed)}{did_you_mean(value, allowed)}. "
                    f"Type {section.at}.{name}={allowed[0]}"
                )
        numbers = {
            "r": (float(section.integer("r", default.rank)), 1, _LARGEST),
            "alpha": (section.number("alpha", default.alpha), 1e-6, _LARGEST),
            "dropout": (section.number("dropout", default.dropout), 0, 0.99),
        }
        for name, (value, low, high) in numbers.items():
            if not low <= value <= high:
                raise UserError(
                    f"{section.at}.{name}={value:g}: expected {low:g} to {high:g}. Type {section.at}.{name}=VALUE."
                )
        return cls(
            rank=int(numbers["r"][0]),
            alpha=numbers["alpha"][0],
            dropout=numbers["dropout"][0],
            targets=ALL_LINEAR if given is None or given == ALL_LINEAR else _target_words(section.at, given),
            init=section.text("init") or default.init,
            is_dora=bool(section.flag("dora")),
            base=section.text("base") or default.base,
        )


@dataclass(frozen=True, kw_only=True)
class OpenVLAOptions:
    """The section as a whole.

    `unnorm_key`: the name under which the statistics are saved. What cameras there are is told by `cameras_of`. `lora`
    None: all weights are trained.
    """

    name: str
    sizes: NetworkSizes
    tokenizer: str | None
    unnorm_key: str
    chunk_mode: str
    head: str
    proprio: bool
    rotation_unit: float
    lora: Adaptation | None = None
    checkpoints_gradients: bool = False

    @classmethod
    def from_config(cls, model_cfg: JSONObject) -> "OpenVLAOptions":
        """Read the `model` section.

        Raises:
            UserError: an unknown key, one that is missing, or a value that no model has.
        """
        _refuse_others("model", model_cfg, KEYS)
        section = Section(model_cfg)
        _chosen_cameras(model_cfg)
        unit = section.number("rotation_unit", 1.0)
        if not 0 < unit < 1e3:
            raise UserError(
                f"model.rotation_unit={unit:g}: expected the radians that 1 means in the actions' rotations. Type "
                "model.rotation_unit=1"
            )
        return cls(
            name=section.text("name") or "openvla",
            sizes=_sizes(section),
            tokenizer=section.text("tokenizer"),
            unnorm_key=section.text("unnorm_key") or "xp",
            chunk_mode=section.text("chunk_mode") or "autoregressive",
            head=section.text("head") or "token",
            proprio=bool(section.flag("proprio")),
            rotation_unit=unit,
            lora=None if section.get("lora") is None else Adaptation.from_section(section.section("lora")),
            checkpoints_gradients=bool(section.flag("gradient_checkpointing")),
        )


def cameras_of(model_cfg: JSONObject, cameras: Collection[str]) -> tuple[str, ...]:
    """The cameras of a dataset that the model sees, in its order: those that `model.cameras` lists, else the first.

    Raises:
        UserError: the dataset does not have one of them, or has none at all.
    """
    chosen = _chosen_cameras(model_cfg) or tuple(cameras)[:1]
    for name in chosen:
        if name not in cameras:
            raise UserError(
                f"model.cameras=[{','.join(chosen)}]: the dataset has no camera '{name}'{did_you_mean(name, cameras)}. "
                f"It has {join_names(cameras)}. Type for instance model.cameras=[{next(iter(cameras), 'NAME')}]"
            )
    if not chosen:
        raise UserError("An OpenVLA looks at pictures, and the dataset has no camera. Give a dataset with one.")
    return chosen


def image_size(model_cfg: JSONObject) -> tuple[int, int]:
    """(height, width) in pixels that `model.image_size` gives.

    Raises:
        UserError: it gives something else.
    """
    given = Section(model_cfg).integers("image_size")
    if len(given) != 2 or not all(8 <= length <= 4096 for length in given):
        raise UserError(
            f"model.image_size={list(given)}: give [height, width] in pixels, each 8 to 4096 and a multiple of "
            "model.patch. Type for instance model.image_size=[224,224]"
        )
    return given[0], given[1]


def _chosen_cameras(model_cfg: JSONObject) -> tuple[str, ...] | None:
    """The cameras that `model.cameras` lists; None where it is null.

    Raises:
        UserError: something else than a list of different names.
    """
    given = model_cfg.get("cameras")
    if given is None:
        return None
    names = tuple(map(str, given)) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"model.cameras={given}: expected a list of the dataset's cameras, each once, in the order in which the "
            "model sees them. Type for instance model.cameras=[front]"
        )
    return names


def _target_words(at: str, given: JSON) -> tuple[str, ...]:
    words = tuple(map(str, given)) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not words or len(set(words)) < len(words):
        raise UserError(
            f"{at}.targets={given}: expected {ALL_LINEAR}, or a list of names of layers, each once. Type "
            f"{at}.targets={ALL_LINEAR}"
        )
    return words


def _sizes(section: Section) -> NetworkSizes:
    language = section.section("language")
    _refuse_others(language.at, language.content, _LANGUAGE)
    vocabulary = _count(language, "vocabulary")
    if vocabulary < BINS + PADDING:
        raise UserError(
            f"model.language.vocabulary={vocabulary}: expected at least {BINS + PADDING}, the {BINS} ids of actions "
            f"and {PADDING} of padding among them. Type model.language.vocabulary=1024"
        )
    return NetworkSizes(
        image=image_size(section.content),
        patch=_count(section, "patch"),
        dino=_tower(section.section("dino")),
        siglip=_tower(section.section("siglip")),
        language=LanguageSizes(
            vocabulary=vocabulary,
            width=_count(language, "width"),
            layers=_count(language, "layers"),
            heads=_count(language, "heads"),
            kv_heads=None if language.get("kv_heads") is None else _count(language, "kv_heads"),
            mlp=_count(language, "mlp"),
        ),
    )


def _tower(section: Section) -> TowerSizes:
    _refuse_others(section.at, section.content, _TOWER)
    layers = _count(section, "layers")
    if layers < 2:
        raise UserError(
            f"{section.at}.layers={layers}: features are those of the layer before the last. Type {section.at}.layers=2"
        )
    return TowerSizes(
        width=_count(section, "width"), layers=layers, heads=_count(section, "heads"), mlp=_count(section, "mlp")
    )


def _count(section: Section, name: str) -> int:
    value = section.integer(name)
    if not 1 <= value <= _LARGEST:
        raise UserError(f"{section.at}.{name}={value}: expected 1 to {_LARGEST:,}. Type {section.at}.{name}=VALUE.")
    return value


def _refuse_others(at: str, content: Mapping[str, JSON], allowed: Sequence[str]) -> None:
    for key in content:
        if key not in allowed:
            raise UserError(
                f"{at}.{key}: an OpenVLA has no such option{did_you_mean(str(key), allowed)}. There are "
                f"{join_names(allowed)}."
            )
