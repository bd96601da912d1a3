"""Which keys of a configuration may name what lies on a hub, and what a job's values mean there.

`hf://ORG/NAME@REVISION` may stand wherever a dataset, a policy or a file is read; `data.repo_id` and `data.revision`
say the same as LeRobot's users type it. What is meant is asked of the hub here, once, for the checks and for the job.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from xp.config.dataset_facts import DescribedFormat, PartlyReadFormat, installed_formats
from xp.errors import UserError, join_names
from xp.hub.address import DATASET, MAIN, MODEL, SCHEME, HubAddress, is_address, parse
from xp.hub.choice import chosen_files, fits
from xp.json_types import JSON

if TYPE_CHECKING:
    from xp.hub.inputs import HubInput

_DATASETS = ("root", "data_root")
_POLICIES = ("checkpoint", "checkpoints", "pretrained_path", "base", "policy")
_FILES = ("split", "statistics", "validation")
_RUNS = ("report.base",)
"""Keys with a name of the above that read a run, which no hub has."""
_REPO_ID, _REVISION, _ROOT = "repo_id", "revision", "root"
_OF_A_DATASET = (*_DATASETS, *_FILES, _REPO_ID, _REVISION)
MIX = "data.mix"
"""The section whose entries are datasets, each with keys as those of `data`."""


@dataclass(frozen=True)
class HubValue:
    """A value of a configuration that names what lies on a hub."""

    key: str
    """The dotted key; of a list with the place in it: `merge.checkpoints[0]`."""
    path: tuple[str | int, ...]
    """Where in the configuration the local path goes."""
    address: HubAddress
    cleared: tuple[tuple[str | int, ...], ...] = ()
    """Keys that said it in another way, and are null once the path stands."""


def hub_values(read: Mapping[str, JSON]) -> Iterator[HubValue]:
    """The values that name what lies on a hub, among the keys that a task reads.

    Args:
        read: {dotted key: value} of what the task reads (`xp.config.result_config`).

    Raises:
        UserError: an id that is none, or under a key that takes none.
    """
    for key, value in read.items():
        section, _, last = key.rpartition(".")
        if last == _REPO_ID and isinstance(value, str):
            yield by_repo_id(section, value, read.get(f"{section}.{_REVISION}"))
        for number, each in enumerate(value if isinstance(value, list) else [value]):
            if is_address(each) and isinstance(each, str):
                place = (*path_of(key), number) if isinstance(value, list) else path_of(key)
                shown = f"{key}[{number}]" if isinstance(value, list) else key
                alone = key == "merge.checkpoints" and isinstance(value, list) and len(value) == 1
                yield HubValue(shown, place, replace(address_of(key, each), all_steps=alone))


def path_of(key: str) -> tuple[str, ...]:
    """The parts of a dotted key; the name of a dataset of a mixture is one part, also with a dot in it."""
    if not key.startswith(f"{MIX}."):
        return tuple(key.split("."))
    name, *last = key.removeprefix(f"{MIX}.").rsplit(".", 1 if key.rpartition(".")[2] in _OF_A_DATASET else 0)
    return (*MIX.split("."), name, *last)


def address_of(key: str, text: str) -> HubAddress:
    """What an id under a key means.

    Raises:
        UserError: it is no id, or the key takes none.
    """
    last = "" if key in _RUNS else key.rpartition(".")[2]
    if last in _DATASETS:
        return parse(text, key, DATASET)
    if last in _POLICIES:
        return parse(text, key, MODEL)
    if last in _FILES:
        found = parse(text, key, DATASET if "/datasets/" in text else MODEL)
        if not found.path:
            raise UserError(f"{key}={text}: a file is expected. Name one of the repository: {key}={found.name}/FILE")
        return found
    raise UserError(
        f"{key}={text}: ids of a hub are taken where a dataset, a policy or a file of either is read: "
        f"{join_names((*_DATASETS, *_POLICIES, *_FILES))}. Give a folder here."
    )


def by_repo_id(section: str, repo_id: str, revision: JSON) -> HubValue:
    """What `repo_id` and `revision` of a section mean: they say what `root` does.

    Raises:
        UserError: it is no ORG/NAME.
    """
    key = f"{section}.{_REPO_ID}"
    if repo_id.startswith((SCHEME, "datasets/")) or "@" in repo_id:
        raise UserError(
            f"{key}={repo_id}: give ORG/NAME here, and the revision as {section}.{_REVISION}=REVISION; or give both at "
            f"once: {section}.{_ROOT}=hf://ORG/NAME@REVISION"
        )
    parsed = parse(f"{SCHEME}datasets/{repo_id}", key, DATASET)
    found = HubAddress(DATASET, parsed.repo, str(revision or MAIN), parsed.path)
    path = path_of(section)
    return HubValue(key, (*path, _ROOT), found, cleared=((*path, _REPO_ID), (*path, _REVISION)))


def described_folder(address: HubAddress) -> Path:
    """A local folder with the files that describe a dataset on a hub, for the checks before a run.

    Raises:
        UserError: it is not there, may not be seen, or cannot be reached.
    """
    from xp.hub.inputs import described

    return described(resolved(address), _describing)


def resolved(address: HubAddress) -> "HubInput":
    """The commit that an address stands for, and the files that are read of it.

    Raises:
        UserError: it is not there, may not be seen, or cannot be reached.
    """
    from xp.hub.inputs import resolve

    return resolve(address, _chosen)


def fetched(found: "HubInput", cache: str | Path) -> Path:
    """The folder, below `paths.cache`, with the files that are read; downloaded if it is not here.

    Raises:
        UserError: as `resolved`; or a download broke off.
    """
    from xp.hub.inputs import fetch

    return fetch(found, cache, _chosen)


def local_path(text: str, key: str) -> str:
    """The local path of what an id of a hub means, downloaded if it is not here: for calls from Python.

    The files go beside the hub's own cache, below `HF_HOME/xp`.

    Args:
        text: the id.
        key: what it is given as, of the keys that take ids: "data.root", "checkpoint".

    Raises:
        UserError: as `fetched`.
    """
    from huggingface_hub import constants

    cache, found = Path(constants.HF_HOME) / "xp", resolved(address_of(key, text))
    fetched(found, cache)
    return found.path(cache)


def _chosen(address: HubAddress, commit: str, known: Mapping[str, int]) -> Sequence[str]:
    from xp.hub.client import download

    found = _format_of(address, known)
    names = chosen_files(address, known, getattr(found, "reads", ()))
    if address.part.is_whole or not isinstance(found, PartlyReadFormat):
        return names
    start = f"{address.path}/" if address.path else ""
    described = [name for name in names if fits(name.removeprefix(start), found.parts_told_by)]
    folder = download(address, commit, described, known) / address.path
    kept = found.files_of_part(folder, [name.removeprefix(start) for name in names], address.part)
    return [start + name for name in kept]


def _describing(address: HubAddress, commit: str, known: Mapping[str, int]) -> Sequence[str]:
    del commit
    start = f"{address.path}/" if address.path else ""
    found = _format_of(address, known)
    return [start + each for each in getattr(found, "described_by", ()) if start + each in known]


def _format_of(address: HubAddress, names: Collection[str]) -> DescribedFormat | None:
    """The data format whose dataset the files are: it has `described_by`, of which the first name is always there.

    `described_by` are names of the small files that the checks before a run read, `reads` patterns of all that is read.
    """
    start = f"{address.path}/" if address.path else ""
    for each in installed_formats().values() if address.kind == DATASET else ():
        described_by: tuple[str, ...] = getattr(each, "described_by", ())
        if described_by and start + described_by[0] in names:
            return each
    return None
