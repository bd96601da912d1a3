"""Nested mappings and their flat form: one entry a leaf, its path joined by a separator."""

from collections.abc import Mapping

from xp.json_types import JSON, JSONObject

type Tree[Leaf] = Mapping[str, Leaf | Tree[Leaf]]
"""Leaves by name, nested: arrays of a network, values of a configuration. No leaf is itself a mapping."""


def flatten[Leaf](tree: Tree[Leaf], prefix: str = "", separator: str = "/") -> dict[str, Leaf]:
    """Give every leaf of a nested mapping its path: `{"a": {"b": x}}` becomes `{"a/b": x}`, order kept.

    Args:
        tree: the mapping; a mapping in it that is empty vanishes.
        prefix: stands before every path.
        separator: between the names of a path.
    """
    flat: dict[str, Leaf] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}{separator}", separator))
        else:
            flat[path] = value
    return flat


def dotted(config: JSONObject, prefix: str = "", *, keep_empty: bool = False) -> dict[str, JSON]:
    """A nested configuration as {dotted key: value}; lists stay values. Empty mappings vanish, or stay as values."""
    flat: dict[str, JSON] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and (value or not keep_empty):
            flat |= dotted(value, f"{prefix}{key}.", keep_empty=keep_empty)
        else:
            flat[f"{prefix}{key}"] = value
    return flat
