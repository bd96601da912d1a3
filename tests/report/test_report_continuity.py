"""Reports of replays: differences in pairs, what they can and cannot tell apart, tables that fit."""

import io

import numpy as np
import pytest
from report_experiments import write_run
from rich.console import Console

from xp.metrics.intervals import crossed_interval
from xp.metrics.replay import Execution, ReplayStream
from xp.metrics.replay_summary import MEASURES, Scales, demonstration_of, summarise
from xp.report import terminal_table, write_report
from xp.report.comparisons import comparisons, paired
from xp.report.continuity_tables import continuity_findings
from xp.report.read import read_experiment

COMPARISONS = [{"title": "Learning rate", "stage": "lr_sweep", "baseline": {"lr": {"peak": 3e-5}}}]
EPISODES = tuple(range(8))


def replay_metrics(noise, seed, checkpoint):
    """A replay of a policy that is `noise` standard deviations off, on episodes that are the same for all."""
    rows = {"policy": [], "hold_last": []}
    for episode in EPISODES:
        truth = np.random.default_rng(episode).normal(size=(40, 3)).cumsum(axis=0)
        own = np.random.default_rng((seed, episode, int(1000 * noise)))
        for row, traces in rows.items():
            stream = ReplayStream(truth, "self_chained", Execution(rule="last", steps=4), 8)
            while (query := stream.query()) is not None:
                chunk = truth[query.frame : query.frame + 8] + noise * own.normal(size=(8, 3))
                stream.answer(chunk if row == "policy" else np.repeat(query.held[None], 8, axis=0))
            traces.append(stream.trace())
    scales = Scales(std=np.full(3, 4.0), fps=10.0)
    shown = {**rows, "demonstration": [demonstration_of(trace) for trace in rows["policy"]]}
    told = {row: summarise(found, EPISODES, scales, seed=0, resamples=200) for row, found in shown.items()}
    return {"checkpoint": checkpoint, "replay": {"self_chained": told}, "spread": {}}


def write_replays(folder, noises, seeds=(0, 1)):
    for peak, noise in noises.items():
        for seed in seeds:
            name = f"lr_{peak:g}-seed_{seed}"
            config = {"task": {"name": "train"}, "seed": seed, "lr": {"peak": peak},
                      "experiment": {"comparisons": COMPARISONS}}  # fmt: skip
            write_run(folder / name, config, stage="lr_sweep")
            replay = {**config, "task": {"name": "eval"}, "eval": {"name": "offline_replay"}}
            metrics = replay_metrics(noise, seed, f"/elsewhere/{name}")
            write_run(folder / f"replay_{name}", replay, stage="replay", metrics__json=metrics)
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three rates, two seeds: 1e-5 is clearly worse than the baseline 3e-5, and 3e-4 is as good."""
    return write_replays(tmp_path_factory.mktemp("x") / "lr_sweep", {1e-5: 2.0, 3e-5: 0.5, 3e-4: 0.501})


def test_arms_are_trainings_that_differ_in_the_seed_alone(sweep):
    (found,) = comparisons(read_experiment(sweep))
    assert [variant.name for variant in found.variants] == ["lr.peak=1e-05", "lr.peak=3e-05", "lr.peak=0.0003"]
    assert found.baseline is found.variants[1]
    assert [len(variant.replays) for variant in found.variants] == [2, 2, 2]
    assert found.level == pytest.approx(1 - 0.05 / 2)


def test_a_paired_difference_is_the_mean_over_common_episodes_and_seeds(sweep):
    (found,) = comparisons(read_experiment(sweep))
    worse, base, same = found.variants
    one, other = worse.grid("self_chained", "l1"), base.grid("self_chained", "l1")
    difference = paired(worse, base, "self_chained", "l1")
    assert difference is not None
    assert difference.value == pytest.approx(np.mean([one[key] - other[key] for key in one]))
    assert (difference.episodes, difference.seeds) == (8, 2)
    assert difference.verdict == "higher"
    no_difference = paired(same, base, "self_chained", "l1")
    assert no_difference is not None and no_difference.verdict == "not distinguishable"


def test_findings_name_the_best_with_evidence_and_what_cannot_be_told_apart(sweep):
    texts = [finding.text for finding in continuity_findings(read_experiment(sweep))]
    (best,) = [text for text in texts if "track best" in text]
    assert "no variant is shown to track best" in best and "paired difference may be chance" in best
    assert "8 episodes and 2 seeds: the interval holds 0" in best and not any("tracks best" in text for text in texts)
    against = next(text for text in texts if "tracking error against lr.peak=3e-05" in text)
    assert "lr.peak=1e-05 is higher" in against
    assert "lr.peak=0.0003: not distinguishable" in against


@pytest.mark.parametrize("width", [80, 60])
def test_the_terminal_table_fits(sweep, width):
    out = io.StringIO()
    Console(width=width, file=out).print(terminal_table(sweep))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for word in ("hold-last", "demonstration", "baseline", "no variant is"):
        assert word in text


def test_the_page_has_every_measure_baselines_and_the_curve_of_the_chunk(sweep):
    page = write_report(sweep).read_text()
    assert "Continuity of chunks" in page
    assert "against the baseline" in page
    assert "hold-last" in page
    assert "Error inside a chunk" in page
    assert MEASURES["velocity_jump"].label in page


def test_one_replay_alone_is_reported_without_differences(tmp_path):
    config = {"task": {"name": "eval"}, "eval": {"name": "offline_replay"}, "seed": 0}
    write_run(tmp_path / "run", config, metrics__json=replay_metrics(0.5, 0, "elsewhere/policy"))
    page = write_report(tmp_path).read_text()
    assert "Continuity of chunks" in page
    assert "against the baseline" not in page


def test_an_interval_over_two_seeds_is_wider_than_over_one():
    draw = np.random.default_rng(0)
    effects = np.array([[0.5], [-0.5]]) + 0.1 * draw.normal(size=(2, 10))
    one, both = (_known(crossed_interval(some)) for some in (effects[:1], effects))
    assert both[1] - both[0] > one[1] - one[0]
    assert one[0] > 0 > both[0]
    assert crossed_interval(effects[:, :1]) == (None, None)


def _known(ends: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = ends
    assert low is not None and high is not None
    return low, high


def test_the_crossed_interval_covers_the_true_mean_about_as_often_as_it_says():
    draw, covered = np.random.default_rng(1), 0
    for _ in range(200):
        values = draw.normal(size=(3, 1)) + draw.normal(size=(1, 8)) + draw.normal(size=(3, 8))
        low, high = _known(crossed_interval(values, resamples=1000))
        covered += low <= 0 <= high
    assert covered / 200 > 0.85


def test_an_arm_tracks_best_only_where_the_interval_says_so(tmp_path):
    folder = write_replays(tmp_path / "lr_sweep", {1e-5: 2.0, 3e-5: 0.5})
    found = [finding for finding in continuity_findings(read_experiment(folder)) if "track" in finding.text]
    assert found[0].text.startswith("Learning rate: lr.peak=3e-05 tracks best") and found[0].tone == "good"


def test_two_episodes_and_one_seed_tell_nothing_and_get_no_tick(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "EPISODES", (0, 1))
    folder = write_replays(tmp_path / "lr_sweep", {1e-5: 2.0, 3e-5: 0.5, 3e-4: 1.0}, seeds=(0,))
    found = [each for each in continuity_findings(read_experiment(folder)) if "Learning rate" in each.text]
    texts = " ".join(each.text for each in found)
    assert not any(each.tone == "good" for each in found)
    assert "no variant is shown to track best" in texts and "2 episodes and 1 seed: too few episodes to tell" in texts
    assert "higher" not in texts and "lower" not in texts
    assert "at least 7 episodes are needed for 2 comparisons at 95%" in texts


def test_blending_chunks_that_do_not_overlap_is_said_to_be_receding():
    from xp.report.replay_text import _no_overlap

    facts = {"execution": "blend", "chunk_steps": 30, "horizon": 30}
    assert "equals receding" in " ".join(_no_overlap(facts)) and all(len(line) <= 80 for line in _no_overlap(facts))
    assert _no_overlap({**facts, "chunk_steps": 15}) == _no_overlap({**facts, "execution": "receding"}) == []


def test_receding_and_blending_of_chunks_that_do_not_overlap_are_the_same_numbers():
    truth = np.random.default_rng(0).normal(size=(40, 3)).cumsum(axis=0)
    made = []
    for rule in ("last", "blend"):
        stream = ReplayStream(truth, "self_chained", Execution(rule=rule, steps=8), 8)
        while (query := stream.query()) is not None:
            stream.answer(truth[query.frame : query.frame + 8] + 0.1)
        made.append(np.asarray(stream.trace().x))
    assert np.array_equal(*made)
