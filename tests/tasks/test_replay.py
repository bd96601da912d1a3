"""The offline replay: what it leaves, what a policy with a prefix is told, and what users get wrong."""

import csv
import json

import numpy as np
import pytest

from xp.metrics.replay import Execution, ReplayStream
from xp.metrics.replay_summary import MEASURES
from xp.models.policy import PolicySpec
from xp.tasks._lib.batched_replay import BatchedReplayer, run_hold_last
from xp.tasks._lib.replay_inputs import check_policy, long_enough

REPLAY = ["task=eval", "eval=offline_replay", "eval.bootstrap=50"]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory, cache, trained):
    """A replay with two checkpoints of the run."""
    from tasks_setup import Xp

    xp = Xp(tmp_path_factory.mktemp("replay"), cache)
    xp.last = xp(*REPLAY, f"eval.checkpoint={trained}", "eval.checkpoints=2", "eval.figures=1", "chunk_size.steps=3",
                 "chunk_size.execution=blend", "hydra.run.dir=r")  # fmt: skip
    return xp


def test_a_replay_leaves_metrics_with_baselines_intervals_and_spread(replayed, trained):
    metrics = json.loads((replayed.cwd / "r/metrics.json").read_text())
    assert set(metrics["replay"]) == {"ground_truth", "self_chained", "delayed"}
    held_out = json.loads((trained / "split.json").read_text())["val"]
    for rows in metrics["replay"].values():
        assert set(rows) == {"policy", "hold_last", "demonstration"}
        assert rows["policy"]["episodes"]["index"] == held_out == metrics["episodes"]
        assert rows["policy"]["measures"]["l1"]["low"] is not None
        assert rows["demonstration"]["measures"]["l1"]["value"] == 0
        assert rows["demonstration"]["measures"]["u_a_ratio"]["value"] == pytest.approx(1)
        assert len(rows["policy"]["per_joint"]["l1"]["value"]) == len(metrics["joints"]) == 6
        assert len(rows["policy"]["per_step"]["l1"]["value"]) == metrics["horizon"] == 4
    assert list(metrics["checkpoints"]) == ["final", "step 8"]
    spread = metrics["spread"]["self_chained"]["boundary_jump"]
    values = [found["self_chained"]["boundary_jump"] for found in metrics["checkpoints"].values()]
    assert spread["n"] == 2
    assert spread["sd"] == pytest.approx(np.std(values, ddof=1))
    assert metrics["image_sensitivity"]["noise"] > 0


def test_a_replay_leaves_a_table_a_text_and_pictures(replayed):
    folder = replayed.cwd / "r"
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert set(rows[0]) == {"mode", "row", "episode", *MEASURES}
    metrics = json.loads((folder / "metrics.json").read_text())
    every = {(row["mode"], row["row"], row["episode"]): row for row in rows}
    known = metrics["replay"]["delayed"]["policy"]["measures"]["u_a"]["value"]
    assert float(every["delayed", "policy", "all"]["u_a"]) == pytest.approx(known)
    assert len(rows) == 3 * 3 * (1 + len(metrics["episodes"]))
    text = (folder / "results.txt").read_text()
    assert "hold-last" in text
    assert text.splitlines()[-1] in replayed.last.stdout
    first = metrics["episodes"][0]
    names = {path.name for path in (folder / "figures").iterdir()}
    kinds = ("trajectories", "accelerations")
    assert names == {f"ep{first}_{mode}_{kind}.png" for mode in metrics["replay"] for kind in kinds}


def test_episodes_are_given_as_the_first_script_took_them(xp, trained):
    done = xp(*REPLAY, f"eval.checkpoint={trained}", "indices_episode=0,1,2", "eval.figures=0", "hydra.run.dir=r",
              "eval.modes=[ground_truth]")  # fmt: skip
    metrics = json.loads((xp.cwd / "r/metrics.json").read_text())
    assert metrics["episodes"] == [0, 1, 2]
    assert "TRAINING episodes" in done.stdout
    assert not (xp.cwd / "r/figures").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("indices_episode=0,99", "episode 99.*0 to 11"),
        ("chunk_size.steps=9", r"chunk_size.steps=1\.\.4"),
        ("eval.delay=4", "at most 3"),
        ("eval.modes=[self_chain]", "did you mean 'self_chained'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_paragraph(xp, trained, given, told):
    import re

    done = xp(*REPLAY, f"eval.checkpoint={trained}", given, "hydra.run.dir=r", code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("xp: ")]
    assert len(lines) == 1
    assert re.search(told, lines[0]), lines[0]


def test_recordings_at_another_rate_are_refused(xp, arm, trained, tmp_path):
    import shutil

    copy = shutil.copytree(arm, tmp_path / "slow")
    info = json.loads((copy / "meta/info.json").read_text())
    (copy / "meta/info.json").write_text(json.dumps({**info, "fps": 5}))
    done = xp(*REPLAY, f"eval.checkpoint={trained}", f"eval.data_root={copy}", code=2)
    assert "trained at 10 frames per second" in done.stderr


class Episodes:
    """Enough of a dataset for lengths."""

    def __init__(self, *lengths):
        self.episodes = type("Episodes", (), {"lengths": np.array(lengths)})


def spec(horizon, past=0, future=0):
    return PolicySpec(horizon=horizon, action_dim=2, state_dim=2, cameras={}, prefix_past=past, prefix_future=future)


def replay_config(**more):
    from omegaconf import OmegaConf

    values = {"delay": 1, "jitter": 0, "modes": ["delayed"], "checkpoint": "run", "batch_size": 3, **more}
    return OmegaConf.create({"chunk_size": {"steps": 4}, "eval": values, "seed": 0})


def test_a_prefix_longer_than_the_chunk_is_refused():
    from xp.errors import UserError

    with pytest.raises(UserError, match="prefix longer than the chunk"):
        check_policy(replay_config(), spec(4, future=5), "run")


def test_a_chunk_longer_than_every_episode_is_refused_and_short_episodes_are_named():
    from xp.errors import UserError

    said = []
    run = type("Run", (), {"log": staticmethod(said.append)})
    execution = {"ground_truth": Execution(rule="last", steps=4, past=3, prefix_len=2)}
    assert long_enough(run, Episodes(13, 14, 40), (0, 1, 2), execution, 8) == (1, 2)
    assert said == ["Left out, shorter than 14 frames: episodes 0."]
    with pytest.raises(UserError, match=r"longer than every episode.*14 frames.*9 to 13"):
        long_enough(run, Episodes(13, 9), (0, 1), execution, 8)


class Repeats:
    """A policy that answers with the last committed action, and remembers what it was told."""

    def __init__(self):
        self.spec, self.queries = spec(6, past=3, future=2), []

    def predict(self, observation, *, seed=0, prefix, past):
        self.queries.append((observation["episode_index"], observation["frame_index"], prefix, past))
        return np.repeat(prefix[:, -1:], 6, axis=1)


def test_a_policy_with_a_prefix_is_told_what_is_committed_and_executed(arm):
    from contextlib import nullcontext

    from xp.data import open_dataset

    dataset, policy, bar = open_dataset(arm), Repeats(), type("Bar", (), {"advance": lambda self, n: None})()
    run = type("Run", (), {"config": replay_config(), "should_stop": lambda self: False,
                           "progress": lambda self, *a, **k: nullcontext(bar)})()  # fmt: skip
    replayer = BatchedReplayer(run, dataset, {}, policy, (1, 4))
    pairs = [
        (
            ReplayStream(
                dataset.action[dataset.rows([episode])], mode, Execution(rule="last", steps=4, past=3, prefix_len=2), 6
            ),
            episode,
        )
        for mode in ("ground_truth", "self_chained")
        for episode in (1, 4)
    ]
    replayer.run(pairs)
    assert {len(query[0]) for query in policy.queries} <= {1, 2, 3}
    assert all(prefix.shape[1:] == (2, 6) and past.shape[1:] == (3, 6) for _, _, prefix, past in policy.queries)
    held = [ReplayStream(stream.truth, stream.mode, stream.execution, 6) for stream, _ in pairs]
    run_hold_last(held)
    for (stream, _), other in zip(pairs, held):
        np.testing.assert_allclose(stream.trace().x, other.trace().x, rtol=1e-6)
    first = pairs[0][0].truth
    np.testing.assert_array_equal(policy.queries[0][2][0], first[3:5].astype(np.float32))
