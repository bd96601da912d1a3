"""Checks of what a configuration names on a hub: it is there, may be seen, and is what the key takes."""

from pathlib import Path

from omegaconf import DictConfig

from xp.checkpoints.reference import CheckpointRef, is_folder
from xp.config.hub_keys import address_of, by_repo_id, described_folder, resolved
from xp.config.sections import raw
from xp.errors import UserError
from xp.hub.address import DATASET, MODEL, SCHEME, HubAddress, is_address, parse
from xp.shell import command

_DEFAULT = "${paths."
"""What a `data.root` begins with that an option file gives, and nobody typed."""


def dataset_on_hub(config: DictConfig) -> HubAddress | None:
    """The dataset on a hub that the `data` section names, by `root` or by `repo_id`; None for a folder.

    Raises:
        UserError: an id that is none, two datasets at once, or a revision of none.
    """
    data = config.data
    repo_id, revision = data.get("repo_id"), data.get("revision")
    if repo_id is None and revision is not None:
        raise UserError(
            f"data.revision={revision} goes with data.repo_id. Type data.repo_id=ORG/NAME, or give both at once: "
            "data.root=hf://ORG/NAME@REVISION"
        )
    if repo_id is None:
        return address_of("data.root", data.root) if is_address(data.root) else None
    if data.root is not None and not str(raw(config, "data.root")).startswith(_DEFAULT):
        raise UserError(
            f"data.root={data.root} and data.repo_id={repo_id} both name the dataset. Leave data.repo_id out to take "
            "the one in data.root; or leave data.root out to take the one on the hub."
        )
    return by_repo_id("data", repo_id, revision).address


def described_root(config: DictConfig) -> str | Path | None:
    """The folder whose small files say what the dataset has: `data.root`, or a part of one on a hub, downloaded now.

    Raises:
        UserError: as `dataset_on_hub`; or it is not there, may not be seen, or cannot be reached.
    """
    found = dataset_on_hub(config)
    return config.data.root if found is None else described_folder(found)


def described(key: str, root: str) -> str | Path:
    """The folder whose small files say what a dataset has, where `root` is a folder or an id of a hub.

    Raises:
        UserError: an id that is none; or it is not there, may not be seen, or cannot be reached.
    """
    return described_folder(address_of(key, root)) if is_address(root) else root


def shown_root(config: DictConfig) -> str:
    """The dataset as messages name it."""
    return str(dataset_on_hub(config) or config.data.root)


def on_a_hub(key: str, value: object) -> bool:
    """Whether a value names what lies on a hub, which is then looked for.

    Raises:
        UserError: an id that is none; or it is not there, may not be seen, or cannot be reached.
    """
    if not is_address(value):
        return False
    resolved(address_of(key, str(value)))
    return True


def refuse_to_write(key: str, value: object) -> None:
    """Refuse an id of a hub where something is to be written.

    Raises:
        UserError: what to type.
    """
    if is_address(value):
        raise UserError(
            f"{key}={value}: this is where the dataset is written to, so it has to be a folder: {key}=FOLDER. Upload "
            f"it afterwards: {command('task=push', push__dataset='FOLDER', push__repo='ORG/NAME')}"
        )


def check_push(config: DictConfig) -> None:
    """`task=push` is told what to upload and where to.

    Raises:
        UserError: what to type.
    """
    push = config.push
    if (push.run is None) == (push.dataset is None):
        both = "" if push.run is None else f" (now {push.run} and {push.dataset})"
        raise UserError(f"task=push uploads one thing{both}: type push.run=RUN, or push.dataset=FOLDER")
    if push.repo is None:
        raise UserError("push.repo is not given: where to? Type push.repo=ORG/NAME (your own name counts as ORG)")
    parse(
        f"{SCHEME}{'datasets/' if push.dataset else 'models/'}{push.repo}",
        "push.repo",
        DATASET if push.dataset else MODEL,
    )
    for key in ("run", "dataset"):
        folder = push[key]
        if folder is not None and not is_folder(CheckpointRef.parse(str(folder)).path):
            raise UserError(f"push.{key}={folder}: no such folder. Give the folder of a run, a policy or a dataset.")
