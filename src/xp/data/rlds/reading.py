"""What files in RLDS do not say and `data.read` does: the rate, and which fields are action, state and instruction.

Imports nothing heavy: it is checked before a run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from xp.data.rlds.features import OBSERVATION, Field
from xp.errors import UserError, did_you_mean, join_names, some
from xp.json_types import JSON

SPLITS = ("train",)
_ACTION, _STATE = "action", f"{OBSERVATION}state"
_INSTRUCTIONS = ("language_instruction", f"{OBSERVATION}natural_language_instruction")
_FASTEST = 10_000.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The section `data.read`, or `read` of a dataset of a mixture."""

    key: str
    """Where it stands, for messages."""
    fps: float
    """Steps per second."""
    action: tuple[str, ...] | None = None
    """Paths of fields whose numbers follow one another; None: `action`."""
    state: tuple[str, ...] | None = None
    """The same; None: `observation/state`."""
    instruction: str | None = None
    """Path of a text; None: one of the usual ones."""
    task: str | None = None
    """The instruction of all episodes, in place of a field."""
    splits: tuple[str, ...] = SPLITS
    """TFDS's, one behind the other."""
    drop_last: bool = False
    """Whether the last step of each episode, whose action RLDS calls invalid, is left out."""


@dataclass(frozen=True)
class ChosenFields:
    """The fields that are read."""

    action: tuple[Field, ...]
    state: tuple[Field, ...]
    instruction: Field | None
    """None where `Reading.task` says it."""
    cameras: Mapping[str, Field] = field(default_factory=dict)
    """{camera: its pictures}."""

    @property
    def all(self) -> tuple[Field, ...]:
        """Each of them."""
        return (*self.action, *self.state, *([self.instruction] if self.instruction else []), *self.cameras.values())


def parse_reading(section: Mapping[str, JSON], key: str) -> Reading:
    """The section as it is meant.

    Args:
        section: its keys.
        key: where it stands: "data.read".

    Raises:
        UserError: an unknown key, a value that does not fit, or no rate.
    """
    allowed = [each.name for each in fields(Reading) if each.name != "key"]
    for name in section:
        if name not in allowed:
            raise UserError(
                f"{key}.{name}: there is no such key{did_you_mean(str(name), allowed)}. Of a dataset in RLDS it has "
                f"{join_names(allowed)}."
            )
    given = {name: value for name, value in section.items() if value is not None}
    found = Reading(
        key=key,
        fps=_rate(given.get("fps"), key),
        action=_paths(given, "action", key),
        state=_paths(given, "state", key),
        instruction=_text(given, "instruction", key),
        task=_text(given, "task", key),
        splits=_paths(given, "splits", key) or SPLITS,
        drop_last=_flag(given, "drop_last", key),
    )
    if found.task is not None and found.instruction is not None:
        raise UserError(f"{key}.task and {key}.instruction are both given: expected one. Type {key}.instruction=null")
    return found


def choose_fields(reading: Reading, known: Mapping[str, Field], root: object) -> ChosenFields:
    """The fields that a reading means.

    Args:
        reading: what is told.
        known: all fields of a step.
        root: the dataset, for messages.

    Raises:
        UserError: a field that is not there or is of another kind; or what stands for it has to be told.
    """
    numbers = [path for path, each in known.items() if each.kind == "numbers"]
    action = _numbers(reading, "action", _ACTION, known, [path for path in numbers if path.startswith(_ACTION)], root)
    seen = [path for path in numbers if path.startswith(OBSERVATION)]
    state = _numbers(reading, "state", _STATE, known, seen, root)
    return ChosenFields(action, state, _instruction(reading, known, root), camera_fields(known, root))


def camera_fields(known: Mapping[str, Field], root: object) -> dict[str, Field]:
    """{camera: its field}: every picture of the observation, by its name; names within names are joined by `_`.

    Raises:
        UserError: two would have one name.
    """
    found: dict[str, Field] = {}
    for path, each in known.items():
        if each.kind != "picture" or not path.startswith(OBSERVATION):
            continue
        name = path.removeprefix(OBSERVATION).replace("/", "_")
        if name in found:
            raise UserError(
                f"{root} has two fields of pictures that make the camera '{name}', {found[name].path} and {path}: "
                "expected one. Rename one of them, where the dataset is built."
            )
        found[name] = each
    return found


def _numbers(
    reading: Reading, what: str, usual: str, known: Mapping[str, Field], others: Sequence[str], root: object
) -> tuple[Field, ...]:
    """Fields of numbers, as told, or the usual one."""
    key, told = f"{reading.key}.{what}", getattr(reading, what)
    if told is None and usual in known and known[usual].kind == "numbers":
        return (known[usual],)
    if told is None:
        if what == "state" and not others:
            return ()
        fitting = others or [path for path, each in known.items() if each.kind == "numbers"]
        none = f", or {key}=[] for none" if what == "state" else ""
        raise UserError(
            f"{key} is not given, and {root} has no numbers {usual}{_instead(usual, known)}: say which fields are the "
            f"{what}. Type '{key}=[{', '.join(others[:8]) or 'FIELD'}]', or some of {some(fitting, 20)}{none}."
        )
    if what == "action" and not told:
        raise UserError(f"{key}=[]: expected at least one field. Type {key}=null, or some of {some(others, 20)}.")
    return tuple(_known_field(path, "numbers", key, known, root) for path in told)


def _instead(path: str, known: Mapping[str, Field]) -> str:
    """What a field is that is no numbers of one size; "" where there is none."""
    return f" (that is a {known[path].kind})" if path in known else ""


def _instruction(reading: Reading, known: Mapping[str, Field], root: object) -> Field | None:
    key = f"{reading.key}.instruction"
    if reading.task is not None:
        return None
    if reading.instruction is not None:
        return _known_field(reading.instruction, "text", key, known, root)
    usual = next((path for path in _INSTRUCTIONS if path in known and known[path].kind == "text"), None)
    if usual is None:
        texts = [path for path, each in known.items() if each.kind == "text"]
        raise UserError(
            f"{root} has no text {' or '.join(_INSTRUCTIONS)}: say what its episodes do. Type "
            f"'{reading.key}.task=\"TEXT\"' for all of them"
            + (f", or {key}=FIELD with one of {some(texts, 20)}." if texts else ".")
        )
    return known[usual]


def _known_field(path: str, kind: str, key: str, known: Mapping[str, Field], root: object) -> Field:
    fitting = [each.path for each in known.values() if each.kind == kind]
    if path not in known:
        raise UserError(
            f"{key} names {path!r}, which is no field of a step of {root}{did_you_mean(path, fitting)}. Those that "
            f"fit: {some(fitting, 20)}."
        )
    if known[path].kind != kind:
        raise UserError(
            f"{key} names {path!r}, which is of the kind {known[path].kind}: expected {kind} of one size. Those that "
            f"fit: {some(fitting, 20)}."
        )
    return known[path]


def _rate(given: JSON, key: str) -> float:
    rate = float(given) if isinstance(given, int | float) and not isinstance(given, bool) else math.nan
    if not 0 < rate <= _FASTEST:
        said = " is not given, and files in RLDS do not say it" if given is None else f"={given!r}"
        raise UserError(
            f"{key}.fps{said}: expected the control rate of the robot, steps per second, above 0 and up to "
            f"{_FASTEST:g}. The dataset's own page tells it; type for instance {key}.fps=5"
        )
    return rate


def _paths(given: Mapping[str, JSON], name: str, key: str) -> tuple[str, ...] | None:
    value = given.get(name)
    if value is None:
        return None
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(each, str) and each for each in values):
        raise UserError(f"{key}.{name}={value!r}: expected a list of names. Type for instance '{key}.{name}=[NAME]'")
    return tuple(dict.fromkeys(map(str, values)))


def _text(given: Mapping[str, JSON], name: str, key: str) -> str | None:
    value = given.get(name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UserError(f"{key}.{name}={value!r}: expected a text. Type for instance '{key}.{name}=\"TEXT\"'")
    return value


def _flag(given: Mapping[str, JSON], name: str, key: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise UserError(f"{key}.{name}={value!r}: expected true or false. Type {key}.{name}=true")
    return value
