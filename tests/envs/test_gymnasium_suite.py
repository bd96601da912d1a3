"""Claims about `env=gymnasium`: an env that follows LeRobot's conventions is a suite, any other is refused by name."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from xp.config import check, compose
from xp.config.shorthand import expand_shorthand
from xp.envs import suite_of
from xp.envs.gym_suite.suite import GymnasiumSuite
from xp.envs.rollout import rollout
from xp.errors import UserError
from xp.pictures import resize


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The module `gym_envs` beside this file, as the module of an installed package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def suite(name="Reach", fps=20, **options):
    kwargs = options.pop("kwargs", {})
    return GymnasiumSuite(id=f"xp_tests/{name}-v0", package="gym_envs", kwargs=kwargs, fps=fps, **options)


def section(*overrides):
    return compose(expand_shorthand(["task=collect", "data.root=new", "env=gymnasium", *overrides]))


def test_its_facts_are_those_of_the_env():
    reach = suite()
    assert reach.tasks == {"task": "reach the goal"} and suite(instruction="go").tasks == {"task": "go"}
    assert reach.default_cameras == {"front": (24, 28), "side": (24, 28)}
    assert reach.camera_names == ("front", "side") and suite(kwargs={"cameras": []}).camera_names == ("image",)
    assert reach.state_names == ("agent_pos_0", "agent_pos_1") and reach.action_names == ("action_0", "action_1")
    assert reach.environment_state_names == ("environment_state_0", "environment_state_1")
    assert reach.num_initial_states is None and suite(kwargs={"same": True}).num_initial_states == 1
    assert reach.provenance()["env"] == "xp_tests/Reach-v0"


def test_a_suite_is_hashable_and_goes_to_other_processes():
    one = suite(kwargs={"limit": 0.2, "solved": "success"})
    assert one == pickle.loads(pickle.dumps(one)) and len({one, suite(kwargs={"solved": "success", "limit": 0.2})}) == 1


@pytest.mark.parametrize("cameras", [["front", "side"], []])
def test_an_observation_has_lerobots_keys_and_pictures_of_the_size_asked_for(cameras):
    made = suite(kwargs={"cameras": cameras})
    name = cameras[0] if cameras else "image"
    env = made.make("task", cameras={name: (16, 32)}, environment_state=True)
    seen = env.reset(3)
    assert env.observe() is seen
    assert set(seen) == {
        f"observation.images.{name}", "observation.state", "observation.environment_state", "task",
    }  # fmt: skip
    own = made.make("task", cameras={name: (24, 28)}).reset(3)[f"observation.images.{name}"]
    np.testing.assert_array_equal(seen[f"observation.images.{name}"], resize(np.asarray(own), 16, 32))
    assert np.asarray(own).shape == (24, 28, 3) and np.asarray(seen["observation.state"]).dtype == np.float32
    assert "observation.environment_state" not in made.make("task", cameras={}).reset(3)


def test_an_episode_is_a_function_of_seed_and_actions_and_ends_where_it_is_solved():
    env = suite().make("task", cameras={}, environment_state=True)

    def towards(batch):
        goal, place = batch["observation.environment_state"], batch["observation.state"]
        return np.float32(goal - place)

    first, again = (rollout(env, towards, seeds=[4, 5], chunk_steps=1) for _ in range(2))
    assert first == again and all(episode.success for episode in first)
    assert all(episode.steps < 30 and episode.max_reward is not None for episode in first)
    assert [episode.max_reward > -0.1 for episode in first] == [True, True]  # pyright: ignore[reportOptionalOperand]
    still = rollout(env, suite().noop(4), seeds=[4, 5], chunk_steps=4)
    assert [(episode.success, episode.steps) for episode in still] == [(False, 30)] * 2


def test_an_action_is_clipped_to_the_box_and_comes_in_its_type():
    env = suite(max_steps=2).make("task", cameras={})
    env.reset(0)
    results = [env.step(np.array([5.0, -0.1])) for _ in range(2)]
    (given, _) = env._env.unwrapped.actions  # pyright: ignore[reportAttributeAccessIssue]
    assert given.dtype == np.float32 and given.tolist() == [np.float32(0.2), np.float32(-0.1)]
    assert [result.done for result in results] == [False, True]
    for wrong in (np.zeros(3), np.array([0.1, np.nan])):
        with pytest.raises(UserError, match="takes 2 finite numbers"):
            env.step(wrong)


def test_what_counts_as_success_can_be_the_end_of_an_episode():
    silent = {"solved": None}
    env = suite(kwargs=silent).make("task", cameras={})
    env.reset(0)
    with pytest.raises(UserError, match="is_success or success, found .*env.success=terminated"):
        env.step(np.zeros(2))
    ended = suite(kwargs={**silent, "limit": 9.0}, success="terminated").make("task", cameras={})
    ended.reset(0)
    assert ended.step(np.zeros(2)).success
    assert suite(kwargs={"solved": "success", "limit": 9.0}).make("task", cameras={}).reset(1)


def test_the_control_holds_the_state_or_sends_zeros():
    batch = {"observation.state": np.array([[[0.25, -0.5]]], np.float32)}
    assert suite().noop(3)(batch).tolist() == [[[0.0, 0.0]] * 3]
    assert suite(noop_action="hold").noop(3)(batch).tolist() == [[[0.25, -0.5]] * 3]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Raech", {}, "knows no such env.*did you mean 'xp_tests/Reach-v0'"),
        ("Reach", {"kwargs": {"colour": 1}}, "cannot be made: it takes no argument 'colour'.*env.kwargs"),
        ("Discrete", {}, "takes actions of Discrete.*expected a Box"),
        ("Flat", {}, "shows Box.*LeRobot's conventions.*agent_pos.*env.kwargs"),
        ("Grey", {}, "shows .*pixels: Box.*uint8 Box .height, width, 3."),
        ("Silent", {}, "render_fps=None.*render_fps"),
        ("Unseeded", {}, "takes no seed"),
        ("Reach", {"kwargs": {"seeded": False}}, "two episodes of the same seed begin differently"),
        ("Reach", {"kwargs": {"shown": 48}}, r"gives pictures \[48, 28, 3\] where .* \[24, 28, 3\]"),
    ],
)
def test_what_follows_no_convention_is_refused_by_name(name, options, words):
    with pytest.raises(UserError, match=words):
        suite(name, **options).tasks  # noqa: B018 - asking is what makes the env


def test_an_episode_needs_an_end_and_cameras_that_there_are():
    with pytest.raises(UserError, match="no limit.*env.max_steps=300"):
        suite("Endless").make("task", cameras={})
    assert suite("Endless", max_steps=7).make("task", cameras={}).max_steps == 7
    with pytest.raises(UserError, match="no camera 'fornt'.*did you mean 'front'"):
        suite().make("task", cameras={"fornt": (24, 24)})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "env.id is not given.*env.id=gym_pusht/PushT-v0 env.package=gym_pusht"),
        (["env.id=nobody/Has-v0"], "Name the module that registers it, e.g. env.package=nobody"),
        (["env.id=nobody/Has-v0", "env.package=xp_no_such"], "env.package=xp_no_such: .*pip install xp-no-such"),
        (["env.id=xp_tests/Reach-v0", "env.package=gym_envs"], "env.fps=10: .*Type env.fps=20"),
        (["env.id=xp_tests/Reach-v0", "env.package=gym_envs", "env.tasks=[push]"], "no task 'push'"),
        (["env.id=xp_tests/Reach-v0", "env.package=gym_envs", "env.cameras={top: [24, 24]}"], "no camera 'top'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told_what_to_type(overrides, words):
    config = section(*overrides)
    check(config)
    with pytest.raises(UserError, match=words):
        suite_of(config.env)


def test_a_configuration_that_fits_makes_the_suite():
    config = section(
        "env.id=xp_tests/Reach-v0", "env.package=gym_envs", "env.fps=20", "env.kwargs={limit: 0.3}",
        "env.cameras={front: [24, 28]}", "env.environment_state=true",
    )  # fmt: skip
    check(config)
    assert suite_of(config.env) == suite(kwargs={"limit": 0.3})
    with pytest.raises(UserError, match="env.success=won: .*terminated"):
        check(section("env.success=won"))


@pytest.mark.slow
def test_a_suite_behind_lerobots_own_door_shows_and_takes_what_it_does_by_itself():
    from xp.envs.arm import ArmEnv

    options = {"suite": "arm", "task": "push_red", "cameras": ["top"], "height": 24, "width": 24}
    arm = GymnasiumSuite(id="xp/Suite-v0", package="xp.envs.lerobot_bridge", kwargs=options)
    env, own = arm.make("task", cameras={"top": (24, 24)}), ArmEnv("push_red", cameras={"top": (24, 24)})
    seen, same = env.reset(7), own.reset(7)
    for _ in range(3):
        assert set(seen) == set(same) and env.language == own.language
        for key in ("observation.images.top", "observation.state"):
            np.testing.assert_array_equal(seen[key], same[key])
        action = np.asarray(same["observation.state"]) + np.float32(0.03)
        result, other = env.step(action), own.step(action)
        assert (result.success, result.done) == (other.success, other.done)
        seen, same = result.observation, other.observation
