"""What stands beside an OpenVLA's weights: config.json, statistics, xp's notes. Reads and writes; no framework."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xp.atomic import plain, write_json
from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import member
from xp.json_types import JSON, JSONObject
from xp.models.openvla.bounds import ENDS, ENTRIES
from xp.models.openvla.chunks import ChunkPlan
from xp.models.openvla.config_file import (
    CONFIG,
    GENERATION,
    MODEL_TYPE,
    PREPROCESSOR,
    WHAT,
    generation_config,
    preprocessor_config,
    read_sizes,
)
from xp.models.openvla.load_options import GRIPPERS
from xp.models.openvla.options import PADDING
from xp.models.openvla.sizes import NetworkSizes, Shapes

STATISTICS, NOTES = "dataset_statistics.json", "xp.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_NOTES = "xp's notes on a policy"
_MOST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What xp notes of a policy: what no field of config.json says."""

    cameras: Mapping[str, str]
    """{the policy's own name of a camera: the camera that feeds it}, in the order in which the model sees them."""
    fps: float | None
    heads: tuple[int, int]
    """Attention heads of both towers."""
    plan: ChunkPlan
    proprio: bool = False
    unnorm_key: str | None = None
    members: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    """Of a model of a mixture {dataset: {the policy's own name of a camera: the dataset's}}, by `member_index`."""
    name: str = MODEL_TYPE
    is_lanczos: bool = True
    """Whether pictures of another size are resized as xp's training does it; otherwise as the folder's own
    preprocessor_config.json says (bicubic)."""
    crop: float | None = None
    """The share of a picture's area, at its middle, that the model is shown; None: all of it."""
    ends: str = "bounds_q99"
    """Which statistics become -1 and +1, a key of `ENDS`."""
    gripper: str = "as_trained"
    """`turned`: the model was trained on grippers of 0 (closed) to 1 (open), and what is executed says 1 (close) or -1
    (open): -sign(2 g - 1), as evaluations of OpenVLA do it on LIBERO."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """All that a policy is but its weights and its tokeniser.

    `config` is config.json as it was written, without what names code.
    """

    config: JSONObject = field(repr=False)
    sizes: NetworkSizes
    statistics: Mapping[str, JSONObject] = field(repr=False)
    """{dataset: its entry of norm_stats}."""
    notes: Notes

    @property
    def vocabulary(self) -> int:
        """Words of the tokeniser; the last 256 of them are actions."""
        padding = self.config.get("pad_to_multiple_of")
        return self.sizes.language.vocabulary - (padding if isinstance(padding, int) else PADDING)

    def entry(self, key: str | None) -> tuple[str, Fields]:
        """The statistics of a dataset, by its name.

        Raises:
            UserError: no such dataset, or none is named and there are several.
        """
        chosen = key or self.notes.unnorm_key
        known = list(self.statistics)
        if chosen is None and len(known) == 1:
            chosen = known[0]
        if chosen is None:
            raise UserError(
                f"The policy has the statistics of {len(known)} datasets, and which of them its actions are brought to "
                f"is not said. There are {join_names(known)}. Type for instance unnorm_key={known[0]} "
                f"(predict.unnorm_key={known[0]}, eval.unnorm_key={known[0]})"
            )
        if chosen not in self.statistics:
            raise UserError(
                f"unnorm_key={chosen}: the policy has no statistics of that name{did_you_mean(chosen, known)}. There "
                f"are {join_names(known)}."
            )
        return chosen, Fields(self.statistics[chosen], f"the statistics of {chosen}")


def read_sidecar(
    folder: Path, shapes: Shapes, heads: tuple[int, int] | None = None, config_of: Path | None = None
) -> Sidecar:
    """What stands beside the weights of a folder.

    Args:
        folder: an OpenVLA's.
        shapes: of its weights, which say the sizes that config.json leaves out.
        heads: attention heads of the towers, where neither xp's notes nor the published sizes say them.
        config_of: where config.json is, if not there.

    Raises:
        UserError: a file is missing or damaged, or a field is not what it should be.
    """
    config = read_fields(member(config_of or folder, CONFIG, WHAT), WHAT)
    notes = read_fields(member(folder, NOTES, _NOTES), _NOTES) if os.path.lexists(folder / NOTES) else None
    statistics = _statistics(folder, config)
    sizes = read_sizes(folder, config, shapes, heads or (_heads(notes) if notes is not None else None))
    found = _read_notes(notes, sizes) if notes is not None else _no_notes(sizes, statistics)
    return Sidecar(
        config={name: value for name, value in config.content.items() if name not in ("auto_map", "norm_stats")},
        sizes=sizes,
        statistics=statistics,
        notes=found,
    )


def noted_fps(folder: Path) -> float | None:
    """Steps per second that a policy was trained at; None where xp noted nothing."""
    if not os.path.lexists(folder / NOTES):
        return None
    return read_fields(member(folder, NOTES, _NOTES), _NOTES).number("fps", None, low=1e-3, high=1e6)


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Write the JSON files of a policy's folder: those of the original, with its fields, and xp's notes."""
    notes, plan = sidecar.notes, sidecar.notes.plan
    stats = {name: plain(entry) for name, entry in sidecar.statistics.items()}
    write_json(folder / CONFIG, dict(sorted({**sidecar.config, "norm_stats": stats}.items())))
    write_json(folder / STATISTICS, stats)
    write_json(folder / GENERATION, generation_config(sidecar.config))
    write_json(folder / PREPROCESSOR, preprocessor_config(sidecar.sizes))
    content = {
        "name": notes.name,
        "cameras": dict(notes.cameras),
        "fps": notes.fps,
        "effective_hz": None if notes.fps is None else plan.effective_hz(notes.fps),
        "horizon": plan.horizon,
        "action_dim": plan.action_dim,
        "chunk_mode": plan.mode,
        "head": plan.head,
        "rotation_unit": plan.rotation_unit,
        "proprio": notes.proprio,
        "unnorm_key": notes.unnorm_key,
        "tower_heads": list(notes.heads),
        "resize": "lanczos" if notes.is_lanczos else "bicubic",
        "center_crop": notes.crop,
        "normalization": notes.ends,
        "gripper": notes.gripper,
        **({"members": {name: dict(cameras) for name, cameras in notes.members.items()}} if notes.members else {}),
    }
    write_json(folder / NOTES, content)


def _statistics(folder: Path, config: Fields) -> dict[str, JSONObject]:
    """{dataset: entry}: of dataset_statistics.json where there is one, since norm_stats may still be the base's."""
    found = config.object("norm_stats", Fields({}, config.source))
    if os.path.lexists(folder / STATISTICS):
        what = "an OpenVLA's statistics"
        found = read_fields(member(folder, STATISTICS, what), what)
    if not found.content:
        raise UserError(
            f"{folder} has no statistics, neither {STATISTICS} nor norm_stats in {CONFIG}: nothing says what its "
            "actions mean. Take the folder again from where it was trained, with both files."
        )
    return {name: entry.content for name, entry in found.objects()}


def _heads(notes: Fields) -> tuple[int, int]:
    first, second = notes.integers("tower_heads", count=2, low=1, high=_MOST)
    return first, second


def _read_notes(notes: Fields, sizes: NetworkSizes) -> Notes:
    cameras = notes.object("cameras")
    plan = ChunkPlan(
        mode=notes.text("chunk_mode", most=64),
        head=notes.text("head", most=64),
        horizon=notes.integer("horizon", low=1, high=_MOST),
        action_dim=notes.integer("action_dim", low=1, high=_MOST),
        rotation_unit=notes.number("rotation_unit", low=1e-6, high=1e6),
    )
    return Notes(
        cameras=_names(cameras),
        members={name: _names(own) for name, own in notes.object("members", Fields({}, notes.source)).objects()},
        fps=notes.number("fps", None, low=1e-3, high=1e6),
        heads=(sizes.dino.heads, sizes.siglip.heads),
        plan=plan,
        proprio=notes.flag("proprio"),
        unnorm_key=notes.text("unnorm_key", None, most=1000),
        name=notes.text("name", most=200),
        is_lanczos=notes.text("resize", among=("lanczos", "bicubic")) == "lanczos",
        crop=notes.number("center_crop", None, low=1e-3, high=1),
        ends=notes.text("normalization", "bounds_q99", among=tuple(ENDS)),
        gripper=notes.text("gripper", "as_trained", among=GRIPPERS),
    )


def _names(cameras: Fields) -> dict[str, str]:
    return {name: cameras.text(name, most=200) for name in cameras.content}


def _no_notes(sizes: NetworkSizes, statistics: Mapping[str, JSONObject]) -> Notes:
    """Of a folder that xp did not write: one camera, one action at a time."""
    widths = {len(_quantile(entry)) for entry in statistics.values()}
    if len(widths) != 1:
        raise UserError(
            f"The statistics of the policy are of actions of different widths ({join_names(map(str, sorted(widths)))})."
            " Keep those of one robot in dataset_statistics.json."
        )
    return Notes(
        cameras={"image": "image"},
        fps=None,
        heads=(sizes.dino.heads, sizes.siglip.heads),
        plan=ChunkPlan(action_dim=widths.pop()),
        is_lanczos=False,
    )


def _quantile(entry: JSONObject) -> Sequence[float]:
    return Fields(entry, "the policy's statistics").object("action").numbers("q01", most=_MOST)


def statistics_json(entry: Mapping[str, object]) -> dict[str, JSON]:
    """An entry of norm_stats as JSON has it, its numbers in the order of published ones."""
    found: dict[str, JSON] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found[name] = {word: plain(value[word]) for word in ENTRIES if word in value}
        else:
            found[name] = plain(value)
    return found
