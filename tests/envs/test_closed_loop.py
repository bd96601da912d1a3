"""Claims about closed-loop execution: what the policy is shown, and which of its actions are executed."""

import numpy as np
import pytest

from xp.envs import collect_episode
from xp.envs.arm import ArmEnv, ScriptedExpert
from xp.envs.arm.arm import HOME
from xp.envs.rollout import ENSEMBLE_DECAY, Ensembling, Receding, rollout
from xp.errors import UserError

STEPS = 7


@pytest.fixture
def env():
    return ArmEnv("stack", cameras={"top": (16, 16), "wrist": (8, 16)}, max_steps=STEPS)


def still(batch, horizon=8):
    return np.tile(HOME, (1, horizon, 1))


def test_the_policy_is_asked_once_a_chunk(env):
    for chunk_steps, queries in ((1, 7), (2, 4), (4, 2), (8, 1)):
        result = rollout(env, still, seeds=[0], chunk_steps=chunk_steps)[0]
        assert (result.queries, result.steps, result.success) == (queries, STEPS, False)


def test_the_window_begins_with_the_first_observation_marked_as_pad(env):
    batches = []
    rollout(env, lambda batch: batches.append(batch) or still(batch), seeds=[5], chunk_steps=1, history=3)
    assert [batch["observation_is_pad"].tolist()[0] for batch in batches[:4]] == [
        [True, True, False],
        [True, False, False],
        [False, False, False],
        [False, False, False],
    ]
    first, second, third, fourth = (batch["observation.state"][0] for batch in batches[:4])
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(second[:2], first[1:])
    np.testing.assert_array_equal(third[:2], second[1:])
    np.testing.assert_array_equal(fourth[:2], third[1:])
    assert not np.array_equal(third[2], third[1])


def test_the_window_has_the_documented_keys_shapes_and_types(env):
    batches = []
    rollout(env, lambda batch: batches.append(batch) or still(batch), seeds=[5], chunk_steps=4, history=2)
    batch = batches[1]
    assert batch["observation.images.top"].shape == (1, 2, 16, 16, 3)
    assert batch["observation.images.wrist"].shape == (1, 2, 8, 16, 3)
    assert batch["observation.images.wrist"].dtype == np.uint8
    assert batch["observation.state"].shape == (1, 2, 6) and batch["observation.state"].dtype == np.float32
    assert batch["observation_is_pad"].dtype == bool
    assert batch["task"] == ["stack the red cube on the blue cube"]
    assert batch["episode_index"].tolist() == [5] and batch["frame_index"].tolist() == [4]


def test_replaying_the_experts_actions_open_loop_gives_the_experts_episode():
    env = ArmEnv("red_to_target", cameras={})
    actions = collect_episode(env, ScriptedExpert(env), 3).action
    whole = rollout(env, lambda batch: actions[None], seeds=[3], chunk_steps=len(actions))[0]
    assert whole.success and whole.steps == len(actions)

    def chunk(batch):
        start = int(batch["frame_index"][0])
        ahead = actions[start : start + 9]
        return np.concatenate([ahead, np.repeat(ahead[-1:], 9 - len(ahead), axis=0)])[None]

    chunked = rollout(env, chunk, seeds=[3], chunk_steps=4)[0]
    assert chunked.success and chunked.steps == whole.steps
    ensembled = rollout(env, chunk, seeds=[3], chunk_steps=4, execution="ensembling")[0]
    assert ensembled.success and ensembled.steps == whole.steps  # all chunks agree, so does their mean


def executed(acting, chunks, count):
    """The first number of each of `count` actions, `chunks` being given where one is wanted."""
    asked, actions = iter(chunks), []
    for _ in range(count):
        if acting.wants_chunk:
            acting.add(next(asked))
        actions.append(acting.next()[0])
    return actions


def test_receding_executes_the_first_actions_of_each_chunk():
    chunks = [np.array([[10.0], [11.0], [12.0]]), np.array([[20.0], [21.0], [22.0]])]
    assert executed(Receding(2), chunks, 4) == [10.0, 11.0, 20.0, 21.0]


def test_ensembling_averages_what_all_chunks_say_about_now_with_most_weight_on_the_oldest():
    chunks = [np.array([[1.0], [2.0], [4.0]]), np.array([[8.0], [16.0], [32.0]]), np.array([[64.0], [128.0], [256.0]])]
    w = np.exp(-ENSEMBLE_DECAY * np.arange(3))
    expected = [
        1.0,
        (w[0] * 2.0 + w[1] * 8.0) / (w[0] + w[1]),
        (w[0] * 4.0 + w[1] * 16.0 + w[2] * 64.0) / w.sum(),
        (w[0] * 32.0 + w[1] * 128.0 + w[2] * 1.0) / w.sum(),
    ]
    np.testing.assert_allclose(executed(Ensembling(3), [*chunks, chunks[0]], 4), expected)


def test_all_seeds_are_used_in_their_order_and_frames_only_of_those_asked_for(env):
    seen = []
    results = rollout(
        env, still, seeds=[9, 2, 5], chunk_steps=8, record={2: ["wrist"]}, on_step=lambda *step: seen.append(step)
    )
    assert [result.seed for result in results] == [9, 2, 5]
    assert [list(result.frames) for result in results] == [[], ["wrist"], []]
    assert results[1].frames["wrist"].shape == (STEPS + 1, 8, 16, 3)
    assert seen == [(seed, step) for seed in (9, 2, 5) for step in range(1, STEPS + 1)]


def test_an_episodes_result_does_not_depend_on_the_other_seeds():
    env = ArmEnv("push_red", cameras={})
    actions = collect_episode(env, ScriptedExpert(env), 1).action
    alone = rollout(env, lambda batch: actions[None], seeds=[1], chunk_steps=len(actions))
    after = rollout(env, lambda batch: actions[None], seeds=[0, 1], chunk_steps=len(actions))
    assert alone[0] == after[1] and alone[0].success


@pytest.mark.parametrize(
    "options,words",
    [
        ({"execution": "recedin"}, "did you mean 'receding'"),
        ({"chunk_steps": 0}, "chunk_size.steps=0"),
        ({"chunk_steps": 9}, r"\(8, 6\)"),
        ({"history": 0}, "history of 0"),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(env, options, words):
    with pytest.raises(UserError, match=words):
        rollout(env, still, **{"seeds": [0], "chunk_steps": 4, **options})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_policy_that_gives_no_numbers_is_named_with_the_step(env, value):
    with pytest.raises(UserError, match="seed 7, step 4"):
        rollout(
            env,
            lambda batch: still(batch) if batch["frame_index"][0] < 4 else np.full((1, 8, 6), value),
            seeds=[7],
            chunk_steps=2,
        )
