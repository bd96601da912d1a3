"""Where numbers go besides the CSV logs."""

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import wandb
from omegaconf import OmegaConf
from training_fakes import LR, TinyBatches, run_in, tiny_trainable, trainer

from xp.errors import UserError
from xp.runs import RunInterrupted
from xp.training.jax.loop import train
from xp.training.loggers import LOGGERS, Loggers, NoLogger, open_logger

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


def of_trackio(folder):
    """{name: [(step, value)]} of the run in a folder, read by SQLite alone."""
    with sqlite3.connect(folder / "trackio" / "xp.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, _, _ in rows} == {folder.name}
    return points((step, json.loads(metrics)) for _, step, metrics in rows)


def of_mlflow(folder):
    """The same of MLflow: a file for each name, a line for each value."""
    (run,) = [path for path in (folder / "mlflow").glob("*/*") if (path / "metrics").is_dir()]
    assert run.name == (folder / "mlflow_id.txt").read_text()
    rows = [(int(line.split()[2]), {str(path.relative_to(run / "metrics")): float(line.split()[1])})
            for path in sorted((run / "metrics").rglob("*")) if path.is_file()
            for line in path.read_text().splitlines()]  # fmt: skip
    assert (run / "params" / "lr.peak").read_text() == "0.01" and "RUNNING" not in (run / "meta.yaml").read_text()
    return points(rows)


def points(rows):
    found = {}
    for step, values in rows:
        for name, value in values.items():
            found.setdefault(name, []).append((step, value))
    return found


@pytest.mark.parametrize(("package", "module", "read"), [("trackio", "trackio", of_trackio),
                                                         ("mlflow", "mlflow.tracking", of_mlflow)])  # fmt: skip
def test_a_resumed_run_goes_on_in_the_same_run_of_a_service_without_a_step_twice(tmp_path, package, module, read):
    pytest.importorskip(module)
    for folder in (tmp_path / "first", tmp_path / "second"):  # a worker runs several in one process
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"lr": {"peak": 0.01}, "trainer": {"freeze": []}}))
        options = {"trainer": trainer(val_every=6, log_every=2), "lr": LR, "seed": 0,
                   "validate": lambda policy, step: {"val_loss": 0.5},
                   "logger": {package: {"enabled": True}}}  # fmt: skip
        with pytest.raises(RunInterrupted):
            train(run_in(folder, stop_after=8), tiny_trainable(), TinyBatches(), **options)
        shutil.rmtree(folder / "checkpoints" / "checkpoint-8")  # as if it had been killed: steps 6 and 8 come again
        run = run_in(folder)
        train(run, tiny_trainable(), TinyBatches(), **options)
        found = read(folder)
        logged = [(row["step"], pytest.approx(row["loss"])) for row in run.training_log.rows()]
        assert found["train/loss"] == logged and [step for step, _ in logged] == [2, 4, 6, 8, 10, 12]
        assert found["validation/val_loss"] == [(6, 0.5), (12, 0.5)]


@pytest.mark.parametrize("package", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_a_missing_package_is_named_with_the_extra_to_install(tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
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
    assert not any(base[name].enabled for name in LOGGERS) and base.wandb.mode == "offline"
    assert base.mlflow.tracking_uri is None
    for name in LOGGERS:
        assert OmegaConf.merge(base, OmegaConf.load(CONF / "logger" / f"{name}.yaml"))[name].enabled
