"""Claims about LIBERO's simulation: the published protocol, episodes that repeat, experts that solve or must fail.

Without pictures a step costs 10 ms of CPU, making an env a few seconds: what takes more is marked slow.
"""

import os
import subprocess
import sys
import weakref
from typing import ClassVar

import numpy as np
import pytest

from xp.envs import gl
from xp.envs.gl import working_backend
from xp.envs.libero import simulation as simulation_module
from xp.envs.libero.controls import StandStill
from xp.envs.libero.env import LiberoEnv, axis_angle
from xp.envs.libero.expert import carries, quaternion_matrix, rotation_vector
from xp.envs.libero.facts import FIRST_OFFICIAL, MAX_NOISE
from xp.envs.libero.resources import package_folder, task_files
from xp.envs.libero.suite import LiberoSuite
from xp.envs.rollout import rollout
from xp.errors import UserError

SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
SUITE = LiberoSuite()


@pytest.fixture(scope="module")
def env() -> LiberoEnv:
    made = SUITE.make(SOUP, cameras={})
    assert isinstance(made, LiberoEnv)
    return made


def test_the_expert_solves_an_official_state_and_the_episode_repeats(env):
    expert = SUITE.expert(env)
    first = env.reset(FIRST_OFFICIAL)
    expert.reset(FIRST_OFFICIAL)
    assert first["task"] == "Pick the alphabet soup and place it in the basket"
    actions, states, done = [], [first["observation.state"]], False
    while not done:
        actions.append(expert.act())
        result = env.step(actions[-1])
        states.append(result.observation["observation.state"])
        done = result.done
    assert result.success and 50 < env.steps < env.max_steps == 280
    env.reset(3)  # another initial state in between changes nothing
    env.step(np.ones(7))
    again = [env.reset(FIRST_OFFICIAL)["observation.state"]]
    again += [env.step(action).observation["observation.state"] for action in actions[:30]]
    np.testing.assert_array_equal(np.stack(states[:31]), np.stack(again))


def test_an_observation_is_the_published_one(env):
    observation = env.reset(FIRST_OFFICIAL)
    state = np.asarray(observation["observation.state"])
    assert state.shape == (8,) and state.dtype == np.float32 and set(observation) == {"observation.state", "task"}
    assert 0.1 < state[2] < 0.5 and abs(np.linalg.norm(state[3:6]) - np.pi) < 0.2, "the hand hangs above the floor"
    assert state[6] > 0.035 and state[7] < -0.035, "the gripper opened while things fell into place"
    assert env.fps == 20 and not env.simulation.succeeded()
    again = env.reset(FIRST_OFFICIAL)
    np.testing.assert_array_equal(state, np.asarray(again["observation.state"]))


def test_seeds_below_the_official_ones_draw_other_states_and_repeat(env):
    def places(seed: int) -> np.ndarray:
        env.reset(seed)
        return np.stack([env.simulation.position(name) for name in env.simulation.movable])

    before = np.random.get_state()[1].copy()  # pyright: ignore[reportIndexIssue, reportOptionalSubscript, reportAttributeAccessIssue]
    first, second, official = places(0), places(1), places(FIRST_OFFICIAL)
    assert np.abs(first - second).max() > 0.005 and np.abs(first - official).max() > 0.005
    np.testing.assert_array_equal(places(0), first)
    after = np.random.get_state()[1]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
    np.testing.assert_array_equal(before, after, "the global generator is as it was")
    for seed in (-1, FIRST_OFFICIAL + 50):
        with pytest.raises(UserError, match=f"no initial state {seed}.*1000000 to 1000049"):
            env.reset(seed)


def test_an_action_is_seven_finite_numbers(env):
    env.reset(0)
    for wrong in (np.zeros(6), np.full(7, np.nan)):
        with pytest.raises(UserError, match="takes 7 finite numbers.*xp task=collect env=libero"):
            env.step(wrong)


def test_a_simulation_that_is_idle_is_freed_and_made_again_where_it_was(env):
    env.reset(5)
    there = env.simulation.position("basket_1")
    assert not env.let_go(), "it waits for its first step"
    assert env.let_go(before_first_step=True) and env._simulation is None
    env.step(np.append(np.zeros(6), -1))
    np.testing.assert_allclose(env.simulation.position("basket_1"), there, atol=1e-4)
    assert not env.let_go(), "an episode is under way"


class Fake:
    """A simulation whose objects point at each other, as the package's do."""

    state_size = 0
    made: ClassVar[list[weakref.ref["Fake"]]] = []

    def __init__(self, bddl, cameras, *, fast):
        self.itself, self.observed = self, {name: np.zeros(2) for name in ("robot0_gripper_qpos", "robot0_eef_pos")}
        self.observed["robot0_eef_quat"] = np.array([0.0, 0.0, 0.0, 1.0])
        Fake.made.append(weakref.ref(self))

    def reset_by(self, seed):
        pass

    def step(self, action):
        pass

    def succeeded(self):
        return True


@pytest.mark.parametrize(("free", "made"), [(None, 3), (100_000.0, 3), (1500.0, 6)])
def test_envs_side_by_side_are_made_once_where_there_is_room_and_none_stays_that_nobody_holds(monkeypatch, free, made):
    monkeypatch.setattr("xp.envs.libero.env.Simulation", Fake)
    monkeypatch.setattr("xp.envs.libero.env.free_megabytes", lambda: free)
    monkeypatch.setattr("xp.envs.libero.env.official_states", lambda suite, task: np.zeros((1, 0)))
    monkeypatch.setattr(Fake, "made", [])
    envs = [SUITE.make(SOUP, cameras={}) for _ in range(3)]
    for each in envs:
        each.reset(0)
    assert all(each.step(np.zeros(7)).done for each in envs)
    assert len(Fake.made) == made
    for _ in range(4):
        envs[0] = SUITE.make(SOUP, cameras={})
        envs[0].reset(0)
    assert sum(fake() is not None for fake in Fake.made) == 1, "the others are idle"


def test_what_the_expert_carries_is_read_from_the_goals():
    goals = [["in", "soup", "basket_contain_region"], ["turnon", "stove"], ["on", "stove", "table"]]
    (carry,) = carries(goals, ["soup", "basket"])
    assert (carry.thing, carry.place) == ("soup", "basket_contain_region")


def test_the_expert_refuses_noise_that_it_does_not_bear(env):
    with pytest.raises(UserError, match="noise was given as 0.5.*collect.noise="):
        SUITE.expert(env, noise=MAX_NOISE + 0.2)


def test_standing_still_is_no_motion_with_an_open_gripper():
    actions = StandStill(3)({"task": ["a", "b"]})
    assert actions.shape == (2, 3, 7) and not actions[..., :6].any() and (actions[..., 6] == -1).all()


def test_rotations_agree_with_each_other():
    for axis, angle in (([0, 0, 1.0], 0.3), ([0.6, 0.8, 0], 2.5), ([1.0, 0, 0], 0.0)):
        quaternion = np.append(np.sin(angle / 2) * np.array(axis), np.cos(angle / 2))
        np.testing.assert_allclose(axis_angle(quaternion), np.array(axis) * angle, atol=1e-12)
        np.testing.assert_allclose(rotation_vector(quaternion_matrix(quaternion)), np.array(axis) * angle, atol=1e-9)


def test_a_mujoco_that_is_too_old_is_named_with_the_command(monkeypatch):
    class Old:
        __version__ = "3.8.1"

    monkeypatch.setattr(simulation_module, "mujoco", Old)
    simulation_module.control_env.cache_clear()
    try:
        with pytest.raises(UserError, match="MuJoCo 3.17 or newer, found 3.8.1.*pip install"):
            simulation_module.control_env()
    finally:
        simulation_module.control_env.cache_clear()


def test_without_gl_an_episode_with_pictures_says_what_to_install(env, monkeypatch):
    monkeypatch.setattr(gl, "probe", lambda backend: (False, "no display here"))
    gl.working_backend.cache_clear()
    seeing = SUITE.make(SOUP, cameras={"agentview": (16, 16)})
    try:
        with pytest.raises(UserError, match=r"no display here.*apt-get install.*eval=expert"):
            seeing.reset(FIRST_OFFICIAL)
    finally:
        gl.working_backend.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("control", SUITE.failing_experts)
def test_an_expert_gone_wrong_fails(env, control):
    expert, done = SUITE.failing_expert(env, control), False
    env.reset(FIRST_OFFICIAL)
    expert.reset(FIRST_OFFICIAL)
    while not done:
        result = env.step(expert.act())
        done = result.done
    assert not result.success and env.steps == env.max_steps


@pytest.mark.slow
def test_standing_still_fails(env):
    (episode,) = rollout(env, SUITE.noop(8), seeds=[FIRST_OFFICIAL], chunk_steps=8)
    assert not episode.success and episode.steps == 280 and episode.queries == 35


@pytest.mark.slow
def test_fixtures_stand_where_the_published_order_of_resets_puts_them():
    """The package's own env, reset from scratch for each episode after one seed, against any order of episodes here."""
    suite = LiberoSuite(suite="libero_spatial")
    task = next(iter(suite.tasks))
    ours = suite.make(task, cameras={})
    assert isinstance(ours, LiberoEnv)
    control = ours.simulation._control
    names = sorted(control.env.fixtures_dict)

    def places(model: object) -> np.ndarray:
        return np.array([model.body_pos[control.env.obj_body_id[name]] for name in names])  # pyright: ignore[reportAttributeAccessIssue]

    found = {}
    for index in (2, 0, 1):
        ours.reset(FIRST_OFFICIAL + index)
        found[index] = places(ours.simulation.model)
    published = simulation_module.control_env()(
        bddl_file_name=str(task_files("libero_spatial")[task]), use_camera_obs=False, has_offscreen_renderer=False
    )
    before = np.random.get_state()
    try:
        published.seed(0)
        for index in range(3):
            published.reset()
            np.testing.assert_array_equal(places(published.sim.model), found[index])
    finally:
        np.random.set_state(before)
    assert np.abs(found[0] - found[1]).max() > 0


_AS_PUBLISHED = """
import sys
import numpy as np
from libero.libero.envs import OffScreenRenderEnv
bddl, states, path = sys.argv[1:]
env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=128, camera_widths=128)
env.seed(0)
env.reset()
seen = env.set_init_state(np.load(states)["states"][0])
for _ in range(10):
    seen = env.step([0, 0, 0, 0, 0, 0, -1])[0]
for _ in range(3):
    seen = env.step([0.5, -0.5, -0.5, 0.1, 0, 0.2, 1])[0]
names = ("agentview", "robot0_eye_in_hand")
np.savez(path, **{name: seen[name + "_image"][::-1, ::-1] for name in names}, eef=seen["robot0_eef_pos"])
"""


@pytest.mark.slow
def test_pictures_and_states_are_those_of_the_published_evaluations(tmp_path):
    """The package's own env with its own renderer, in a process of its own, turned by 180 degrees."""
    try:
        backend, _ = working_backend()
    except UserError as error:
        pytest.skip(str(error))
    states = package_folder() / "init_files" / "libero_object" / f"{SOUP}.pruned_init.npz"
    command = [sys.executable, "-c", _AS_PUBLISHED, str(task_files("libero_object")[SOUP]), str(states)]
    environment = {**os.environ, "MUJOCO_GL": backend}
    subprocess.run([*command, str(tmp_path / "published.npz")], env=environment, check=True, timeout=500)
    published = np.load(tmp_path / "published.npz")
    size = (128, 128)
    env = SUITE.make(SOUP, cameras={"agentview": size, "robot0_eye_in_hand": size})
    early = env.reset(FIRST_OFFICIAL)
    for _ in range(3):
        late = env.step(np.array([0.5, -0.5, -0.5, 0.1, 0, 0.2, 1])).observation
    np.testing.assert_allclose(np.asarray(late["observation.state"])[:3], published["eef"], atol=1e-6)
    for name in ("agentview", "robot0_eye_in_hand"):
        drawn = np.asarray(late[f"observation.images.{name}"])
        np.testing.assert_array_equal(drawn, published[name])
        assert np.abs(np.asarray(early[f"observation.images.{name}"]).astype(int) - drawn).max() > 20


@pytest.mark.slow
def test_a_picture_shows_the_moment_that_was_observed_however_late_it_is_drawn():
    try:
        working_backend()
    except UserError as error:
        pytest.skip(str(error))
    env = LiberoSuite(rendering="fast").make(SOUP, cameras={"robot0_eye_in_hand": (64, 64)})
    key = "observation.images.robot0_eye_in_hand"
    at_once = np.asarray(env.reset(0)[key])
    late = env.reset(0)
    for _ in range(5):
        env.step(np.array([1.0, 0, -1, 0, 0, 0, -1]))
    np.testing.assert_array_equal(np.asarray(late[key]), at_once)
    assert np.abs(np.asarray(env.observe()[key]).astype(int) - at_once).max() > 20
