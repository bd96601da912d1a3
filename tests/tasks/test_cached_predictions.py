"""The cache of predictions: its key knows what answers depend on; one computes, the others wait."""

import json
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from tasks_setup import Xp

from xp.errors import UserError
from xp.runs import RunInterrupted
from xp.tasks._lib import cached_predictions
from xp.tasks._lib.outside import tokenizer_files

PREDICT = {
    "checkpoint": "run", "data_root": None, "num_trajectories": 10, "batch_size": 64, "bootstrap": 2000,
    "validation": None, "camera_map": None, "unnorm_key": None, "load_options": None,
}  # fmt: skip
DATASET = SimpleNamespace(fingerprint="f" * 64, decoder="auto", cameras={})


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """A policy's folder that names a tokenizer, and an empty cache of Hugging Face."""
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"language": [{"encoder": "t5-base"}], "depth": 3}))
    (folder / "weights").write_bytes(b"w")
    monkeypatch.setattr(cached_predictions, "locate", lambda path: (folder, 7))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def config(tmp_path, **predict):
    return OmegaConf.create({"seed": 0, "predict": {**PREDICT, **predict}, "paths": {"cache": str(tmp_path / "cache")}})


def key(tmp_path, dataset=DATASET, episodes=(1, 2), **predict) -> str:
    return cached_predictions.predictions_key(config(tmp_path, **predict), dataset, episodes)  # type: ignore[arg-type]


def tokenizer(tmp_path, owner="google-t5--", content="one"):
    place = tmp_path / "hub" / f"models--{owner}t5-base" / "snapshots" / "0123"
    place.mkdir(parents=True, exist_ok=True)
    (place / "tokenizer.json").write_text(content)


@pytest.mark.parametrize("owner", ["google-t5--", ""])
def test_a_run_without_a_tokenizer_does_not_take_answers_computed_with_one(policy, tmp_path, owner):
    without = key(tmp_path)
    tokenizer(tmp_path, owner)
    with_one = key(tmp_path)
    tokenizer(tmp_path, owner, "another")
    assert len({without, with_one, key(tmp_path)}) == 3


def test_a_tokenizer_given_as_a_folder_counts_by_its_content(policy, tmp_path):
    place = tmp_path / "t5"
    place.mkdir()
    (policy / "xp.json").write_text(json.dumps({"language": {"tokenizer": str(place)}}))
    before = key(tmp_path)
    (place / "tokenizer.json").write_text("one")
    (place / "model.safetensors").write_text("no tokenizer")
    assert key(tmp_path) != before
    assert [file.name for _, file in tokenizer_files(policy)] == ["tokenizer.json"]


@pytest.mark.parametrize("text", ["../" * 40, "a" * 300, "/" + "b" * 300, "*", "a/b/c", "\x00", "["])
def test_texts_that_are_no_names_are_nothing(text, policy):
    (policy / "odd.json").write_text(json.dumps([text]))
    assert tokenizer_files(policy) == []


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\xff"])
def test_files_that_are_no_json_are_nothing(content, policy):
    (policy / "odd.json").write_text(content, encoding="latin-1")
    assert tokenizer_files(policy) == []


def test_every_choice_that_changes_answers_is_in_the_key(policy, tmp_path, monkeypatch):
    other_pixels = SimpleNamespace(fingerprint=DATASET.fingerprint, decoder="pyav", cameras={})
    keys = [
        key(tmp_path),
        key(tmp_path, camera_map={"image_primary": "front"}),
        key(tmp_path, SimpleNamespace(fingerprint="0", decoder="auto", cameras={})),
        key(tmp_path, other_pixels),
        key(tmp_path, episodes=(1, 3)),
        key(tmp_path, mask="original"),
    ]
    keys.append(cached_predictions.predictions_key(config(tmp_path, unnorm_key="bridge"), DATASET, (1, 2)))  # type: ignore[arg-type]
    monkeypatch.setattr(cached_predictions, "versions", lambda: (("jax", "0.0.1"),))
    keys.append(key(tmp_path))
    (policy / "weights").write_bytes(b"v")
    keys.append(key(tmp_path))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("more", [{"batch_size": 8}, {"bootstrap": 100}, {"num_trajectories": 2}, {"data_root": "/x"}])
def test_scoring_and_speed_are_not_in_the_key(more, policy, tmp_path):
    assert key(tmp_path, **more) == key(tmp_path)


@dataclass
class FakeRun:
    """A run that logs into a list."""

    config: object
    lines: list[str] = field(default_factory=list)
    should_stop: object = staticmethod(lambda: False)
    interrupted = RunInterrupted

    def log(self, line: str) -> None:
        """Note it."""
        self.lines.append(line)


ANSWERS = {"chunks": np.ones((2, 3, 4)), "image_sensitivity": "{}"}


def ask(run) -> cached_predictions.FramePredictions:
    return cached_predictions.predict_all_frames(run, DATASET, (1, 2))  # type: ignore[arg-type]


def test_one_computes_and_the_others_wait_and_say_so(policy, tmp_path, monkeypatch):
    asked, go = [], threading.Event()

    def answers(run, dataset, episodes):
        asked.append(run)
        go.wait(30)
        return ANSWERS

    monkeypatch.setattr(cached_predictions, "_ask", answers)
    runs = [FakeRun(config(tmp_path)) for _ in range(5)]
    found: list[cached_predictions.FramePredictions] = []
    threads = [threading.Thread(target=lambda run=run: found.append(ask(run))) for run in runs]
    for thread in threads:
        thread.start()
    while sum(bool(run.lines) for run in runs) < 4:
        threading.Event().wait(0.01)
    go.set()
    for thread in threads:
        thread.join(30)
    assert len(asked) == 1 and len(found) == 5 and all((each.chunks == 1).all() for each in found)


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_answers_that_a_copy_cut_off_are_computed_again(policy, tmp_path, monkeypatch, keep):
    monkeypatch.setattr(cached_predictions, "_ask", lambda *_: ANSWERS)
    ask(FakeRun(config(tmp_path)))
    (file,) = (tmp_path / "cache" / "predictions").glob("*.npz")
    file.write_bytes(file.read_bytes()[:keep])
    assert (ask(FakeRun(config(tmp_path))).chunks == 1).all()


def test_who_waits_for_predictions_leaves_when_asked(policy, tmp_path):
    run = FakeRun(config(tmp_path), should_stop=lambda: True)
    turn = cached_predictions.Turn(tmp_path / "cache" / "predictions" / key(tmp_path))
    assert turn.take()
    with pytest.raises(RunInterrupted):
        ask(run)
    turn.release()


def test_a_cache_of_predictions_that_cannot_be_written_is_one_error(policy, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"cache of predictions folder .* cannot be written.*paths\.cache=<folder>"):
        ask(FakeRun(config(tmp_path)))


@pytest.mark.slow
def test_frames_that_are_streamed_give_the_same_predictions(trained, tmp_path):
    found = []
    for mode in ("cache", "stream"):
        xp = Xp(tmp_path, tmp_path / f"{mode}_files")
        line = ["task=predict", f"predict.checkpoint={trained}", "predict.batch_size=16", "predict.bootstrap=10"]
        xp(*line, f"data.frames={mode}", "data.workers=1", f"hydra.run.dir={mode}")
        with np.load(tmp_path / mode / "predictions.npz") as arrays:
            found.append({name: arrays[name] for name in arrays.files})
    assert list(tmp_path.glob("cache_files/frames/*.npy")) and not list(tmp_path.glob("stream_files/frames/*.npy"))
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)
