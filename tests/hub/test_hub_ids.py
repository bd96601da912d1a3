"""Ids of a hub: what is meant by them, which files are read, and one clear line for whatever goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.config.hub_keys import address_of, described_folder, fetched, hub_values, resolved
from xp.errors import UserError
from xp.hub import client, inputs
from xp.hub.address import DATASET, MODEL, HubAddress, parse
from xp.hub.choice import chosen_files

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
POLICY = {"config.json": b"{}", "model.safetensors": b"s" * 20_000, "policy_preprocessor.json": b"{}"}


@given(
    kind=st.sampled_from([MODEL, DATASET]),
    repo=st.tuples(NAMES, NAMES),
    revision=st.sampled_from(["main", "v2.0", "refs/pr/3", "feature/x", "0" * 40]),
    path=st.lists(NAMES, max_size=2),
    step=st.none() | st.integers(0, 10**9),
)
def test_what_is_written_is_read_back(kind, repo, revision, path, step):
    address = HubAddress(kind, "/".join(repo), revision, "/".join(path), step)
    assert parse(str(address), "data.root", kind) == address


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("hf://org/name", "data.root", HubAddress(DATASET, "org/name", "main")),
        ("hf://datasets/org/name@v3.0", "data.root", HubAddress(DATASET, "org/name", "v3.0")),
        ("hf://org/name", "pretrained_path", HubAddress(MODEL, "org/name", "main")),
        ("hf://models/org/name", "eval.checkpoint", HubAddress(MODEL, "org/name", "main")),
        ("hf://org/name@dev/sub/folder", "eval.checkpoint", HubAddress(MODEL, "org/name", "dev", "sub/folder")),
        ("hf://org/octo@main@300000", "merge.checkpoints", HubAddress(MODEL, "org/octo", "main", "", 300000)),
        ("hf://org/octo/octo@300000", "merge.base", HubAddress(MODEL, "org/octo", "main", "octo", 300000)),
        ("hf://org/name@300000", "pretrained_path", HubAddress(MODEL, "org/name", "300000")),
        ("hf:/org/name", "pretrained_path", HubAddress(MODEL, "org/name", "main")),
        ("hf://datasets/org/n/val.npz", "predict.validation", HubAddress(DATASET, "org/n", "main", "val.npz")),
    ],
)
def test_what_is_meant(text, key, meant):
    assert address_of(key, text) == meant


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("hf://name", "data.root", "data.root=hf://datasets/ORG/NAME"),
        ("hf://", "pretrained_path", "pretrained_path=hf://ORG/NAME"),
        ("hf://org/model", "merge.output", "ids of a hub are taken where"),
        ("hf://org/model", "report.base", "ids of a hub are taken where"),
        ("hf://datasets/org/name", "pretrained_path", "it names a dataset"),
        ("hf://spaces/org/name", "data.root", "it names a space"),
        ("hf://org/name/../../x", "data.root", "leads out of the repository"),
        ("hf://org/name", "predict.validation", "predict.validation=hf://org/name/FILE"),
    ],
)
def test_what_is_no_id_is_refused_with_what_to_type(text, key, said):
    with pytest.raises(UserError) as refused:
        address_of(key, text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_repo_id_says_what_root_says():
    (by_id,) = hub_values({"data.repo_id": "org/name", "data.revision": "v1", "data.root": None})
    (by_root,) = hub_values({"data.root": "hf://org/name@v1"})
    assert by_id.address == by_root.address and by_id.path == by_root.path
    with pytest.raises(UserError, match=r"data.revision=REVISION"):
        list(hub_values({"data.repo_id": "org/name@v1"}))


def test_a_list_of_policies_is_told_by_place_and_one_alone_means_all_its_steps():
    first, second = hub_values({"merge.checkpoints": ["hf://o/a", "outputs/run", "hf://o/b@v2"]})
    assert [first.key, second.key] == ["merge.checkpoints[0]", "merge.checkpoints[2]"]
    assert second.path == ("merge", "checkpoints", 2) and not second.address.all_steps
    (alone,) = hub_values({"merge.checkpoints": ["hf://o/a"]})
    assert alone.address.all_steps


def chosen(*names: str, **fields: object) -> list[str]:
    return chosen_files(HubAddress(MODEL, "o/m", "main", **fields), names)


def test_weights_for_other_programs_and_other_steps_are_left():
    others = ("pytorch_model.bin", "onnx/a.onnx", "tf_model.h5", "README.md")
    assert chosen("config.json", "model.safetensors", *others) == ["config.json", "model.safetensors"]
    assert chosen("config.json", "pytorch_model.bin") == ["config.json", "pytorch_model.bin"]
    octo = ["config.json", "100/default/checkpoint", "200/default/checkpoint"]
    assert chosen(*octo) == ["config.json", "200/default/checkpoint"]
    assert chosen(*octo, step=100) == ["config.json", "100/default/checkpoint"]
    assert chosen(*octo, all_steps=True) == octo
    with pytest.raises(UserError, match="no step 300 in the repository; it has 100, 200"):
        chosen(*octo, step=300)
    with pytest.raises(UserError, match="no sub in the repository at this revision; it has 100/, 200/, config.json"):
        chosen(*octo, path="sub")
    assert chosen("a/x.json", "a/w.safetensors", "b/y", path="a") == ["a/x.json", "a/w.safetensors"]


def listed(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 1)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_of_a_dataset_what_its_format_reads_is_chosen(version):
    from xp.config.hub_keys import _chosen

    tables = ["meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl", "data/chunk-000/episode_000000.parquet"]
    if version == "v3.0":
        tables = [
            "meta/info.json",
            "meta/tasks.parquet",
            "meta/episodes/chunk-000/file-000.parquet",
            "data/c/f.parquet",
        ]
    videos = ["videos/chunk-000/observation.images.top/episode_000000.mp4"]
    address = HubAddress(DATASET, "o/d", "main")
    assert sorted(_chosen(address, "", listed(*tables, *videos, "README.md", "x.bin"))) == sorted([*tables, *videos])
    inside = [f"sub/{name}" for name in (*tables, *videos)]
    assert sorted(_chosen(HubAddress(DATASET, "o/d", "main", "sub"), "", listed(*inside, "meta/info.json"))) == sorted(
        inside
    )
    assert _chosen(address, "", listed("task_demo.hdf5", "README.md")) == ["task_demo.hdf5"], (
        "all, where no format says which"
    )


def test_who_names_no_hub_imports_none_of_it():
    modules = "xp.__main__, xp.config.check, xp.runs, xp.data.dataset, xp.tasks.push"
    program = f"import sys; import {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "xp.hub.inputs" in done.stdout and "huggingface_hub" not in done.stdout and "httpx" not in done.stdout


@given(
    st.sets(st.lists(st.sampled_from(["a", "b", "c*", "[d]", "e?"]), min_size=1, max_size=3).map("/".join)), st.data()
)
def test_patterns_fit_exactly_the_names(names, data):
    import fnmatch

    known = {name for name in names if not any(other.startswith(f"{name}/") for other in names)}
    wanted = {name for name in known if data.draw(st.booleans())}
    patterns = client.patterns_of(wanted, known)
    assert {name for name in known if any(fnmatch.fnmatch(name, each) for each in patterns)} == wanted


def place_of(text: str, cache: Path, key: str = "data.root") -> Path:
    return fetched(resolved(address_of(key, text)), cache)


def files_in(place: Path) -> list[str]:
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def test_a_dataset_arrives_as_it_is_over_many_pages(hub, dataset, tmp_path):
    from xp.data import open_dataset

    hub.add_folder("org/name", dataset, **{f"videos__{i}": b"v" for i in range(120)}, README__md=b"hello", x__bin=b"x")
    place = place_of("hf://org/name", tmp_path / "cache")
    assert len([name for name in files_in(place) if name.startswith("meta")]) == 3
    assert "README.md" not in files_in(place) and "x.bin" not in files_in(place)
    assert open_dataset(place).fingerprint == open_dataset(dataset).fingerprint
    assert not any(path.is_symlink() for path in place.rglob("*"))
    assert sum(path.stat().st_nlink == 2 for path in place.rglob("*.parquet")) == 3, "the hub's cache holds the same"


def test_the_checks_before_a_run_fetch_no_rows(hub, dataset):
    hub.add_folder("org/name", dataset)
    folder = described_folder(address_of("data.root", "hf://org/name"))
    assert (folder / "meta/info.json").is_file() and not hub.sent["data/chunk-000/file-000.parquet"]


def test_only_what_is_asked_for_is_downloaded_and_once(hub, tmp_path):
    hub.add("org/act", {**POLICY, "model.onnx": b"o" * 30_000, "sub/more.bin": b"1"}, MODEL)
    place = place_of("hf://org/act", tmp_path / "cache", "pretrained_path")
    assert files_in(place) == [*sorted(POLICY), "sub/more.bin"] and not hub.sent["model.onnx"]
    assert place_of("hf://org/act/sub", tmp_path / "cache", "pretrained_path") != place
    before = sum(hub.sent.values())
    inputs.forget()
    assert place_of("hf://org/act", tmp_path / "cache", "pretrained_path") == place
    assert place_of("hf://org/act", tmp_path / "another", "pretrained_path").name == place.name
    assert sum(hub.sent.values()) == before, "what the hub's cache holds is not fetched again"


def test_a_branch_that_moves_changes_nothing_that_was_resolved(hub, tmp_path):
    commit = hub.add("org/act", POLICY, MODEL)
    address = address_of("pretrained_path", "hf://org/act")
    first = resolved(address)
    hub.add("org/act", {**POLICY, "config.json": b"{1}"}, MODEL)
    assert resolved(address) == first and first.commit == commit
    inputs.forget()
    inputs.pin(address, first.commit, first.choice)
    place = fetched(resolved(address), tmp_path)
    assert (place / "config.json").read_bytes() == b"{}"
    inputs.forget()
    assert resolved(address).commit != commit


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)  # what is kept of a part that breaks off: 10 MB
    weights = os.urandom(400_000)
    hub.add("org/act", {**POLICY, "model.safetensors": weights}, MODEL)
    hub.cut_after["model.safetensors"] = 150_000
    place = place_of("hf://org/act", tmp_path, "pretrained_path")
    assert (place / "model.safetensors").read_bytes() == weights
    assert hub.sent["model.safetensors"] == len(weights), "the second request asked for the rest"


def test_offline_the_cache_answers_and_says_what_it_lacks(hub, offline, dataset, tmp_path):
    hub.add_folder("org/name", dataset)
    place = place_of("hf://org/name", tmp_path / "one")
    hub.add("org/other", {"meta/info.json": b"{}"})
    hub.stop()
    offline()
    assert files_in(place_of("hf://org/name", tmp_path / "two")) == files_in(place)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set.*HF_HUB_OFFLINE=0 xp"):
        resolved(address_of("data.root", "hf://org/other"))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        resolved(address_of("data.root", "hf://org/name@v2"))


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("hf://org/nome", "data.root", "has no dataset org/nome that anybody may see.*hf auth login"),
        ("hf://org/private", "data.root", "has no dataset org/private that anybody may see.*HF_TOKEN"),
        ("hf://org/gated", "data.root", "gives access on request. Ask for it at http"),
        ("hf://org/name@gone", "data.root", "no revision gone .*It has main.*hf://datasets/org/name@REVISION"),
        ("hf://org/act@200", "pretrained_path", "For the step 200 of its policy type hf://org/act@main@200"),
        ("hf://org/act", "data.root", "has no dataset of this name, but a model: hf://org/act"),
        ("hf://org/act/none", "pretrained_path", "there is no none in the repository"),
        ("hf://org/empty", "pretrained_path", "holds nothing that could be read"),
    ],
)
def test_what_is_wrong_with_an_id_is_one_line(hub, text, key, said):
    hub.add("org/name", {"meta/info.json": b"{}"})
    hub.add("org/private", {"meta/info.json": b"{}"}, private=True)
    hub.add("org/gated", {"meta/info.json": b"{}"}, gated=True)
    hub.add("org/act", POLICY, MODEL)
    hub.add("org/empty", {"README.md": b""}, MODEL)
    with pytest.raises(UserError, match=said) as refused:
        resolved(address_of(key, text))
    assert "\n" not in str(refused.value)


def test_a_token_opens_what_is_private(hub, token, tmp_path):
    hub.add("org/private", POLICY, MODEL, private=True)
    assert files_in(place_of("hf://org/private", tmp_path, "pretrained_path")) == sorted(POLICY)


def test_no_network_is_one_line(hub):
    hub.add("org/act", POLICY, MODEL)
    hub.stop()
    with pytest.raises(UserError, match="cannot be reached.*HF_ENDPOINT.*HF_HUB_OFFLINE=1") as refused:
        resolved(address_of("pretrained_path", "hf://org/act"))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_lost_is_named(hub, tmp_path):
    commit = hub.add("org/act", POLICY, MODEL)
    found = resolved(address_of("pretrained_path", "hf://org/act"))
    del hub.repos[MODEL, "org/act"].commits[commit]["config.json"]
    with pytest.raises(UserError, match=r"has lost one of its files .*again"):
        fetched(found, tmp_path / "cache")
    assert not found.folder(tmp_path / "cache").exists()


@pytest.mark.parametrize("evil", ["../../../evil", "/evil", "a/../../evil", "a\0b"])
def test_names_of_a_hostile_hub_lead_nowhere(hub, tmp_path, evil):
    hub.add("org/act", POLICY, MODEL)
    hub.rename = lambda name: evil if name == "config.json" else name
    with pytest.raises(UserError, match="nothing is taken from it"):
        place_of("hf://org/act", tmp_path / "cache", "pretrained_path")
    assert not list(tmp_path.rglob("*evil*")) and not hub.sent


@pytest.mark.parametrize("header", ["ETag", "X-Repo-Commit", "X-Linked-ETag"])
def test_headers_of_a_hostile_hub_name_no_files(hub, tmp_path, header):
    hub.add("org/act", POLICY, MODEL)
    hub.headers = {header: '"../../../../evil"'}
    with pytest.raises(UserError, match=f"answers with {header}.*which is a path"):
        place_of("hf://org/act", tmp_path / "cache", "pretrained_path")
    assert not list(tmp_path.rglob("*evil*"))


def test_python_takes_ids_too(hub, dataset):
    import xp

    hub.add_folder("org/name", dataset)
    opened = xp.open_dataset("hf://org/name")
    assert opened.fingerprint == xp.open_dataset(dataset).fingerprint
    with pytest.raises(UserError, match="No policy can be loaded"):
        hub.add("org/act", {"notes.json": b"{}"}, MODEL)
        xp.load_policy("hf://org/act")


def test_a_version_of_a_dataset_in_a_folder_of_a_repository_is_fetched_and_no_other(hub):
    import xp

    made = Path(__file__).parents[1] / "data" / "rlds_made_by_tfds"
    hub.add_folder("org/many", made)
    opened = xp.open_dataset("hf://org/many/arm/1.0.0", read={"fps": 5})
    assert opened.fingerprint == xp.open_dataset(made / "arm", read={"fps": 5}).fingerprint
    assert not any("odd" in name or "npz" in name for name in hub.sent)


def test_where_a_folder_comes_from_is_told_by_its_path(hub, tmp_path):
    commit = hub.add("org/act", POLICY, MODEL)
    place = place_of("hf://org/act", tmp_path, "pretrained_path")
    assert inputs.origin_of(place / "config.json") == f"hf://org/act@{commit}"
    assert inputs.origin_of(tmp_path / "hub") == ""
