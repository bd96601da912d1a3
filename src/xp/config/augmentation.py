# pyright: strict
"""The section `augment` of a configuration: which operations there are, what each takes, and which cameras get which.

Imports nothing heavy: it is read before a run, by `xp.config.check`, and by `xp.data.augment`, which applies it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real

from xp.config.unknown_keys import shown
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON, JSONObject

_INFINITE = math.inf


@dataclass(frozen=True)
class Interval:
    """An option [low, high] from which a value is drawn uniformly; both within `least` and `most`."""

    least: float
    most: float
    default: tuple[float, float] | None = None
    positive: bool = False
    """Whether `least` itself is refused."""

    def read(self, key: str, given: JSON) -> tuple[float, float]:
        """The two bounds.

        Raises:
            UserError: not two finite numbers, the first above the second, or one out of bounds.
        """
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
            raise UserError(f"{key}={shown(given)}: expected [low, high]. Type for instance '{key}={self._example()}'")
        low, high = (_finite(key, each, self._example()) for each in given)
        if low > high:
            raise UserError(
                f"{key}={shown(given)}: the first number is above the second. Type '{key}=[{high:g},{low:g}]'"
            )
        if low < self.least or high > self.most or (self.positive and low == self.least):
            raise UserError(
                f"{key}={shown(given)}: both must be {self._bounds()}. Type for instance '{key}={self._example()}'"
            )
        return low, high

    def _bounds(self) -> str:
        above = f"{'above' if self.positive else 'at least'} {self.least:g}"
        return above + (f" and at most {self.most:g}" if self.most < _INFINITE else "")

    def _example(self) -> str:
        if self.default is not None:
            return f"[{self.default[0]:g},{self.default[1]:g}]"
        if self.least < 0:
            return f"[{self.least / 10:g},{self.most / 10:g}]"
        return "[0.8,1.0]" if self.most <= 1 else "[0.8,1.2]"


@dataclass(frozen=True)
class Share:
    """An option that is one number from `least` to 1."""

    default: float | None = None
    most: float = 1.0
    positive: bool = False

    def read(self, key: str, given: JSON) -> tuple[float, float]:
        """The number, twice.

        Raises:
            UserError: no finite number, or out of bounds.
        """
        example = f"{0.95 * self.most:g}"
        value = _finite(key, given, example)
        if value < 0 or value > self.most or (self.positive and value == 0):
            raise UserError(
                f"{key}={shown(given)}: must be {'above' if self.positive else 'at least'} 0 and at most "
                f"{self.most:g}. Type for instance {key}={example}"
            )
        return value, value


@dataclass(frozen=True)
class Pair:
    """An option of two shares, across and down."""

    default: tuple[float, float] | None = None

    def read(self, key: str, given: JSON) -> tuple[float, float]:
        """The two numbers.

        Raises:
            UserError: not two finite numbers of 0 to 1.
        """
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
            raise UserError(f"{key}={shown(given)}: expected [across, down]. Type for instance '{key}=[0.05,0.05]'")
        across, down = (_finite(key, each, "[0.05,0.05]") for each in given)
        if not (0 <= across <= 1 and 0 <= down <= 1):
            raise UserError(
                f"{key}={shown(given)}: both must be at least 0 and at most 1, shares of the picture's width and "
                f"height. Type for instance '{key}=[0.05,0.05]'"
            )
        return across, down


_FACTOR = {"factor": Interval(0.0, _INFINITE)}
OPERATIONS: Mapping[str, Mapping[str, Interval | Share | Pair]] = {
    "resized_crop": {"scale": Interval(0.0, 1.0, positive=True), "ratio": Interval(0.0, _INFINITE, positive=True)},
    "crop": {"size": Share(positive=True)},
    "rotation": {"degrees": Interval(-180.0, 180.0)},
    "affine": {
        "degrees": Interval(-180.0, 180.0, (0.0, 0.0)),
        "translate": Pair((0.0, 0.0)),
        "scale": Interval(0.0, _INFINITE, (1.0, 1.0), positive=True),
        "shear": Interval(-80.0, 80.0, (0.0, 0.0)),
    },
    "brightness_offset": {"delta": Interval(-1.0, 1.0)},
    "contrast_by_channel": _FACTOR,
    "saturation_hsv": _FACTOR,
    "hue": {"turn": Interval(-0.5, 0.5)},
    "brightness": _FACTOR,
    "contrast": _FACTOR,
    "saturation": _FACTOR,
    "sharpness": _FACTOR,
    "hsv_jitter": {
        "brightness": Share(0.0, most=0.99),
        "contrast": Share(0.0, most=0.99),
        "hue": Share(0.0, most=0.5),
        "probability": Share(1.0),
    },
}
"""{type of an operation: its options}. What each does: `xp.data.augment`."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a view. `options` are two numbers each, as `Interval`, `Share` and `Pair` read them."""

    name: str
    type: str
    options: Mapping[str, tuple[float, float]]
    weight: float = 1.0
    """How likely it is among a `View.subset`, relative to the others."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Cameras that are augmented alike, and how."""

    name: str
    cameras: Sequence[str]
    """Patterns (fnmatch, case ignored) on names of cameras."""
    optional: bool = False
    """Whether patterns that fit no camera are let pass."""
    subset: int | None = None
    """How many of the operations each sample gets, drawn by weight without replacement; None: all of them."""
    random_order: bool = False
    """Whether the operations of a sample are applied in a random order, or as they stand."""
    operations: Sequence[Operation]

    def fits(self, camera: str) -> bool:
        """Whether one of the patterns fits a camera's name."""
        return any(fnmatchcase(camera.lower(), pattern.lower()) for pattern in self.cameras)


def read_views(views: JSON) -> tuple[View, ...]:
    """The views of `augment.views`, checked.

    Args:
        views: the plain mapping {name of a view: its keys}.

    Raises:
        UserError: an unknown key, operation or option, or a value that does not fit: what is allowed and what to type.
    """
    if not isinstance(views, Mapping):
        raise UserError(
            f"augment.views={shown(views)}: expected a mapping of views, {{name: {{cameras: [...], operations: "
            "{...}}}}. Type augment=none to augment nothing."
        )
    return tuple(_view(name, entry) for name, entry in views.items())


def assign_views(views: Sequence[View], cameras: Sequence[str], where: str) -> dict[str, View]:
    """Which view each camera is in: the first with a pattern that fits its name; cameras in no view are left out.

    Args:
        views: as `read_views` gives them.
        cameras: names of cameras.
        where: what has these cameras, for the message: "the dataset FOLDER".

    Raises:
        UserError: a pattern of a view that is not optional fits no camera; or there are views, and none has a camera.
    """
    chosen = {camera: next((view for view in views if view.fits(camera)), None) for camera in cameras}
    found = {camera: view for camera, view in chosen.items() if view is not None and view.operations}
    for view in views:
        for pattern in () if view.optional else view.cameras:
            if not any(fnmatchcase(camera.lower(), pattern.lower()) for camera in cameras):
                raise UserError(
                    f"augment.views.{view.name}.cameras: '{pattern}' fits no camera of {where}; its cameras are "
                    f"{join_names(cameras)}{did_you_mean(pattern.strip('*'), cameras)}. Give names or patterns of "
                    f"these, or say that there may be none: augment.views.{view.name}.optional=true"
                )
    if views and not found:
        raise UserError(
            f"augment changes no picture: {where} has the cameras {join_names(cameras)}, and no view of augment.views "
            f"({join_names(view.name for view in views)}) has an operation for one of them. Type augment=none"
        )
    return found


def _view(name: str, entry: JSON) -> View:
    key = f"augment.views.{name}"
    given = _mapping(key, entry, ("cameras", "optional", "subset", "random_order", "operations"))
    cameras = given.get("cameras")
    if not isinstance(cameras, Sequence) or isinstance(cameras, str) or not cameras:
        raise UserError(
            f"{key}.cameras={shown(cameras)}: expected a list of names or patterns. Type '{key}.cameras=[\"*\"]'"
        )
    listed = given.get("operations", {})
    if not isinstance(listed, Mapping):
        raise UserError(
            f"{key}.operations={shown(listed)}: expected a mapping, as {{brightness: {{type: brightness, factor: "
            "[0.8, 1.2]}}}}."
        )
    operations = [_operation(f"{key}.operations.{each}", each, options) for each, options in listed.items()]
    # LeRobot's rule: what has no weight is never drawn, and is left out.
    operations = [each for each in operations if each.weight > 0]
    return View(
        name=name,
        cameras=[str(pattern) for pattern in cameras],
        optional=_flag(f"{key}.optional", given.get("optional", False)),
        subset=_subset(f"{key}.subset", given.get("subset"), len(operations)),
        random_order=_flag(f"{key}.random_order", given.get("random_order", False)),
        operations=operations,
    )


def _operation(key: str, name: str, entry: JSON) -> Operation:
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if not isinstance(kind, str) or kind not in OPERATIONS:
        raise UserError(
            f"{key}.type={shown(kind)}: there is no such operation{did_you_mean(str(kind), OPERATIONS)}. Allowed are "
            f"{join_names(OPERATIONS)}. Type {key}.type=TYPE with one of these; docs/models.md says what each does."
        )
    known = OPERATIONS[kind]
    given = _mapping(key, entry, ("type", "weight", *known))
    options: dict[str, tuple[float, float]] = {}
    for option, spec in known.items():
        if option not in given and spec.default is None:
            raise UserError(f"{key}.{option} is missing: {kind} needs {join_names(known)}. Give +{key}.{option}=VALUE")
        usual = spec.default or 0.0
        default = usual if isinstance(usual, tuple) else (usual, usual)
        options[option] = spec.read(f"{key}.{option}", given[option]) if option in given else default
    weight = _finite(f"{key}.weight", given.get("weight", 1.0), "1.0")
    if weight < 0:
        raise UserError(f"{key}.weight={weight:g}: must be at least 0. Type for instance {key}.weight=1.0")
    return Operation(name=name, type=kind, options=options, weight=weight)


def _mapping(key: str, entry: JSON, known: Sequence[str]) -> JSONObject:
    if not isinstance(entry, Mapping):
        raise UserError(f"{key}={shown(entry)}: expected a mapping with the keys {join_names(known)}.")
    for each in entry:
        if each not in known:
            raise UserError(
                f"There is no key '{key}.{each}'. Keys of {key}: {join_names(known)}{did_you_mean(each, known)}"
            )
    return entry


def _subset(key: str, given: JSON, count: int) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise UserError(f"{key}={shown(given)}: must be a whole number of at least 1, or null for all. Type {key}=null")
    return min(given, count)


def _flag(key: str, given: JSON) -> bool:
    if not isinstance(given, bool):
        raise UserError(f"{key}={shown(given)}: expected true or false. Type {key}=true")
    return given


def _finite(key: str, given: JSON, example: str) -> float:
    if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given):
        raise UserError(f"{key}: {shown(given)} is not a finite number. Type for instance '{key}={example}'")
    return float(given)
