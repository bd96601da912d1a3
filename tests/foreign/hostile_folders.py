"""Folders from a stranger: a name, what opens it, what is changed in an ordinary one, and what must be said."""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save_file

CAMERA = "observation.images.top"
FRAMES = (4, 4)


@dataclass(frozen=True)
class Case:
    """One hostile folder: `base` is copied, `change` works on the copy, `way` opens it."""

    kind: str
    name: str
    base: str
    way: str
    change: Callable[[Path], object]
    said: str
    """A regular expression that the refusal matches."""


CASES: list[Case] = []


def _add(kind: str, base: str, way: str, said: str):
    def keep(change):
        CASES.append(Case(kind, f"{kind}-{change.__name__}", base, way, change, said))
        return change

    return keep


def _many(kind: str, base: str, way: str, changes: dict) -> None:
    for name, (change, words) in changes.items():
        CASES.append(Case(kind, f"{kind}-{name}", base, way, change, words))


def edit(relative: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A change of a JSON file."""

    def apply(folder: Path) -> None:
        path = folder / relative
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return apply


def put(relative: str, data: bytes | str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / relative
        path.unlink(missing_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    return apply


def pipe(relative: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / relative).unlink()
        os.mkfifo(folder / relative)

    return apply


def link(relative: str, target: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / relative).unlink()
        (folder / relative).symlink_to(target)

    return apply


DEEP = b"[" * 100_000 + b"]" * 100_000

# --- ordinary folders --------------------------------------------------------------------------------------------


def png(size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 9, np.uint8)).save(file, "PNG")
    return file.getvalue()


def big_png() -> bytes:
    """A header of 12000 x 12000, and pixels that decompress to all of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" * 36_001) for _ in range(12_000)) + rows.flush()
    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def dataset(root: Path, video: bool = False) -> None:
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    count = sum(FRAMES)
    episode = np.repeat(np.arange(len(FRAMES)), FRAMES)
    frame = np.concatenate([np.arange(length) for length in FRAMES])
    vectors = pa.array([[float(i), 1.0, 2.0] for i in range(count)], pa.list_(pa.float32()))
    columns = {"action": vectors, "observation.state": vectors, "timestamp": pa.array((frame / 10).astype(np.float32))}
    columns |= {"frame_index": frame, "episode_index": episode, "index": np.arange(count)}
    columns |= {"task_index": np.zeros(count, np.int64)}
    if not video:
        columns[CAMERA] = pa.array([{"bytes": png(), "path": f"{i}.png"} for i in range(count)])
    pq.write_table(pa.table(columns), root / "data/chunk-000/file-000.parquet")
    starts = np.cumsum([0, *FRAMES[:-1]])
    rows = {"episode_index": [0, 1], "length": list(FRAMES), "dataset_from_index": starts, "tasks": [["push"]] * 2}
    rows |= {"dataset_to_index": starts + FRAMES, "data/chunk_index": [0, 0], "data/file_index": [0, 0]}
    if video:
        rows |= {f"videos/{CAMERA}/{part}": [0, 0] for part in ("chunk_index", "file_index")}
        rows |= {
            f"videos/{CAMERA}/from_timestamp": starts / 10,
            f"videos/{CAMERA}/to_timestamp": (starts + FRAMES) / 10,
        }
        mp4(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", count)
    pq.write_table(pa.table(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["push"]}), root / "meta/tasks.parquet")
    one = {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("index", "task_index")}
    one |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index")}
    one["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    vector = {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]}
    camera = {"dtype": "video" if video else "image", "shape": [32, 32, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0", "robot_type": "arm", "total_episodes": 2, "total_frames": count, "total_tasks": 1,
        "chunks_size": 1000, "fps": 10, "splits": {"train": "0:2"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {"action": vector, "observation.state": vector, CAMERA: camera, **one},
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text("{}")


def mp4(path: Path, count: int, size: tuple[int, int] = (32, 32)) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            picture = np.full((*size, 3), 20 * number % 256, np.uint8)
            box.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        box.mux(stream.encode())


def video(root: Path) -> None:
    dataset(root, video=True)


NORMALISE = {
    "registry_name": "normalizer_processor",
    "config": {"eps": 1e-8, "features": {}, "norm_map": {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}},
}


def policy(root: Path) -> None:
    root.mkdir()
    features = {"observation.state": {"type": "STATE", "shape": [3]}, CAMERA: {"type": "VISUAL", "shape": [3, 32, 32]}}
    config = {
        "type": "act", "n_obs_steps": 1, "chunk_size": 4, "n_action_steps": 4, "dim_model": 32, "n_heads": 2,
        "input_features": features, "output_features": {"action": {"type": "ACTION", "shape": [3]}},
        "n_encoder_layers": 1, "vision_backbone": "resnet18", "pretrained_backbone_weights": None, "device": "cpu",
    }  # fmt: skip
    (root / "config.json").write_text(json.dumps(config))
    save_file({f"model.w{i}": np.ones((2, 3), np.float32) for i in range(4)}, root / "model.safetensors")
    for name in ("policy_preprocessor", "policy_postprocessor"):
        steps = [{"registry_name": "device_processor", "config": {"device": "cpu"}}, NORMALISE]
        (root / f"{name}.json").write_text(json.dumps({"name": name, "steps": steps}))


def weights(root: Path) -> None:
    root.mkdir()
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}, root / "model.safetensors")
    (root / "config.json").write_text("{}")


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sharded(root: Path) -> None:
    root.mkdir()
    for name, key in zip(SHARDS, "ab"):
        save_file({key: np.ones((2, 3), np.float32)}, root / name)
    index = {"metadata": {"total_size": 48}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    (root / "config.json").write_text("{}")


def array(shape, word="float32", data=b"", kind=1):
    return msgpack.ExtType(kind, msgpack.packb([shape, word, data]))


def octo(root: Path) -> None:
    (root / "100/default").mkdir(parents=True)
    (root / "100/default/checkpoint").write_bytes(msgpack.packb({"params": {"w": array([2], data=b"12345678")}}))
    kwargs = {"action_horizon": 2, "action_dim": 3, "readout_key": "readout_action"}
    model = {
        "observation_tokenizers": {}, "task_tokenizers": {}, "token_embedding_size": 32, "max_horizon": 4,
        "heads": {"action": {"module": "octo.model", "name": "L1ActionHead", "args": [], "kwargs": kwargs}},
        "readouts": {"action": 1}, "transformer_kwargs": {"num_layers": 1, "mlp_dim": 32, "num_attention_heads": 2},
    }  # fmt: skip
    (root / "config.json").write_text(json.dumps({"model": model}))
    example = {"observation": {"timestep_pad_mask": array([1, 1], "bool", b"\1")}}
    (root / "example_batch.msgpack").write_bytes(msgpack.packb(example))
    entry = {"mean": [0.0] * 3, "std": [1.0] * 3, "mask": [True] * 3}
    (root / "dataset_statistics.json").write_text(json.dumps({"action": entry, "proprio": entry}))


ZARRAY = {
    "chunks": [2, 3], "compressor": None, "dimension_separator": ".", "dtype": "<f4", "fill_value": None,
    "filters": None, "order": "C", "shape": [2, 3], "zarr_format": 2,
}  # fmt: skip


def orbax(root: Path) -> None:
    place = root / "params/params.w.value"
    place.mkdir(parents=True)
    (place / ".zarray").write_text(json.dumps(ZARRAY))
    (place / "0.0").write_bytes(np.ones(6, np.float32).tobytes())
    keys = [{"key": key, "key_type": 2} for key in ("params", "w", "value")]
    tree = {"('params', 'w', 'value')": {"key_metadata": keys, "value_metadata": {"value_type": "jax.Array"}}}
    content = {"tree_metadata": tree, "use_zarr3": False, "store_array_data_equal_to_fill_value": True}
    (root / "params/_METADATA").write_text(json.dumps(content))


def ocdbt(root: Path) -> None:
    from xp.checkpoints.arrays import Leaf
    from xp.checkpoints.orbax import OrbaxWriter, Tree, TreeEntry

    root.mkdir()
    keys = [{"key": key, "key_type": 2} for key in ("params", "w", "value")]
    entry = {"key_metadata": keys, "value_metadata": {"value_type": "jax.Array"}}
    content = {"use_zarr3": False, "store_array_data_equal_to_fill_value": True}
    leaves = {"w": Leaf("w", (2, 3), np.dtype(np.float32))}
    entries = {"w": TreeEntry("('params', 'w', 'value')", ["params", "w", "value"], entry)}
    writer = OrbaxWriter(root / "params", leaves, Tree(content, entries))
    writer.write("w", 0, np.ones(6, np.float32))
    writer.close()


def adapter(root: Path) -> None:
    root.mkdir()
    weights(root / "base")
    pair = {"base_model.model.a.lora_A.weight": np.ones((1, 3), np.float32)}
    pair["base_model.model.a.lora_B.weight"] = np.ones((2, 1), np.float32)
    save_file(pair, root / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["a"], "base_model_name_or_path": "base"}
    (root / "adapter_config.json").write_text(json.dumps(config))


def run(root: Path) -> None:
    """An experiment of two runs, the first of which is the hostile one."""
    for name in ("one", "two"):
        (root / name).mkdir(parents=True)
        record = {
            "schema": 1,
            "state": "running",
            "task": "train",
            "experiment": "e",
            "stage": "s",
            "host": "elsewhere",
        }
        record |= {"pid": 999_999_999, "process_start": 1, "created": "2026-01-01T00:00:00+00:00"}
        (root / name / "record.json").write_text(json.dumps(record))
        (root / name / "job.json").write_text(json.dumps({"schema": 1, "config": {"task": "train"}, "overrides": []}))
        (root / name / "config.json").write_text(json.dumps({"task": "train"}))
        (root / name / "progress.json").write_text(json.dumps({"step": 1, "total": 2}))
    (root / "launcher.json").write_text(json.dumps({"executor": "local", "settings": {}, "controller": {}}))


BASES = {f.__name__: f for f in (dataset, video, policy, weights, sharded, octo, orbax, ocdbt, adapter, run)}

# --- info.json ---------------------------------------------------------------------------------------------------


def _info(**changed):
    return edit("meta/info.json", lambda info: info.update(changed))


def _feature(name: str, **changed):
    return edit("meta/info.json", lambda info: info["features"][name].update(changed))


_many(
    "info",
    "dataset",
    "dataset",
    {
        "huge_action": (_feature("action", shape=[10**12]), "action"),
        "negative_shape": (_feature("action", shape=[-3]), "action"),
        "huge_camera": (_feature(CAMERA, shape=[10**6, 10**6, 3]), "."),
        "shape_of_words": (_feature("action", shape="many"), "action"),
        "frames_10_12": (_info(total_frames=10**12), "frames"),
        "fps_nan": (put("meta/info.json", '{"codebase_version": "v3.0", "fps": NaN, "features": {}}'), "."),
        "data_path_out": (_info(data_path="../{chunk_index}{file_index}/secret.parquet"), "data_path"),
        "data_path_absolute": (_info(data_path="/etc/passwd"), "data_path"),
        "data_path_wide": (_info(data_path="{chunk_index:01000000000d}{file_index}"), "data_path"),
        "data_path_attribute": (_info(data_path="{chunk_index.__class__}{file_index}"), "data_path"),
        "deep": (put("meta/info.json", DEEP), "nested|JSON"),
        "pipe": (pipe("meta/info.json"), "pipe|file"),
        "link_out": (link("meta/info.json", "../../secret.json"), "."),
        "features_list": (_info(features=[1]), "features"),
    },
)

# --- parquet -----------------------------------------------------------------------------------------------------

DATA, TASKS = "data/chunk-000/file-000.parquet", "meta/tasks.parquet"


@_add("parquet", "dataset", "dataset", "task")
def tasks_of_40_million_rows(folder: Path) -> None:
    part = pa.table({"task_index": np.zeros(1_000_000, np.int64)})
    with pq.ParquetWriter(folder / TASKS, part.schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(part)


@_add("parquet", "dataset", "dataset", "task")
def one_task_of_10_gigabytes(folder: Path) -> None:
    cells = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 100_000])
    table = pa.table({"task_index": np.arange(100_000), "task": cells})
    pq.write_table(table, folder / TASKS, compression="zstd", store_schema=False)


@_add("parquet", "dataset", "dataset", "action|rows|numbers")
def an_action_of_16_million_numbers(folder: Path) -> None:
    table = pq.read_table(folder / DATA)
    wide = pa.array([np.zeros(2_000_000, np.float32)] * 8)
    table = table.set_column(table.column_names.index("action"), "action", wide)
    pq.write_table(table, folder / DATA, compression="zstd")


def _cell(**cell):
    def apply(folder: Path) -> None:
        table = pq.read_table(folder / DATA)
        kept = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = pa.array([{"bytes": None, "path": None, **cell}] * len(table), kept)
        pq.write_table(table.set_column(table.column_names.index(CAMERA), CAMERA, cells), folder / DATA)

    return apply


_many(
    "parquet",
    "dataset",
    "dataset",
    {
        "cut": (lambda folder: os.truncate(folder / DATA, 400), "truncated|damaged"),
        "footer": (put(DATA, b"PAR1" + b"\0" * 50 + struct.pack("<I", 2**31 - 1) + b"PAR1"), "truncated|damaged"),
        "pipe": (pipe(DATA), "pipe|file"),
        "tasks_pipe": (pipe(TASKS), "pipe|file"),
        "link_out": (link(DATA, "../../../secret.parquet"), "."),
        "no_columns": (lambda folder: pq.write_table(pa.table({"x": [1]}), folder / DATA), "column"),
    },
)

_many(
    "picture",
    "dataset",
    "dataset",
    {
        "12000_squared": (_cell(bytes=big_png()), "12000"),
        "path_out": (_cell(path="../secret.png"), "."),
        "path_absolute": (_cell(path="/etc/passwd"), "."),
        "postscript": (_cell(bytes=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(id) run\n"), "."),
        "no_picture": (_cell(bytes=b"\x89PNG\r\n\x1a\n" + b"\xff" * 200), "."),
        "neither": (_cell(), "."),
    },
)

# --- video -------------------------------------------------------------------------------------------------------

FILM = f"videos/{CAMERA}/chunk-000/file-000.mp4"


def _patched(mark: bytes, change: bytes, after: int = 4):
    def apply(folder: Path) -> None:
        data = bytearray((folder / FILM).read_bytes())
        at = data.index(mark) + after
        data[at : at + len(change)] = change
        (folder / FILM).write_bytes(data)

    return apply


_many(
    "video",
    "video",
    "dataset",
    {
        "no_film": (put(FILM, b"\0" * 5000), "."),
        "cut": (lambda folder: os.truncate(folder / FILM, 900), "."),
        "pipe": (pipe(FILM), "."),
        "playlist": (put(FILM, "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"), "."),
        "concat": (put(FILM, "ffconcat version 1.0\nfile /etc/passwd\n"), "."),
        "other_size": (lambda folder: mp4(folder / FILM, sum(FRAMES), (320, 480)), "."),
        "link_out": (link(FILM, "../../../../secret.mp4"), "."),
        "path_out": (_info(video_path="../{video_key}{chunk_index}{file_index}.mp4"), "video_path"),
        "huge_samples": (_patched(b"stsz", b"\x00\x00\x00\x00\x7f\xff\xff\xff\x7f\xff\xff\xff"), "."),
        "huge_box": (_patched(b"moov", b"\x7f\xff\xff\xff", -4), "."),
    },
)

# --- safetensors and its index -----------------------------------------------------------------------------------


def packed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _tensor(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


_TENSORS = {
    "negative_offset": (packed({"a": _tensor([1], [-4, 0])}, b"0000"), "data_offsets"),
    "overlap": (packed({"a": _tensor([2], [0, 8]), "b": _tensor([1], [4, 8])}, b"0" * 8), "overlaps"),
    "outside": (packed({"a": _tensor([4], [0, 16])}, b"0000"), "too early"),
    "negative_shape": (packed({"a": _tensor([-1, -4], [0, 16])}, b"0" * 16), "shape"),
    "absurd_shape": (packed({"a": _tensor([2**40, 2**40], [0, 16])}, b"0" * 16), "shape"),
    "wrong_type": (packed({"a": _tensor([1], [0, 4], ["F32"])}, b"0000"), "dtype"),
    "twice": (packed(b'{"a":%s,"a":%s}' % ((json.dumps(_tensor([1], [0, 4])).encode(),) * 2), b"0000"), "twice"),
    "long_header": (struct.pack("<Q", 2**40) + b"{}", "cut short"),
    "deep": (packed(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "nested|JSON"),
    "pickle": (b"\x80\x04cposix\nsystem\n(S'touch canary'\ntR.", "cut short"),
}
for _name, (_data, _words) in _TENSORS.items():
    CASES.append(
        Case("safetensors", f"safetensors-{_name}", "weights", "merge", put("model.safetensors", _data), _words)
    )
    CASES.append(Case("safetensors", f"weights-{_name}", "policy", "policy", put("model.safetensors", _data), _words))
_many(
    "safetensors",
    "policy",
    "policy",
    {
        "pipe": (pipe("model.safetensors"), "pipe"),
        "link_out": (link("model.safetensors", "../secret.safetensors"), "leads out"),
    },
)

INDEX = "model.safetensors.index.json"


def _map(**changed):
    return edit(INDEX, lambda index: index["weight_map"].update(changed))


_many(
    "index",
    "sharded",
    "merge",
    {
        "out": (_map(b="../secret.safetensors"), "same folder"),
        "absolute": (_map(b="/etc/passwd"), "same folder"),
        "number": (_map(b=3), "is 3"),
        "missing_shard": (_map(c="model-00003-of-00002.safetensors"), "no file"),
        "another_place": (_map(b=SHARDS[0]), "says that b is in"),
        "unlisted": (edit(INDEX, lambda index: index["weight_map"].pop("b")), "."),
        "no_map": (put(INDEX, "{}"), "weight_map"),
        "deep": (put(INDEX, DEEP), "nested|JSON"),
        "pipe": (pipe(INDEX), "pipe"),
        "shard_link_out": (link(SHARDS[1], "../secret.safetensors"), "leads out"),
        "stale": (lambda f: save_file({"a": np.ones(1, np.float32)}, f / "model.safetensors"), "left over"),
    },
)


def _beside(name: str, data: bytes) -> Callable[[Path], None]:
    """A file that is not there yet, beside the weights."""

    def apply(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return apply


_many(
    "statistics",
    "weights",
    "merge",
    {
        "words": (_beside("norm_stats.json", b'{"norm_stats": {"state": {"mean": "x", "std": [1]}}}'), "norm_stats"),
        "list": (_beside("norm_stats.json", b'{"norm_stats": [1]}'), "norm_stats"),
        "deep": (_beside("dataset_statistics.json", DEEP), "nested|JSON"),
        "overlap": (_beside("policy_x_normalizer_processor.safetensors", _TENSORS["overlap"][0]), "overlaps"),
        "link_out": (lambda f: (f / "norm_stats.json").symlink_to("../secret.json"), "leads out"),
        "sidecar_link_out": (lambda f: (f / "tokenizer.json").symlink_to("../secret.json"), "leads out"),
        "sidecar_pipe": (lambda f: os.mkfifo(f / "vocab.txt"), "pipe"),
    },
)

# --- msgpack -----------------------------------------------------------------------------------------------------

CHECKPOINT = "100/default/checkpoint"
_TREES = {
    "code": (msgpack.packb({"a": msgpack.ExtType(5, b"cposix\nsystem\n")}), "extension type 5"),
    "object_type": (msgpack.packb({"a": array([1], "O", b"12345678")}), "'O' is not known"),
    "negative_shape": (msgpack.packb({"a": array([-1], data=b"1234")}), "shape"),
    "absurd_shape": (msgpack.packb({"a": array([10**13], data=b"1234")}), "instead of"),
    "long_array": (b"\x81\xa1a\xc9\x7f\xff\xff\xff\x01", "inside an array"),
    "long_map": (b"\xdf\xff\xff\xff\xff", "announces"),
    "deep": (b"\x81\xa1a" * 100_000 + b"\x01", "nested deeper"),
    "twice": (b"\x82\xa1a\x01\xa1a\x02", "twice"),
    "text": (b"\x81\xa1a\xa5words", "."),
}
for _name, (_data, _words) in _TREES.items():
    for _way in ("merge", "policy"):
        CASES.append(Case("msgpack", f"msgpack-{_name}-{_way}", "octo", _way, put(CHECKPOINT, _data), _words))
_many(
    "msgpack",
    "octo",
    "policy",
    {
        "pipe": (pipe(CHECKPOINT), "pipe"),
        "link_out": (link(CHECKPOINT, "../../../secret.safetensors"), "leads out"),
        "example_huge": (put("example_batch.msgpack", msgpack.packb({"a": array([10**13])})), "instead of"),
        "example_list": (put("example_batch.msgpack", msgpack.packb([1])), "observation"),
        "config_layers": (
            edit("config.json", lambda c: c["model"]["transformer_kwargs"].update(num_layers=10**7)),
            "expected at most",
        ),
        "config_width": (edit("config.json", lambda c: c["model"].update(token_embedding_size=10**9)), "token_embed"),
        "config_module": (
            edit("config.json", lambda c: c["model"]["heads"]["action"].update(module="os", name="system")),
            "system",
        ),
        "statistics_words": (put("dataset_statistics.json", '{"action": {"mean": "x", "std": []}}'), "."),
    },
)

# --- Orbax -------------------------------------------------------------------------------------------------------

ARRAY, META = "params/params.w.value/.zarray", "params/_METADATA"


def _zarray(**changed):
    return edit(ARRAY, lambda header: header.update(changed))


def _key(*words):
    def change(content: dict) -> None:
        entry = next(iter(content["tree_metadata"].values()))
        entry["key_metadata"] = [{"key": word, "key_type": 2} for word in words]

    return edit(META, change)


_many(
    "zarr",
    "orbax",
    "merge",
    {
        "10_13_elements": (_zarray(shape=[10**13], chunks=[10**6], fill_value=1.0), "announces arrays of"),
        "huge_chunk": (_zarray(chunks=[10**6, 10**6]), "announces arrays of"),
        "no_chunks": (_zarray(chunks=[0, 3]), "chunks"),
        "negative_shape": (_zarray(shape=[-2, 3]), "shape"),
        "codec": (_zarray(compressor={"id": "pickle"}), "compressor"),
        "filter": (_zarray(filters=[{"id": "pickle"}]), "filters"),
        "object_type": (_zarray(dtype="|O"), "dtype"),
        "kvstore": (_zarray(kvstore={"driver": "http", "base_url": "http://127.0.0.1:9"}), "kvstore"),
        "deep": (put(ARRAY, DEEP), "nested|JSON"),
        "name_out": (_key("params", "../../secret", "value"), "leads out"),
        "name_dots": (_key("", "", ""), "key_metadata"),
        "no_keys": (_key(), "key_metadata"),
        "metadata_list": (put(META, "[]"), "expected an object"),
        "metadata_pipe": (pipe(META), "pipe"),
        "chunk_pipe": (pipe("params/params.w.value/0.0"), "regular file"),
        "chunk_link_out": (link("params/params.w.value/0.0", "../../../secret.png"), "leads out"),
        "cut_chunk": (put("params/params.w.value/0.0", b"123"), "."),
    },
)


def _all(data: bytes):
    def apply(folder: Path) -> None:
        for path in (folder / "params").rglob("*"):
            if path.is_file() and path.name != "_METADATA":
                path.write_bytes(data)

    return apply


def other_store(folder: Path) -> None:
    (folder / "params/manifest.ocdbt").write_text('{"driver": "http", "base_url": "http://127.0.0.1:9"}')


def flipped(folder: Path) -> None:
    path = folder / "params/manifest.ocdbt"
    path.write_bytes(bytes(byte ^ 0x55 if 12 < at < 40 else byte for at, byte in enumerate(path.read_bytes())))


def data_link_out(folder: Path) -> None:
    data = next((folder / "params/d").iterdir())
    data.unlink()
    data.symlink_to("../../../secret.png")


_many(
    "ocdbt",
    "ocdbt",
    "merge",
    {
        "manifest_of_another_store": (other_store, "."),
        "manifest_flipped": (flipped, "."),
        "empty": (_all(b""), "."),
        "zeros": (_all(b"\0" * 300), "."),
        "data_link_out": (data_link_out, "leads out"),
    },
)

# --- LeRobot's configuration and processors ----------------------------------------------------------------------


def _config(**changed):
    return edit("config.json", lambda config: config.update(changed))


_many(
    "config",
    "policy",
    "policy",
    {
        "type_of_a_module": (_config(type="os.system"), "os.system"),
        "type_list": (_config(type=["act"]), "type"),
        "layers_10_9": (_config(n_encoder_layers=10**9), "n_encoder_layers"),
        "layers_10_5": (_config(n_encoder_layers=100_000), "n_encoder_layers"),
        "width_10_6": (_config(dim_model=1_000_000), "dim_model"),
        "chunk_10_9": (_config(chunk_size=10**9, n_action_steps=1), "chunk_size"),
        "width_4096": (_config(dim_model=4096, dim_feedforward=4096), "do not fit"),
        "action_10_12": (_config(output_features={"action": {"type": "ACTION", "shape": [10**12]}}), "shape"),
        "negative_shape": (_config(input_features={CAMERA: {"type": "VISUAL", "shape": [3, -1, 32]}}), "shape"),
        "backbone_of_the_hub": (_config(vision_backbone="stranger/backbone"), "vision_backbone"),
        "encoder_of_the_hub": (
            _config(type="gaussian_actor", vision_encoder_name="stranger/encoder"),
            "vision_encoder_name",
        ),
        "tokenizer_of_the_hub": (
            _config(type="pi0_fast", action_tokenizer_name="stranger/tokenizer"),
            "action_tokenizer_name",
        ),
        "model_path_out": (_config(type="smolvla", vlm_model_name="../../stranger"), "vlm_model_name"),
        "trusting": (_config(trust_remote_code=True), "trust_remote_code"),
        "deep": (put("config.json", DEEP), "nested|JSON"),
        "pipe": (pipe("config.json"), "pipe"),
        "notes_of_words": (put("xp.json", '{"cameras": ["top"], "fps": "fast"}'), "cameras"),
    },
)


def _steps(*steps):
    return edit("policy_preprocessor.json", lambda content: content.update(steps=list(steps)))


def _step(name: str, **config):
    return _steps({"registry_name": name, "config": config})


_many(
    "processor",
    "policy",
    "policy",
    {
        "popen": (_steps({"class": "subprocess.Popen", "config": {"args": ["touch", "canary"]}}), "class is"),
        "popen_beside_a_name": (
            _steps({"registry_name": "device_processor", "class": "subprocess.Popen", "config": {}}),
            "class is",
        ),
        "own_class": (_steps({"class": "lerobot.processor.DeviceProcessorStep", "config": {}}), "class is"),
        "unknown": (_step("touch_processor"), "registry_name"),
        "remote_tokenizer": (
            _step("action_tokenizer_processor", action_tokenizer_name="stranger/code", trust_remote_code=True),
            "registry_name",
        ),
        "classifier": (_step("reward_classifier_processor", pretrained_path="stranger/it"), "registry_name"),
        "tokenizer_of_the_hub": (_step("tokenizer_processor", tokenizer_name="stranger/it"), "tokenizer_name"),
        "tokenizer_out": (_step("tokenizer_processor", tokenizer_name="../../it"), "tokenizer_name"),
        "tokens_10_9": (_step("tokenizer_processor", max_length=10**9), "max_length"),
        "groot": (_step("groot_n1_7_vlm_encode_v1", model_name="stranger/it"), "registry_name"),
        "state_out": (_steps({**NORMALISE, "state_file": "../secret.safetensors"}), "state_file"),
        "state_pickle": (_steps({**NORMALISE, "state_file": "state.bin"}), "state_file"),
        "steps_words": (edit("policy_preprocessor.json", lambda c: c.update(steps="none")), "steps"),
        "deep": (put("policy_preprocessor.json", DEEP), "nested|JSON"),
        "pipe": (pipe("policy_postprocessor.json"), "pipe"),
        "link_out": (link("policy_postprocessor.json", "../secret.json"), "leads out"),
        "unknown_field": (edit("policy_postprocessor.json", lambda c: c.update(plugin="os")), "plugin"),
    },
)

# --- PEFT adapters -----------------------------------------------------------------------------------------------


def _adapter(**changed):
    return edit("adapter_config.json", lambda config: config.update(changed))


_many(
    "adapter",
    "adapter",
    "merge",
    {
        "base_of_the_hub": (_adapter(base_model_name_or_path="stranger/base"), "."),
        "base_missing": (_adapter(base_model_name_or_path="/nowhere/at/all"), "."),
        "rank_words": (_adapter(r="many"), "."),
        "alpha_nan": (put("adapter_config.json", '{"peft_type": "LORA", "r": 1, "lora_alpha": NaN}'), "."),
        "custom_class": (_adapter(auto_mapping={"parent_library": "os", "base_model_class": "system"}), "."),
        "deep": (put("adapter_config.json", DEEP), "."),
        "pipe": (pipe("adapter_config.json"), "."),
        "weights_overlap": (put("adapter_model.safetensors", _TENSORS["overlap"][0]), "."),
        "slow_pattern": (_adapter(target_modules="(a+)+$" * 20, rank_pattern={"(a|a)*b": 1}), "."),
    },
)


# --- run folders -------------------------------------------------------------------------------------------------


def _record(**changed):
    return edit("one/record.json", lambda record: record.update(changed))


def _mine(**changed):
    """A record that says it runs on this host."""
    import socket

    return _record(host=socket.gethostname(), **changed)


def loop(folder: Path) -> None:
    (folder / "one" / "again").symlink_to("..")


_RUNS = {
    "record_deep": put("one/record.json", DEEP),
    "record_list": put("one/record.json", "[1, 2]"),
    "record_pipe": pipe("one/record.json"),
    "record_types": _record(pid="x", started=5, error=[1], stage={"a": 1}, experiment=3, task=None),
    "record_times": _record(started="yesterday", ended="\x1b[2J"),
    "record_state": _record(state=["running"]),
    "record_escapes": _record(state="failed", stage="\x1b]0;x\x07", error={"message": "\x1b[2J\x1b[H"}),
    "pid_all": _mine(pid=-1, process_start=None),
    "pid_zero": _mine(pid=0, process_start=None),
    "pid_gone": _mine(pid=999_999_999, process_start=None),
    "pid_words": _mine(pid="1; id", process_start=None),
    "progress_words": put("one/progress.json", '{"step": "x", "total": [1], "rate": "fast", "shown": 3}'),
    "progress_pipe": pipe("one/progress.json"),
    "launcher_ssh": put(
        "launcher.json",
        '{"executor": "ssh", "settings": {"hosts": ["-oProxyCommand=touch canary"]}, "controller": {"pid": -1}}',
    ),
    "launcher_words": put("launcher.json", '{"executor": ["x"], "settings": "y", "controller": [1]}'),
    "launcher_deep": put("launcher.json", DEEP),
    "job_words": put("one/job.json", '{"config": ["x"], "overrides": 3}'),
    "job_deep": put("one/job.json", DEEP),
    "config_words": put("one/config.json", "[]"),
    "metrics_words": put("one/metrics.json", '{"training_horizon": "x", "prediction_horizon": [1]}'),
    "metrics_list": put("one/metrics.json", "[1]"),
    "summary_words": put("one/summary.json", '"done"'),
    "loop": loop,
    "link_out": link("one/record.json", "../../secret.json"),
}
for _way in ("status", "cancel", "report"):
    CASES.extend(Case("run", f"run-{name}-{_way}", "run", _way, change, "") for name, change in _RUNS.items())


def copied(base: Path, case: Case, folder: Path) -> None:
    """The hostile folder of a case, with a secret beside it that nothing may read."""
    shutil.copytree(base, folder)
    secret = folder.parent / "secret"
    for suffix in (".json", ".parquet", ".png", ".mp4", ".safetensors"):
        secret.with_suffix(suffix).write_bytes(b'{"SECRET": 1}')
    case.change(folder)
