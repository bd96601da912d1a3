"""The features of a LeRobotDataset as `meta/info.json` describes them: cameras, and names of dimensions.

Checked before anything is allocated or opened: a key becomes part of paths, a shape the size of arrays.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xp.data.dimension_names import made_up_names
from xp.data.lerobot.facts import camera_name, is_depth
from xp.errors import UserError
from xp.foreign.json_file import Fields
from xp.foreign.text import printable

MOST_DIMENSIONS = 1 << 16
"""Of an action or a state."""
MOST_PIXELS = 1 << 25
"""Of a camera's picture: 8K video (7680 x 4320) is just below it."""
_MOST_FEATURES = 4096
_LONGEST_KEY = 200


@dataclass(frozen=True, kw_only=True)
class CameraInfo:
    """One camera stream: its feature `key` in the files, its size in pixels, and whether it is stored as mp4."""

    name: str
    key: str
    height: int
    width: int
    is_video: bool


def checked_features(info: Fields) -> dict[str, Fields]:
    """The features by key: every key can be part of a file name, every feature has a type and a shape.

    Raises:
        UserError: too many features, or a key or a field that LeRobot would not write.
    """
    features = dict(info.object("features").objects())
    if len(features) > _MOST_FEATURES:
        raise UserError(f"{info.place('features')}: {len(features):,} features; xp reads at most {_MOST_FEATURES:,}.")
    for key, feature in features.items():
        if not key or len(key) > _LONGEST_KEY or "/" in key or not key.isprintable() or key.startswith("."):
            raise UserError(
                f"{info.source} has a feature called {printable(repr(key), 80)}: a name becomes part of paths, "
                f"so it has at most {_LONGEST_KEY} printable characters, no '/' and no '.' in front. Rename it in "
                "meta/info.json, or use another dataset."
            )
        feature.text("dtype", most=40)
        feature.shape("shape")
    return features


def camera_streams(features: Mapping[str, Fields]) -> dict[str, CameraInfo]:
    """The colour cameras among the features, by name; depth maps are left out.

    Raises:
        UserError: two features are cameras of one name, or a picture has an impossible shape.
    """
    streams: dict[str, CameraInfo] = {}
    for key, feature in features.items():
        name = camera_name(key)
        if feature.text("dtype") not in ("image", "video") or is_depth(feature.content) or name is None:
            continue
        if name in streams:
            raise UserError(
                f"{feature.source}: the features '{streams[name].key}' and '{key}' are both the camera '{name}'. "
                "Rename one of them in meta/info.json, in the column of the data files and below videos/; or "
                "remove one with LeRobot's `lerobot-edit-dataset --operation.type=remove_feature`."
            )
        height, width = _height_width(feature)
        is_video = feature.text("dtype") == "video"
        streams[name] = CameraInfo(name=name, key=key, height=height, width=width, is_video=is_video)
    return streams


def _height_width(feature: Fields) -> tuple[int, int]:
    """Height and width whatever the order of the shape: by its axis names, else by where the 1, 3 or 4 channels are.

    Names that make something else the channels (["height", "width", "channels"] beside [3, 480, 640]) do not count.
    """
    shape = feature.shape("shape", low=1, most_elements=4 * MOST_PIXELS)
    if len(shape) not in (2, 3):
        raise feature.refusal("shape", "height, width and channels of a picture")
    names = feature.content.get("names")
    axes = [str(name).rstrip("s") for name in names] if isinstance(names, list) else []
    if len(shape) == 2:
        height, width = shape
    elif len(axes) == 3 and {"height", "width"} <= set(axes) and _channels(shape, axes) in (1, 3, 4):
        height, width = shape[axes.index("height")], shape[axes.index("width")]
    elif shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        height, width = shape[1], shape[2]
    else:
        height, width = shape[0], shape[1]
    if height * width > MOST_PIXELS:
        raise feature.refusal("shape", f"a picture of at most {MOST_PIXELS:,} pixels")
    return height, width


def _channels(shape: tuple[int, ...], axes: list[str]) -> int:
    return shape[3 - axes.index("height") - axes.index("width")]


def dimension_names(features: Mapping[str, Fields], key: str) -> tuple[str, ...]:
    """The names of the dimensions of a vector feature, made up as `action_0`... where the file has no fitting ones.

    Read are all forms that LeRobot's datasets use: a list; {"motors": list}, several such groups one after the other;
    {name: index}, also inside a group. A name that is null is made up. A list of another length than the shape, or
    indices that are not 0..A-1, name nothing: then all are made up, as nobody can say which name is whose.

    Raises:
        UserError: the feature is no vector, or has too many dimensions.
    """
    if key not in features:
        return ()
    feature = features[key]
    shape = feature.shape("shape")
    if len(shape) != 1:
        raise UserError(
            f"{feature.source}: the feature '{key}' has shape {shape}; xp reads vectors (one axis). Flatten it with "
            "LeRobot's dataset tools (`lerobot-edit-dataset`), or use another dataset."
        )
    (size,) = feature.shape("shape", low=1 if key == "action" else 0, most_elements=MOST_DIMENSIONS)
    made_up = made_up_names(key, size)
    leaves = list(_leaves(feature.content.get("names"))) if feature.content.get("names") is not None else []
    if len(leaves) != size:
        return made_up
    indices = [index for _, index in leaves]
    if set(indices) == set(range(size)):
        leaves = sorted(leaves, key=lambda leaf: leaf[1])  # type: ignore[arg-type,return-value]
    elif any(index is not None for index in indices):
        return made_up
    return tuple(own if name is None else name for (name, _), own in zip(leaves, made_up, strict=True))


def _leaves(names: Any, own: str | None = None) -> Iterator[tuple[str | None, int | None]]:
    """(name, index or None) of each dimension in a tree of lists, groups and {name: index}."""
    if isinstance(names, dict):
        for name, below in names.items():
            if below is not None:
                yield from _leaves(below, own=name)
    elif isinstance(names, list):
        for below in names:
            yield from _leaves(below)
    elif own is not None and isinstance(names, int) and not isinstance(names, bool):
        yield own, names
    elif own is None and not isinstance(names, bool):
        yield None if names is None else printable(names, _LONGEST_KEY), None
    else:  # {"motors": "x"}: no form that says what is whose
        yield None, -1
