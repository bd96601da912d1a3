"""Where numbers go besides the CSV logs."""

import builtins
import json
from pathlib import Path

import pytest
import wandb
from omegaconf import OmegaConf
from training_fakes import LR, TinyBatches, run_in, tiny_trainable, trainer

from xp.errors import UserError
from xp.training.jax.loop import train
from xp.training.loggers import Loggers, NoLogger, open_logger

CONF = Path(__file__).parents[2] / "conf"


def test_by_default_there_is_nowhere_else(tmp_path):
    for section in (None, {}, {"wandb": {"enabled": False}, "tensorboard": {"enabled": False}}):
        assert isinstance(open_logger(run_in(tmp_path), section), NoLogger)


def test_tensorboard_gets_what_the_csv_logs_get(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_in(tmp_path, config={"logger": {"tensorboard": {"enabled": True}}})
    train(run, tiny_trainable(), TinyBatches(), validate=lambda policy, step: {"val_loss": 0.5},
          trainer=trainer(val_every=6), lr=LR, seed=0)  # fmt: skip
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert losses == pytest.approx({row["step"]: row["loss"] for row in run.training_log.rows()})
    assert [event.step for event in events.Scalars("validation/val_loss")] == [6, 12]
    assert {"train/grad_norm", "train/lr", "train/mse"} <= set(events.Tags()["scalars"])


def test_wandb_is_offline_and_keeps_its_id_for_resuming(tmp_path, monkeypatch):
    given = []

    class FakeRun:
        def log(self, values, step):
            given.append((step, values))

        def finish(self):
            given.append("finished")

    monkeypatch.setattr(wandb, "init", lambda **options: given.append(options) or FakeRun())
    (tmp_path / "config.json").write_text(json.dumps({"logger": {"wandb": {"api_key": "***"}}}))
    for start in (0, 5):
        logger = open_logger(run_in(tmp_path), {"wandb": {"enabled": True, "project": "arm"}}, start=start)
        logger.log(7, {"train/loss": 0.5})
        logger.close()
    first, logged, finished, second = given[:4]
    assert first["mode"] == "offline" and first["project"] == "arm" and first["resume"] == "allow"
    assert first["config"] == {"logger": {"wandb": {"api_key": "***"}}}
    assert first["id"] == second["id"] == (tmp_path / "wandb_id.txt").read_text()
    assert (logged, finished) == ((7, {"train/loss": 0.5}), "finished")


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_the_extra_to_install(tmp_path, monkeypatch, package):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=rf"logger.{package}.enabled=true.*--extra {package}.*logger=csv"):
        open_logger(run_in(tmp_path), {package: {"enabled": True}})


def test_one_loggers_failure_at_the_end_does_not_lose_the_others():
    closed = []

    class Failing(NoLogger):
        def close(self):
            raise ConnectionError("gone")

    class Good(NoLogger):
        def close(self):
            closed.append(True)

    with pytest.raises(ConnectionError):
        Loggers([Failing(), Good()]).close()
    assert closed == [True]


def test_the_option_files_turn_on_what_their_names_say():
    base = OmegaConf.load(CONF / "logger" / "csv.yaml")
    assert not base.wandb.enabled and not base.tensorboard.enabled and base.wandb.mode == "offline"
    for name in ("wandb", "tensorboard"):
        assert OmegaConf.merge(base, OmegaConf.load(CONF / "logger" / f"{name}.yaml"))[name].enabled
