"""Claims about the suite protocol: a suite that nobody here knows goes through recording, rollout and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hydra import compose
from omegaconf import OmegaConf, open_dict

from xp.config import check, open_hydra
from xp.config.schema import Env as EnvSchema
from xp.envs import StepResult, suite_named, suite_of
from xp.envs.maker import EnvMaker
from xp.envs.rollout import rollout
from xp.envs.suite import refuse_missing_states
from xp.errors import UserError
from xp.metrics.success import success_metrics
from xp.models.policy import PolicySpec
from xp.tasks import collect
from xp.tasks._lib.recorders import ExpertRecorder, fit_suite

GOALS = {"left": -1.0, "right": 1.0}


class WalkEnv:
    """A point on a line is to be moved to -1 or to 1; the camera shows where it is. An action is a step."""

    action_low, action_high = np.array([-0.5]), np.array([0.5])
    max_steps = 12

    def __init__(self, task: str, fps: int, cameras: Mapping[str, tuple[int, int]]):
        self.task, self.language, self.fps, self.cameras = task, f"go {task}", fps, dict(cameras)
        self.steps, self.place = 0, 0.0

    def reset(self, seed: int) -> dict[str, Any]:
        self.steps, self.place = 0, 0.1 * (seed % 3)
        return self.observe()

    def step(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        self.place += float(np.clip(action, self.action_low, self.action_high)[0])
        success = abs(self.place - GOALS[self.task]) < 0.05
        return StepResult(self.observe(), success, success or self.steps == self.max_steps)

    def observe(self) -> dict[str, Any]:
        shown = np.uint8(100 + 50 * self.place)
        images = {f"observation.images.{name}": np.full((*size, 3), shown) for name, size in self.cameras.items()}
        return {**images, "observation.state": np.array([self.place], np.float32), "task": self.language}


class WalkExpert:
    def __init__(self, env: WalkEnv, goal: float):
        self.env, self.goal = env, goal

    def reset(self, episode: int) -> None:
        pass

    def act(self) -> np.ndarray:
        return np.array([self.goal - self.env.place], np.float32)


@dataclass
class WalkSchema(EnvSchema):
    track: str = "short"


@dataclass(frozen=True, kw_only=True)
class WalkSuite:
    fps: int = 5
    max_steps: int | None = None
    track: str = "short"

    schema: ClassVar = WalkSchema
    name: ClassVar = "walk"
    robot_type: ClassVar = "point"
    tasks: ClassVar = {"left": "go left", "right": "go right"}
    camera_names: ClassVar = ("above",)
    default_cameras: ClassVar = {"above": (16, 16)}
    state_names: ClassVar = ("x",)
    action_names: ClassVar = ("dx",)
    environment_state_names: ClassVar = ()
    num_initial_states: ClassVar = 3
    max_expert_noise: ClassVar[float | None] = 0.0
    failing_experts: ClassVar = ("wrong_way",)

    def check(self, env):
        pass

    def make(self, task, *, cameras, environment_state=False):
        return WalkEnv(task, self.fps, cameras)

    def expert(self, env, *, noise=0.0, seed=0):
        return WalkExpert(env, GOALS[env.task])

    def failing_expert(self, env, control):
        return WalkExpert(env, -GOALS[env.task])

    def noop(self, horizon):
        return lambda batch: np.zeros((1, horizon, 1), np.float32)

    def provenance(self):
        return {"walk": "1"}


class NoExpert(WalkSuite):
    name: ClassVar = "alone"
    max_expert_noise: ClassVar = None


@pytest.fixture(autouse=True)
def installed(offer):
    """Two more suites, as if packages that bring them were installed."""
    offer("xp.suites", walk=f"{__name__}:WalkSuite", alone=f"{__name__}:NoExpert")


def configuration(suite="walk", *overrides):
    open_hydra(None)
    given = [
        f"env.name={suite}",
        "env.tasks=[left,right]",
        "~env.renderer",
        "~env.action",
        "+env.track=long",
        "env.fps=5",
    ]
    config = compose("config", ["task=collect", "data.root=new", "collect.episodes=1", *given, *overrides])
    with open_dict(config):
        config.env.cameras = {"above": [16, 16]}
    return config


def test_a_configuration_with_its_own_keys_is_checked_by_its_own_schema():
    check(configuration())
    with pytest.raises(UserError, match="no key 'env.trak'.*track"):
        check(configuration("walk", "+env.trak=1"))
    with pytest.raises(UserError, match="env.track=7: expected text"):
        check(configuration("walk", "env.track=7"))
    with pytest.raises(UserError, match="env.track"):
        check(configuration("arm"))


def test_an_unknown_suite_is_answered_with_those_installed():
    with pytest.raises(UserError, match="env.name=wlak: .*did you mean 'walk'.*Installed: alone, arm, .*walk"):
        check(configuration("wlak"))
    with pytest.raises(UserError, match="Installed: alone, arm, .*walk"):
        suite_named("nowhere", {})


def test_a_setting_that_a_suite_does_not_have_is_refused():
    with pytest.raises(UserError, match="env.trak: .*did you mean 'track'"):
        suite_named("walk", {"trak": "long"})


def test_its_expert_is_recorded_and_its_success_counted():
    envs = EnvMaker.of(configuration().env, environment_state=False)
    assert envs.suite == WalkSuite(fps=5, track="long")
    assert envs.make("left") is EnvMaker.of(configuration().env, environment_state=False).make("left")
    episodes = [ExpertRecorder(envs)(task, seed) for task in ("left", "right") for seed in range(3)]
    assert [episode.task for episode in episodes] == ["go left"] * 3 + ["go right"] * 3
    assert episodes[1].images["above"].shape == (len(episodes[1].action), 16, 16, 3)
    assert episodes[0].environment_state.shape == (len(episodes[0].action), 0)
    metrics = success_metrics(np.array([e.success for e in episodes]), np.array([e.seed for e in episodes]))
    assert metrics["success_rate"] == 1.0 and metrics["initial_states"] == [0, 1, 2] * 2


def test_a_policy_is_rolled_out_and_the_controls_fail():
    suite = suite_of(configuration().env)
    env = suite.make("right", cameras={"above": (16, 16)})

    def follow(batch):
        return np.full((1, 2, 1), 1.0 - batch["observation.state"][0, -1, 0])

    solved = rollout(env, follow, seeds=[0, 1, 2], chunk_steps=1)
    assert [episode.success for episode in solved] == [True] * 3 and solved[0].steps == 2
    still = rollout(env, suite.noop(4), seeds=[0, 1, 2], chunk_steps=4)
    assert not any(episode.success for episode in still) and still[0].steps == WalkEnv.max_steps
    from xp.envs import collect_episode

    assert not collect_episode(env, suite.failing_expert(env, "wrong_way"), 0).success


def test_what_a_suite_does_not_have_is_refused():
    for overrides, words in (
        (["env.tasks=[up]"], "no task 'up'.*left, right"),
        (["env.environment_state=true"], "none"),
    ):
        with pytest.raises(UserError, match=words):
            suite_of(configuration("walk", *overrides).env)
    other = configuration()
    with open_dict(other):
        other.env.cameras = {"below": [16, 16]}
    with pytest.raises(UserError, match="no camera 'below'.*It has above"):
        suite_of(other.env)
    with pytest.raises(UserError, match="initial states 0 to 2.*eval.first_seed=0 eval.episodes=3"):
        refuse_missing_states(WalkSuite(), 2, 20, ("eval.first_seed", "eval.episodes"))
    fits = {"action_dim": 1, "state_dim": 1, "cameras": {"above": (16, 16, 3)}}
    for other, words in (
        ({"environment_dim": 2}, "gives 0 "),
        ({"action_dim": 7}, r"gives 7 numbers as an action; the suite walk takes 1 \(dx\).*env=walk"),
        ({"state_dim": 3}, r"reads a state of 3 numbers; the suite walk gives 1 \(x\)"),
    ):
        policy: Any = SimpleNamespace(spec=PolicySpec(horizon=1, **{**fits, **other}))
        with pytest.raises(UserError, match=words):
            fit_suite(policy, WalkSuite())


def test_a_suite_without_an_expert_asks_for_a_policy():
    config = configuration("alone")
    suite = suite_of(config.env)
    with pytest.raises(UserError, match="suite alone has no expert.*collect.policy=POLICY"):
        collect._refuse_impossible(config, suite)
    with pytest.raises(UserError, match="collect.noise=0.01: must be between 0 and 0"):
        collect._refuse_impossible(configuration("walk", "collect.noise=0.01"), suite_of(configuration().env))


def test_task_collect_records_it_as_a_dataset(tmp_path):
    """The whole task in this process, with LeRobot's writer."""
    import json
    from contextlib import contextmanager

    config = configuration("walk", "collect.workers=1", f"data.root={tmp_path / 'd'}")
    summary: dict[str, Any] = {}

    @contextmanager
    def progress(*_: Any, **__: Any):
        yield SimpleNamespace(advance=lambda *_: None)

    run: Any = SimpleNamespace(
        config=config, resuming=False, folder=tmp_path / "run", progress=progress, should_stop=lambda: False,
        write_summary=summary.update, log=lambda text: None,
    )  # fmt: skip
    collect.run(run)
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    assert (
        info["robot_type"] == "point" and info["total_episodes"] == 2 and info["features"]["action"]["names"] == ["dx"]
    )
    assert summary["walk"] == "1" and "mujoco" not in summary
    assert summary["tasks"]["left"]["success_rate"] == 1.0
    assert OmegaConf.is_config(config)


def scored(folder, monkeypatch, *overrides, stop_after: int | None = None):
    """`task=eval eval=expert` in this process: what it leaves, and which episodes were run now."""
    from contextlib import contextmanager, suppress

    from xp.runs.execution.signals import RunInterrupted
    from xp.tasks._lib import expert_eval

    given = ["env.name=walk", "env.tasks=[left,right]", "~env.renderer", "~env.action", "env.fps=5", "eval.workers=1"]
    open_hydra(None)
    config = compose("config", ["task=eval", "eval=expert", "eval.episodes=2", "eval.first_seed=0", *given, *overrides])
    with open_dict(config):
        config.env.cameras = {"above": [16, 16]}
    check(config)
    acted: list[Any] = []
    act = expert_eval.Acting.__call__

    @contextmanager
    def progress(*_: Any, **__: Any):
        yield SimpleNamespace(advance=lambda n=1: None)

    folder.mkdir(exist_ok=True)
    run: Any = SimpleNamespace(
        config=config, folder=folder, progress=progress, should_stop=lambda: len(acted) == stop_after,
        interrupted=RunInterrupted(), write_summary=lambda summary: None, log=lambda text: None,
    )  # fmt: skip
    with monkeypatch.context() as patched, suppress(RunInterrupted):
        patched.setattr(expert_eval.Acting, "__call__", lambda self, trial: acted.append(trial) or act(self, trial))
        expert_eval.run(run)
    return acted


def test_a_suite_s_expert_is_scored_beside_its_controls(tmp_path, monkeypatch):
    import json

    acted = scored(tmp_path / "run", monkeypatch)
    assert len(acted) == 2 * 3 * 2 and len(set(acted)) == len(acted)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    rates = {actor: entry["all"]["success_rate"] for actor, entry in metrics["policies"].items()}
    assert rates == {"expert": 1.0, "wrong_way": 0.0, "noop": 0.0} and metrics["walk"] == "1"
    assert metrics["policies"]["expert"]["tasks"]["left"]["initial_states"] == [0, 1]


def test_an_interrupted_scoring_goes_on_with_the_episodes_that_are_left(tmp_path, monkeypatch):
    whole = scored(tmp_path / "whole", monkeypatch)
    begun = scored(tmp_path / "halves", monkeypatch, stop_after=5)
    assert begun == whole[:5] and not (tmp_path / "halves/metrics.json").exists()
    with (tmp_path / "halves/episodes.jsonl").open("a") as notes:
        notes.write('{"actor": "expert", "ta')
    rest = scored(tmp_path / "halves", monkeypatch)
    assert rest == whole[5:]
    same = [(tmp_path / name / "metrics.json").read_text() for name in ("whole", "halves")]
    assert same[0] == same[1]
