"""task=split and task=dump as a user runs them: what they leave, what the other tasks make of it, what they refuse."""

import json
import shutil

import numpy as np
import pytest
from tasks_setup import SMALL

from xp.data import Split, open_dataset
from xp.data.dumps import open_dump


def error(done):
    """The one paragraph that a mistake is told in."""
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("xp: ")]
    return line


@pytest.fixture(scope="module")
def split(tmp_path_factory, cache, arm):
    """Two subsets of the recorded dataset, as manifests and as datasets, with two episodes kept for the end."""
    from tasks_setup import Xp

    folder = tmp_path_factory.mktemp("split")
    given = ["split.split_num=2", "data.val_fraction=0.34", "split.test_fraction=0.17", "split.export=parts"]
    Xp(folder, cache)("task=split", f"data.root={arm}", *given, "hydra.run.dir=run")
    return folder


def test_manifests_are_disjoint_and_share_what_is_held_out(split, arm):
    zero, one, everything, test = (Split.load(split / f"run/{n}.json") for n in ("split_0", "split_1", "all", "test"))
    assert set(zero.train) | set(one.train) == set(everything.train)
    assert not set(zero.train) & set(one.train)
    assert zero.val == one.val == everything.val
    assert len(everything.val) == len(test.val) == 2
    assert not set(test.val) & {*everything.val, *everything.train}
    assert len(everything.train) == 8
    tasks = open_dataset(arm).episodes.tasks
    assert {tasks[e] for e in zero.train} == {tasks[e] for e in one.train} == set(tasks)
    assert (split / "run/split_0_statistics.json").is_file()


def test_exported_subsets_are_datasets_of_the_same_episodes(split, arm):
    source, part = open_dataset(arm), open_dataset(split / "parts/split_1")
    manifest = Split.load(split / "run/split_1.json")
    assert np.array_equal(part.action, source.action[source.rows(manifest.train)])
    assert {path.name for path in (split / "parts").iterdir()} >= {"split_0", "split_1", "held_out", "test"}


def test_a_manifest_trains_at_once_and_its_dump_fits_the_policy(split, arm, xp):
    short = [*SMALL, "trainer.steps=1", "trainer.val_every=null", "trainer.log_every=1"]
    manifest = f"data.split={split / 'run/split_0.json'}"
    xp("task=train", f"data.root={arm}", manifest, *short, "hydra.run.dir=part")
    summary = json.loads((xp.cwd / "part/summary.json").read_text())
    assert (summary["data"]["train_episodes"], summary["data"]["held_out_episodes"]) == (4, 2)
    xp("task=dump", "dump.checkpoint=part", "dump.samples=10", "dump.draws=2", "hydra.run.dir=dump")
    dump = open_dump(xp.cwd / "dump/dump.safetensors")
    assert (len(dump), dump.draws, dump.horizon) == (10, 2, 4)
    assert tuple(dump.about["episodes"]) == Split.load(split / "run/split_0.json").val
    assert set(dump.arrays["episode_index"].tolist()) <= set(dump.about["episodes"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["task=split", "split.split_num=99"], "split.split_num=99 is more than the 10 training episodes"),
        (["task=split", "split.split_num=1"], "split.split_num=1: must be at least 2"),
        (["task=split", "split.test_fraction=0.5"], "must be below data.val_fraction"),
        (["task=dump", "dump.part=train"], "dump.allow_training=true"),
        (["task=dump", "dump.output=val.pkl"], "ending in .safetensors, .npz"),
        (["task=dump", "data.val_fraction=0.0"], "has no held-out episodes"),
        (["task=dump", "dump.checkpoint=nowhere"], "dump.checkpoint=nowhere: no such folder"),
    ],
)
def test_mistakes_are_told_in_one_paragraph(given, said, xp, arm):
    assert said in error(xp(*given, f"data.root={arm}", *SMALL, code=2))


def test_a_manifest_that_holds_out_what_a_policy_was_trained_on_is_refused(xp, arm, trained, tmp_path):
    own = Split.load(trained / "split.json")
    Split(own.val, own.train, {"dataset": own.about["dataset"]}).save(tmp_path / "swapped.json")
    wrong = [f"dump.checkpoint={trained}", f"data.root={arm}", f"data.split={tmp_path / 'swapped.json'}"]
    assert "was trained on" in error(xp("task=dump", *wrong, code=2))


def test_an_existing_export_is_left_alone(split, xp, arm):
    shutil.copytree(split / "parts", xp.cwd / "parts")
    text = error(xp("task=split", f"data.root={arm}", "split.split_num=2", "split.export=parts", code=2))
    assert "holds split_0, split_1, held_out already" in text


def test_an_older_dataset_is_split_into_todays_format(xp, arm):
    older(arm, xp.cwd / "v21")
    xp("task=split", "data.root=v21", "split.split_num=2", "data.val_fraction=0.34", "split.export=parts")
    source, part = open_dataset(arm), open_dataset(xp.cwd / "parts/split_0")
    chosen = json.loads((xp.cwd / "parts/split.json").read_text())["split_0"]
    assert np.array_equal(part.action, source.action[source.rows(chosen)])
    assert part.info.codebase_version == "v3.0"


def older(source, root):
    """The dataset in LeRobot's format v2.1: a parquet file per episode, tables as JSON lines."""
    import pyarrow.parquet as pq

    from xp.data.lerobot.stored import open_stored

    stored = open_stored(source)
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info = {**stored.info, "codebase_version": "v2.1", "data_path": path}
    (root / "meta/info.json").write_text(json.dumps(info))
    tables = {
        "tasks": [{"task_index": number, "task": task} for number, task in enumerate(stored.tasks)],
        "episodes": [{"episode_index": e.number, "tasks": e.tasks, "length": e.length} for e in stored.episodes],
        "episodes_stats": [{"episode_index": e.number, "stats": e.stats} for e in stored.episodes],
    }
    for name, lines in tables.items():
        (root / f"meta/{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    for episode in stored.episodes:
        rows = pq.read_table(episode.data).slice(episode.start, episode.length)
        pq.write_table(rows, root / path.format(episode_chunk=0, episode_index=episode.number))
