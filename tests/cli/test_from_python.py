"""`xp.train`, `xp.evaluate`, `xp.sweep`: what they type, where their runs lie, how a process's end comes back."""

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

import xp
from xp import commands
from xp.errors import UserError
from xp.runs import RunFolder

STANDS_IN = """
import json, os, signal, sys, time
from pathlib import Path
words = sys.argv[1:]
named = [word.split("=", 1)[1] for word in words if word.startswith(("hydra.run.dir=", "hydra.sweep.dir="))]
folder = named[0].strip("'")
end = next((word.split("=")[1] for word in words if word.startswith("seed=")), "0")
print(json.dumps(words))
if end == "2":
    print("seed=2: expected another one.\\nxp: seed=2: expected another one.\\nType seed=0")
    sys.exit(2)
Path(folder).mkdir(parents=True, exist_ok=True)
state = {"0": "done", "1": "failed", "130": "pending"}[end]
Path(folder, "job.json").write_text("{}")
Path(folder, "record.json").write_text(json.dumps({"state": state, "schema": 1}))
if end == "130":
    def leave(*_):
        print("a checkpoint is written", flush=True)
        sys.exit(130)
    signal.signal(signal.SIGINT, leave)
    print("ready", flush=True)
    time.sleep(60)
sys.exit(int(end))
"""
"""Instead of the program: prints what it was told, and ends as `seed` says."""

plain = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n$\\", exclude_categories=["Cs", "Cc"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=6,
)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(STANDS_IN)
    monkeypatch.setattr(commands, "PROGRAM", (sys.executable, str(program)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys) -> list[str]:
    return json.loads(capsys.readouterr().out.splitlines()[0])


@given(values)
def test_a_value_of_python_is_the_same_value_on_the_command_line(value):
    (word,) = commands._words([{"some.key": value}])
    override = OverridesParser.create().parse_override(word)
    assert override.key_or_group == "some.key"
    assert override.value() == value


@given(st.lists(st.integers() | plain, min_size=2, max_size=4))
def test_a_list_is_swept_in_a_sweep_alone(many):
    (word,) = commands._words([{"key": many}], swept=True)
    override = OverridesParser.create().parse_override(word)
    assert override.is_sweep_override()
    assert [each.text if hasattr(each, "text") else each for each in override.value().list] == many
    (word,) = commands._words([{"key": many}])
    assert not OverridesParser.create().parse_override(word).is_sweep_override()


def test_overrides_are_typed_as_in_the_terminal(stand_in, capsys):
    run = xp.train("model=octo_tiny", {"trainer.steps": 5, "data.root": Path("my data")}, folder="here")
    assert told(capsys) == [
        "task=train", "model=octo_tiny", "trainer.steps=5", "data.root='my data'",
        f"hydra.run.dir='{stand_in / 'here'}'",
    ]  # fmt: skip
    assert isinstance(run, RunFolder) and run.path == stand_in / "here"
    xp.evaluate(run, {"env.tasks": ["push_red"]}, folder="scores")
    assert told(capsys)[:3] == ["task=eval", "env.tasks=[push_red]", f"eval.checkpoint='{stand_in / 'here'}'"]


def test_a_sweep_gives_its_runs_by_their_place(stand_in, capsys):
    runs = xp.sweep({"lr.peak": [1e-4, 3e-4]}, folder="rates")
    assert told(capsys) == ["lr.peak=0.0001,0.0003", f"hydra.sweep.dir='{stand_in / 'rates'}'", "-m"]
    assert [run.path for run in runs.values()] == [stand_in / "rates"]


def test_a_folder_is_chosen_as_the_terminal_would_and_never_twice(stand_in):
    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda _: commands._claimed(Path("outputs/run")), range(8)))
    assert len(set(places)) == 8
    assert all(place.is_dir() for place in places)
    run = xp.train({"paths.outputs": "mine"}, echo=False)
    assert run.path.parent == stand_in / "mine"


def test_a_mistake_is_the_message_of_the_terminal_and_leaves_no_folder(stand_in):
    with pytest.raises(UserError, match="expected another one") as caught:
        xp.train({"seed": 2}, echo=False)
    assert str(caught.value) == "seed=2: expected another one.\nType seed=0"
    assert not list(stand_in.glob("outputs/*"))
    with pytest.raises(UserError, match="trainer.step"):  # found while its folder is looked for
        xp.train({"trainer.step": 2}, echo=False)


def test_a_failed_run_is_named(stand_in):
    with pytest.raises(commands.RunFailedError, match="exit code 1") as caught:
        xp.train({"seed": 1}, folder="failing", echo=False)
    assert caught.value.folder == stand_in / "failing"


def test_an_interrupted_kernel_waits_for_the_checkpoint(stand_in, capsys):
    def interrupt() -> None:
        while not (stand_in / "long" / "record.json").exists():
            threading.Event().wait(0.05)
        threading.Event().wait(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        xp.train({"seed": 130}, folder="long")
    assert "a checkpoint is written" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_demonstrations_to_a_success_rate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"paths.cache": str(tmp_path / "cache"), "data.root": "demos"}
    xp.collect("demos", {"collect.episodes": 4, "env.tasks": ["push_red"]}, folder="recorded", echo=False)
    small = {**data, "model": "octo_tiny_l1", "trainer.steps": 4, "trainer.val_every": 2, "trainer.batch_size": 4}
    run = xp.train(small, folder="trained", echo=False)
    assert run.summary()["total_steps"] == 4
    assert xp.train(small, folder="trained", echo=False).path == run.path, "done already"
    with pytest.raises(UserError, match="holds another run"):
        xp.train({**small, "seed": 1}, folder="trained", echo=False)
    scored = xp.evaluate(
        run, {"env.tasks": ["push_red"], "eval.episodes": 2, "eval.videos": 0, "eval.allow_blind": True}
    )
    assert scored.record().state == "done"
    runs = xp.sweep({**small, "seed": [0, 1]}, folder="seeds", echo=False)
    assert len(runs) == 2
