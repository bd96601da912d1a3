# pyright: strict
"""Types of values as JSON and YAML hold them: what configurations, records and metrics are made of."""

from collections.abc import Mapping, Sequence

type JSON = None | bool | int | float | str | Sequence[JSON] | Mapping[str, JSON]
"""Any such value, to be read: what is inside is not changed through this type."""

type JSONObject = Mapping[str, JSON]
"""An object of JSON, a section of a configuration."""


def section(content: JSON, name: str) -> JSONObject:
    """The object under a name; an empty one where there is none."""
    found = content.get(name) if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}
