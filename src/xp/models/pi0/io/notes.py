"""xp's notes beside a pi0's weights: what neither the weights nor the statistics say. openpi does not read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xp import atomic
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import member
from xp.models.pi0.cameras import SLOTS
from xp.models.pi0.inputs.prompt import WORDS

FILE = "xp_pi0.json"
WHAT = "xp's notes on a pi0"
TOKENIZER = "paligemma_tokenizer.model"
"""The tokeniser's file beside the notes, where there is one: notes name no other."""
_MOST = 1_000_000
_SIDE = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What a policy is beside its weights and statistics."""

    horizon: int
    action_dim: int
    state_dim: int
    cameras: Mapping[str, str | None]
    """{image input: the camera that feeds it}; None: nothing does."""
    sizes: Mapping[str, tuple[int, int]]
    """(height, width) in pixels of each camera as it was trained on, by image input."""
    asset_id: str
    """Whose statistics: the folder below `assets`, which may have slashes; "" where there are `members`."""
    tokenizer: str | None
    prompt_length: int
    sample_steps: int = 10
    count_filled_dims: bool = True
    fps: float | None = None
    absolute: tuple[int, ...] | None = None
    """Dimensions whose actions are no differences to the state; None: no action is."""
    dtype: str | None = None
    max_delay: int = 0
    """Up to how many actions of a chunk were given in training; see `xp.models.pi0.real_time`."""
    vision_heads: int | None = None
    """Attention heads of the image encoder, which files of torch tensors do not tell; None: as wide as openpi's."""
    members: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    """Of a policy of several datasets {dataset: {image input: its own camera}}, by `member_index`: each has the asset
    of its name, and `cameras` are the mixture's. Empty for a policy of one."""

    @property
    def fed(self) -> dict[str, str]:
        """The cameras of image inputs that something feeds."""
        return {name: camera for name, camera in self.cameras.items() if camera is not None}

    def write(self, folder: Path) -> None:
        """Write the file into a step's folder; the caller makes the folder atomic."""
        cameras = {name: {"camera": self.cameras[name], "size": list(size)} for name, size in self.sizes.items()}
        apart = ("cameras", "sizes", "absolute", "members")
        others = {key: value for key, value in vars(self).items() if key not in apart}
        absolute = None if self.absolute is None else list(self.absolute)
        several = {"members": self.members} if self.members else {}
        content = {**others, "cameras": cameras, "absolute": absolute, **several}
        atomic.write_json(folder / FILE, content, durable=False)


def read_notes(folder: Path) -> Notes | None:
    """The notes in a step's folder; None where there are none (a checkpoint of openpi's own).

    Raises:
        UserError: a damaged file, or a field that is not what it should be.
    """
    if not (folder / FILE).exists():
        return None
    fields = read_fields(member(folder, FILE, WHAT), WHAT)
    entries = dict(fields.object("cameras").objects())
    for name in entries:
        if name not in SLOTS:
            raise fields.refusal("cameras", f"entries for some of {', '.join(SLOTS)}")
    return Notes(
        horizon=_count(fields, "horizon", 1),
        action_dim=_count(fields, "action_dim", 1),
        state_dim=_count(fields, "state_dim", 0),
        cameras={name: entries[name].text("camera", None, most=200) for name in SLOTS if name in entries},
        sizes={name: _size(entries[name]) for name in SLOTS if name in entries},
        asset_id=fields.text("asset_id", most=200),
        tokenizer=fields.text("tokenizer", None, among=(WORDS, TOKENIZER)),
        prompt_length=_count(fields, "prompt_length", 1),
        sample_steps=_count(fields, "sample_steps", 1),
        count_filled_dims=fields.flag("count_filled_dims"),
        fps=fields.number("fps", None, low=1e-6, high=1e6),
        absolute=_absolute(fields),
        dtype=fields.text("dtype", None, among=("float32", "bfloat16")),
        max_delay=fields.integer("max_delay", 0, low=0, high=_MOST),
        vision_heads=None if fields.content.get("vision_heads") is None else _count(fields, "vision_heads", 1),
        members=_members(fields),
    )


def _members(fields: Fields) -> dict[str, dict[str, str]]:
    listed = fields.object("members", None)
    return {} if listed is None else {name: _fed(entry) for name, entry in listed.objects()}


def _fed(entry: Fields) -> dict[str, str]:
    for name in entry.content:
        if name not in SLOTS:
            raise entry.refusal(name, f"some of {', '.join(SLOTS)} alone")
    return {name: entry.text(name, most=200) for name in SLOTS if name in entry}


def _count(fields: Fields, name: str, low: int) -> int:
    return fields.integer(name, low=low, high=_MOST)


def _size(entry: Fields) -> tuple[int, int]:
    height, width = entry.integers("size", count=2, low=1, high=_SIDE)
    return height, width


def _absolute(fields: Fields) -> tuple[int, ...] | None:
    listed = fields.integers("absolute", None, low=0, high=_MOST)
    return None if listed is None else tuple(listed)
