"""Stitching rules by hand and by property; what a replay asks, when answers count, what it executes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.metrics.replay import MODES, Execution, ReplayStream
from xp.metrics.replay_summary import MEASURES, Scales, demonstration_of, episode_measures, summarise
from xp.metrics.stitching import RULES, PlacedChunk, stitch, weights


def chunk(start, values, takeover=None):
    values = np.asarray(values, dtype=np.float64)
    return PlacedChunk(start, start if takeover is None else takeover, values.reshape(len(values), -1))


PAIR = [chunk(0, [0, 0, 0, 0]), chunk(2, [10, 10, 10, 10])]


def stitched(chunks, rule, first, last, advance=2):
    return stitch(chunks, first, last, rule, advance=advance, before=np.array([-1.0]))[:, 0].tolist()


def test_last_takes_the_newest_and_holds_after_the_end():
    assert stitched(PAIR, "last", 0, 8) == [0, 0, 10, 10, 10, 10, 10, 10]
    assert stitched(PAIR, "last", 6, 8) == [-1, -1]


def test_blend_weighs_by_a_hat():
    # frame 2: the old chunk has 2 frames left, the new one 1 behind it; frame 3: 1 left against 2
    assert stitched(PAIR, "blend", 0, 6) == pytest.approx([0, 0, 10 / 3, 20 / 3, 10, 10])


def test_ensembling_weighs_the_oldest_most():
    new = np.exp(-0.01) / (1 + np.exp(-0.01))
    assert stitched(PAIR, "ensembling", 0, 6) == pytest.approx([0, 0, 10 * new, 10 * new, 10, 10])


def test_the_seeds_blend_mixes_oldest_and_newest_and_jumps_with_three_chunks():
    assert stitched(PAIR, "blend_two", 0, 6) == pytest.approx([0, 0, 0, 5, 10, 10])
    three = [chunk(0, [0] * 6), chunk(2, [10] * 6), chunk(4, [10] * 6)]
    two, unity = (np.array(stitched(three, rule, 0, 8)) for rule in ("blend_two", "blend"))
    assert two[:6] == pytest.approx([0, 0, 0, 2.5, 0, 2.5])  # back to the oldest at frame 4
    assert (np.diff(unity) >= 0).all()  # all agree on 10 but the oldest, which fades out


def test_a_late_chunk_counts_from_its_take_over():
    late = [chunk(0, [0] * 6), chunk(2, [10] * 6, takeover=4)]
    assert stitched(late, "last", 0, 8) == [0, 0, 0, 0, 10, 10, 10, 10]
    assert stitched(late, "blend", 3, 6) == pytest.approx([0, 10 / 3, 20 / 3])


@given(
    st.sampled_from(RULES),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=6),
)
def test_weights_are_a_partition_of_unity_over_the_chunks_that_speak(rule, places):
    chunks = [chunk(start, np.zeros(length), start + late) for start, late, length in places]
    chunks.sort(key=lambda each: each.takeover)
    shares = weights(chunks, 0, 25, rule, advance=3)
    speaks = np.array([[each.takeover <= f < each.end for f in range(25)] for each in chunks])
    assert (shares >= 0).all()
    assert (shares[~speaks] == 0).all()
    np.testing.assert_allclose(shares.sum(axis=0), speaks.any(axis=0), atol=1e-12)


@given(st.sampled_from(RULES), st.integers(0, 100))
def test_chunks_that_agree_are_not_changed_by_any_rule(rule, seed):
    line = np.random.default_rng(seed).normal(size=(30, 2))
    chunks = [PlacedChunk(start, start, line[start : start + 8]) for start in range(0, 20, 3)]
    result = stitch(chunks, 0, 26, rule, advance=3, before=line[0])
    np.testing.assert_allclose(result, line[:26])


TRUTH = np.random.default_rng(0).normal(size=(40, 2)).cumsum(axis=0)


def run(stream, policy):
    queries = []
    while (query := stream.query()) is not None:
        queries.append(query)
        stream.answer(policy(query))
    return queries, stream.trace()


def perfect(stream):
    prefix_len = stream.execution.prefix_len
    return lambda query: stream.truth[query.frame + prefix_len : query.frame + prefix_len + stream.horizon]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", MODES)
def test_a_policy_that_repeats_the_demonstration_replays_it(mode, rule):
    execution = Execution(rule=rule, steps=4, past=3, prefix_len=2, delay=1, jitter=1)
    stream = ReplayStream(TRUTH, mode, execution, horizon=8)
    _, trace = run(stream, perfect(stream))
    np.testing.assert_allclose(trace.x, trace.truth)


def test_ground_truth_queries_frames_and_boundaries_are_the_seeds():
    """t = K; while t < L - D - C: chunk for t+D .. t+D+n-1, a boundary at each t+D but the first; t += n."""
    past, prefix_len, horizon, steps = 4, 2, 8, 5
    stream = ReplayStream(
        TRUTH, "ground_truth", Execution(rule="last", steps=steps, past=past, prefix_len=prefix_len), horizon
    )
    answers = {}

    def noise(query):
        answers[query.frame] = np.random.default_rng(query.frame).normal(size=(horizon, 2))
        return answers[query.frame]

    queries, trace = run(stream, noise)
    frames = list(range(past, len(TRUTH) - prefix_len - horizon, steps))
    assert [query.frame for query in queries] == frames
    expected = np.concatenate([answers[t][:steps] for t in frames])
    np.testing.assert_array_equal(trace.x, expected)
    assert trace.first == past + prefix_len
    assert trace.boundaries.tolist() == [t + prefix_len - trace.first for t in frames[1:]]
    for query in queries:
        np.testing.assert_array_equal(query.prefix, TRUTH[query.frame : query.frame + prefix_len])
        np.testing.assert_array_equal(query.past, TRUTH[query.frame - past : query.frame])


def test_the_self_chained_prefix_is_what_the_replay_executes():
    execution = Execution(rule="blend", steps=4, past=3, prefix_len=2)
    stream = ReplayStream(TRUTH, "self_chained", execution, horizon=8)
    queries, trace = run(stream, lambda query: np.random.default_rng(query.frame).normal(size=(8, 2)))
    executed = np.concatenate([TRUTH[: trace.first], trace.x])
    for query in queries:
        np.testing.assert_array_equal(query.prefix, executed[query.frame : query.frame + 2])
        np.testing.assert_array_equal(query.past, executed[query.frame - 3 : query.frame])


def test_a_delayed_answer_loses_its_first_actions_and_the_active_chunk_goes_on():
    execution = Execution(rule="last", steps=4, delay=2)
    stream = ReplayStream(TRUTH, "delayed", execution, horizon=8)
    queries, trace = run(stream, lambda query: np.full((8, 2), float(query.frame)))
    assert [query.frame for query in queries][:4] == [1, 5, 9, 13]
    # the chunk of frame 5 arrives at frame 7; the first answer is waited for
    assert trace.x[:11, 0].tolist() == [1] * 6 + [5] * 4 + [9]
    assert trace.boundaries.tolist()[:2] == [6, 10]


def test_a_late_answer_holds_the_last_action_once_the_chunk_is_spent_and_one_query_is_in_flight():
    stream = ReplayStream(TRUTH, "delayed", Execution(rule="last", steps=2, delay=3), horizon=4)
    queries, trace = run(stream, lambda query: query.frame + np.arange(4.0)[:, None] * np.ones(2))
    assert [query.frame for query in queries][:3] == [1, 3, 6]
    # frames 1.. : chunk of 1 (1,2,3,4 for frames 1-4), held at 5; chunk of 3 arrives at 6 with its last action alone
    assert trace.x[:9, 0].tolist() == [1, 2, 3, 4, 4, 6, 6, 6, 9]


def test_an_answer_after_its_own_end_is_never_executed():
    stream = ReplayStream(TRUTH, "delayed", Execution(rule="last", steps=2, delay=5), horizon=4)
    _, trace = run(stream, lambda query: np.full((4, 2), float(query.frame)))
    assert set(trace.x[:, 0]) == {1.0}
    assert trace.discarded == len(trace.chunks) - 1


def test_jitter_is_seeded():
    def boundaries(seed):
        stream = ReplayStream(TRUTH, "delayed", Execution(rule="last", steps=4, delay=1, jitter=3), 8, seed=(seed, 5))
        return run(stream, perfect(stream))[1].boundaries.tolist()

    assert boundaries(0) == boundaries(0)
    assert any(boundaries(seed) != boundaries(0) for seed in range(1, 5))


def test_holding_the_last_action_has_something_to_hold_in_every_mode():
    for mode in MODES:
        for prefix_len in (0, 2):
            stream = ReplayStream(TRUTH, mode, Execution(rule="last", steps=4, prefix_len=prefix_len), horizon=8)
            query = stream.query()
            np.testing.assert_array_equal(query.held, TRUTH[query.frame + prefix_len - 1])


def test_the_summary_has_every_measure_with_an_interval_over_episodes():
    traces = []
    for seed in range(4):
        truth = np.random.default_rng(seed).normal(size=(40, 2)).cumsum(axis=0)
        stream = ReplayStream(truth, "self_chained", Execution(rule="last", steps=4, prefix_len=1), 8)
        traces.append(run(stream, lambda query: np.repeat(query.held[None], 8, axis=0))[1])
    scales = Scales(std=np.ones(2), fps=10.0)
    row = summarise(traces, [3, 5, 6, 9], scales, seed=0, resamples=200)
    assert set(row["measures"]) == set(MEASURES)
    assert row["episodes"]["index"] == [3, 5, 6, 9]
    jump = row["measures"]["boundary_jump"]
    assert jump["low"] < jump["value"] < jump["high"]
    assert jump["value"] == pytest.approx(np.mean(row["episodes"]["boundary_jump"]))
    assert len(row["per_step"]["l1"]["value"]) == 8
    assert row["measures"]["u_a_ratio"]["value"] == 0.0  # it stands still
    shown = summarise([demonstration_of(t) for t in traces], [3, 5, 6, 9], scales, seed=0, resamples=200)
    assert shown["measures"]["l1"]["value"] == 0.0
    assert shown["measures"]["u_a_ratio"]["value"] == pytest.approx(1.0)


def test_one_episode_has_values_and_no_interval():
    stream = ReplayStream(TRUTH, "ground_truth", Execution(rule="last", steps=4), 8)
    trace = run(stream, perfect(stream))[1]
    measures = episode_measures(trace, Scales(std=np.ones(2), fps=10.0))
    row = summarise([trace], [0], Scales(std=np.ones(2), fps=10.0), seed=0, resamples=100)
    assert row["measures"]["u_a"] == {"value": measures["u_a"], "low": None, "high": None, "n": 1}
