"""What a run makes of an id of a hub: a commit in its identity and record, a folder in its configuration."""

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xp.errors import UserError
from xp.hub import inputs
from xp.runs import Record, RunFolder, State, execute, start_run
from xp.runs.jobs.frozen import open_job
from xp.runs.jobs.inputs import INPUTS
from xp.runs.records.json_io import read_object

POLICY = {"config.json": b"{}", "model.safetensors": b"s" * 20_000}


def read(config):
    """What the made-up task reads."""
    return {f"data.{key}": value for key, value in config["data"].items()}


def begin(folder: Path, cache: Path, **data: object) -> Path | None:
    """Freeze a run; None if it is done."""
    whole = {"root": None, "repo_id": None, "revision": None, "checkpoints": [], **data}
    config = OmegaConf.create({"task": {"name": "train"}, "data": whole, "paths": {"cache": str(cache)}})
    return start_run(config, folder, [], generated=False, result_config=read, hydra_yaml="{}")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_id_revision_and_commit_stand_in_the_record_and_a_folder_in_the_configuration(hub, dataset, tmp_path, cache):
    commit = hub.add_folder("org/name", dataset)
    run = begin(tmp_path / "run", cache, root="hf://org/name")
    fields = RunFolder(run).record()["hub"]["data.root"]
    assert (fields["asked"], fields["revision"], fields["commit"]) == ("hf://datasets/org/name@main", "main", commit)
    root = RunFolder(run).config().data.root
    assert root.startswith(str(cache / "hub/datasets/org/name" / commit)) and (Path(root) / "meta/info.json").is_file()
    assert open_job(run).hub == RunFolder(run).record()["hub"]


def test_the_identity_is_the_commit_however_it_was_typed_and_wherever_it_lies(hub, dataset, tmp_path, cache):
    commit = hub.add_folder("org/name", dataset)
    typed = [
        {"root": "hf://org/name"},
        {"root": f"hf://datasets/org/name@{commit}"},
        {"repo_id": "org/name"},
        {"repo_id": "org/name", "revision": commit},
    ]
    runs = [begin(tmp_path / f"run{n}", cache / str(n % 2), **each) for n, each in enumerate(typed)]
    first, *others = [RunFolder(run).record()["identity"] for run in runs]
    assert others == [first] * 3
    hub.add_folder("org/name", dataset, README__md=b"another commit")
    inputs.forget()
    assert RunFolder(begin(tmp_path / "new", cache, root="hf://org/name")).record()["identity"] != first


def test_going_on_uses_the_frozen_commit_without_asking_the_hub(hub, dataset, tmp_path, cache):
    commit = hub.add_folder("org/name", dataset)
    run = begin(tmp_path / "run", cache, root="hf://org/name")
    hub.add_folder("org/name", dataset, README__md=b"the branch has moved")
    inputs.forget()
    before = len(hub.asked)
    assert begin(tmp_path / "run", cache, root="hf://org/name") == run
    assert RunFolder(run).record()["hub"]["data.root"]["commit"] == commit and len(hub.asked) == before
    execute(run, lambda run: None)
    inputs.forget()
    assert begin(tmp_path / "run", cache, root="hf://org/name") is None, "done is done"
    inputs.forget()
    shutil.rmtree(cache)
    Record(run / "record.json").update(state=State.FAILED)
    begin(tmp_path / "run", cache, root="hf://org/name")
    assert Path(RunFolder(run).config().data.root).is_dir(), "what was frozen is fetched again"


def test_a_job_needs_no_hub(hub, dataset, tmp_path, cache):
    from xp.data import open_dataset

    hub.add_folder("org/name", dataset)
    run = begin(tmp_path / "run", cache, root="hf://org/name")
    hub.stop()
    inputs.forget()
    seen = []
    execute(run, lambda run: seen.append(open_dataset(run.config.data.root).num_frames))
    assert seen == [7] and RunFolder(run).record().state is State.DONE


def test_what_a_job_reads_travels_to_a_node_as_any_folder_does(hub, dataset, tmp_path, cache):
    from hydra_plugins.xp_ssh_launcher._agent_files import content_hash
    from hydra_plugins.xp_ssh_launcher._inputs import inputs_of

    hub.add_folder("org/name", dataset, README__md=b"not sent")
    policy = hub.add("org/a", POLICY, "model")
    run = begin(tmp_path / "sweep/run", cache, root="hf://org/name", checkpoints=["hf://org/a@main@4"])
    data, weights = inputs_of(open_job(run)).fixed
    assert content_hash(str(data)) == content_hash(str(dataset)) and policy in str(weights)


def test_content_counts_the_same_on_disk_and_on_the_hub_and_a_change_is_refused_by_name(hub, dataset, tmp_path, cache):
    hub.add_folder("org/name", dataset)
    for name, root in {"hub": "hf://org/name", "disk": str(dataset)}.items():
        execute(begin(tmp_path / name, cache, root=root), lambda run: None)
    digests = [
        {file: entry[0] for file, entry in read_object(tmp_path / name / INPUTS)["data.root"]["files"].items()}
        for name in ("hub", "disk")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 4
    changed = Path(RunFolder(tmp_path / "hub").config().data.root) / "meta/info.json"
    text = changed.read_text()
    changed.unlink()
    changed.write_text(text + " ")
    from xp.runs.jobs import inputs as of_runs

    of_runs._lately.cache_clear()
    with pytest.raises(UserError, match=r"other content of data.root.*meta/info.json"):
        begin(tmp_path / "hub", cache, root="hf://org/name")


def test_policies_in_a_list_are_told_by_place(hub, tmp_path, cache):
    first = hub.add("org/a", POLICY, "model")
    second = hub.add("org/b", {**POLICY, "config.json": b"{1}"}, "model")
    run = begin(tmp_path / "run", cache, checkpoints=["hf://org/a", str(tmp_path), "hf://org/b@main@4"])
    config = RunFolder(run).config().data.checkpoints
    assert first in config[0] and config[1] == str(tmp_path) and second in config[2] and config[2].endswith("@4")
    assert set(RunFolder(run).record()["hub"]) == {"data.checkpoints[0]", "data.checkpoints[2]"}


def test_a_run_whose_download_fails_is_not_frozen(hub, tmp_path, cache):
    commit = hub.add("org/a", POLICY, "model")
    begin(tmp_path / "other", cache, checkpoints=["hf://org/a"])
    shutil.rmtree(cache)
    del hub.repos["model", "org/a"].commits[commit]["model.safetensors"]
    shutil.rmtree(tmp_path / "hf")
    with pytest.raises(UserError, match="org/a"):
        begin(tmp_path / "run", cache, checkpoints=["hf://org/a"])
    assert not (tmp_path / "run").exists()
