"""`xp task=push`: upload a policy or a dataset to the hub, with a card that says how it was made and how good it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from xp import atomic
from xp.checkpoints.reference import CheckpointRef
from xp.config.dataset_facts import find_format, installed_formats
from xp.errors import UserError, human_size, join_names
from xp.foreign.paths import inside, regular_file
from xp.hub.address import DATASET, MODEL, HubAddress
from xp.hub.card import FormatWords
from xp.hub.upload import CARD, upload
from xp.runs import RunFolder
from xp.runs.jobs.secrets import holds_token
from xp.tasks._lib import cards

_LOOKED_THROUGH = 4_000_000
"""Bytes of a file up to which it is looked through for tokens: the files that people write."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What is uploaded: the files of a folder, and the card to them."""

    kind: str
    folder: Path
    card: str
    card_file: Path
    """Where a dry run leaves the card."""
    tag: str | None = None
    step: int | None = None
    """The step of a policy folder with several that is uploaded; None for all."""


def show(config: DictConfig) -> int:
    """Upload, or with push.dry_run=true write the card and say what would be uploaded."""
    asked = config.push
    parcel = _parcel(config)
    files = files_to_upload(parcel.folder, parcel.step)
    size = sum(path.stat().st_size for path in files.values())
    where = HubAddress(parcel.kind, asked.repo, asked.branch)
    if asked.dry_run:
        atomic.write_text(parcel.card_file, parcel.card)
        for name in files:
            print(f"  {name}")
        print(f"{where}: {len(files)} files of {parcel.folder}, {human_size(size)}; its card: {parcel.card_file}")
        return 0
    print(f"uploading {len(files)} files of {parcel.folder}, {human_size(size)}, to {where}")
    made = upload(
        where,
        files,
        parcel.card,
        private=asked.private,
        replace=asked.replace,
        message=f"Upload of {parcel.folder.name} by xp",
        tag=parcel.tag,
    )
    print(f"done: {made.url}, commit {made.commit}")
    print(f"  use: {where.at(made.commit)}")
    return 0


def _parcel(config: DictConfig) -> Parcel:
    """The policy of a run, the dataset that a run has recorded, or a dataset's folder.

    Raises:
        UserError: the folder holds neither.
    """
    asked = config.push
    if asked.dataset is not None:
        return _dataset(config, Path(asked.dataset).expanduser(), "", Path(f"{asked.dataset}.card.md"))
    run = CheckpointRef.parse(asked.run).path
    summary = RunFolder(run).summary()
    if isinstance(summary, Mapping) and summary.get("task") == "collect":
        return _dataset(config, Path(str(summary.get("root"))), cards.command_of(run), run / "card.md")
    from xp.models.families import find_policy

    found = find_policy(asked.run)
    facts = cards.policy_facts(config, found.folder, found.family.name)
    if not facts.metrics:
        print("The card has no numbers: push.evaluations=[RUN], of task=eval or task=predict, puts them there.")
    from xp.hub.card import model_card

    return Parcel(kind=MODEL, folder=found.folder, card=model_card(facts), card_file=run / "card.md", step=found.step)


def _dataset(config: DictConfig, folder: Path, command: str, card_file: Path) -> Parcel:
    from xp.data import open_dataset

    dataset = open_dataset(folder)
    found = find_format(folder)
    words: FormatWords | None = getattr(found, "on_hub", None)
    if words is None:
        able = [name for name, each in installed_formats().items() if getattr(each, "on_hub", None)]
        raise UserError(
            f"{folder}: datasets of the format {found.name if found else 'of nobody'} are not uploaded; those of "
            f"{join_names(able)} are."
        )
    card, version = cards.dataset_facts(config, dataset, folder / words.description, words, command)
    return Parcel(kind=DATASET, folder=folder, card=card, card_file=card_file, tag=version)


def files_to_upload(folder: Path, step: int | None = None) -> dict[str, Path]:
    """{name in the repository: file} of a folder: all of its files but hidden ones, a card, and steps beside `step`.

    Raises:
        UserError: a link that leads out of the folder, no file at all, or a file that holds a token.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        if path.is_dir() or any(part.startswith(".") for part in parts) or name == CARD:
            continue
        if step is not None and len(parts) > 1 and parts[0].isdigit() and int(parts[0]) != step:
            continue
        found[name] = regular_file(inside(folder, name, "a file to upload"), "a file to upload")
        _refuse_token(found[name])
    if not found:
        raise UserError(f"{folder} holds no file that could be uploaded. Give the folder of a policy or a dataset.")
    return found


def _refuse_token(path: Path) -> None:
    if path.stat().st_size > _LOOKED_THROUGH:
        return
    if holds_token(path.read_bytes().decode("utf-8", errors="ignore")):
        raise UserError(
            f"{path} holds what looks like a token or a password, so nothing is uploaded. Take it out of that file, "
            "and give the same command again."
        )
