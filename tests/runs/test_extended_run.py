"""A training that is done, and the same command with more steps: one folder, one run, nothing silent."""

import json

import pytest
from omegaconf import OmegaConf

from xp.config import result_config
from xp.errors import UserError
from xp.runs import Record, State, exit_code, run_once, start_run
from xp.runs.jobs.frozen import open_job

COSINE = {"schedule": "cosine", "peak": 0.1, "warmup_steps": 2, "end_factor": 0.1, "extend": None, "extensions": []}


def task(run):
    """What a training leaves: a checkpoint of its last step."""
    (run.folder / "checkpoints" / f"checkpoint-{run.config.trainer.steps}").mkdir(parents=True, exist_ok=True)


def config(steps, *, seed=0, **lr):
    return OmegaConf.create(
        {"task": {"name": "train"}, "seed": seed, "trainer": {"steps": steps}, "lr": COSINE | lr, "paths": {}}
    )


def go(folder, *arguments, task=task, **lr):
    return run_once(config(*arguments, **lr), folder, ["seed=0"], task, generated=False, result_config=result_config)


def test_a_finished_run_gets_more_steps_once_it_is_said_how(tmp_path, capsys):
    run = tmp_path / "run"
    go(run, 6)
    first = open_job(run).identity
    with pytest.raises(UserError, match=r"lr\.extend=hold .*lr\.extend=restart .*lr\.extend=stretch"):
        go(run, 10)
    assert open_job(run).identity == first and Record(run / "record.json").state is State.DONE
    assert go(run, 10, extend="restart") == 0
    record, extensions = Record(run / "record.json"), [{"steps": 6, "extend": "restart"}]
    assert record["attempts"] == 2 and record["identity"] == open_job(run).identity != first
    assert json.loads((run / "config.json").read_text())["lr"]["extensions"] == extensions
    capsys.readouterr()
    for lr in ({"extend": "restart"}, {}):  # the same command, with and without what it asked for once
        assert go(run, 10, **lr) == 0 and "skipped: already done" in capsys.readouterr().out
    with pytest.raises(UserError, match="were added by restart at step 6, which stays"):
        go(run, 10, extend="hold")
    with pytest.raises(UserError, match=r"trainer\.steps=6 is fewer"):
        go(run, 6)
    assert go(run, 12, extend="hold") == 0
    assert open_job(run).config["lr"]["extensions"] == [*extensions, {"steps": 10, "extend": "hold"}]


def test_a_run_that_is_interrupted_in_its_added_steps_goes_on_as_the_same_run(tmp_path):
    def interrupted(run):
        raise run.interrupted("asked")

    run = tmp_path / "run"
    go(run, 6)
    assert go(run, 10, task=interrupted, extend="stretch")
    assert Record(run / "record.json").interrupted
    with pytest.raises(UserError, match=r"holds another run.*trainer\.steps: 10 -> 12"):
        go(run, 12)
    assert go(run, 10) == 0 == exit_code(run)
    assert open_job(run).config["lr"]["extensions"] == [{"steps": 6, "extend": "stretch"}]


def test_an_extension_whose_process_died_between_the_job_and_its_record_goes_on(tmp_path):
    run = tmp_path / "run"
    go(run, 6)
    before = (run / "record.json").read_bytes()
    start_run(config(10, extend="hold"), run, ["seed=0"], generated=False, result_config=result_config)
    (run / "record.json").write_bytes(before)
    assert go(run, 10, extend="hold") == 0
    record = Record(run / "record.json")
    assert record.state is State.DONE and record["identity"] == open_job(run).identity and record["attempts"] == 2


def test_nothing_but_the_steps_may_differ(tmp_path):
    go(tmp_path / "run", 6)
    with pytest.raises(UserError, match=r"holds another run.*seed: 0 -> 1; trainer\.steps: 6 -> 10"):
        run_once(config(10, seed=1, extend="hold"), tmp_path / "run", ["seed=1"], task, generated=False,
                 result_config=result_config)  # fmt: skip


@pytest.mark.parametrize("generated", [True, False])
def test_a_run_that_begins_has_nothing_to_extend(tmp_path, generated):
    with pytest.raises(UserError, match=r"lr\.extend=hold: there is no finished training in"):
        start_run(config(6, extend="hold"), tmp_path / "run", generated=generated, result_config=result_config)
    assert not (tmp_path / "run").exists()
