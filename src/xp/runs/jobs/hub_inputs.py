"""What a job reads of a hub: frozen by commit when the job is composed, downloaded before the first job starts.

A job's configuration holds folders, never ids: `data.root` is the folder below `paths.cache` in which the files will
be, so a job needs neither network nor huggingface_hub, and launchers send the folder as they send any other. What was
asked for, and the commit that it was, stand in job.json and record.json (`hub`). A job that is composed again takes the
commits that were frozen in its folder, wherever the branches are now.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xp.json_types import JSON, JSONObject, section
from xp.runs.records.folder import JOB
from xp.runs.records.json_io import read_object

if TYPE_CHECKING:
    from xp.runs.jobs.frozen import Job

_CACHE = "outputs/cache"
"""Where folders go if a configuration has no `paths.cache`."""


def with_local_paths(
    config: dict[str, JSON], read: Mapping[str, JSON]
) -> tuple[dict[str, JSON], dict[str, JSONObject]]:
    """A configuration in which folders stand for ids of a hub, and {key: what it names} for job.json.

    Args:
        config: plain and resolved; it is not changed.
        read: the part that the task reads, with dotted keys (`xp.config.result_config`).

    Raises:
        UserError: an id that is none; or it is not there, may not be seen, or cannot be reached.
    """
    if not _mentions_hub(read):
        return config, {}
    from xp.config.hub_keys import hub_values, resolved
    from xp.config.parts_read import only_what_is_read
    from xp.hub.inputs import frozen_fields

    found, asked = dict[str, JSONObject](), config
    for value in hub_values(read):
        repository = resolved(only_what_is_read(value, asked))
        config = _replaced(config, value.path, repository.path(_cache(config)))
        for path in value.cleared:
            config = _replaced(config, path, None)
        found[value.key] = frozen_fields(repository, _cache(config))
    return config, found


def fetch_inputs(jobs: Iterable["Job"]) -> None:
    """Download what jobs read of a hub and is not here yet: once, before the first of them starts.

    Raises:
        UserError: it may not be seen or cannot be reached, or a download broke off; the same command goes on with it.
    """
    seen: set[JSON] = set()
    for job in jobs:
        for fields in job.hub.values():
            if fields["folder"] not in seen:
                seen.add(fields["folder"])
                _fetch(fields, _cache(job.config))


def pin_frozen(hub: JSONObject) -> None:
    """From now on take ids of a hub for the commits that were frozen with them.

    Args:
        hub: {key: fields} as job.json has it.
    """
    for key, fields in hub.items():
        if isinstance(fields, Mapping) and isinstance(fields.get("asked"), str):
            from xp.hub.inputs import pin

            pin(_address(key, fields), str(fields.get("commit")), str(fields.get("files")))


def pin_folder(folder: str | Path) -> None:
    """`pin_frozen` for what is frozen in a run's folder, if anything is: going on with a run uses its commits."""
    pin_frozen(section(read_object(Path(folder) / JOB, default={}), "hub"))


def _fetch(fields: JSONObject, cache: str) -> None:
    from xp.config.hub_keys import fetched, resolved
    from xp.hub.inputs import HubInput

    if Path(str(fields["folder"])).is_dir():
        return
    address = _address("hub", fields)
    known = resolved(address)
    frozen = HubInput(address, str(fields["commit"]), str(fields["files"]))
    fetched(known if known == frozen else frozen, cache)


def _address(key: str, fields: JSONObject):  # noqa: ANN202 - HubAddress, imported where a hub is named
    from dataclasses import replace

    from xp.hub.address import DATASET, MODEL, parse
    from xp.hub.part import Part

    asked = str(fields.get("asked"))
    kind = DATASET if asked.startswith("hf://datasets/") else MODEL
    part = Part.of(fields.get("part"))
    return replace(parse(asked, key, kind), all_steps=fields.get("all_steps") is True, part=part)


def _cache(config: JSONObject) -> str:
    return str(section(config, "paths").get("cache") or _CACHE)


def _mentions_hub(read: Mapping[str, JSON]) -> bool:
    from xp.hub.address import is_address

    return any(
        is_address(each) or (key.endswith(".repo_id") and each is not None)
        for key, value in read.items()
        for each in (value if isinstance(value, list) else [value])
    )


def _replaced(node: dict[str, JSON], path: tuple[str | int, ...], value: JSON) -> dict[str, JSON]:
    """A copy of a nested structure with another value at a path; the rest is shared."""
    first, rest = path[0], path[1:]
    assert isinstance(first, str)
    return {**node, first: _inner(node[first], rest, value)}


def _inner(node: JSON, path: tuple[str | int, ...], value: JSON) -> JSON:
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(node, list):
        return [_inner(each, rest, value) if number == first else each for number, each in enumerate(node)]
    assert isinstance(node, Mapping), f"{first} is no key of {node!r}"
    return {**node, str(first): _inner(node.get(str(first)), rest, value)}
