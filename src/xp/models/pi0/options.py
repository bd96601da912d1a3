"""The options of a pi0: the `model` section, typed. conf/model/pi05.yaml says what each key means."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSONObject
from xp.models.pi0.network.sizes import EXPERTS, VISIONS, Sizes
from xp.models.section import Section

KEYS = (
    "name", "family", "lr_peak", "variant", "cameras", "tokenizer", "prompt_length", "vision", "language", "action",
    "vocabulary", "action_dim", "sample_steps", "count_filled_dims", "asset_id", "remat", "dtype", "max_delay",
)  # fmt: skip
VARIANTS = ("pi05", "pi0")
DTYPES = ("float32", "bfloat16")
_LONGEST_PROMPT, _MOST_STEPS = 4096, 1000


@dataclass(frozen=True, kw_only=True)
class Pi0Options:
    """The section as a whole."""

    is_pi05: bool
    cameras: Mapping[str, str | None]
    """{image input: the camera that feeds it}; None is chosen by its name."""
    tokenizer: str | None
    prompt_length: int
    vision: str
    language: str
    action: str
    vocabulary: int
    action_dim: int
    sample_steps: int
    count_filled_dims: bool
    asset_id: str
    remat: bool
    dtype: str | None
    max_delay: int

    @classmethod
    def from_config(cls, model_cfg: JSONObject) -> "Pi0Options":
        """Read the `model` section.

        Raises:
            UserError: an unknown key, or a value of another type or out of its bounds.
        """
        for key in model_cfg:
            if key not in KEYS:
                raise UserError(
                    f"model.{key}: the family pi0 has no such option{did_you_mean(str(key), KEYS)}. Its options: "
                    f"{join_names(KEYS[3:])}"
                )
        section = Section(model_cfg)
        return cls(
            is_pi05=_among(section, "variant", VARIANTS) == "pi05",
            cameras=camera_options(model_cfg),
            tokenizer=section.text("tokenizer"),
            prompt_length=_bounded(section, "prompt_length", 1, _LONGEST_PROMPT),
            vision=_among(section, "vision", tuple(VISIONS)),
            language=_among(section, "language", tuple(EXPERTS)),
            action=_among(section, "action", tuple(EXPERTS)),
            vocabulary=_bounded(section, "vocabulary", 1, 10_000_000),
            action_dim=_bounded(section, "action_dim", 1, 4096),
            sample_steps=_bounded(section, "sample_steps", 1, _MOST_STEPS),
            count_filled_dims=bool(section.flag("count_filled_dims")),
            asset_id=section.text("asset_id") or "xp",
            remat=bool(section.flag("remat")),
            dtype=None if section.get("dtype") is None else _among(section, "dtype", DTYPES),
            max_delay=_bounded(section, "max_delay", 0, 4095),
        )

    def sizes(self) -> Sizes:
        """Of a model that is made from nothing.

        Raises:
            UserError: experts that cannot attend to each other.
        """
        language, action = EXPERTS[self.language], EXPERTS[self.action]
        if (language.depth, language.heads, language.head_dim) != (action.depth, action.heads, action.head_dim):
            raise UserError(
                f"model.language={self.language} and model.action={self.action}: the two attend to each other layer by "
                "layer, so they need as many layers and the same heads. Type for instance model.language=gemma_2b "
                "model.action=gemma_300m, or dummy for both."
            )
        return Sizes(
            vision=VISIONS[self.vision],
            language=language,
            action=action,
            vocabulary=self.vocabulary,
            action_dim=self.action_dim,
            is_pi05=self.is_pi05,
        )

    def with_updates(self, sizes: Sizes) -> Sizes:
        """The sizes of pretrained weights with the low-rank updates that are asked for, or without any."""
        ranks = {name: EXPERTS[getattr(self, name)].lora_rank for name in ("language", "action")}
        return replace(
            sizes,
            language=replace(sizes.language, lora_rank=ranks["language"]),
            action=replace(sizes.action, lora_rank=ranks["action"]),
        )


def camera_options(model_cfg: JSONObject) -> dict[str, str | None]:
    """`model.cameras`: {image input: camera, or None}."""
    section = Section(model_cfg).section("cameras")
    return {name: section.text(name) for name in section.content}


def _among(section: Section, name: str, allowed: tuple[str, ...]) -> str:
    value = section.text(name)
    if value not in allowed:
        raise UserError(
            f"model.{name}={value}: allowed are {join_names(allowed)}{did_you_mean(str(value), allowed)}. Type for "
            f"instance model.{name}={allowed[0]}"
        )
    return value


def _bounded(section: Section, name: str, low: int, high: int) -> int:
    value = section.integer(name)
    if not low <= value <= high:
        raise UserError(
            f"model.{name}={value}: expected a whole number from {low} to {high:,}. Type model.{name}={low}"
        )
    return value
