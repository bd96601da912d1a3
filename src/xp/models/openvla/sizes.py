"""The sizes of an OpenVLA's parts, as numbers: what a network is made of. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from xp.errors import UserError

type Shapes = Mapping[str, tuple[int, ...]]
"""{weight: shape}."""

DINO, SIGLIP = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
"""Where the two towers stand among the weights."""
REGISTERS = 4
"""Register tokens of the DINOv2 tower (Darcet et al., "Vision Transformers Need Registers", 2023)."""
FINAL_LAYERS = 1
"""Layers at a tower's end whose outputs nothing reads: features are those of the layer before the last."""


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """A vision transformer; `heads` cannot be told from its weights."""

    width: int
    layers: int
    heads: int
    mlp: int


@dataclass(frozen=True, kw_only=True)
class LanguageSizes:
    """A Llama; the defaults are those of transformers' LlamaConfig, which a published config.json leaves out."""

    vocabulary: int = 32064
    """Rows of the embedding, the padding up to a multiple of 64 among them."""
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int | None = None
    """None: as many as `heads`; never that number itself, so that equal sizes compare equal."""
    mlp: int = 11008
    norm_eps: float = 1e-6
    """Llama-2 itself has 1e-5; OpenVLA was trained with the default that its config.json falls back to."""
    rope_theta: float = 10000.0
    positions: int = 2048

    def __post_init__(self) -> None:
        """See `kv_heads`."""
        if self.kv_heads == self.heads:
            object.__setattr__(self, "kv_heads", None)


@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """The whole network. `image` is (height, width) in pixels, each a multiple of `patch`."""

    image: tuple[int, int]
    patch: int
    dino: TowerSizes
    siglip: TowerSizes
    language: LanguageSizes

    def __post_init__(self) -> None:
        """Refuse sizes that no network has.

        Raises:
            UserError: a length that is no multiple of the patch, or a width that its heads do not divide.
        """
        if any(length % self.patch or length < self.patch for length in self.image):
            raise UserError(
                f"Pictures of {self.image[0]} x {self.image[1]} pixels are not made of patches of {self.patch}. Type "
                f"for instance model.image_size=[{8 * self.patch},{8 * self.patch}]"
            )
        for name, part in (("dino", self.dino), ("siglip", self.siglip), ("language", self.language)):
            if part.width % part.heads:
                raise UserError(
                    f"model.{name}: a width of {part.width} cannot be shared by {part.heads} heads. Type for instance "
                    f"model.{name}.heads=1"
                )

    @property
    def patches(self) -> int:
        """Image tokens of one picture."""
        return prod(length // self.patch for length in self.image)


def tower_of(shapes: Shapes, prefix: str, heads: int) -> TowerSizes:
    """The sizes of the tower whose weights begin with `prefix`, told from their shapes.

    Raises:
        KeyError: it lacks the weights by which it is told.
    """
    numbers = {
        int(name.removeprefix(f"{prefix}blocks.").split(".")[0])
        for name in shapes
        if name.startswith(f"{prefix}blocks.") and name.removeprefix(f"{prefix}blocks.").split(".")[0].isdecimal()
    }
    return TowerSizes(
        width=shapes[f"{prefix}pos_embed"][-1],
        layers=max(numbers, default=-1) + 1,
        heads=heads,
        mlp=shapes[f"{prefix}blocks.0.mlp.fc1.weight"][0],
    )
