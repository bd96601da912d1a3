"""Claims about `env=pusht`: the published protocol, pictures drawn when looked at, and an expert that solves it."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.envs import Observation, collect_episode, suite_named
from xp.envs.pusht import env as pusht_env
from xp.envs.pusht.env import PushtEnv
from xp.envs.pusht.options import ENVIRONMENT_STATE_NAMES, FAILING_EXPERTS
from xp.envs.pusht.paths import commands, way_round
from xp.envs.pusht.pushing import pushed
from xp.envs.pusht.search import OPTIONS, remaining_steps, search
from xp.envs.pusht.suite import PushtSuite
from xp.envs.pusht.tee import (
    AGENT_RADIUS,
    AREA_RADIUS,
    CENTROID,
    CORNERS,
    GOAL,
    RECTANGLES,
    distance,
    pose_error,
    rotated,
    to_block,
    to_world,
)
from xp.envs.rollout import rollout
from xp.errors import UserError
from xp.metrics.success import success_metrics
from xp.pictures import resize

PIXELS = {"image": (96, 96)}
SUITE = PushtSuite()


def theirs(obs_type: str) -> gymnasium.Env:
    """gym-pusht itself."""
    return gymnasium.make("gym_pusht/PushT-v0", obs_type=obs_type, disable_env_checker=True)


@pytest.fixture(scope="module")
def solved():
    """The expert's episode of one seed, with pictures and corners."""
    env = SUITE.make("push_t", cameras=PIXELS, environment_state=True)
    return collect_episode(env, SUITE.expert(env), 5)


def test_the_expert_solves_an_episode(solved):
    assert solved.success and solved.max_reward == 1.0 and len(solved.action) < 200
    assert solved.task == "Push the T-shaped block onto the T-shaped target."
    assert np.abs(np.diff(solved.action, axis=0)).max() < 80, "commands move on by less than a sixth of the workspace"


def test_pictures_state_corners_and_end_are_those_of_gym_pusht(solved):
    pictures, corners = theirs("pixels_agent_pos"), theirs("environment_state_agent_pos")
    (seen, _), (known, _) = pictures.reset(seed=5), corners.reset(seed=5)
    ends = []
    for step, action in enumerate(solved.action):
        np.testing.assert_array_equal(solved.images["image"][step], seen["pixels"])
        np.testing.assert_array_equal(solved.state[step], np.float32(seen["agent_pos"]))
        np.testing.assert_array_equal(solved.environment_state[step], np.float32(known["environment_state"]))
        seen, reward, *end, info = pictures.step(action)
        known, *_ = corners.step(action)
        ends.append((info["is_success"], *end))
        assert reward <= solved.max_reward
    assert ends == [(False, False, False)] * (len(ends) - 1) + [(True, True, False)]


def test_a_picture_is_drawn_when_it_is_looked_at_and_shows_its_own_moment(monkeypatch):
    drawn = []
    real = pusht_env.Drawing.__call__
    monkeypatch.setattr(pusht_env.Drawing, "__call__", lambda self, *a: drawn.append(a) or real(self, *a))
    env = SUITE.make("push_t", cameras={"image": (48, 64)})
    before: Observation = env.reset(3)
    for _ in range(4):
        env.step(np.array([100.0, 400.0]))
    assert not drawn
    reference = theirs("pixels_agent_pos").reset(seed=3)[0]["pixels"]
    np.testing.assert_array_equal(before["observation.images.image"], resize(reference, 48, 64))
    assert before["observation.images.image"] is before["observation.images.image"] and len(drawn) == 1
    chunks = rollout(env, SUITE.noop(8), seeds=[3], chunk_steps=8)
    assert chunks[0].queries == 38 and len(drawn) == 39


def test_the_protocol_is_the_published_one():
    env = SUITE.make("push_t", cameras={})
    still = rollout(env, SUITE.noop(50), seeds=[0], chunk_steps=50)[0]
    assert (still.steps, still.success) == (300, False) and still.max_reward is not None and still.max_reward < 1
    assert (env.fps, env.max_steps) == (10, 300)
    assert env.action_low.tolist() == [0, 0] and env.action_high.tolist() == [512, 512]
    assert SUITE.default_cameras == PIXELS and len(ENVIRONMENT_STATE_NAMES) == 16


def test_what_pusht_does_not_have_is_refused(monkeypatch):
    with pytest.raises(UserError, match="env.fps=20: .*Type env.fps=10"):
        suite_named("pusht", {"fps": 20})
    with pytest.raises(UserError, match="no camera 'top'.*It has image"):
        SUITE.make("push_t", cameras={"top": (96, 96)})
    monkeypatch.setattr("xp.envs.pusht.options.find_spec", lambda name: None)
    with pytest.raises(UserError, match="gym-pusht, which is not installed.*uv sync --extra pusht"):
        suite_named("pusht", {"fps": 10})


angles = st.floats(-np.pi, np.pi)
poses = st.tuples(st.floats(150, 350), st.floats(150, 350), angles).map(np.array)


@given(poses, st.tuples(st.floats(0, 512), st.floats(0, 512)).map(np.array))
def test_to_the_block_and_back_is_the_same_point(pose, point):
    np.testing.assert_allclose(to_world(pose, to_block(pose, point)), point, atol=1e-9)


def test_the_blocks_shape_is_gym_pushts():
    env = PushtEnv("push_t", cameras={}, environment_state=True)
    corners = np.asarray(env.reset(11)["observation.environment_state"]).reshape(8, 2)
    left, top, right, bottom = RECTANGLES.T
    boxes = {tuple(p) for p in np.concatenate([np.stack(xy, 1) for xy in ((left, top), (right, top), (right, bottom),
                                                                         (left, bottom))])}  # fmt: skip
    assert {tuple(np.round(p, 2) + 0.0) for p in to_block(env.block_pose(), np.float64(corners))} == boxes


@given(poses)
def test_the_error_is_that_of_the_points_for_small_turns_and_nothing_at_the_goal(pose):
    goal = np.array(GOAL)
    assert pose_error(goal) == 0 and pose_error(goal + [0, 0, 2 * np.pi]) < 1e-9
    near = goal + (pose - [250, 250, 0]) * [0.05, 0.05, 0.02]
    draw = np.random.default_rng(0).uniform([-60, 0], [60, 120], (20000, 2))
    inside = draw[distance(draw) == 0]
    moved = np.hypot(*(to_world(near, inside) - to_world(goal, inside)).T)
    assert pose_error(near) == pytest.approx(np.sqrt((moved**2).mean()), rel=0.03, abs=1e-6)
    turned = np.array([*(to_world(goal, CENTROID) - rotated(CENTROID, GOAL[2] + np.pi)), GOAL[2] + np.pi - 1e-9])
    assert pose_error(turned) == pytest.approx(np.pi * AREA_RADIUS)


def test_a_simulated_push_is_what_the_engine_does():
    env = PushtEnv("push_t", cameras={})
    draw = np.random.default_rng(2)
    errors, moves = [], []
    for seed in range(12):
        env.reset(seed)
        pose = env.block_pose()
        aim, turn, length = to_world(pose, CORNERS.mean(axis=0)), draw.uniform(-np.pi, np.pi), draw.uniform(40, 90)
        heading = np.array([np.cos(turn), np.sin(turn)])
        start = aim - 140 * heading
        if not (start > 5).all() or not (start < 507).all():
            continue
        simulation = env._simulation
        simulation.agent.position, simulation.agent.velocity = tuple(start), (0, 0)
        simulation.space.reindex_shapes_for_body(simulation.agent)
        for share in range(1, 41):
            env.step(start + heading * (60 + length) * min(1.0, share / 30))
        went = env.agent_position() - start
        strides = int(np.hypot(*went))
        model = pushed(pose[None], start[None], (went / strides)[None], strides, 1.0)[-1, 0]
        errors.append(float(pose_error(env.block_pose(), model)))
        moves.append(float(pose_error(env.block_pose(), pose)))
    assert len(errors) >= 4 and np.median(moves) > 10
    assert np.median(errors) < 1.0 and np.median(errors) < 0.05 * np.median(moves), (errors, moves)


@given(poses, st.integers(0, len(OPTIONS) - 1), st.integers(0, len(OPTIONS) - 1))
def test_a_way_round_keeps_clear_of_the_block(pose, one, other):
    begin, end = to_world(pose, OPTIONS[one, :2]), to_world(pose, OPTIONS[other, :2])
    way = way_round(pose, begin, end)
    np.testing.assert_array_equal(way[0], begin)
    np.testing.assert_array_equal(way[-1], end)
    if len(way) > 2:
        inside = np.concatenate([np.linspace(a, b, 60) for a, b in zip(way, way[1:])])
        assert distance(to_block(pose, inside)).min() > AGENT_RADIUS - 0.5


def test_commands_end_where_the_way_ends_and_lead_the_agent_along_it():
    way = np.array([[100.0, 100.0], [200.0, 100.0], [200.0, 300.0]])
    led = commands(way, 20.0)
    place, speed, seen = way[0].copy(), np.zeros(2), []
    for command in [*led, *[way[-1]] * 5]:
        for _ in range(10):  # gym-pusht's servo
            speed = speed + (100 * (command - place) - 20 * speed) * 0.01
            place = place + speed * 0.01
        seen.append(place.copy())
    assert np.hypot(*(place - way[-1])) < 0.5
    assert min(np.hypot(*(point - way[1])) for point in seen) < 25
    assert np.hypot(*np.diff(led, axis=0).T).max() < 60


@given(st.lists(st.floats(0, 400), min_size=2, max_size=6))
def test_a_larger_error_never_costs_less(errors):
    costs = remaining_steps(np.sort(np.array(errors)))
    assert (np.diff(costs) >= 0).all() and costs[0] >= 0


def test_a_search_improves_on_where_the_block_is_and_does_not_draw():
    pose, agent, goal = np.array([180.0, 330.0, 2.5]), np.array([100.0, 100.0]), np.array(GOAL)
    plan, again = search(pose, agent, goal), search(pose, agent, goal)
    np.testing.assert_array_equal(plan.pushes, again.pushes)
    assert plan.steps < remaining_steps(pose_error(pose, goal))
    push = plan.first(pose)
    assert distance(to_block(pose, push.start)) >= AGENT_RADIUS and np.hypot(*push.heading) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("control", FAILING_EXPERTS)
def test_an_expert_with_a_wrong_goal_fails(control):
    env = SUITE.make("push_t", cameras={})
    episodes = [collect_episode(env, SUITE.failing_expert(env, control), seed) for seed in range(10)]
    assert not any(episode.success for episode in episodes)


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "least"), [(0.0, 0.9), (5.0, 0.8)])
def test_the_expert_solves_nearly_all_episodes(noise, least):
    env = SUITE.make("push_t", cameras={})
    episodes = [collect_episode(env, SUITE.expert(env, noise=noise, seed=1), seed) for seed in range(50)]
    outcomes = success_metrics([each.success for each in episodes], [each.seed for each in episodes])
    assert outcomes["success_rate"] is not None and outcomes["success_rate"] >= least, outcomes
