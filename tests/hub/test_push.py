"""What `task=push` uploads: the files of a policy or a dataset, a card of how it was made, and nothing secret."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from xp.errors import UserError
from xp.hub import inputs
from xp.runs import execute, start_run
from xp.tasks import push

KEYS = {
    "run": None, "dataset": None, "repo": "me/policy", "branch": "main", "private": False, "license": None,
    "evaluations": [], "replace": False, "dry_run": False,
}  # fmt: skip
TOKEN = "hf_" + "a1B2c3D4" * 4


def asked(**fields: object):
    return OmegaConf.create(
        {"push": {**KEYS, **{key: str(v) if isinstance(v, Path) else v for key, v in fields.items()}}}
    )


def made(folder: Path, cache: Path, task: str, metrics: dict | None = None, **config: object) -> Path:
    """A finished run, as far as a card reads it."""
    whole = {"task": {"name": task}, "data": {"root": None}, "paths": {"cache": str(cache)}, **config}
    read = {"train": ["data.root"], "eval": []}[task]
    run = start_run(
        OmegaConf.create(whole), folder, [f"task={task}", "seed=3"], generated=False, hydra_yaml="{}",
        result_config=lambda c: {"task.name": task, **{key: c["data"]["root"] for key in read}},
    )  # fmt: skip
    assert run is not None
    execute(run, lambda run: None)
    if metrics is not None:
        (run / "metrics.json").write_text(json.dumps(metrics))
    return run


@pytest.fixture
def policy(hub, dataset, tmp_path):
    """A run trained on a dataset of the hub, whose policy is a network of the toys' kind: files alone."""
    from safetensors.numpy import save_file

    hub.add_folder("org/name", dataset)
    run = made(tmp_path / "run", tmp_path / "cache", "train", data={"root": "hf://org/name"})
    data = {"root": "somewhere", "fingerprint": "f" * 64, "fps": 10, "train_episodes": 8, "held_out_episodes": 2}
    config = {"trainer": {"batch_size": 4}, "lr": {"peak": 3e-4}}
    summary = {"task": "train", "model": "act_tiny", "training_horizon": 6, "total_steps": 100, "seed": 3}
    (run / "summary.json").write_text(json.dumps({**summary, "data": data, "config": config}))
    final = run / "final"
    final.mkdir()
    (final / "config.json").write_text(json.dumps({"type": "act"}))
    save_file({"w": np.zeros((60, 60), np.float32)}, final / "model.safetensors")
    (final / ".cache").write_text("hidden")
    return run


@pytest.fixture
def evaluation(policy, tmp_path):
    """Its success in simulation."""
    score = {"success_rate": 0.75, "success_interval": {"low": 0.6, "high": 0.86, "level": 0.95}, "num_episodes": 40}
    metrics = {"policies": {"policy": {"push_red": score, "all": score}, "noop": {"all": {**score, "success_rate": 0}}}}
    return made(tmp_path / "eval", tmp_path / "cache", "eval", metrics, eval={"checkpoint": str(policy)})


def card_of(hub, name: str, kind: str = "model") -> tuple[dict, str]:
    """(metadata, text) of what the hub has as README.md."""
    import yaml

    repo = hub.repos[kind, name]
    _, front, text = repo.commits[repo.refs["main"]]["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_policy_and_its_card_arrive_and_come_back(hub, token, policy, evaluation, tmp_path, capsys):
    commit = hub.repos["dataset", "org/name"].refs["main"]
    assert push.show(asked(run=policy, license="mit", evaluations=[str(evaluation)], private=True)) == 0
    repo = hub.repos["model", "me/policy"]
    files = repo.commits[repo.refs["main"]]
    assert set(files) == {"README.md", "config.json", "model.safetensors", ".gitattributes"} and repo.private
    assert files["model.safetensors"] == (policy / "final/model.safetensors").read_bytes()
    assert hub.uploaded, "the large one by git LFS"
    metadata, text = card_of(hub, "me/policy")
    assert metadata["library_name"] == "lerobot" and metadata["pipeline_tag"] == "robotics"
    assert metadata["datasets"] == "org/name" and metadata["license"] == "mit" and "act" in metadata["tags"]
    assert commit in text and "| steps | 100 |" in text and "xp task=train seed=3" in text and "| python" not in text
    assert "| push_red | success rate | 0.75 | [0.6, 0.86] (95%) | 40 episodes |" in text
    assert repo.refs["main"] in capsys.readouterr().out
    inputs.forget()
    from xp.config.hub_keys import address_of, fetched, resolved

    back = fetched(resolved(address_of("eval.checkpoint", "hf://me/policy")), tmp_path / "back")
    assert sorted(path.name for path in back.iterdir()) == ["config.json", "model.safetensors"]


def test_a_dry_run_writes_the_card_and_uploads_nothing(hub, policy, capsys):
    before = len(hub.asked)
    push.show(asked(run=policy, dry_run=True))
    assert "library_name: lerobot" in (policy / "card.md").read_text()
    assert "model.safetensors" in capsys.readouterr().out and len(hub.asked) == before


def test_a_dataset_arrives_with_the_tag_that_lerobot_looks_for(hub, token, dataset):
    push.show(asked(dataset=dataset, repo="me/data", license="apache-2.0"))
    push.show(asked(dataset=dataset, repo="me/data"))
    repo = hub.repos["dataset", "me/data"]
    assert repo.refs["v3.0"] == repo.refs["main"]
    metadata, text = card_of(hub, "me/data", "dataset")
    assert "LeRobot" in metadata["tags"] and metadata["task_categories"] == ["robotics"]
    assert metadata["configs"] == [{"config_name": "default", "data_files": "data/*/*.parquet"}]
    assert '"codebase_version": "v3.0"' in text and "| episodes | 2 |" in text


def test_other_files_of_the_repository_are_left_unless_it_is_said(hub, token, policy):
    hub.add("me/policy", {"old.bin": b"1", ".gitattributes": b""}, "model")
    with pytest.raises(UserError, match=r"old.bin.*push.replace=true"):
        push.show(asked(run=policy))
    push.show(asked(run=policy, replace=True))
    repo = hub.repos["model", "me/policy"]
    assert "old.bin" not in repo.commits[repo.refs["main"]] and len(repo.commits) == 2


@pytest.mark.parametrize("where", ["config.json", "notes.txt"])
def test_a_file_with_a_token_is_not_uploaded(hub, token, policy, where):
    before = (policy / "final/config.json").read_text()
    (policy / "final" / where).write_text(before.replace("}", f', "url": "{TOKEN}"}}'))
    with pytest.raises(UserError, match=f"{where} holds what looks like a token"):
        push.show(asked(run=policy))
    assert ("model", "me/policy") not in hub.repos


def test_a_tokenizer_holds_no_token():
    from xp.runs.jobs.secrets import holds_token, looks_secret

    text = '{"bos_token": "<bos>", "tokenizer_class": "Tokenizer", "pad_token": "</s>"}'
    assert not holds_token(text) and holds_token(text + TOKEN) and looks_secret("API_TOKEN=abcdefgh")


def test_a_link_out_of_the_folder_is_not_uploaded(policy, tmp_path):
    (tmp_path / "private").write_text("mine")
    (policy / "final/notes.txt").symlink_to(tmp_path / "private")
    with pytest.raises(UserError, match="leads out of"):
        push.files_to_upload(policy / "final")


def test_of_several_steps_the_one_that_is_named_is_uploaded(tmp_path):
    for name in ("config.json", "100/default/checkpoint", "200/default/checkpoint"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list(push.files_to_upload(tmp_path, 100)) == ["100/default/checkpoint", "config.json"]
    assert len(push.files_to_upload(tmp_path)) == 3


def test_who_may_not_write_is_told_how_to(hub, policy):
    with pytest.raises(UserError, match=r"refuses access.*hf auth login") as refused:
        push.show(asked(run=policy))
    assert "\n" not in str(refused.value)


def test_offline_nothing_is_uploaded(hub, offline, policy):
    offline()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=0 xp"):
        push.show(asked(run=policy))


def test_an_evaluation_of_another_policy_is_refused(hub, policy, evaluation, tmp_path):
    other = made(tmp_path / "other", tmp_path / "cache", "eval", {}, eval={"checkpoint": "elsewhere"})
    with pytest.raises(UserError, match=r"push.evaluations: .*other is no finished run"):
        push.show(asked(run=policy, evaluations=[str(other)]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repo": None, "run": "."}, "push.repo=ORG/NAME"),
        ({}, "type push.run=RUN, or push.dataset=FOLDER"),
        ({"run": ".", "dataset": "."}, "uploads one thing"),
        ({"run": ".", "repo": "policy"}, "push.repo"),
        ({"run": "nowhere"}, "push.run=nowhere: no such folder"),
    ],
)
def test_what_is_missing_is_told(given, said):
    from xp.config.hub_checks import check_push

    with pytest.raises(UserError, match=said):
        check_push(asked(**given))
