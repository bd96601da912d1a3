"""What a Vintix model is made of: its options, by the names of the original's config.json. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from xp.config.method_options import Choice, Number, Option
from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.json_file import Fields
from xp.json_types import JSON, JSONObject

UPSTREAM, FORK = "upstream", "fork"
ORIGINS = {UPSTREAM: ("observation", "action", "reward"), FORK: ("action", "reward", "observation")}
"""The order in which a token is put together from its three parts, by the code that a checkpoint comes from:
dunnolab/vintix, and its quadruped fork. Nothing in a folder of theirs tells them apart."""


@dataclass(frozen=True, kw_only=True)
class VintixOptions:
    """Sizes and choices of the network; the names are those of the original's configuration."""

    context_len: int
    """Tokens (steps) that are attended to."""
    observation_emb_dim: int
    action_emb_dim: int
    reward_emb_dim: int
    transformer_depth: int
    transformer_heads: int
    intermediate_size: int
    attn_dropout: float = 0.0
    residual_dropout: float = 0.0
    normalize_qk: bool = True
    bias: bool = True
    parallel_residual: bool = False
    shared_attention_norm: bool = False
    norm_class: str = "LayerNorm"
    mlp_class: str = "GptNeoxMLP"
    inner_ep_pos_enc: bool = False
    """An embedding of the step's number in its attempt, added to the token."""
    norm_obs: bool = True
    norm_acs: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        if self.hidden_dim % self.transformer_heads:
            raise UserError(
                f"model.transformer_heads={self.transformer_heads} does not divide the token's width {self.hidden_dim} "
                "(observation_emb_dim + action_emb_dim + reward_emb_dim). Type model.transformer_heads=4, or other "
                "widths."
            )
        if self.shared_attention_norm and not self.parallel_residual:
            raise UserError(
                "model.shared_attention_norm=true needs model.parallel_residual=true: attention and MLP share a norm "
                "only where both read the same input. Type model.parallel_residual=true, or "
                "model.shared_attention_norm=false"
            )

    @property
    def hidden_dim(self) -> int:
        """Width of a token."""
        return self.observation_emb_dim + self.action_emb_dim + self.reward_emb_dim

    def config(self) -> dict[str, JSON]:
        """As config.json has them."""
        return {**asdict(self), "hidden_dim": self.hidden_dim}


_OPTIONS: Mapping[str, Option] = {
    "context_len": Number(64, low=1, high=1 << 20, whole=True),
    "observation_emb_dim": Number(63, low=1, high=1 << 16, whole=True),
    "action_emb_dim": Number(63, low=1, high=1 << 16, whole=True),
    "reward_emb_dim": Number(2, low=1, high=1 << 16, whole=True),
    "transformer_depth": Number(2, low=1, high=1000, whole=True),
    "transformer_heads": Number(4, low=1, high=1024, whole=True),
    "intermediate_size": Number(256, low=1, high=1 << 20, whole=True),
    "attn_dropout": Number(0.0, low=0, high=0.99),
    "residual_dropout": Number(0.0, low=0, high=0.99),
    "normalize_qk": Choice(True),
    "bias": Choice(True),
    "parallel_residual": Choice(False),
    "shared_attention_norm": Choice(False),
    "norm_class": Choice("LayerNorm", allowed=("LayerNorm", "RMSNorm")),
    "mlp_class": Choice("GptNeoxMLP", allowed=("GptNeoxMLP", "LLaMAMLP")),
    "inner_ep_pos_enc": Choice(False),
    "norm_obs": Choice(True),
    "norm_acs": Choice(False),
}
_ORIGIN = "origin"
_BESIDE: Mapping[str, Option] = {
    "loss_reduction": Choice("mean", allowed=("mean", "sum")),
    _ORIGIN: Choice(UPSTREAM, allowed=tuple(ORIGINS)),
    "pretrained_origin": Choice(UPSTREAM, allowed=tuple(ORIGINS)),
}
_COMMON = ("name", "family", "lr_peak")


@dataclass(frozen=True)
class ModelSection:
    """The `model` section of a Vintix model."""

    options: VintixOptions
    given: frozenset[str]
    """Names of the network's options that are not left to a pretrained model."""
    origin: str | None
    """Whose order of a token's parts the model has; None: not said."""
    pretrained_origin: str | None
    """What the user says of a `pretrained_path` that does not tell."""
    sums_losses: bool
    """The objective is the sum over the batch's trajectories, as in the original's code, not their mean."""


def read_section(model_cfg: JSONObject) -> ModelSection:
    """The checked `model` section.

    Raises:
        UserError: an unknown key, or a value that does not fit.
    """
    own = {**_OPTIONS, **_BESIDE}
    for key in model_cfg:
        if key not in (*_COMMON, *own):
            raise UserError(
                f"model.{key}: the family vintix has no such option{did_you_mean(str(key), own)}. Its options: "
                f"{join_names(own)}"
            )
    given = {
        key: option.check(f"model.{key}", model_cfg[key], 1)
        for key, option in own.items()
        if model_cfg.get(key) is not None
    }
    values = {key: given.get(key, option.default) for key, option in _OPTIONS.items()}
    origin, pretrained = (None if key not in given else str(given[key]) for key in (_ORIGIN, "pretrained_origin"))
    return ModelSection(
        options=VintixOptions(**values),  # pyright: ignore[reportArgumentType] - checked one by one
        given=frozenset(given) & frozenset(_OPTIONS),
        origin=origin,
        pretrained_origin=pretrained,
        sums_losses=given.get("loss_reduction") == "sum",
    )


def options_of_config(config: Fields) -> VintixOptions:
    """The options of a folder's config.json, each checked; keys that do not say what the network is are passed over.

    Raises:
        UserError: a field is missing or of another kind, or the widths do not fit.
    """
    found: dict[str, JSON] = {}
    for name, option in _OPTIONS.items():
        if isinstance(option, Number):
            read = config.integer if option.whole else config.number
            found[name] = read(name, low=option.low or 0, high=option.high or 0)
        elif isinstance(option, Choice) and isinstance(option.default, bool):
            found[name] = config.flag(name)
        elif isinstance(option, Choice):
            found[name] = config.text(name, among=map(str, option.allowed))
    try:
        options = VintixOptions(**found)  # pyright: ignore[reportArgumentType] - checked one by one above
    except UserError as error:
        raise UserError(f"{config.source}: {error}") from error
    if config.integer("hidden_dim", options.hidden_dim) != options.hidden_dim:
        raise config.refusal("hidden_dim", f"{options.hidden_dim}, the sum of the three widths of embeddings")
    return options
