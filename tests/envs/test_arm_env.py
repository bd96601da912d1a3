"""Claims about the environment: what it gives, what it counts as success, what it refuses."""

import os
import subprocess
import sys

import numpy as np
import pytest

from xp.envs import collect_episode
from xp.envs.arm import ArmEnv, ScriptedExpert
from xp.envs.arm.arm import HIGH, HOME, LOW
from xp.envs.arm.scene import CUBE_SIDE
from xp.envs.arm.tasks import TASKS
from xp.envs.mujoco_import import mujoco
from xp.errors import UserError

CAMERAS = {"oblique": (24, 32), "wrist": (16, 16)}


@pytest.mark.parametrize("renderer", ["raycast", pytest.param("gl", marks=pytest.mark.slow)])
def test_a_picture_shows_the_moment_that_was_observed_however_late_it_is_looked_at(renderer):
    env = ArmEnv("push_red", cameras={"oblique": (48, 48), "wrist": (32, 32)}, renderer=renderer)
    expert = ScriptedExpert(env)
    keys = [f"observation.images.{camera}" for camera in env.cameras]
    late, drawn = [env.reset(2)], []
    drawn.append([env.observe()[key] for key in keys])
    for _ in range(30):
        action = expert.act()
        late.append(env.step(action).observation)
    env.reset(2)
    expert = ScriptedExpert(env)
    for _ in range(30):
        seen = env.step(expert.act()).observation
        drawn.append([seen[key] for key in keys])
    env.reset(9)
    for pictures, observation in zip(drawn, late, strict=True):
        for key, picture in zip(keys, pictures, strict=True):
            np.testing.assert_array_equal(observation[key], picture)
    assert not np.array_equal(drawn[0][0], drawn[-1][0])


def test_an_observation_has_lerobots_keys_and_the_declared_shapes():
    env = ArmEnv("stack", cameras=CAMERAS)
    for observation in (env.reset(0), env.step(HOME).observation):
        assert set(observation) == {
            "observation.images.oblique",
            "observation.images.wrist",
            "observation.state",
            "task",
        }
        assert observation["observation.images.oblique"].shape == (24, 32, 3)
        assert observation["observation.images.oblique"].dtype == np.uint8
        assert observation["observation.state"].shape == (6,)
        assert observation["observation.state"].dtype == np.float32
        assert observation["task"] == "stack the red cube on the blue cube"


def test_observing_again_gives_what_the_last_step_gave_and_draws_nothing():
    env = ArmEnv("stack", cameras=CAMERAS)
    assert env.reset(0) is env.observe()
    assert env.step(HOME).observation is env.observe()


def test_the_declared_names_are_those_of_state_and_action():
    assert ArmEnv.state_names == ArmEnv("stack", cameras={}).action_names
    assert len(ArmEnv.state_names) == 6 and ArmEnv.state_names[5] == "gripper.pos"


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_does_not_depend_on_what_was_simulated_before(task):
    env = ArmEnv(task, cameras={"top": (16, 16)})
    actions = [HOME + 0.1 * np.sin(np.arange(6) + step) for step in range(12)]

    def play():
        seen = [env.reset(3), *(env.step(action).observation for action in actions)]
        return [(o["observation.state"], o["observation.images.top"]) for o in seen]

    first = play()
    env.reset(4)
    for action in actions[::-1]:
        env.step(action)
    for (state, image), (state_again, image_again) in zip(first, play()):
        np.testing.assert_array_equal(state, state_again)
        np.testing.assert_array_equal(image, image_again)


def test_the_arm_goes_where_the_action_says():
    env = ArmEnv("stack", cameras={})
    env.reset(0)
    goal = np.array([0.4, -0.3, 1.2, 1.5, -0.5, 0.3])
    for _ in range(15):
        env.step(goal)
    np.testing.assert_allclose(env.state(), goal, atol=0.01)


def test_actions_beyond_the_joints_ranges_are_clipped():
    env = ArmEnv("stack", cameras={})
    env.reset(0)
    env.step(np.full(6, 100.0))
    np.testing.assert_array_equal(env.command, HIGH)
    env.step(np.full(6, -100.0))
    np.testing.assert_array_equal(env.command, LOW)


@pytest.mark.parametrize("fps", [10, 20, 30])
def test_simulated_time_follows_the_control_rate(fps):
    env = ArmEnv("stack", cameras={}, fps=fps)
    env.reset(0)
    for _ in range(fps):
        env.step(HOME)
    assert env.data.time == pytest.approx(1.0)
    assert env.max_steps == 10 * fps


def test_an_episode_ends_at_the_step_limit_without_success():
    env = ArmEnv("stack", cameras={}, max_steps=5)
    env.reset(0)
    results = [env.step(HOME) for _ in range(5)]
    assert [result.done for result in results] == [False] * 4 + [True]
    assert not any(result.success for result in results)


def put(env, cube, position):
    """Place a cube by hand, at rest."""
    start = env._address[cube]
    env.data.qpos[start : start + 7] = [*position, 1, 0, 0, 0]
    env.data.qvel[env._velocity[cube] : env._velocity[cube] + 6] = 0
    mujoco.mj_forward(env.model, env.data)


def wait(env, steps):
    return [env.step(HOME) for _ in range(steps)]


def test_success_needs_the_dwell_time():
    env = ArmEnv("red_to_target", cameras={})
    env.reset(0)
    put(env, "red", [*env.target, CUBE_SIDE / 2])
    results = wait(env, 4)
    assert [result.success for result in results] == [False, False, False, True]
    assert results[-1].done


@pytest.mark.parametrize("offset,expected", [(0.020, True), (0.030, False)])
def test_success_needs_the_cube_within_the_tolerance(offset, expected):
    env = ArmEnv("blue_to_target", cameras={})
    env.reset(0)
    put(env, "blue", [env.target[0] + offset, env.target[1], CUBE_SIDE / 2])
    assert any(result.success for result in wait(env, 8)) == expected


def test_the_other_cube_on_the_target_is_no_success():
    env = ArmEnv("red_to_target", cameras={})
    env.reset(0)
    put(env, "blue", [*env.target, CUBE_SIDE / 2])
    assert not any(result.success for result in wait(env, 10))


def test_a_cube_held_on_the_target_is_no_success():
    """The expert's episode, stopped before it lets go."""
    env = ArmEnv("red_to_target", cameras={}, max_steps=80)
    env.reset(1)
    expert = ScriptedExpert(env)
    closed = False
    for _ in range(60):
        action = expert.act()
        closed = closed or action[5] < 0.1
        if closed and action[5] > 0.1:
            break
        env.step(action)
    held = env.command
    assert np.hypot(*(env.cube_pose("red")[:2] - env.target)) < 0.02
    results = [env.step(held) for _ in range(20)]
    assert env.touched("red")
    assert not any(result.success for result in results)


def test_a_falling_cube_is_no_success_until_it_lies_still():
    env = ArmEnv("red_to_target", cameras={})
    env.reset(0)
    put(env, "red", [*env.target, 0.12])
    results = wait(env, 12)
    assert not any(result.success for result in results[:4])
    assert results[-1].success or any(result.success for result in results)


def test_stacked_means_on_top_and_not_beside():
    env = ArmEnv("stack", cameras={})
    env.reset(0)
    put(env, "blue", [0.20, 0.10, CUBE_SIDE / 2])
    put(env, "red", [0.20, 0.10, 1.5 * CUBE_SIDE])
    assert any(result.success for result in wait(env, 6))
    env.reset(0)
    blue = env.cube_pose("blue")
    put(env, "red", [blue[0] + CUBE_SIDE * 1.6, blue[1], CUBE_SIDE / 2])
    assert not any(result.success for result in wait(env, 6))


def test_carrying_the_cube_does_not_count_as_pushing_it():
    env = ArmEnv("push_red", cameras={})
    carried = collect_episode(env, ScriptedExpert(env, task=TASKS["red_to_target"]), 0)
    assert not carried.success
    assert np.hypot(*(env.cube_pose("red")[:2] - env.target)) < 0.02
    assert collect_episode(env, ScriptedExpert(env), 0).success


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"task": "red_to_targt"}, ["red_to_targt", "did you mean 'red_to_target'", "env.tasks="]),
        ({"cameras": {"wirst": (96, 96)}}, ["wirst", "did you mean 'wrist'", "oblique"]),
        ({"cameras": {"wrist": (0, 96)}}, ["[0, 96]", "height"]),
        ({"renderer": "opengl"}, ["opengl", "raycast", "env.renderer="]),
        ({"fps": 7}, ["7", "300", "env.fps=10"]),
        ({"fps": 0}, ["env.fps=0"]),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(arguments, words):
    given = {"task": "stack", "cameras": {}, **arguments}
    with pytest.raises(UserError) as error:
        ArmEnv(given.pop("task"), **given)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("action", [np.zeros(5), np.full(6, np.nan), np.zeros((1, 6))])
def test_an_action_that_is_no_six_finite_numbers_is_refused(action):
    env = ArmEnv("stack", cameras={})
    env.reset(0)
    with pytest.raises(UserError, match="6 finite numbers"):
        env.step(action)


def run_python(code, tmp_path, value):
    """Run code where the GL libraries are missing: PyOpenGL then fails on import with an AttributeError."""
    fake = tmp_path / "OpenGL" / "__init__.py"
    fake.parent.mkdir()
    fake.write_text("raise AttributeError(\"'NoneType' object has no attribute 'eglQueryString'\")")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "MUJOCO_GL": value, "PYTHONPATH": path}
    environment.pop("PYOPENGL_PLATFORM", None)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("value", ["egl", "osmesa", "nonsense"])
def test_no_value_of_mujoco_gl_can_break_the_env(value, tmp_path):
    code = (
        "try: import mujoco\n"
        "except (AttributeError, RuntimeError): print('mujoco alone fails')\n"
        "import os; from xp.envs.arm import ArmEnv\n"
        "env = ArmEnv('stack', cameras={'top': (16, 16)}); env.reset(0)\n"
        "print(os.environ['MUJOCO_GL'], env.step(env.command).observation['observation.images.top'].shape)\n"
    )
    done = run_python(code, tmp_path, value)
    assert done.stdout == f"mujoco alone fails\n{value} (16, 16, 3)\n", done.stderr


def test_with_gl_disabled_states_and_cast_images_still_work(tmp_path):
    code = (
        "from xp.envs.arm import ArmEnv\n"
        "env = ArmEnv('stack', cameras={'top': (16, 16)})\n"
        "print(env.reset(0)['observation.images.top'].shape)\n"
    )
    assert run_python(code, tmp_path, "disable").stdout == "(16, 16, 3)\n"


def test_the_task_table_loads_neither_mujoco_nor_numpy():
    code = (
        "import sys; from xp.envs.arm import TASKS as tasks\n"
        "print(sorted({'mujoco', 'numpy', 'torch', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
