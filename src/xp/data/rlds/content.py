"""What is read of all records of a dataset in RLDS: numbers, instructions, and where each picture is in its file.

Letters: E episodes, N steps (rows) in all, A action, S state dimensions, C cameras.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xp.data.rlds.features import NUMBERS, STEPS, Field
from xp.data.rlds.folder import SHARD, Shard
from xp.data.rlds.reading import ChosenFields, Reading
from xp.errors import UserError
from xp.foreign.bounds import allowance
from xp.foreign.text import printable
from xp.foreign.tf_example import ExampleList, read_example
from xp.foreign.tfrecord import Record, read_records

_AGAIN = "Copy the file again from where it came from."


@dataclass(frozen=True, eq=False, kw_only=True)
class Content:
    """All numbers, in memory or mapped."""

    lengths: np.ndarray
    """[E] int64: steps of each episode that has any."""
    file: np.ndarray
    """[E] int64: in which of the files it is."""
    task_index: np.ndarray
    """[E] int64."""
    action: np.ndarray
    """[N, A] float32."""
    state: np.ndarray
    """[N, S] float32."""
    spans: np.ndarray
    """[N, C, 2] int64: where a camera's picture begins in the file, and its bytes."""
    tasks: tuple[str, ...]
    digest: str
    """64 hex digits that name the numbers, the instructions, the records by their checksums, and what was told."""


@dataclass(frozen=True, eq=False)
class _Episode:
    action: np.ndarray
    state: np.ndarray
    spans: np.ndarray
    instruction: str

    @property
    def num_bytes(self) -> int:
        return self.action.nbytes + self.state.nbytes + self.spans.nbytes


@dataclass
class _Gathered:
    """What is read of one file after the other."""

    told: Reading
    chosen: ChosenFields
    most_bytes: int
    episodes: list[_Episode] = field(default_factory=list)
    file: list[int] = field(default_factory=list)
    taken: int = 0

    def add(self, number: int, record: Record, where: str) -> None:
        episode = _read_episode(record, self.chosen, self.told, where)
        self.taken += episode.num_bytes
        if self.taken > self.most_bytes:
            raise UserError(
                f"{where}: what was decoded so far takes {self.taken:,} bytes: expected at most {self.most_bytes:,}, "
                f"64 MB + 256 times the files. {_AGAIN}"
            )
        if len(episode.action):
            self.episodes.append(episode)
            self.file.append(number)


def read_content(root: Path, files: Sequence[Shard], told: Reading, chosen: ChosenFields) -> Content:
    """Read all records of all files, each compared with its checksum.

    Args:
        root: the dataset, for messages.
        files: of the splits that are read.
        told: what `data.read` says.
        chosen: the fields that are read.

    Raises:
        UserError: a file is missing or damaged, holds another number of episodes than announced, or a record does not
            fit what features.json says; or no episode has a step.
    """
    digest = hashlib.sha256(json.dumps([told.fps, told.drop_last, [each.path for each in chosen.all]]).encode())
    most = allowance(sum(each.path.stat().st_size for each in files if each.path.exists()))
    found = _Gathered(told, chosen, most)
    for number, shard in enumerate(files):
        records = 0
        for record in read_records(shard.path, SHARD):
            found.add(number, record, f"{printable(shard.path)}: record {record.number}")
            digest.update(f"\n{number} {record.checksum} {len(record.data)}".encode())
            records += 1
        if records != shard.episodes:
            raise UserError(
                f"{printable(shard.path)} holds {records} episodes: expected {shard.episodes}, by the `shardLengths` "
                "of dataset_info.json. Copy both again from where they came from."
            )
    if not found.episodes:
        raise UserError(f"{root} holds no episode with steps. Give another dataset, or other splits: {told.key}.splits")
    return _joined(found, digest.hexdigest())


def _joined(found: _Gathered, digest: str) -> Content:
    episodes = found.episodes
    tasks = {text: number for number, text in enumerate(dict.fromkeys(each.instruction for each in episodes))}
    named = hashlib.sha256(json.dumps([digest, *tasks]).encode())
    for each in episodes:
        named.update(each.action.tobytes())
        named.update(each.state.tobytes())
    return Content(
        lengths=np.array([len(each.action) for each in episodes], np.int64),
        file=np.array(found.file, np.int64),
        task_index=np.array([tasks[each.instruction] for each in episodes], np.int64),
        action=np.concatenate([each.action for each in episodes]),
        state=np.concatenate([each.state for each in episodes]),
        spans=np.concatenate([each.spans for each in episodes]),
        tasks=tuple(tasks),
        digest=named.hexdigest(),
    )


def _read_episode(record: Record, chosen: ChosenFields, told: Reading, where: str) -> _Episode:
    lists = read_example(record.data, where, {f"{STEPS}/{each.path}" for each in chosen.all})
    action = [_numbers(lists, each, where) for each in chosen.action]
    steps = len(action[0])
    state = [_numbers(lists, each, where) for each in chosen.state]
    pictures = [_list(lists, each, where).spans() for each in chosen.cameras.values()]
    texts = [_list(lists, chosen.instruction, where).spans()] if chosen.instruction else []
    for each, values in zip(chosen.all, [*action, *state, *texts, *pictures], strict=True):
        if len(values) != steps:
            raise UserError(
                f"{where}: {each.path} has {len(values)} steps and {chosen.action[0].path} {steps}: expected as many. "
                f"{_AGAIN}"
            )
    kept = max(steps - told.drop_last, 0)
    places = np.array(pictures, np.int64).reshape(len(pictures), steps, 2)
    spans = np.stack([record.begin + places[..., 0], places[..., 1] - places[..., 0]], -1).swapaxes(0, 1)
    return _Episode(
        np.concatenate(action, 1)[:kept],
        np.concatenate([np.zeros((steps, 0), np.float32), *state], 1)[:kept],
        np.ascontiguousarray(spans[:kept]),
        told.task or (_text(record.data, texts[0][0]) if texts and steps else ""),
    )


def _text(data: bytes, span: tuple[int, int]) -> str:
    return data[slice(*span)].decode("utf-8", "replace").strip()


def _list(lists: dict[str, ExampleList], wanted: Field, where: str) -> ExampleList:
    found = lists.get(f"{STEPS}/{wanted.path}")
    if found is None:
        raise UserError(f"{where} has no field {STEPS}/{wanted.path}, which features.json describes. {_AGAIN}")
    return found


def _numbers(lists: dict[str, ExampleList], wanted: Field, where: str) -> np.ndarray:
    """[steps, width] float32."""
    found, width = _list(lists, wanted, where), wanted.width
    kind = np.dtype(NUMBERS[wanted.type])
    if wanted.encoding != "none":
        return _encoded(found, wanted, kind)
    values = found.floats() if kind.kind == "f" else found.integers()
    if width == 0 or len(values) % width:
        raise UserError(
            f"{found.where} holds {len(values)} numbers: expected {width} for each step, as features.json says. "
            f"{_AGAIN}"
        )
    if wanted.type == "uint64":  # TFDS stores its bits as those of an int64
        values = values.view(np.uint64)
    return values.reshape(-1, width).astype(np.float32)


def _encoded(found: ExampleList, wanted: Field, kind: np.dtype) -> np.ndarray:
    """[steps, width] float32 of arrays that stand as bytes, packed or plain."""
    size, rows = wanted.width * kind.itemsize, list[np.ndarray]()
    for step, value in enumerate(found.values()):
        if wanted.encoding == "zlib":
            try:
                value = zlib.decompressobj().decompress(value, size + 1)
            except zlib.error as error:
                raise UserError(f"{found.where}, step {step}, cannot be unpacked ({error}). {_AGAIN}") from error
        if len(value) != size:
            raise UserError(
                f"{found.where}, step {step}, has {len(value):,} bytes or more: expected {size:,}, as features.json "
                f"says. {_AGAIN}"
            )
        rows.append(np.frombuffer(value, kind).astype(np.float32))
    return np.stack(rows) if rows else np.zeros((0, wanted.width), np.float32)
