"""Datasets in RLDS that TFDS wrote are what TFDS reads of them: numbers, instructions, pictures, in xp's own pipeline.

The datasets in `rlds_made_by_tfds`, and what TFDS read of them, are written by the script there.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.config import check, compose
from xp.config.dataset_facts import dataset_facts
from xp.data import open_dataset, open_frames
from xp.data.rlds.content import read_content
from xp.data.rlds.reader import open_folder
from xp.data.rlds.reading import parse_reading
from xp.data.stream.frames import open_stream
from xp.errors import UserError
from xp.tasks._lib.data_source import eval_source, open_source

MADE = Path(__file__).parent / "rlds_made_by_tfds"
ARM, ODD = MADE / "arm", MADE / "odd"
FPS = {"fps": 5}
IN_PARTS = {
    "fps": 3,
    "action": ["action/world_vector", "action/turn", "action/base", "action/open_gripper"],
    "state": ["observation/joints", "observation/zipped", "observation/bytes", "observation/tool", "kind"],
}
JPEG_DIFFERENCE = 8
"""Grey levels between Pillow's exact inverse cosine transform and the fast one that TensorFlow takes by default."""


def read_by_tfds(name, split, field):
    """What TFDS reads of a field in all steps of a split, one behind the other."""
    with np.load(MADE / f"{name}_read_by_tfds.npz") as arrays:
        found, episode = [], 0
        while f"{split}/{episode}/{field}" in arrays:
            found.append(arrays[f"{split}/{episode}/{field}"])
            episode += 1
    return np.concatenate(found)


def frames_of(dataset, camera):
    size = dataset.cameras[camera][:2]
    pieces = list(dataset.read_frames(camera, size, dataset.choose_decoder(camera)))
    assert np.concatenate([rows for rows, _ in pieces]).tolist() == list(range(dataset.num_frames))
    return np.concatenate([frames for _, frames in pieces])


def copied(name, folder):
    shutil.copytree(MADE / name, folder)
    return folder


@pytest.mark.parametrize("split", ["train", "val"])
def test_numbers_and_instructions_are_those_that_tfds_reads(split):
    dataset = open_dataset(ARM, read={**FPS, "splits": [split]})
    np.testing.assert_array_equal(dataset.action, read_by_tfds("arm", split, "action"))
    np.testing.assert_array_equal(dataset.state, read_by_tfds("arm", split, "observation/state"))
    said = [dataset.tasks[index] for index in dataset.task_index]
    assert said == read_by_tfds("arm", split, "language_instruction").tolist()
    first = read_by_tfds("arm", split, "is_first")
    np.testing.assert_array_equal(np.flatnonzero(first), dataset.episodes.starts)
    assert dataset.fps == 5 and len(set(dataset.tasks)) == 2


def test_pictures_are_those_that_tfds_reads():
    dataset = open_dataset(ARM, read=FPS)
    assert dict(dataset.cameras) == {"image": (12, 16, 3), "wrist_image": (8, 8, 3)}, "depth is no camera"
    png = read_by_tfds("arm", "train", "observation/wrist_image")
    np.testing.assert_array_equal(frames_of(dataset, "wrist_image"), png)
    difference = np.abs(frames_of(dataset, "image").astype(int) - read_by_tfds("arm", "train", "observation/image"))
    assert difference.max() <= JPEG_DIFFERENCE and difference.mean() < 1.5


def test_parts_types_and_encodings_are_those_that_tfds_reads():
    dataset = open_dataset(ODD, read=IN_PARTS)
    for told, values in (("action", dataset.action), ("state", dataset.state)):
        fields = [read_by_tfds("odd", "train", field) for field in IN_PARTS[told]]
        expected = np.concatenate([np.float32(field.reshape(len(field), -1)) for field in fields], 1)
        np.testing.assert_array_equal(values, expected)
    assert dataset.action_names == ("world_vector_0", "world_vector_1", "world_vector_2", "turn_0", "turn_1", "base",
                                    "open_gripper")  # fmt: skip
    assert dict(dataset.cameras) == {"front_rgb": (6, 10, 3)}, "of a size that only the pictures tell"
    np.testing.assert_array_equal(
        frames_of(dataset, "front_rgb"), read_by_tfds("odd", "train", "observation/front/rgb")
    )
    assert list(dataset.tasks) == ["pick up the cup", "open the drawer"], "the observation's own instruction"


def test_splits_are_read_one_behind_the_other_and_last_steps_left_out():
    both = open_dataset(ARM, read={**FPS, "splits": ["val", "train"]})
    assert (
        both.episodes.lengths.tolist()[:2] == open_dataset(ARM, read={**FPS, "splits": "val"}).episodes.lengths.tolist()
    )
    assert len(both.episodes) == 7
    dropped = open_dataset(ARM, read={**FPS, "drop_last": True})
    kept = ~read_by_tfds("arm", "train", "is_last")
    np.testing.assert_array_equal(dropped.action, read_by_tfds("arm", "train", "action")[kept])
    png = read_by_tfds("arm", "train", "observation/wrist_image")[kept]
    np.testing.assert_array_equal(frames_of(dropped, "wrist_image"), png)


def test_cache_and_stream_give_the_same_frames(tmp_path):
    dataset, sizes = open_dataset(ARM, read=FPS), {"image": (6, 8), "wrist_image": (8, 8)}
    where = {"cache_dir": tmp_path, "cache_gb": 1.0}
    cached = open_frames(dataset, sizes, **where)
    streamed = open_stream(dataset, sizes, workers=1, **where)
    try:
        rows = np.array([[16, 0], [3, 3], [9, 5]])
        for camera in sizes:
            np.testing.assert_array_equal(streamed[camera].frames(rows), np.asarray(cached[camera])[rows])
    finally:
        streamed["image"].close()


def test_an_episode_without_steps_is_passed_over(tmp_path, monkeypatch):
    """As TFDS writes one: each field a list without values."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "foreign")
    from hostile_rlds import framed
    from test_tf_example import example

    root = copied("arm", tmp_path / "arm") / "1.0.0"
    names = ("action", "observation/state", "observation/image", "observation/wrist_image", "language_instruction")
    kinds = (2, 2, 1, 1, 1)
    record = framed(example({f"steps/{name}": (kind, b"") for name, kind in zip(names, kinds, strict=True)}))
    path = root / "arm-train.tfrecord-00000-of-00002"
    path.write_bytes(record + path.read_bytes())
    info = root / "dataset_info.json"
    content = json.loads(info.read_text())
    content["splits"][0]["shardLengths"][0] = "3"
    info.write_text(json.dumps(content))
    for told in (FPS, {**FPS, "drop_last": True}):
        found, plain = open_dataset(root, read=told), open_dataset(ARM, read=told)
        np.testing.assert_array_equal(found.episodes.lengths, plain.episodes.lengths)
        np.testing.assert_array_equal(frames_of(found, "wrist_image"), frames_of(plain, "wrist_image"))


@pytest.fixture
def cached_from_the_first_byte(monkeypatch):
    monkeypatch.setattr("xp.data.rlds.reader.SMALL", 0)


def test_a_large_dataset_is_read_once_and_mapped(tmp_path, cached_from_the_first_byte, monkeypatch):
    root, reads = copied("odd", tmp_path / "odd"), []

    def counted(*given):
        reads.append(given)
        return read_content(*given)

    monkeypatch.setattr("xp.data.rlds.reader.read_content", counted)
    plain = open_dataset(root, read=IN_PARTS)
    mapped = [open_dataset(root, read=IN_PARTS, cache_dir=tmp_path / "cache") for _ in range(2)]
    assert len(reads) == 2, "once without a cache, once for it"
    for each in mapped:
        assert each.fingerprint == plain.fingerprint and list(each.tasks) == list(plain.tasks)
        for name in ("action", "state", "task_index", "episode_index"):
            np.testing.assert_array_equal(getattr(each, name), getattr(plain, name))
        np.testing.assert_array_equal(frames_of(each, "front_rgb"), frames_of(plain, "front_rgb"))
    other = open_dataset(root, read={**IN_PARTS, "drop_last": True}, cache_dir=tmp_path / "cache")
    assert len(reads) == 3 and other.num_frames == plain.num_frames - 3
    next(root.rglob("*.tfrecord-*")).touch()
    open_dataset(root, read=IN_PARTS, cache_dir=tmp_path / "cache")
    assert len(reads) == 4, "a file that was written to is read again"


def test_what_is_damaged_is_refused_with_a_cache_as_without(tmp_path, cached_from_the_first_byte):
    root = copied("arm", tmp_path / "arm")
    info = root / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"3"', '"999999999"'))
    with pytest.raises(UserError, match="holds [23] episodes: expected 999999999"):
        open_dataset(root, read=FPS, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_the_fingerprint_names_numbers_pictures_and_what_was_told(tmp_path):
    same = copied("arm", tmp_path / "arm")
    prints = {open_dataset(same, read={**FPS, **told}).fingerprint for told in ({}, {"fps": 6}, {"drop_last": True})}
    assert len(prints) == 3 and open_dataset(ARM, read=FPS).fingerprint in prints


def test_the_folder_of_a_version_and_the_one_above_are_the_same(tmp_path):
    assert open_dataset(ARM / "1.0.0", read=FPS).fingerprint == open_dataset(ARM, read=FPS).fingerprint
    root = copied("arm", tmp_path / "arm")
    shutil.copytree(root / "1.0.0", root / "1.1.0")
    with pytest.raises(UserError, match=r"holds 2 versions .*data.root=.*1\.1\.0"):
        open_dataset(root, read=FPS)


@pytest.mark.parametrize(
    ("name", "told", "said"),
    [
        ("arm", {}, r"data.read.fps is not given.* type for instance data.read.fps=5"),
        ("arm", {"fps": 0}, "data.read.fps=0: expected the control rate"),
        ("arm", {"fps": "5"}, "data.read.fps='5'"),
        ("arm", {"fpss": 5}, "data.read.fpss: there is no such key .*did you mean 'fps'"),
        ("arm", {**FPS, "action": ["acton"]}, "'acton', which is no field .*did you mean 'action'"),
        ("arm", {**FPS, "action": []}, "expected at least one field"),
        ("arm", {**FPS, "state": ["observation/image"]}, "of the kind picture: expected numbers"),
        ("arm", {**FPS, "state": ["observation/depth"]}, "of the kind Image of uint16, 4x4x1"),
        ("arm", {**FPS, "instruction": "action"}, "of the kind numbers: expected text"),
        ("arm", {**FPS, "instruction": "language_instruction", "task": "x"}, "are both given"),
        ("arm", {**FPS, "task": ""}, "data.read.task='': expected a text"),
        ("arm", {**FPS, "splits": ["trian"]}, "no split 'trian' .*did you mean 'train'"),
        ("arm", {**FPS, "drop_last": "yes"}, "expected true or false"),
        ("odd", FPS, r"data.read.action is not given.*Type 'data.read.action=\[action/base, action/open_gripper"),
        ("odd", {**IN_PARTS, "state": None}, r"data.read.state is not given.* or data.read.state=\[\] for none"),
        ("odd", {**IN_PARTS, "state": ["observation/ragged"]}, "of the kind Sequence"),
    ],
)  # fmt: skip
def test_what_is_told_wrongly_is_refused_by_its_key(name, told, said):
    with pytest.raises(UserError, match=said):
        open_dataset(MADE / name, read=told)


def test_a_state_may_be_none_and_an_instruction_told():
    dataset = open_dataset(ODD, read={**IN_PARTS, "state": [], "task": "do it"})
    assert dataset.state_dim == 0 and list(dataset.tasks) == ["do it"]


def test_a_dataset_that_says_all_itself_takes_nothing_told(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}")
    with pytest.raises(UserError, match="data.read is given, and .*says itself how it is read. Type data.read=null"):
        open_dataset(tmp_path, read=FPS)


def test_a_job_is_checked_before_it_starts(tmp_path):
    train = ["task=train", "model=act_tiny", f"data.root={ARM}"]
    assert dataset_facts(ARM).cameras == ("image", "wrist_image")
    with pytest.raises(UserError, match="data.read.fps is not given"):
        check(compose(train))
    with pytest.raises(UserError, match="data.read.action names 'x'"):
        check(compose([*train, "data.read={fps: 5, action: [x]}"]))
    check(compose([*train, "data.read={fps: 5}"]))
    mix = ["task=train", "data=mix", "model=octo_tiny", "action_space=absolute"]
    with pytest.raises(UserError, match="data.mix.a.read.fps is not given"):
        check(compose([*mix, f"data.mix={{a: {{root: {ARM}}}}}"]))
    check(compose([*mix, f"data.mix={{a: {{root: {ARM}, read: {{fps: 5}}}}}}"]))


def test_a_run_remembers_what_was_told(tmp_path):
    """`predict` and `eval` on the run's own dataset read it as the training did."""
    data = compose(["task=train", f"data.root={ARM}", "data.read={fps: 5}", "data.val_fraction=0.4"]).data
    source = open_source(data)
    run = tmp_path / "run"
    run.mkdir()
    source.split.save(run / "split.json")
    (run / "summary.json").write_text(json.dumps({"data": source.facts()}))
    measured, how = eval_source(run, compose(["task=predict", "predict.checkpoint=x"]).data)
    assert measured.dataset.fingerprint == source.dataset.fingerprint and "training run" in how


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.integers(0, 40))
def test_no_damage_to_a_file_passes_unseen(tmp_path_factory, place, flip, cut):
    root = tmp_path_factory.mktemp("damaged") / "arm"
    shutil.copytree(ARM, root)
    path = root / "1.0.0" / "arm-train.tfrecord-00001-of-00002"
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= flip
    path.write_bytes(bytes(data[: len(data) - cut]))
    with pytest.raises(UserError, match="record [0-9]+"):
        open_folder(root, parse_reading(FPS, "data.read"))
    shutil.rmtree(root)
