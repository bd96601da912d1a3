"""Twelve forms of a secret, and every byte that sweeps leave behind on this machine and on a SLURM cluster."""

import hashlib
import json
from pathlib import Path

import pytest
from test_slurm import SLURM

from xp.runs import load_run

SECRET = "Pl4nted-4711-0815-zz"
FORMS = [
    f"+notes.api_key={SECRET}",
    f"+notes.deep.inner.password={SECRET}",
    f"+notes.list=[a,{{token: {SECRET}}}]",
    f"+notes.words=['login --token={SECRET}']",
    f"+notes.url='https://me:{SECRET}@host/x'",
    "+notes.harmless='${oc.env:XP_TEST_TOKEN}'",
    "+notes.inside='x ${oc.env:XP_TEST_TOKEN} y'",
    f"+notes.command='export WANDB_API_KEY={SECRET}'",
    f"+notes.header='Authorization: Bearer {SECRET}'",
    f"+notes.section={{user: me, private_key: {SECRET}}}",
    f"+notes.AWS_SECRET_ACCESS_KEY={SECRET}",
    f"+notes.credentials=[{SECRET}, other]",
]


def holding(place: Path) -> list[str]:
    """Files below a folder, and names of files, that hold the secret."""
    paths = [path for path in place.rglob("*") if not path.is_symlink()]
    files = [path for path in paths if path.is_file() and SECRET.encode() in path.read_bytes()]
    return [str(path) for path in [*files, *(path for path in paths if SECRET in path.name)]]


def arrived(place: Path) -> bool:
    """Whether the jobs themselves had every secret."""
    notes = {
        "api_key": SECRET, "deep": {"inner": {"password": SECRET}}, "list": ["a", {"token": SECRET}],
        "words": [f"login --token={SECRET}"], "url": f"https://me:{SECRET}@host/x", "harmless": SECRET,
        "inside": f"x {SECRET} y", "command": f"export WANDB_API_KEY={SECRET}",
        "header": f"Authorization: Bearer {SECRET}", "section": {"user": "me", "private_key": SECRET},
        "AWS_SECRET_ACCESS_KEY": SECRET, "credentials": [SECRET, "other"],
    }  # fmt: skip
    wanted = hashlib.sha256(json.dumps(notes).encode()).hexdigest()
    found = [json.loads(path.read_text())["notes"] for path in place.glob("multirun/sweep/*/summary.json")]
    return found == [wanted] * 2


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("XP_TEST_TOKEN", SECRET)


def test_a_sweep_on_this_machine_leaves_no_secret_behind(xp, place, token):
    code, output = xp("seed=1,2", *FORMS)
    assert code == 0, output
    assert SECRET not in output
    assert holding(place) == []
    assert arrived(place)
    notes = load_run(place / "multirun/sweep/seed_1").config().notes
    assert notes.api_key == "(redacted)" and notes.list[0] == "a" and notes.section.user == "me"


def test_a_job_that_fails_with_a_secret_in_its_message_leaves_none(xp, place, token):
    code, output = xp("seed=1", "work.fail=true", f"+work.api_key={SECRET}")
    assert code == 1
    assert SECRET not in output and holding(place) == []


@pytest.mark.slow
def test_a_sweep_on_a_cluster_leaves_no_secret_behind(on_slurm, xp, place, token):
    code, output = xp("seed=1,2", *FORMS, *SLURM, "hydra.launcher.detach=false")
    assert code == 0, output
    assert SECRET not in output
    assert arrived(place)
    assert holding(place) == []
    # slurmctld itself keeps the environment that sbatch was called in, for its own user alone, until a job ends.
    left = [path for path in holding(Path(on_slurm.conf).parents[1]) if Path(path).name != "environment"]
    assert left == []
