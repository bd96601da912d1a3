"""Identity of a run: a hash of what its result depends on, and of nothing else.

What of a configuration the result depends on (`xp.config.result_config`) is hashed by content, in canonical form.
A key that came later and stands at its neutral value is left out before (`xp.config.identity_keys.NEUTRAL`). Runs that
are needed enter by *their* identity, wherever their folders lie, so identities chain back to the data like the nodes
of a Merkle tree. What is the same identity: another order of keys; a default written out; `1` and `1.0` (YAML and the
command line do not agree which of them a user means); another machine, folder, logger. What is another: any value, a
list in another order, `true` and `1`, text and number.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xp.checkpoints.reference import CheckpointRef
from xp.runs.records.folder import RECORD
from xp.runs.records.json_io import read_json

IDENTITY_SCHEMA = 1
"""Enters every hash: raised when the canonical form changes."""
SHOWN = 16
"""Hex digits shown to people: 64 bits."""
SELF = "self"
"""Stands for the run's own identity, in paths inside its own folder."""


@dataclass(frozen=True)
class Difference:
    """One key in which two configurations differ; a key that one of them lacks has `missing` there."""

    key: str
    one: Any
    other: Any

    def __str__(self) -> str:
        return f"{self.key}: {_text(self.one)} -> {_text(self.other)}"


class _Missing:
    def __repr__(self) -> str:
        return "(not there)"


missing = _Missing()


def identity(result_config: Mapping[str, Any], needs: Mapping[str, str] | None = None) -> str:
    """SHA-256 (64 hex digits) of the canonical form of `result_config` and of the identities of the needed runs.

    Args:
        result_config: the keys a result depends on, nested or with dotted keys, values resolved.
        needs: {folder of a needed run: its identity}; values that lie in such a folder count as `run:IDENTITY/REST`.
            The folder of the run itself may be among them, as `SELF`.
    """
    needs = needs or {}
    content = {
        "schema": IDENTITY_SCHEMA,
        "science": canonical(result_config, needs),
        "needs": sorted({known for known in needs.values() if known != SELF}),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(result_config: Mapping[str, Any], needs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Flat {dotted key: canonical value}; empty sections vanish."""
    folders = {_absolute(folder): known for folder, known in (needs or {}).items()}
    return {key: _canonical(value, folders) for key, value in flatten(result_config).items()}


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists stay values, empty mappings vanish."""
    flat: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{key}."))
        else:
            flat[key] = value
    return flat


def differing_keys(
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    one_needs: Mapping[str, str] | None = None,
    other_needs: Mapping[str, str] | None = None,
) -> list[Difference]:
    """The keys in which two configurations differ, sorted; empty exactly where their canonical forms agree."""
    first, second = canonical(one, one_needs), canonical(other, other_needs)
    keys = sorted(first.keys() | second.keys())
    pairs = ((key, first.get(key, missing), second.get(key, missing)) for key in keys)
    return [Difference(key, old, new) for key, old, new in pairs if not _same(old, new)]


Known = dict[str, tuple[str, str] | None]
"""{text: (folder, identity) of the run that it names a path in, if any}, for many jobs of one call."""


def referenced_runs(result_config: Mapping[str, Any], known: Known | None = None) -> dict[str, str]:
    """{folder: identity} of finished or begun runs whose folders hold a path that `result_config` names.

    So a policy given as `pretrained_path=outputs/RUN` counts by what was trained, not by where it lies.
    """
    known = {} if known is None else known
    found: dict[str, str] = {}
    for value in _strings(list(flatten(result_config).values())):
        if "/" not in value or "${" in value or len(value) > 4096:
            continue
        if value not in known:
            known[value] = _run_of(Path(_absolute(str(CheckpointRef.parse(value).path))))
        run = known[value]
        if run is not None:
            found[run[0]] = run[1]
    return found


def _run_of(path: Path) -> tuple[str, str] | None:
    for folder in (path, *path.parents[:4]):
        if (folder / RECORD).is_file():
            identity = read_json(folder / RECORD).get("identity")
            return (str(folder), identity) if identity else None
    return None


def _canonical(value: Any, folders: Mapping[str, str]) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return _by_identity(value, folders)
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner, folders) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner, folders) for inner in value]
    return value


def _by_identity(value: str, folders: Mapping[str, str]) -> str:
    """Put the identity of a needed run in place of its folder; the longest folder that fits wins."""
    if not folders:
        return value
    path = _absolute(value)
    inside = [folder for folder in folders if path == folder or path.startswith((folder + os.sep, folder + "@"))]
    if not inside:
        return value
    folder = max(inside, key=len)
    return f"run:{folders[folder]}{path[len(folder) :]}"


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links are left as they are, unlike Path.resolve


def _strings(values: list[Any]) -> list[str]:
    flat: list[str] = []
    for value in values:
        if isinstance(value, str):
            flat.append(value)
        elif isinstance(value, Mapping):
            flat += _strings(list(value.values()))
        elif isinstance(value, list | tuple):
            flat += _strings(list(value))
    return flat


def _same(one: Any, other: Any) -> bool:
    if one is missing or other is missing:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _text(value: Any) -> str:
    return repr(value) if value is missing else json.dumps(value)
