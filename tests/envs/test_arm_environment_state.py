"""Claims about `observation.environment_state`: the simulator's own knowledge, on request, in a stated order."""

import numpy as np
import pytest

from xp.config import compose
from xp.envs import collect_episode
from xp.envs.arm import ArmEnv, ScriptedExpert
from xp.envs.arm.arm import HOME
from xp.envs.arm.tasks import CUBES, TASKS
from xp.envs.mujoco_import import mujoco
from xp.envs.rollout import rollout
from xp.tasks._lib.recorders import EnvMaker

KEY = "observation.environment_state"


def named(env, observation):
    return dict(zip(env.environment_state_names, observation[KEY].tolist(), strict=True))


def test_it_says_where_the_cubes_and_the_target_are_at_every_step():
    env = ArmEnv("push_red", cameras={}, environment_state=True)
    expert = ScriptedExpert(env)
    before = named(env, env.reset(3))
    expert.reset(3)
    assert env.initial is not None
    np.testing.assert_allclose((before["target.x"], before["target.y"]), env.initial.target, atol=1e-6)
    while not env.step(expert.act()).done:
        pass
    after = named(env, env.observe())
    for cube in ("red", "blue"):
        x, y, z, yaw = env.cube_pose(cube)
        told = [after[f"{cube}.{part}"] for part in ("x", "y", "z", "cos_yaw", "sin_yaw")]
        np.testing.assert_allclose(told, [x, y, z, np.cos(yaw), np.sin(yaw)], atol=1e-6)
    moved = np.hypot(after["red.x"] - before["red.x"], after["red.y"] - before["red.y"])
    assert moved > 0.05 and env.observe()[KEY].dtype == np.float32


def test_only_those_who_ask_get_it():
    assert KEY not in ArmEnv("stack", cameras={}).reset(0)


@pytest.mark.parametrize("task", TASKS)
def test_by_default_pictures_alone_tell_a_policy_where_things_are(task):
    section = compose([]).env
    env = EnvMaker.of(section, environment_state=section.environment_state).make(task)
    assert isinstance(env, ArmEnv)
    pictures = {f"observation.images.{camera}" for camera in ("oblique", "wrist")}
    told = {"observation.state", "task"}
    before = env.reset(0)
    assert set(before) == pictures | told
    for name in CUBES:
        env.data.qpos[env._address[name] : env._address[name] + 2] += (0.02, -0.03)
    env.data.mocap_pos[0][:2] += (-0.02, 0.03)
    mujoco.mj_forward(env.model, env.data)
    after = env._look()
    assert all(np.array_equal(before[key], after[key]) for key in told)
    assert not any(np.array_equal(before[key], after[key]) for key in pictures)
    windows = []
    rollout(env, lambda batch: windows.append(batch) or np.tile(HOME, (1, 120, 1)), seeds=[0], chunk_steps=120)
    counted = {"observation_is_pad", "episode_index", "frame_index"}
    assert [set(window) for window in windows] == [pictures | told | counted]


def test_it_is_recorded_beside_what_was_done_and_shown_to_a_policy():
    env = ArmEnv("stack", cameras={}, max_steps=5, environment_state=True)
    episode = collect_episode(env, ScriptedExpert(env), 2)
    assert episode.environment_state.shape == (5, len(env.environment_state_names))
    np.testing.assert_array_equal(episode.environment_state[0], env.reset(2)[KEY])
    seen = []
    rollout(env, lambda batch: seen.append(batch[KEY]) or HOME[None, None], seeds=[2], chunk_steps=1, history=2)
    assert [window.shape for window in seen] == [(1, 2, len(env.environment_state_names))] * 5
    without = ArmEnv("stack", cameras={}, max_steps=5)
    assert collect_episode(without, ScriptedExpert(without), 2).environment_state.shape == (5, 0)
