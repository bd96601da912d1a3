"""Folders of TFDS in RLDS from a stranger: their descriptions, their records and the pictures in them."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
from hostile_folders import BASES, DEEP, _many, edit, link, pipe, put

MADE = Path(__file__).parents[1] / "data" / "rlds_made_by_tfds" / "arm" / "1.0.0"
SHARD, FEATURES, INFO = "arm-train.tfrecord-00001-of-00002", "features.json", "dataset_info.json"


def rlds(root: Path) -> None:
    shutil.copytree(MADE, root)


BASES["rlds"] = rlds


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data: bytes, length: int | None = None) -> bytes:
    """A record, or one that says another length."""
    head = struct.pack("<Q", len(data) if length is None else length)
    return head + masked(head) + data + masked(data)


def records(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = struct.unpack("<Q", data[:8])[0]
        found.append(data[12 : 12 + size])
        data = data[16 + size :]
    return found


def inside(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A change of the first record of the second file, with the checksums that it then has."""

    def apply(folder: Path) -> None:
        first, *others = records((folder / SHARD).read_bytes())
        (folder / SHARD).write_bytes(b"".join(map(framed, [change(first), *others])))

    return apply


def bytewise(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A change of the second file's bytes."""

    def apply(folder: Path) -> None:
        (folder / SHARD).write_bytes(change((folder / SHARD).read_bytes()))

    return apply


def split(**changed):
    return edit(INFO, lambda info: info["splits"][0].update(changed))


def step(change: Callable[[dict], object]):
    """A change of the fields of a step."""
    path = ("featuresDict", "features", "steps", "sequence", "feature", "featuresDict", "features")

    def apply(content: dict) -> None:
        node = content
        for name in path:
            node = node[name]
        change(node)

    return edit(FEATURES, apply)


def deep_features(folder: Path) -> None:
    node = '{"pythonClassName": "a.FeaturesDict", "featuresDict": {"features": {"steps": '
    (folder / FEATURES).write_text(node * 60_000 + "1" + "}}}" * 60_000)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def example(name: bytes, kind: int, values: bytes) -> bytes:
    """A tf.train.Example with one list, as protobuf writes it."""

    def field(number: int, content: bytes) -> bytes:
        size, varint = len(content), b""
        while size > 0x7F:
            varint, size = varint + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + varint + bytes([size]) + content

    return field(1, field(1, field(1, name) + field(2, field(kind, values))))


JPEG = b"\xff\xd8\xff\xe0"
_many(
    "rlds",
    "rlds",
    "told_dataset",
    {
        "no_fields": (without(FEATURES), "features.json"),
        "no_description": (without(INFO), "is no dataset of a format"),
        "a_pipe_for_fields": (pipe(FEATURES), "features.json.*named pipe"),
        "a_link_out": (link(SHARD, "../second/canary"), "leads out of"),
        "a_missing_file": (without(SHARD), "00001-of-00002"),
        "deep": (put(INFO, DEEP), "nested deeper"),
        "deep_fields": (deep_features, "nested deeper"),
        "another_kind_of_file": (edit(INFO, lambda it: it.update(fileFormat="array_record")), "expected tfrecord"),
        "no_splits": (edit(INFO, lambda it: it.update(splits=[])), "has no split 'train'"),
        "a_name_that_leaves": (edit(INFO, lambda it: it.update(name="../../second/x")), "leads out of"),
        "a_template_that_leaves": (split(filepathTemplate="../second/{SPLIT}"), "leads out of"),
        "a_template_to_the_root": (split(filepathTemplate="/etc/passwd"), "leads out of"),
        "an_unknown_place": (split(filepathTemplate="{HOME}"), "filepathTemplate is '{HOME}'"),
        "fewer_episodes": (split(shardLengths=["2", "1"]), "holds [0-9]+ episodes: expected"),
        "a_length_that_is_none": (split(shardLengths=["-1"]), "shardLengths"),
        "many_digits": (split(shardLengths=["9" * 5000]), "shardLengths"),
        "files_without_end": (split(shardLengths=["1"] * 1_000_001), "shardLengths"),
        "a_billion_episodes": (split(shardLengths=["2", "999999999"]), "expected 999999999"),
        "an_unknown_class": (
            step(lambda it: it.update(action={"pythonClassName": "a.b.Evil\x1b[2J", "audio": {}})),
            r"has no numbers action \(that is a Evil.x1b.2J\)",
        ),
        "no_steps": (edit(FEATURES, lambda it: it.update(featuresDict={"features": {}})), "describes no episodes"),
        "old_fields": (put(FEATURES, '{"type": "x", "content": {}}'), "before 4.5"),
        "a_huge_width": (
            step(lambda it: it["action"]["tensor"].update(shape={"dimensions": ["99999999999999"]})),
            "data.read.action is not given",
        ),
        "a_shape_of_words": (step(lambda it: it["action"]["tensor"].update(shape={"dimensions": ["x"]})), "dimensions"),
        "another_width": (
            step(lambda it: it["action"]["tensor"].update(shape={"dimensions": ["6"]})),
            "record 0: steps/action holds 21 numbers: expected 6",
        ),
        "another_type": (step(lambda it: it["action"]["tensor"].update(dtype="int32")), "holds floats: expected whole"),
        "packed_and_is_not": (step(lambda it: it["action"]["tensor"].update(encoding="zlib")), "expected bytes"),
        "cut_short": (bytewise(lambda data: data[:-7]), "record [0-9]: .*cut short|cut short"),
        "cut_in_a_head": (bytewise(lambda data: data + b"\x01\x02\x03"), "cut short: 12 bytes"),
        "a_flipped_bit": (bytewise(lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:]), "checksum does not"),
        "a_huge_length": (bytewise(lambda data: framed(b"", 2**62)), "cut short: 4,611,686,018,427,387,908 bytes"),
        "a_length_unsigned": (bytewise(lambda data: struct.pack("<QI", 2**62, 0) + data), "damaged, or no TFRecord"),
        "packed_by_gzip": (bytewise(lambda data: b"\x1f\x8b\x08\0" + data), "a gzip file"),
        "no_example": (inside(lambda data: b"\xff" * 30), "no tf.train.Example"),
        "a_group": (inside(lambda data: b"\x0b" + data), "wire type 3"),
        "an_endless_number": (inside(lambda data: b"\x0a" + b"\xff" * 20), "does not end"),
        "longer_than_it_is": (inside(lambda data: b"\x0a\x7f" + data[:10]), "longer than what holds it"),
        "one_list_twice": (inside(lambda data: data + data), "twice"),
        "no_list": (inside(lambda data: b""), "record 0 has no field steps/"),
        "half_a_float": (inside(lambda data: example(b"steps/action", 2, b"\x0a\x03abc")), "no multiple of 4"),
        "a_field_that_moves_the_cursor": (step(lambda it: it.update({"\x1b[2J": it.pop("action")})), "names a field"),
        "a_split_that_moves_the_cursor": (split(name="\x1b[2J"), r"splits\[0\].name"),
    },
)  # fmt: skip
_many(
    "rlds_pictures",
    "rlds",
    "told_frames",
    {
        "no_picture": (inside(lambda data: data.replace(JPEG, b"GIF8")), "is not a picture: expected a PNG or a JPEG"),
        "an_enormous_one": (
            inside(lambda data: data.replace(b"IHDR\0\0\0\x08", b"IHDR\0\x7f\xff\xff")),
            "camera 'wrist_image' in episode 2, step 0, has 8x8388607",
        ),
        "another_size": (
            step(lambda it: it["observation"]["featuresDict"]["features"]["image"]["image"].update(
                shape={"dimensions": ["99999", "99999", "3"]})),
            "episode 0, step 0, has 12x16 pixels .*expected 99999x99999",
        ),
    },
)  # fmt: skip
