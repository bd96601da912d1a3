# pyright: strict
"""How users name what lies on a hub: `hf://[datasets/]ORG/NAME[@REVISION][/PATH][@STEP]`."""

import re
from dataclasses import dataclass, replace

from xp.errors import UserError
from xp.foreign.text import printable
from xp.hub.part import Part

SCHEME = "hf://"
MODEL, DATASET = "model", "dataset"
MAIN = "main"
_STEP = re.compile(r"(.*)@(\d{1,18})", re.S)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubAddress:
    """A repository of a hub at a revision, and what is meant of it."""

    kind: str
    """`model` or `dataset`."""
    repo: str
    """`ORG/NAME`."""
    revision: str
    """Branch, tag, `refs/pr/N` or commit, as it was asked for."""
    path: str = ""
    """A folder or file inside the repository; empty for all of it."""
    step: int | None = None
    """One step of a run or of a policy folder with several (`FOLDER@STEP`)."""
    all_steps: bool = False
    """Whether all steps of a policy folder are meant where none is named, and not the newest alone."""

    part: Part = Part()  # noqa: RUF009 - frozen
    """Of a dataset, what is read of it: which of its videos are downloaded."""

    @property
    def whole(self) -> "HubAddress":
        """The same, all of which is read."""
        return replace(self, part=Part())

    @property
    def name(self) -> str:
        """The repository as it is typed: `hf://datasets/ORG/NAME`, `hf://ORG/NAME`."""
        return SCHEME + ("datasets/" if self.kind == DATASET else "") + self.repo

    @property
    def is_fixed(self) -> bool:
        """Whether the revision is a commit, which never comes to mean something else."""
        return COMMIT.fullmatch(self.revision) is not None

    @property
    def is_main(self) -> bool:
        """Whether the revision is the branch that every repository has."""
        return self.revision == MAIN

    def at(self, revision: str) -> str:
        """The same of another revision, as it is typed."""
        inside = f"/{self.path}" if self.path else ""
        step = "" if self.step is None else f"@{self.step}"
        return f"{self.name}@{revision.replace('/', '%2F')}{inside}{step}"

    def __str__(self) -> str:
        return self.at(self.revision)


def is_address(text: object) -> bool:
    """Whether a text is meant as an id of a hub (`hf:` at its beginning)."""
    return isinstance(text, str) and text.startswith("hf:")


def parse(text: str, key: str, kind: str) -> HubAddress:
    """Read an id of a hub.

    The grammar is huggingface_hub's. `datasets/` in front says that a dataset is meant and `models/` that a model is;
    without either it is what the key takes. A number behind a second `@`, or behind the path, is a step, as in
    `FOLDER@STEP`: `hf://org/octo@main@300000`.

    Args:
        text: what was given.
        key: where, for the message: "data.root".
        kind: what the key takes, `model` or `dataset`.

    Raises:
        UserError: it is no id, or one of something else.
    """
    from huggingface_hub.errors import HfUriError
    from huggingface_hub.utils import parse_hf_uri

    bare = text if text.startswith(SCHEME) else SCHEME + text.removeprefix("hf:").lstrip("/")
    named = _STEP.fullmatch(bare)
    stepped = named is not None and ("@" in named[1] or _has_path(named[1]))
    body, step = (named[1], int(named[2])) if named is not None and stepped else (bare, None)
    try:
        found = parse_hf_uri(body)
    except HfUriError as error:
        raise _refused(text, key, kind, str(error).replace(f"Invalid HF URI '{body}'.", "").strip(" .")) from None
    prefixed = body.removeprefix(SCHEME).startswith(("datasets/", "models/"))
    actual = str(found.type) if prefixed or found.type not in (MODEL, DATASET) else kind
    if actual not in (MODEL, DATASET):
        raise _refused(text, key, kind, f"it names a {actual}")
    if actual != kind and not found.path_in_repo:
        raise _refused(text, key, kind, f"it names a {actual}")
    if ".." in found.path_in_repo.split("/"):
        raise _refused(text, key, kind, "its path leads out of the repository")
    return HubAddress(actual, found.id, found.revision or MAIN, found.path_in_repo.rstrip("/"), step)


def _has_path(text: str) -> bool:
    return text.removeprefix(SCHEME).removeprefix("datasets/").removeprefix("models/").count("/") > 1


def _refused(text: str, key: str, kind: str, why: str) -> UserError:
    inside = "datasets/" if kind == DATASET else ""
    what = "dataset" if kind == DATASET else "policy"
    return UserError(
        f"{key}={printable(text)}: expected the id of a {what} on the hub, and {printable(why)}. Type "
        f"{key}=hf://{inside}ORG/NAME, and behind it @REVISION for another revision than main."
    )
