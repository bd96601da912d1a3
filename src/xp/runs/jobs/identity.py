"""Identity of a run: a hash of what its result depends on, and of nothing else.

What of a configuration the result depends on (`xp.config.result_config`) is hashed by content, in canonical form.
A key that came later and stands at its neutral value is left out before (`xp.config.identity_keys.NEUTRAL`). Runs that
are needed enter by *their* identity, wherever their folders are, so identities chain back to the data like the nodes
of a Merkle tree. What is the same identity: another order of keys; a default written out; `1` and `1.0` (YAML and the
command line do not agree which of them a user means); another machine, folder, logger. What is another: any value, a
list in another order, `true` and `1`, text and number.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xp.checkpoints.reference import CheckpointRef
from xp.hub.address import SCHEME
from xp.json_types import JSON, JSONObject
from xp.nested import dotted
from xp.runs.records.folder import RECORD
from xp.runs.records.json_io import read_object

IDENTITY_SCHEMA = 1
"""Enters every hash: raised when the canonical form changes."""
SHOWN = 16
"""Hex digits shown to people: 64 bits."""
SELF = "self"
"""Stands for the run's own identity, in paths inside its own folder."""


class _Missing:
    def __repr__(self) -> str:
        return "(not there)"


@dataclass(frozen=True)
class Difference:
    """One key in which two configurations differ; a key that one of them lacks has `missing` there."""

    key: str
    one: JSON | _Missing
    other: JSON | _Missing

    def __str__(self) -> str:
        return f"{self.key}: {_text(self.one)} -> {_text(self.other)}"


missing = _Missing()


def identity(result_config: JSONObject, needs: Mapping[str, str] | None = None) -> str:
    """SHA-256 (64 hex digits) of the canonical form of `result_config` and of the identities of the needed runs.

    Args:
        result_config: the keys a result depends on, nested or with dotted keys, values resolved.
        needs: {folder of a needed run: its identity}; values that are in such a folder count as `run:IDENTITY/REST`.
            The folder of the run itself may be among them, as `SELF`, and folders with files of a hub, as
            `hf://ORG/NAME@COMMIT`; values in those count as `hf://ORG/NAME@COMMIT/REST`.
    """
    needs = needs or {}
    content = {
        "schema": IDENTITY_SCHEMA,
        "science": canonical(result_config, needs),
        "needs": sorted({known for known in needs.values() if known != SELF}),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(result_config: JSONObject, needs: Mapping[str, str] | None = None) -> dict[str, JSON]:
    """Flat {dotted key: canonical value}; empty sections vanish."""
    folders = {_absolute(folder): known for folder, known in (needs or {}).items()}
    return {key: _canonical(value, folders) for key, value in dotted(result_config).items()}


def differing_keys(
    one: JSONObject,
    other: JSONObject,
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


def referenced_runs(result_config: JSONObject, known: Known | None = None) -> dict[str, str]:
    """{folder: identity} of finished or begun runs whose folders hold a path that `result_config` names.

    So a policy given as `pretrained_path=outputs/RUN` counts by what was trained, not by where it is.
    """
    known = {} if known is None else known
    found: dict[str, str] = {}
    for value in _strings(list(dotted(result_config).values())):
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
            identity = read_object(folder / RECORD).get("identity")
            return (str(folder), str(identity)) if identity else None
    return None


def _canonical(value: JSON, folders: Mapping[str, str]) -> JSON:
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
    """Put the identity of a needed run in place of its folder; the longest folder that fits wins.

    A text without a slash is a name (of a model, of a task), also where a folder beside is called so.
    """
    if not folders or "/" not in value:
        return value
    path = _absolute(value)
    inside = [folder for folder in folders if path == folder or path.startswith((folder + os.sep, folder + "@"))]
    if not inside:
        return value
    folder = max(inside, key=len)
    known = folders[folder]
    return f"{known if known.startswith(SCHEME) else f'run:{known}'}{path[len(folder) :]}"


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links are left as they are, unlike Path.resolve


def _strings(values: Sequence[JSON]) -> list[str]:
    flat: list[str] = []
    for value in values:
        if isinstance(value, str):
            flat.append(value)
        elif isinstance(value, Mapping):
            flat += _strings(list(value.values()))
        elif isinstance(value, list | tuple):
            flat += _strings(list(value))
    return flat


def _same(one: JSON | _Missing, other: JSON | _Missing) -> bool:
    if one is missing or other is missing:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _text(value: JSON | _Missing) -> str:
    return repr(value) if value is missing else json.dumps(value)
