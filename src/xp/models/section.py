"""Reads a section of the configuration key by key, each with the expected type. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xp.errors import UserError
from xp.json_types import JSON, JSONObject


@dataclass(frozen=True)
class Section:
    """The `model` section, or one inside it; a key that is missing or null gives the default.

    Raises (every method): UserError: a value of another type, or one that is missing and has no default.
    """

    content: JSONObject
    at: str = "model"
    """What stands before a key on the command line."""

    def get(self, name: str) -> JSON:
        """A value as it is; None where there is none."""
        return self.content.get(name)

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise self._refusal(name, value, "a whole number")
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._refusal(name, value, "a number")
        return float(value)

    def flag(self, name: str) -> bool | None:
        """True, false, or None where nothing is said."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._refusal(name, value, "true or false")
        return value

    def text(self, name: str) -> str | None:
        """A word; None where nothing is said."""
        value = self.get(name)
        return None if value is None else str(value)

    def integers(self, name: str) -> tuple[int, ...]:
        """Whole numbers, none of them where nothing is said."""
        value = self.get(name)
        listed = [] if value is None else value
        if isinstance(listed, Sequence) and not isinstance(listed, str):
            whole = tuple(each for each in listed if isinstance(each, int))
            if len(whole) == len(listed):
                return whole
        raise self._refusal(name, value, "a list of whole numbers")

    def section(self, name: str) -> "Section":
        """A section inside this one, empty where there is none."""
        value = self.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self._refusal(name, value, "a section with keys of its own")
        return Section(value, f"{self.at}.{name}")

    def _given(self, name: str, default: JSON) -> JSON:
        value = self.get(name)
        if value is None and default is None:
            raise UserError(f"{self.at}.{name} is not given, and this model needs it. Type {self.at}.{name}=VALUE.")
        return default if value is None else value

    def _refusal(self, name: str, value: JSON, expected: str) -> UserError:
        return UserError(f"{self.at}.{name}={value}: expected {expected}. Type {self.at}.{name}=VALUE.")
