"""JSON from outside: bounded in size and depth, and read field by field with the type that is expected.

    info = read_fields(root / "meta" / "info.json", "the dataset's description")
    fps = info.number("fps", low=1, high=1000)
    for name, feature in info.object("features").objects():
        shape, kind = feature.shape("shape"), feature.text("dtype", among=("float32", "video"))

Every refusal is one `RefusedError` that names the file, the field, what is there and what is expected.
Memory: Python's objects for a JSON text take up to about 30 times its bytes, so `most` bounds both.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from xp.foreign.paths import RefusedError, opened
from xp.foreign.text import printable, shown
from xp.json_types import JSON, JSONObject

MOST = 16_000_000
"""Bytes of a JSON file that are read where a caller names no other bound."""
DEEPEST = 64
"""Levels of nesting."""
_AGAIN = "Copy the file again from where it came from, or mend it."
_LARGEST = 2**63 - 1
_REQUIRED: Any = object()


def read_json(path: str | Path, what: str, most: int = MOST, deepest: int = DEEPEST) -> JSON:
    """The content of a JSON file.

    Args:
        path: the file.
        what: what the file is, for the message: "the dataset's description".
        most: the largest size in bytes.
        deepest: the most levels of nesting.

    Raises:
        MissingError: the file is not there.
        RefusedError: it is no regular file, larger than `most`, not JSON in UTF-8, nested deeper than `deepest`, or
            an object in it has one name twice.
    """
    with opened(path, what) as handle:
        data = handle.read(most + 1)
    if len(data) > most:
        size = Path(path).stat().st_size
        raise RefusedError(
            f"{printable(path)} has {size:,} bytes: expected {what}, of at most {most:,} bytes. {_AGAIN}"
        )
    return parsed(data, printable(path), what, deepest)


def parsed(data: bytes, source: str, what: str, deepest: int = DEEPEST) -> JSON:
    """The content of a JSON text that is in memory (a header, a line); raises as `read_json` does.

    Args:
        data: the text in UTF-8.
        source: where it stands, for the message.
        what: what it is, for the message.
        deepest: the most levels of nesting.
    """
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
        if b"\\u" in data:  # half of a surrogate pair cannot be written or printed later
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise RefusedError(f"{source} is nested deeper than {deepest} levels: expected {what}. {_AGAIN}") from error
    except ValueError as error:
        raise RefusedError(
            f"{source} ({len(data):,} bytes) is not the JSON of {what}: {printable(_reason(error))}. {_AGAIN}"
        ) from error
    if _depth(content) > deepest:
        raise RefusedError(f"{source} is nested deeper than {deepest} levels: expected {what}. {_AGAIN}")
    return content


def read_object(path: str | Path, what: str, most: int = MOST) -> dict[str, JSON]:
    """The object that a JSON file holds; raises as `read_json` does, and for anything but an object."""
    content = read_json(path, what, most)
    if not isinstance(content, dict):
        raise RefusedError(f"{printable(path)} holds {shown(content)}: expected an object, {what}. {_AGAIN}")
    return content


def read_fields(path: str | Path, what: str, most: int = MOST) -> "Fields":
    """The object that a JSON file holds, for typed access; raises as `read_object` does."""
    return Fields(read_object(path, what, most), printable(path))


def read_lines(path: str | Path, what: str, most: int = MOST) -> Iterator["Fields"]:
    """The objects of a file with one JSON object on each line; empty lines are passed over.

    Raises:
        MissingError, RefusedError: as `read_object`; `most` bounds the whole file.
    """
    read = 0
    with opened(path, what) as handle:
        for number, line in enumerate(iter(lambda: handle.readline(most + 1), b""), start=1):
            read += len(line)
            if read > most:
                raise RefusedError(f"{printable(path)} has more than {most:,} bytes: expected {what}. {_AGAIN}")
            if line.strip():
                source = f"{printable(path)}, line {number}"
                content = parsed(line, source, what)
                if not isinstance(content, dict):
                    raise RefusedError(f"{source} holds {shown(content)}: expected an object, {what}. {_AGAIN}")
                yield Fields(content, source)


@dataclass(frozen=True)
class Fields:
    """An object of a JSON file and where it stands; each access checks type and bounds.

    A field that is missing or null gives the default, and without a default a refusal.
    """

    content: JSONObject
    source: str
    """The file, for messages."""
    at: str = ""
    """Where in the file the object stands: `features.action`."""

    def __contains__(self, name: str) -> bool:
        return self.content.get(name) is not None

    def place(self, name: str) -> str:
        """A field as messages call it: FILE: features.action.shape."""
        return f"{self.source}: {printable('.'.join(filter(None, (self.at, name))))}"

    def refusal(self, name: str, expected: str) -> RefusedError:
        """The error for a field: what is there, what is expected. For checks of a caller's own."""
        there = f"is {shown(self.content[name])}" if name in self.content else "is missing"
        return RefusedError(f"{self.place(name)} {there}: expected {expected}. {_AGAIN}")

    def text[D](
        self,
        name: str,
        default: D = _REQUIRED,
        *,
        most: int = 4096,
        among: Iterable[str] | None = None,
        pattern: str | None = None,
    ) -> str | D:
        """A text of at most `most` characters, one of `among`, or one that `pattern` (a regular expression) matches."""
        words = None if among is None else tuple(among)
        expected = "one of " + ", ".join(words) if words is not None else f"a text of at most {most} characters"
        if pattern is not None:
            expected = f"a text of the form {pattern}"
        return self._typed(
            name,
            default,
            lambda value: (
                isinstance(value, str)
                and len(value) <= most
                and (words is None or value in words)
                and (pattern is None or re.fullmatch(pattern, value) is not None)
            ),
            expected,
        )

    def integer[D](
        self, name: str, default: D = _REQUIRED, *, low: float = -_LARGEST, high: float = _LARGEST
    ) -> int | D:
        """A whole number from `low` to `high`."""
        return self._typed(
            name, default, lambda value: _is_integer(value, low, high), _between("a whole number", low, high)
        )

    def number[D](
        self, name: str, default: D = _REQUIRED, *, low: float = -math.inf, high: float = math.inf
    ) -> float | D:
        """A finite number from `low` to `high`."""
        value = self._typed(name, default, lambda value: _is_number(value, low, high), _between("a number", low, high))
        return float(value) if _is_number(value, low, high) else value

    def flag[D](self, name: str, default: D = _REQUIRED) -> bool | D:
        """One of the words true and false."""
        return self._typed(name, default, lambda value: isinstance(value, bool), "true or false")

    def texts[D](
        self, name: str, default: D = _REQUIRED, *, count: int | None = None, most: int = 100_000
    ) -> list[str] | D:
        """A list of texts: exactly `count`, or at most `most`."""
        return self._list(name, default, lambda value: isinstance(value, str), "texts", count, most)

    def integers[D](
        self,
        name: str,
        default: D = _REQUIRED,
        *,
        count: int | None = None,
        most: int = 1_000_000,
        low: float = -_LARGEST,
        high: float = _LARGEST,
    ) -> list[int] | D:
        """A list of whole numbers from `low` to `high`: exactly `count`, or at most `most`."""
        words = _between("whole numbers", low, high)
        return self._list(name, default, lambda value: _is_integer(value, low, high), words, count, most)

    def numbers[D](
        self,
        name: str,
        default: D = _REQUIRED,
        *,
        count: int | None = None,
        most: int = 1_000_000,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> list[float] | D:
        """A list of finite numbers from `low` to `high`: exactly `count`, or at most `most`."""
        words = _between("numbers", low, high)
        return self._list(name, default, lambda value: _is_number(value, low, high), words, count, most)

    def shape[D](
        self, name: str, default: D = _REQUIRED, *, low: int = 0, most_elements: int = _LARGEST
    ) -> tuple[int, ...] | D:
        """The shape of an array: at most 32 axes, each of at least `low`, and of at most `most_elements` in all."""
        value = self._typed(
            name,
            default,
            lambda value: is_shape(value, low) and math.prod(value) <= most_elements,
            f"the shape of an array, whole numbers from {low} up"
            + (f" with at most {most_elements:,} elements in all" if most_elements < _LARGEST else ""),
        )
        return tuple(value) if isinstance(value, list) else value

    def object[D](self, name: str, default: D = _REQUIRED) -> "Fields | D":
        """An object within."""
        value: Any = self._typed(name, default, lambda value: isinstance(value, dict), "an object")
        return value if value is default else self._within(value, name)

    def objects(self) -> Iterator[tuple[str, "Fields"]]:
        """Each entry by name, all of which must be objects."""
        for name in self.content:
            yield name, self.object(name)

    def list_of_objects[D](self, name: str, default: D = _REQUIRED, *, most: int = 100_000) -> "list[Fields] | D":
        """A list of at most `most` objects."""
        value: Any = self._list(name, default, lambda item: isinstance(item, dict), "objects", None, most)
        if value is default:
            return value
        return [self._within(item, f"{name}[{number}]") for number, item in enumerate(value)]

    def refuse_others(self, allowed: Iterable[str]) -> None:
        """Refuse a field that is none of `allowed`, for formats whose every field has a meaning."""
        words = tuple(allowed)
        for name in self.content:
            if name not in words:
                raise RefusedError(f"{self.place(name)} is not known here: expected {', '.join(words)}.")

    def _within(self, content: JSONObject, name: str) -> "Fields":
        return Fields(content, self.source, ".".join(filter(None, (self.at, name))))

    def _typed(self, name: str, default: Any, fits: Callable[[JSON], bool], expected: str) -> Any:
        value = self.content.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if not fits(value):
            raise self.refusal(name, expected)
        return value

    def _list(
        self, name: str, default: Any, fits: Callable[[JSON], bool], words: str, count: int | None, most: int
    ) -> Any:
        number = f"at most {most:,}" if count is None else f"exactly {count}"

        def is_list(value: JSON) -> bool:
            return (
                isinstance(value, list)
                and (len(value) <= most if count is None else len(value) == count)
                and all(map(fits, value))
            )

        return self._typed(name, default, is_list, f"a list of {number} {words}")


def is_shape(value: object, low: int = 0) -> TypeGuard[Sequence[int]]:
    """Whether a value is a list or tuple of at most 32 whole numbers from `low` up whose product is below 2**63."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= 32
        and all(_is_integer(size, low, _LARGEST) for size in value)
        and math.prod(max(size, 1) for size in value) <= _LARGEST
    )


def _is_integer(value: object, low: float, high: float) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value) and low <= float(value) <= high
    except OverflowError:
        return False


def _between(kind: str, low: float, high: float) -> str:
    bounds = [f"from {low:,}"] if low not in (-_LARGEST, -math.inf) else []
    bounds += [f"up to {high:,}"] if high not in (_LARGEST, math.inf) else []
    return " ".join([kind, *bounds])


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"it has {shown(twice)} twice in one object")
    return made


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "it has half of a surrogate pair"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start:,} is not UTF-8"
    return str(error)


def _depth(content: JSON) -> int:
    """Levels of nesting, found level by level."""
    level, depth = [content], 0
    while level := [node for node in level if type(node) in (dict, list)]:
        level, depth = [child for node in level for child in (node.values() if type(node) is dict else node)], depth + 1
    return depth
