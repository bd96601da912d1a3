"""Uploads: one commit with the files of a folder, into a repository that is made if it is not there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from xp.errors import UserError, some
from xp.hub.address import DATASET, HubAddress
from xp.hub.failures import is_offline, told

CARD = "README.md"


class _Where(TypedDict):
    repo_id: str
    repo_type: str


@dataclass(frozen=True)
class Uploaded:
    """What an upload made."""

    commit: str
    url: str


def upload(
    address: HubAddress,
    files: Mapping[str, Path],
    card: str,
    *,
    private: bool,
    replace: bool,
    message: str,
    tag: str | None = None,
) -> Uploaded:
    """Commit files and a card to a branch of a repository.

    Args:
        address: the repository, and the branch as its revision.
        files: {name in the repository: file}.
        card: text of README.md.
        private: whether a new repository is private. One that is there stays as it is.
        replace: remove, by the same commit, what the repository holds beside the files (but for names with a dot).
        message: of the commit.
        tag: a tag that is put on the commit, in place of an earlier one of that name: LeRobot looks for the version of
            its format, `v3.0`.

    Raises:
        UserError: no network, no token or one that may not write; or not `replace`, and the repository holds others.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    if is_offline():
        raise UserError(
            f"push.repo={address.repo}: HF_HUB_OFFLINE is set, so nothing is uploaded. Type HF_HUB_OFFLINE=0 xp ..."
        )
    api, where = HfApi(), _Where(repo_id=address.repo, repo_type=address.kind)
    with told(address, "the upload"):
        api.create_repo(**where, private=private, exist_ok=True)
        if not address.is_main:
            api.create_branch(**where, branch=address.revision, exist_ok=True)
        there = set(api.list_repo_files(**where, revision=address.revision))
        stale = sorted(name for name in there - {*files, CARD} if not name.startswith("."))
        if stale and not replace:
            raise UserError(
                f"push.repo={address.repo}: the repository holds files that are no part of this ({some(stale)}), and "
                "would be taken for it. Type push.replace=true to have the same commit remove them (earlier commits "
                "keep them); or give another push.repo or push.branch."
            )
        operations = [
            CommitOperationAdd(CARD, card.encode()),
            *(CommitOperationAdd(name, str(path)) for name, path in files.items()),
            *(CommitOperationDelete(name) for name in stale),
        ]
        made = api.create_commit(**where, operations=operations, commit_message=message, revision=address.revision)
        if tag is not None:
            if any(each.name == tag for each in api.list_repo_refs(**where).tags):
                api.delete_tag(**where, tag=tag)
            api.create_tag(**where, tag=tag, revision=made.oid)
    return Uploaded(made.oid, f"{api.endpoint}/{'datasets/' if address.kind == DATASET else ''}{address.repo}")
