"""Secrets stay out of every file: replaced when a configuration is written, handed to the worker in memory."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

REDACTED = "(redacted)"
PATTERNS = ("*token", "*_token_*", "*api_key*", "*apikey*", "*password*", "*secret*")
"""Key names (any case) whose text values are secrets."""


def is_secret(key: str, value: Any) -> bool:
    """Whether a value under this key (last part of a dotted key) is a secret; numbers and empty values are not."""
    name = key.rpartition(".")[2].lower()
    return isinstance(value, str) and value not in ("", REDACTED) and any(fnmatchcase(name, each) for each in PATTERNS)


def redact(config: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """A copy of a nested configuration without its secrets, and {dotted key: secret}."""
    clean: dict[str, Any] = {}
    found: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            clean[key], inner = redact(value, f"{path}.")
            found |= inner
        elif is_secret(path, value):
            clean[key], found[path] = REDACTED, value
        else:
            clean[key] = value
    return clean, found


def redact_overrides(overrides: Sequence[str]) -> list[str]:
    """Command-line overrides without the secrets in them."""
    clean = []
    for override in overrides:
        key, equals, value = override.partition("=")
        clean.append(f"{key}={REDACTED}" if equals and is_secret(key.lstrip("+~"), value) else override)
    return clean


def restore(config: dict[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """Put secrets back into a plain nested configuration (changed in place)."""
    for path, value in secrets.items():
        *parents, last = path.split(".")
        node: Any = config
        for part in parents:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict) and last in node:
            node[last] = value
    return config
