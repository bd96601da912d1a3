"""What collect and predict do with datasets: heard at every step, refused before the first window."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from data_made_up import made_up
from hydra import compose

from xp.config import open_hydra
from xp.config.shorthand import expand_shorthand
from xp.envs import Episode
from xp.envs.maker import EnvMaker
from xp.errors import UserError
from xp.runs.execution.signals import RunInterrupted
from xp.tasks import collect
from xp.tasks._lib import cached_predictions
from xp.tasks._lib.loading import fit_dimensions
from xp.tasks._lib.recorders import ExpertRecorder, PolicyRecorder


def env_of(*overrides):
    open_hydra(None)
    return compose("config", expand_shorthand(["task=collect", "data.root=d", *overrides])).env


def test_no_cameras_are_no_cameras():
    assert env_of("env.cameras={}").cameras == {}


def test_one_camera_is_one_camera():
    assert env_of("env.cameras={oblique: [64, 48]}").cameras == {"oblique": [64, 48]}


def test_the_size_of_one_camera_is_changed_by_its_own_key():
    assert env_of("env.cameras.wrist=[64,48]").cameras == {"oblique": [64, 64], "wrist": [64, 48]}


def test_an_interrupt_ends_an_episode_at_its_next_step():
    env = env_of("env.cameras={}", "env.environment_state=true")
    record = ExpertRecorder(EnvMaker.of(env, environment_state=True))
    steps: list[int] = []

    def leave(seed: int, step: int) -> None:
        steps.append(step)
        if step == 3:
            raise RunInterrupted

    with pytest.raises(RunInterrupted):
        record("push_red", 0, leave)
    assert steps == [1, 2, 3]


@contextmanager
def no_progress(*_: object, **__: object):
    yield SimpleNamespace(advance=lambda: None)


def recorded(*overrides):
    """What collecting says of one wanted episode of red_to_target, with no pictures and nothing written."""
    open_hydra(None)
    one = ["task=collect", "data.root=d", "env.tasks=[red_to_target]", "collect.episodes=1", "collect.workers=1"]
    config = compose("config", expand_shorthand([*one, "env.cameras={}", *overrides]))
    envs = EnvMaker.of(config.env, environment_state=False)
    run: Any = SimpleNamespace(config=config, progress=no_progress, should_stop=lambda: False)
    writer: Any = SimpleNamespace(add_episode=lambda *_, **__: None)
    return collect._record(run, envs, writer)


def test_attempts_that_the_limit_of_steps_ended_are_said_with_that_key():
    with pytest.raises(UserError) as refused:
        recorded("env.max_steps=8")
    assert str(refused.value) == (
        "Only 0 of 3 attempts at red_to_target succeeded, 1 episodes are wanted; 3 ended at env.max_steps=8 without "
        "success. Give more steps (env.max_steps=null: the suite's own limit), or collect.keep_failures=true to keep "
        "failed ones."
    )
    assert len(recorded("env.max_steps=null")["red_to_target"]) == 1


def test_failures_that_no_limit_explains_are_not_said_to_be_its_doing(monkeypatch):
    none = np.zeros((40, 0), np.float32)
    failed = Episode(
        images={}, state=none, environment_state=none, action=none, success=False, task="red_to_target", seed=0
    )
    recorder = SimpleNamespace(episodes=lambda task, seeds, leave: [failed] * len(seeds))
    monkeypatch.setattr(PolicyRecorder, "load", lambda *_: recorder)
    with pytest.raises(UserError) as refused:
        recorded("collect.policy=mine", "env.max_steps=60")
    assert str(refused.value) == (
        "Only 0 of 3 attempts at red_to_target succeeded, 1 episodes are wanted. Give collect.keep_failures=true to "
        "keep failed ones, or a better policy (collect.policy=expert)."
    )


def policy(**spec):
    widths = {"action_dim": 2, "state_dim": 1, "environment_dim": 0, **spec}
    return SimpleNamespace(spec=SimpleNamespace(**widths, cameras={}, history=1), camera_slots={})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"action_dim": 7}, r"gives actions of 7 dimensions where the dataset has 2 \(a0, a1\)"),
        ({"state_dim": 9}, r"reads a state of 9 dimensions where the dataset has 1 \(s0\)"),
        ({"environment_dim": 12}, "environment state of 12 dimensions where the dataset has none"),
    ],
)
def test_a_policy_of_other_widths_is_refused_with_both(spec, said):
    with pytest.raises(UserError, match=said) as caught:
        fit_dimensions(policy(**spec), made_up([3]), "predict.checkpoint=RUN", "predict.data_root")
    assert "predict.checkpoint=RUN" in str(caught.value) and "predict.data_root=FOLDER" in str(caught.value)


def test_a_policy_that_reads_no_state_fits_any():
    fit_dimensions(policy(state_dim=0), made_up([3], state_dim=5), "x", "y")


def test_predict_refuses_another_width_before_a_window_is_read(monkeypatch):
    monkeypatch.setattr(cached_predictions, "load", lambda *_, **__: policy(action_dim=7))
    monkeypatch.setattr(cached_predictions, "shared_frames", lambda *_: pytest.fail("frames were read"))
    asked = SimpleNamespace(checkpoint="RUN", camera_map=None, unnorm_key=None, load_options=None)
    with pytest.raises(UserError, match="actions of 7 dimensions"):
        cached_predictions._ask(SimpleNamespace(config=SimpleNamespace(predict=asked)), made_up([3]), (0,))  # type: ignore[arg-type]
