"""Folders carried to a node and back: whole units, the record last, by rsync and by tar alike."""

import os
import time

import pytest

from hydra_plugins.xp_ssh_launcher._agent_client import AgentClient
from hydra_plugins.xp_ssh_launcher._agent_files import content_hash, listing
from hydra_plugins.xp_ssh_launcher._files import FileSync, changed, gone, publish, sound, unit_of
from hydra_plugins.xp_ssh_launcher._hosts import Host, parse_host
from hydra_plugins.xp_ssh_launcher._inputs import inputs_of, skipped_in
from hydra_plugins.xp_ssh_launcher._ssh_errors import Refused
from hydra_plugins.xp_ssh_launcher._transport import Link
from xp.atomic import write_json
from xp.runs.jobs.frozen import Job, Need


def fill(folder, **files):
    for number, (name, text) in enumerate(files.items()):
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(10**18 + number, 10**18 + number))


def texts(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_differs_is_told_by_size_and_time():
    ours = {"a": [1, 10, 0], "b": [2, 10**9, 0], "c": [3, 10**9, 0], "d": [4, 10, 0]}
    theirs = {
        "a": [1, 10, 0],
        "b": [2, 10**9 + 1000, 0],
        "c": [3, 10**9 + 1001, 0],
        "e/f": [5, 10, 0],
        "k/g": [5, 1, 0],
    }
    assert changed(ours, theirs) == ["c", "d"]
    assert gone(ours, theirs) == ["e/f", "k/g"] and gone(ours, theirs, ["k"]) == ["e/f"]


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("record.json", None),
        ("checkpoints/checkpoint-2/state.json", "checkpoints/checkpoint-2"),
        ("checkpoints/latest", None),
        ("best/a/b", "best"),
        (".hydra/config.yaml", None),
    ],
)
def test_folders_inside_a_run_are_units(name, unit):
    assert unit_of(name) == unit


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a\nb"])
def test_a_node_cannot_write_outside_of_the_folder(name):
    with pytest.raises(Refused):
        sound(["fine", name])


def test_a_unit_appears_whole_or_not_at_all_and_the_record_waits_for_it(tmp_path):
    run, staging, node = tmp_path / "run", tmp_path / "staging", tmp_path / "node"
    fill(node, best__a="new", best__b="same", record_DOT_json="{}", log_DOT_txt="one")
    fill(run, best__a="old!", best__b="same")
    theirs = listing(str(node))
    fill(staging, log_DOT_txt="one two", record_DOT_json="{}")
    os.utime(staging / "record.json", ns=(theirs["record.json"][1],) * 2)
    todo = changed(theirs, listing(str(run)))
    ours = {**listing(str(run)), "best/b": theirs["best/b"]}
    todo = [name for name in todo if name != "best/b"]
    assert publish(run, staging, theirs, ours, todo) is False
    assert texts(run) == {"best/a": "old!", "best/b": "same", "log.txt": "one two"}
    (staging / "best").mkdir()
    (staging / "best/a").write_text("new")
    os.utime(staging / "best/a", ns=(theirs["best/a"][1],) * 2)
    (staging / "log.txt").write_text("one")
    os.utime(staging / "log.txt", ns=(theirs["log.txt"][1],) * 2)
    assert publish(run, staging, theirs, ours, todo) is True
    assert texts(run) == {"best/a": "new", "best/b": "same", "log.txt": "one", "record.json": "{}"}
    assert not staging.exists()


def test_a_checkpoint_that_the_node_removed_goes_once_the_newer_one_is_here(tmp_path):
    run, node = tmp_path / "run", tmp_path / "node"
    fill(run, checkpoints__checkpoint_1__s="1", x="1")
    fill(node, checkpoints__checkpoint_2__s="2")
    theirs, ours = listing(str(node)), listing(str(run))
    assert publish(run, tmp_path / "none", theirs, ours, list(theirs)) is False
    assert "checkpoints/checkpoint_1/s" in texts(run)
    node.rename(tmp_path / "staging")
    assert publish(run, tmp_path / "staging", theirs, ours, list(theirs)) is True
    assert texts(run) == {"checkpoints/checkpoint_2/s": "2"}


@pytest.fixture(params=["rsync", "tar"])
def files(request, pair):
    link = Link(parse_host("node1"), python="python3", ssh_config=str(pair.config))
    link.connect()
    agent = AgentClient(link)
    agent.greet(workdir="~/.xp", folders=[], marks={}, gpus_wanted=[], slots=1)
    yield FileSync(link, agent, rsync=request.param == "rsync")
    agent.close()
    link.close()


def test_small_and_large_files_go_there_and_come_back_alike(files, pair, ground, request):
    here = ground / f"files-{request.node.callspec.id}"
    there = pair["node1"].place / here.name
    fill(here, small="s", sub__large="L" * 700_000, odd_name_DOT_txt="x y", checkpoints__big="B" * 400_000)
    (here / "with space 'quote'").write_text("q" * 300_000)
    files.push(here, here, skip=("checkpoints",))
    assert texts(there) == {name: text for name, text in texts(here).items() if not name.startswith("checkpoints")}
    assert {name: entry[:2] for name, entry in listing(str(there)).items()} == {
        name: entry[:2] for name, entry in listing(str(here), ("checkpoints",)).items()
    }
    (there / "sub/large").write_text("M" * 600_000)
    (there / "small").unlink()
    back = ground / f"back-{here.name}"
    assert files.pull(back, ground / "staging", source=here) is True
    assert texts(back) == texts(there) and files.pull(back, ground / "staging", source=here) is True
    files.push(here, here)
    assert texts(there) == texts(here)


def test_content_is_hashed_by_names_and_bytes_and_not_by_times(tmp_path):
    fill(tmp_path / "a", x="1", y__z="2")
    fill(tmp_path / "b", y__z="2", x="1")
    assert content_hash(str(tmp_path / "a")) == content_hash(str(tmp_path / "b"))
    (tmp_path / "b/x").write_text("3")
    assert content_hash(str(tmp_path / "a")) != content_hash(str(tmp_path / "b"))
    assert content_hash(str(tmp_path / "a"), ("y",)) != content_hash(str(tmp_path / "a"))


def job_in(folder, config, needs=()):
    return Job(folder=folder, config=config, identity="i", needs=needs)


def test_a_job_needs_the_paths_its_configuration_names_and_the_data_of_the_runs_among_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exp, data, old = tmp_path / "multirun/exp", tmp_path / "data", tmp_path / "outputs/run"
    fill(data, rows="1")
    fill(old / "best", w="1")
    write_json(old / "record.json", {})
    for name, config in {"collect": {}, "train": {"data": {"root": str(exp / "collect/dataset")}}}.items():
        write_json(exp / name / "record.json", {})
        write_json(exp / name / "config.json", config)
    fill(exp / "collect/dataset", rows="2")
    config = {"task": {"name": "predict"}, "data": {"root": "data"}, "predict": {"checkpoint": str(exp / "train")},
              "merge": {"checkpoints": ["outputs/run@100", "nowhere/at/all"]}, "paths": {"cache": str(tmp_path)},
              "env": {"name": "data"}, "note": "multirun/exp"}  # fmt: skip
    need = Need(folder=exp / "train", stage="train", identity="t")
    inputs = inputs_of(job_in(exp / "cell", config, (need,)))
    assert inputs.runs == (exp / "train",) and inputs.parts == (exp / "collect/dataset",)
    assert inputs.fixed == (data, old) and inputs.outputs == ()
    job = job_in(exp / "cell", config)
    assert skipped_in(old, job) == () and skipped_in(data, job) == ()
    assert skipped_in(old, job_in(exp / "cell", {"predict": {"checkpoint": "outputs/run"}})) == ("checkpoints",)


def test_what_collect_writes_outside_of_its_folder_is_an_output(tmp_path):
    config = {"task": {"name": "collect"}, "data": {"root": str(tmp_path / "datasets/arm")}}
    inputs = inputs_of(job_in(tmp_path / "multirun/sweep/job", config))
    assert inputs.outputs == (tmp_path / "datasets/arm",) and inputs.fixed == ()


@pytest.fixture
def agent(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = AgentClient(Link(Host(host="localhost", local=True), python="python3"))
    made.greet(workdir="~/.xp", folders=[], marks={}, gpus_wanted=[], slots=2)
    yield made
    made.close()


def order(tmp_path, text, attempt=1):
    return {
        "folder": str(tmp_path / "exp/job"), "attempt": attempt, "experiment": str(tmp_path / "exp"),
        "cwd": str(tmp_path), "argv": ["sh", "-c", text], "env": {"A": "1"}, "secret_env": {"B": "hush"}, "stdin": "in",
    }  # fmt: skip


def start(agent, key, what, slots=("cpu-0",), number=1):
    return agent.ask("start", key=key, order=what, slots=list(slots), number=number, min_free=0)


def state_of(agent, key, known="running"):
    return agent.ask("poll", keys=[key], known={key: known}, wait_s=30, patience_s=30)["jobs"][key]


def test_a_job_on_a_node_outlives_the_connection_and_its_exit_code_is_kept(agent, tmp_path):
    assert start(agent, "k-1", order(tmp_path, "cat > got; echo $A$B; sleep 0.3; exit 7")) == {"started": True}
    assert start(agent, "k-1", order(tmp_path, "exit 9")) == {"started": True}
    agent.close()
    assert state_of(agent, "k-1") == "ended 7"
    assert agent.ask("output_tail", key="k-1")["text"] == "1hush" and (tmp_path / "got").read_text() == "in"
    assert "hush" not in (tmp_path / "home/.xp/jobs/k-1/spec.json").read_text()


def test_a_slot_is_free_again_when_the_job_and_all_it_started_have_ended(agent, tmp_path):
    assert start(agent, "a-1", order(tmp_path, "sleep 100 & sleep 0.2"))["started"]
    assert start(agent, "b-1", order(tmp_path, "exit 0")) == {"started": False, "why": "busy"}
    assert start(agent, "c-1", order(tmp_path, "exit 0"), ("cpu-0", "cpu-1"), 2) == {"started": False, "why": "busy"}
    assert start(agent, "d-1", order(tmp_path, "exit 0"), ("cpu-0", "cpu-1"), 1)["started"]
    assert state_of(agent, "a-1") == "ended 0"
    assert start(agent, "b-1", order(tmp_path, "exit 0")) == {"started": False, "why": "fenced"}  # the answer was no
    assert start(agent, "b-2", order(tmp_path, "exit 0", attempt=2))["started"]


def test_an_attempt_that_was_given_up_is_ended_and_may_not_start_again(agent, tmp_path):
    folder = tmp_path / "exp/job"
    folder.mkdir(parents=True)
    assert start(agent, "j-1", order(tmp_path, "sleep 100"))["started"]
    agent.ask("fence", key="j-1", folder=str(folder), attempt=2, discard=True, patience_s=20)
    assert not folder.exists() and state_of(agent, "j-1").startswith(("ended -9", "gone"))
    assert start(agent, "j-1b", order(tmp_path, "exit 0", attempt=1)) == {"started": False, "why": "fenced"}
    assert start(agent, "j-2", order(tmp_path, "exit 0", attempt=2))["started"]


def test_a_job_that_does_not_leave_is_ended_by_its_own_runner(agent, tmp_path):
    assert start(agent, "s-1", order(tmp_path, "trap '' TERM; touch deaf; while :; do sleep 0.05; done"))["started"]
    while not (tmp_path / "deaf").exists():
        time.sleep(0.01)
    agent.ask("stop", key="s-1", grace_s=0.2)
    agent.close()
    assert state_of(agent, "s-1") == "ended -9"


def test_an_experiments_folder_belongs_to_one_controller(agent, tmp_path):
    folder = tmp_path / "exp"
    agent.ask("claim", experiment=str(folder), owner="me")
    agent.ask("claim", experiment=str(folder), owner="me")
    (folder / "old").write_text("")
    agent.ask("claim", experiment=str(folder), owner="another")
    assert not (folder / "old").exists()
    theirs = tmp_path / "theirs"
    fill(theirs, precious="x")
    with pytest.raises(Refused, match="was not put there by xp"):
        agent.ask("claim", experiment=str(theirs), owner="me")
    assert (theirs / "precious").exists()
