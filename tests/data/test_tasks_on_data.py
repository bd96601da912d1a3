"""What collect and predict do with datasets: heard at every step, refused before the first window."""

import signal
import time
from types import SimpleNamespace

import pytest
from data_made_up import made_up
from hydra import compose

from xp.config import open_hydra
from xp.config.shorthand import expand_shorthand
from xp.errors import UserError
from xp.runs.execution.signals import RunInterrupted
from xp.tasks import collect
from xp.tasks._lib import cached_predictions
from xp.tasks._lib.loading import fit_dimensions
from xp.tasks._lib.recorders import EnvMaker, ExpertRecorder


def env_of(*overrides):
    open_hydra(None)
    return compose("config", expand_shorthand(["task=collect", "data.root=d", *overrides])).env


def test_no_cameras_are_no_cameras():
    assert env_of("env.cameras={}").cameras == {}


def test_one_camera_is_one_camera():
    assert env_of("env.cameras={oblique: [64, 48]}").cameras == {"oblique": [64, 48]}


def test_the_size_of_one_camera_is_changed_by_its_own_key():
    assert env_of("env.cameras.wrist=[64,48]").cameras == {"oblique": [96, 96], "wrist": [64, 48]}


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


def test_an_interrupt_does_not_wait_for_episodes_that_are_recorded_elsewhere():
    asked = iter([False, False, True])

    def leave() -> None:
        if next(asked):
            raise RunInterrupted

    with pytest.raises(RunInterrupted), collect._pool(1) as pool:
        list(collect._in_time(pool.imap(time.sleep, [3600, 3600]), leave))


def test_episodes_of_a_pool_come_in_the_order_of_their_seeds():
    with collect._pool(2) as pool:
        assert list(collect._in_time(pool.imap(abs, [-3, -2, -1]), lambda: None)) == [3, 2, 1]


def handler_of_ctrl_c(_: int) -> str:
    return str(signal.getsignal(signal.SIGINT))


def test_worker_processes_leave_ctrl_c_to_the_one_that_ends_them():
    before = signal.getsignal(signal.SIGINT)
    with collect._pool(1) as pool:
        assert pool.map(handler_of_ctrl_c, [0]) == [str(signal.SIG_IGN)]
    assert signal.getsignal(signal.SIGINT) is before


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
    asked = SimpleNamespace(checkpoint="RUN", camera_map=None, unnorm_key=None)
    with pytest.raises(UserError, match="actions of 7 dimensions"):
        cached_predictions._ask(SimpleNamespace(config=SimpleNamespace(predict=asked)), made_up([3]), (0,))  # type: ignore[arg-type]
