"""Writes the datasets of this folder with TFDS itself, and beside each what TFDS reads of it (`read_by_tfds.npz`).

Run in an environment of its own, since TensorFlow is no part of xp's:

    uv run --no-project --python 3.12 --with tensorflow-cpu==2.21.0 --with tensorflow-datasets==4.9.10 \
        python tests/data/rlds_made_by_tfds/make.py

`arm` looks as most of Open X-Embodiment does, `odd` has what only some have. All numbers are made up here.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

HERE = Path(__file__).parent
LENGTHS = (3, 4, 2, 5, 3)
TASKS = ("pick up the cup", "open the drawer")
SPLITS = {"train": LENGTHS, "val": LENGTHS[:2]}

F = tfds.features


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth picture, so that JPEG changes little."""
    rows, columns = np.mgrid[:height, :width]
    phase, shift = rng.uniform(0, 6, 3), rng.uniform(60, 120, 3)
    waves = np.sin(rows[..., None] / 5 + phase) + np.cos(columns[..., None] / 7 - phase)
    return np.clip(128 + shift * waves / 2, 0, 255).astype(np.uint8)


class Arm(tfds.core.GeneratorBasedBuilder):
    """As most of Open X-Embodiment: two cameras (JPEG, PNG), a state, 7 actions, an instruction at each step."""

    name = "arm"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        step = {
            "observation": {
                "image": F.Image(shape=(12, 16, 3), encoding_format="jpeg"),
                "wrist_image": F.Image(shape=(8, 8, 3), encoding_format="png"),
                "depth": F.Image(shape=(4, 4, 1), dtype=np.uint16, encoding_format="png"),
                "state": F.Tensor(shape=(8,), dtype=np.float32),
            },
            "action": F.Tensor(shape=(7,), dtype=np.float32),
            "discount": F.Scalar(dtype=np.float32),
            "reward": F.Scalar(dtype=np.float32),
            "is_first": F.Scalar(dtype=np.bool_),
            "is_last": F.Scalar(dtype=np.bool_),
            "is_terminal": F.Scalar(dtype=np.bool_),
            "language_instruction": F.Text(),
            "language_embedding": F.Tensor(shape=(4,), dtype=np.float32),
        }
        metadata = F.FeaturesDict({"file_path": F.Text(), "episode_id": F.Scalar(np.int32)})
        return tfds.core.DatasetInfo(
            builder=self, features=F.FeaturesDict({"steps": F.Dataset(step), "episode_metadata": metadata})
        )

    def _split_generators(self, dl_manager):
        return {name: self._episodes(name, lengths) for name, lengths in SPLITS.items()}

    def _generate_examples(self):
        raise NotImplementedError

    def _episodes(self, split, lengths):
        for number, length in enumerate(lengths):
            rng = np.random.default_rng([len(split), number])
            steps = [self._step(rng, number, step, length) for step in range(length)]
            yield number, {"steps": steps, "episode_metadata": {"file_path": f"{split}/{number}", "episode_id": number}}

    def _step(self, rng, number, step, length):
        return {
            "observation": {
                "image": picture(rng, 12, 16),
                "wrist_image": picture(rng, 8, 8),
                "depth": rng.integers(0, 60000, (4, 4, 1)).astype(np.uint16),
                "state": rng.normal(size=8).astype(np.float32),
            },
            "action": rng.normal(size=7).astype(np.float32),
            "discount": 1.0,
            "reward": float(step == length - 1),
            "is_first": step == 0,
            "is_last": step == length - 1,
            "is_terminal": step == length - 1,
            "language_instruction": TASKS[number % 2],
            "language_embedding": rng.normal(size=4).astype(np.float32),
        }


class Odd(tfds.core.GeneratorBasedBuilder):
    """What only some have: actions and states in parts, of other types, in other encodings."""

    name = "odd"
    VERSION = tfds.core.Version("0.1.0")

    def _info(self) -> tfds.core.DatasetInfo:
        step = {
            "observation": {
                "front": {"rgb": F.Image(shape=(None, None, 3))},
                "raw": F.Tensor(shape=(2, 3, 3), dtype=np.uint8),
                "joints": F.Tensor(shape=(2, 3), dtype=np.float64),
                "zipped": F.Tensor(shape=(3,), dtype=np.float32, encoding="zlib"),
                "bytes": F.Tensor(shape=(2,), dtype=np.float64, encoding="bytes"),
                "tool": F.Scalar(dtype=np.int64),
                "natural_language_instruction": F.Text(),
                "ragged": F.Sequence(F.Scalar(np.float32)),
            },
            "action": {
                "world_vector": F.Tensor(shape=(3,), dtype=np.float32),
                "open_gripper": F.Tensor(shape=(), dtype=np.bool_),
                "base": F.Scalar(dtype=np.float64),
                "turn": F.Tensor(shape=(2,), dtype=np.int32),
            },
            "kind": F.ClassLabel(names=["a", "b"]),
            "is_first": F.Scalar(dtype=np.bool_),
            "is_last": F.Scalar(dtype=np.bool_),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=F.FeaturesDict({"steps": F.Dataset(step), "score": F.Scalar(np.float32, optional=True)}),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._episodes(LENGTHS[:3])}

    def _generate_examples(self):
        raise NotImplementedError

    def _episodes(self, lengths):
        for number, length in enumerate(lengths):
            rng = np.random.default_rng([7, number])
            steps = [self._step(rng, number, step, length) for step in range(length)]
            yield number, {"steps": steps, "score": None if number else 0.5}

    def _step(self, rng, number, step, length):
        return {
            "observation": {
                "front": {"rgb": picture(rng, 6, 10)},
                "raw": rng.integers(0, 255, (2, 3, 3)).astype(np.uint8),
                "joints": rng.normal(size=(2, 3)),
                "zipped": rng.normal(size=3).astype(np.float32),
                "bytes": rng.normal(size=2),
                "tool": -step,
                "natural_language_instruction": TASKS[number % 2],
                "ragged": rng.normal(size=step).astype(np.float32),
            },
            "action": {
                "world_vector": rng.normal(size=3).astype(np.float32),
                "open_gripper": bool(step % 2),
                "base": rng.normal(),
                "turn": np.array([-1, 2 * step], np.int32),
            },
            "kind": step % 2,
            "is_first": step == 0,
            "is_last": step == length - 1,
        }


def flat(tree, path=()):
    """(path, leaf) of nested dictionaries."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, key))
        else:
            yield "/".join((*path, key)), value


def read(builder, split: str) -> dict[str, np.ndarray]:
    """{`SPLIT/EPISODE/FIELD`: what TFDS reads of all steps of an episode}, in the order of the files."""
    found = {}
    plain = tfds.ReadConfig(interleave_cycle_length=1)
    for number, episode in enumerate(builder.as_dataset(split=split, read_config=plain, shuffle_files=False)):
        steps = [dict(flat(step)) for step in episode["steps"].as_numpy_iterator()]
        for field in steps[0]:
            values = [step[field] for step in steps]
            if field.endswith("ragged"):
                continue
            found[f"{split}/{number}/{field}"] = np.array(
                [value.decode() for value in values] if isinstance(values[0], bytes) else values
            )
    return found


def make(builder_class, shards: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        builder = builder_class(data_dir=made)
        config = tfds.download.DownloadConfig(num_shards=shards)
        builder.download_and_prepare(download_config=config, file_format="tfrecord")
        folder = HERE / builder.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(made) / builder.name, folder)
        read_back = {}
        for split in builder.info.splits:
            if builder.info.splits[split].num_examples:
                read_back |= read(builder, split)
        np.savez_compressed(HERE / f"{builder.name}_read_by_tfds.npz", **read_back)


if __name__ == "__main__":
    print(tf.__version__, tfds.__version__)
    make(Arm, 2)
    make(Odd, 1)
