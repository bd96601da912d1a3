"""Checks that the files of one checkpoint agree: shards, index, configuration, and weights that are tied."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xp.checkpoints.arrays import Leaf, Reader
from xp.checkpoints.open import TORCH_ARCHIVE, Checkpoint
from xp.checkpoints.ranges import cut
from xp.checkpoints.safetensors import INDEX, MODEL, read_index
from xp.errors import UserError, join_names
from xp.foreign.json_file import read_object
from xp.foreign.text import printable, shown
from xp.json_types import JSON, JSONObject
from xp.merging.engine import BLOCK
from xp.merging.sidecar import kept_files

SHARD = re.compile(r"(.+)-(\d{1,6})-of-(\d{1,6})\.safetensors")
OTHERS = re.compile(r"(pytorch_model|adapter_model|model|consolidated).*\.(bin|pt|pth|ckpt|gguf|h5|msgpack)|.+\.gguf")
"""Weights in formats that are not read here; beside safetensors they are another copy, or a left-over."""
HEADS = re.compile(r"(.*[./])?(lm_head|embed_out)\.weight")
EMBEDDINGS = re.compile(r"(.*[./])?(embed_tokens|wte|word_embeddings|shared|embed_in)\.weight")
WITH_HEAD = re.compile(r".*(ForCausalLM|ForConditionalGeneration|LMHeadModel)")
CONFIGURED = ("safetensors", TORCH_ARCHIVE)
"""Formats beside whose weights a config.json lies."""
LOCAL = {
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "device",
    "repo_id",
    "pretrained_path",
    "tags",
}
"""Of a config.json: what says where and by whom a model was written, not what it is."""


def reconciled(checkpoint: Checkpoint) -> tuple[Checkpoint, list[str]]:
    """The checkpoint with its ties resolved, and notes about what lies beside its weights.

    Raises:
        UserError: incomplete, or two things in it contradict each other.
    """
    if checkpoint.kind != "safetensors":
        return checkpoint, []
    notes = []
    for folder in (checkpoint.place, checkpoint.base):
        if folder is not None and folder.is_dir():
            _check_shards(folder)
            others = sorted(file.name for file in folder.iterdir() if OTHERS.fullmatch(file.name))
            notes += [f"{printable(folder / name)} lies beside the weights and was not read" for name in others]
    return _tied(checkpoint), notes


def _check_shards(folder: Path) -> None:
    """Refuse a set of shards that is not whole, and shards that nothing lists."""
    there: dict[tuple[str, int], set[int]] = {}
    for file in folder.iterdir():
        match = SHARD.fullmatch(file.name)
        if match:
            there.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    if not there:
        return
    listed = set((read_index(folder) or {}).values())
    for (stem, count), numbers in there.items():
        first = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
        if first <= count:
            raise UserError(
                f"{printable(folder)} is incomplete: of {count} shards {printable(stem)}-...-of-{count:05} only "
                f"{len(numbers)} are there; number {first} is missing. Nothing was written. Copy the others, too."
            )
        strays = [
            file.name for file in sorted(folder.iterdir())
            if (match := SHARD.fullmatch(file.name)) and match[1] == stem and int(match[3]) == count
            and file.name not in listed
        ]  # fmt: skip
        if strays:
            says = f"{INDEX} does not list {'it' if len(strays) == 1 else 'them'}" if listed else f"there is no {INDEX}"
            beside = f" beside {MODEL}" if (folder / MODEL).is_file() else ""
            raise UserError(
                f"{printable(folder)} holds {join_names(map(printable, strays[:3]))}{beside}, and "
                f"{says}: it is unclear which files belong to "
                "the checkpoint. Nothing was written. Copy the index, or remove what is left over."
            )


def _tied(checkpoint: Checkpoint) -> Checkpoint:
    """With the output layer that config.json ties to the embedding as one weight with it."""
    config = _config(checkpoint.sidecar)
    flag = _flag(config)
    if flag is None:
        return checkpoint
    reader = checkpoint.reader
    heads = [name for name in reader.leaves if HEADS.fullmatch(name)]
    embeddings = [name for name in reader.leaves if EMBEDDINGS.fullmatch(name)]
    if not flag:
        words = config.get("architectures")
        named = isinstance(words, list) and any(WITH_HEAD.fullmatch(str(word)) for word in words)
        if named and embeddings and not heads and not any(HEADS.fullmatch(name) for name in reader.ties):
            raise UserError(
                f"{printable(checkpoint.path)} is incomplete: its config.json says that the output layer is not tied "
                f"to {printable(embeddings[0])} (tie_word_embeddings), and no lm_head.weight is there. Nothing was "
                "written. Copy the checkpoint again, or set tie_word_embeddings to true where they are one weight."
            )
        return checkpoint
    if len(heads) != 1 or len(embeddings) != 1:
        return checkpoint
    head, embedding = reader.leaves[heads[0]], reader.leaves[embeddings[0]]
    if (head.shape, head.dtype) != (embedding.shape, embedding.dtype) or not _equal(reader, head.name, embedding.name):
        raise UserError(
            f"{printable(checkpoint.path)} contradicts itself: its config.json ties {printable(head.name)} to "
            f"{printable(embedding.name)} (tie_word_embeddings), and the file holds another one, which loading would "
            "drop. Nothing was written. Set tie_word_embeddings to false if both are meant, or remove one of them."
        )
    return replace(checkpoint, reader=Tied(reader, head.name, embedding.name))


class Tied:
    """A reader in which one weight is another one's name."""

    def __init__(self, reader: Reader, name: str, kept: str) -> None:
        self._reader = reader
        self.files = reader.files
        self.ties: Mapping[str, str] = {**reader.ties, name: kept}
        self.leaves: Mapping[str, Leaf] = {own: leaf for own, leaf in reader.leaves.items() if own != name}

    def file_of(self, name: str) -> Path:
        """The file that holds a leaf."""
        found = getattr(self._reader, "file_of", None)
        return found(name) if found is not None else self.files[0]

    def alignment(self, name: str) -> int:
        """See `Reader.alignment`."""
        return self._reader.alignment(name)

    def requires_sequential_read(self, name: str) -> bool:
        """See `Reader.requires_sequential_read`."""
        return self._reader.requires_sequential_read(name)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """See `Reader.read`."""
        return self._reader.read(name, start, stop)


def _equal(reader: Reader, one: str, other: str) -> bool:
    for start, stop in cut(0, reader.leaves[one].size, BLOCK):
        values = reader.read(one, start, stop).copy()
        if values.tobytes() != reader.read(other, start, stop).tobytes():
            return False
    return True


def _flag(config: JSONObject) -> bool | None:
    """tie_word_embeddings where it is said: at the top, or for the language model of several."""
    for node in (config, config.get("text_config"), config.get("llm_config")):
        said = node.get("tie_word_embeddings") if isinstance(node, Mapping) else None
        if isinstance(said, bool):
            return said
    return None


def _config(folder: Path | None) -> JSONObject:
    if folder is None or not (folder / "config.json").is_file():
        return {}
    return read_object(folder / "config.json", "a model's configuration")


def configurations_differ(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Notes on config.json files that are not those of one model: equal shapes alone do not say so."""
    first, *others = [checkpoint for checkpoint in checkpoints if checkpoint.kind in CONFIGURED] or [checkpoints[0]]
    mine = _config(first.sidecar)
    notes = []
    for other in others:
        theirs = _config(other.sidecar)
        found = list(_differences(mine, theirs)) if mine and theirs else []
        if found:
            told = [f"{printable(key)} ({shown(new, 40)} instead of {shown(old, 40)})" for key, old, new in found[:6]]
            more = f" and {len(found) - 6} more" if len(found) > 6 else ""
            notes.append(
                f"config.json of {printable(other.path)} is not that of {printable(first.path)}: "
                f"{join_names(told)}{more}"
                "; the merged checkpoint has that of the first"
            )
    return notes


def _differences(one: JSONObject, other: JSONObject) -> Iterator[tuple[str, JSON, JSON]]:
    for key in sorted((one.keys() | other.keys()) - LOCAL):
        if one.get(key) != other.get(key):
            yield key, one.get(key), other.get(key)


def refuse_other_descriptions(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse torch archives whose JSON files, but for config.json, are not those of one model.

    Beside such weights there are no files of statistics of their own: what a model normalises by, and which tasks and
    groups it has, stands in its JSON files. They are copied from the first checkpoint, so they have to hold for all.

    Raises:
        UserError: naming what one has and another has not, and what differs.
    """
    first, *others = checkpoints
    if first.kind != TORCH_ARCHIVE or first.sidecar is None:
        return
    mine = _descriptions(first.sidecar)
    for other in others:
        if other.kind != TORCH_ARCHIVE or other.sidecar is None:
            continue
        found = list(_apart(mine, _descriptions(other.sidecar), (printable(first.path), printable(other.path))))
        if found:
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise UserError(
                f"{printable(other.path)} and {printable(first.path)} are not of one model: {join_names(found[:8])}"
                f"{more}. Weights fit the tasks, groups and statistics that they were trained with, so they cannot be "
                "added up. Nothing was written. Merge policies that began from one model and know the same tasks, such "
                "as those of one run's loops."
            )


def _descriptions(folder: Path) -> JSONObject:
    """{file: content} of the JSON files beside the weights."""
    files = [file for file in kept_files(folder) if file.suffix == ".json" and file.name != "config.json"]
    return {file.name: read_object(file, "what describes a model") for file in files}


def _apart(one: JSONObject, other: JSONObject, names: tuple[str, str], place: str = "") -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        mine, theirs, where = one.get(key), other.get(key), f"{place}{printable(key, 80)}"
        if key not in one or key not in other:
            yield f"{where} (only in {names[key not in one]})"
        elif isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _apart(mine, theirs, names, f"{where}: ")
        elif mine != theirs:
            yield f"{where} ({shown(theirs, 40)} instead of {shown(mine, 40)})"
