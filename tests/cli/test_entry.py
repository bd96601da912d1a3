"""The command line answers at once, and every mistake is one paragraph with exit code 2."""

import re
import subprocess
import sys

import pytest

HEAVY = ("torch", "jax", "lightning", "lerobot", "flax", "mujoco", "matplotlib")
PROBE = """
import sys
from xp.__main__ import main
try:
    main({arguments!r})
except SystemExit as stop:
    code = stop.code
print("EXIT", code)
print("HEAVY", [name for name in {heavy!r} if name in sys.modules])
"""


def run_xp(arguments, cwd, check_light=True):
    """Run xp in a fresh interpreter; returns (exit code, stdout, stderr) and asserts that nothing heavy came in."""
    code = PROBE.format(arguments=list(arguments), heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)
    exit_code = re.search(r"^EXIT (.*)$", result.stdout, re.M)
    assert exit_code, result.stderr
    if check_light:
        assert re.search(r"^HEAVY \[\]$", result.stdout, re.M), result.stdout[-300:]
    output = re.sub(r"^(EXIT|HEAVY) .*\n", "", result.stdout, flags=re.M)
    return int(exit_code.group(1)), output, result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--info", "defaults-tree"]])
def test_help_config_and_info_answer_without_heavy_imports(arguments, tmp_path):
    code, output, errors = run_xp(arguments, tmp_path)
    assert code == 0, errors
    assert len(output) > 300
    assert not any(tmp_path.iterdir()), "looking must not write"


def test_help_names_every_task_the_groups_and_three_examples(tmp_path):
    from xp.config.schema import TASKS

    _, output, _ = run_xp(["--help"], tmp_path)
    assert all(re.search(rf"^\s+{task} ", output, re.M) for task in TASKS)
    groups = ["model", "horizon", "chunk_size", "lr", "obs_dropout", "augment", "loop", "merge_method", "data", "env"]
    more = ["trainer", "logger", "paths", "debug", "experiment"]
    assert all(re.search(rf"^\s*{group}: ", output, re.M) for group in [*groups, *more])
    assert len(re.findall(r"^\s+xp .*(task=|\+experiment=)\w", output, re.M)) >= 3


def test_version_names_xp_and_what_decides_results_without_importing_it(tmp_path):
    import importlib.metadata

    code, output, errors = run_xp(["--version"], tmp_path)
    assert code == 0, errors
    rows = dict(line.split(" ", 1) for line in output.splitlines())
    names = [
        "hydra-core",
        "omegaconf",
        "numpy",
        "scipy",
        "torch",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "lerobot",
        "transformers",
        "tokenizers",
        "lightning",
        "mujoco",
        "pyarrow",
        "av",
        "safetensors",
        "h5py",
    ]
    assert list(rows) == ["xp", "python", *names]
    assert rows["xp"] == importlib.metadata.version("xp-robot-policies")
    assert rows["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(rows[name] == importlib.metadata.version(name) for name in names)
    assert not any(tmp_path.iterdir())


def test_a_package_that_is_not_installed_is_said_to_be_missing(monkeypatch):
    from xp import versions

    monkeypatch.setattr(versions, "PACKAGES", ("hydra-core", "no-such-package"))
    assert versions.version_text().splitlines()[-1] == "no-such-package not installed"


def test_tab_completion_completes_options_without_heavy_imports(tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "xp model=octo_")
    monkeypatch.setenv("COMP_POINT", "14")
    code, output, errors = run_xp(["-sc", "query=bash"], tmp_path)
    assert code == 0, errors
    assert "model=octo_tiny" in output.split()


def test_flags_may_stand_between_overrides(tmp_path):
    code, output, _ = run_xp(["lr.peak=1e-5", "--cfg", "job", "seed=3"], tmp_path)
    assert code == 0
    assert "seed: 3" in output
    assert "peak: 1.0e-05" in output


MISTAKES = {
    "option": (["model=octoo_tiny"], ["octoo_tiny", "octo_small", "did you mean 'octo_tiny'"]),
    "group": (["modle=octo_tiny"], ["modle", "model"]),
    "key": (["lr.paek=1e-4"], ["lr.paek", "warmup_steps", "did you mean"]),
    "top key": (["sede=1"], ["sede", "did you mean 'seed'"]),
    "model key": (["model.headd=1"], ["model.headd", "did you mean"]),
    "number": (["lr.peak=fast"], ["lr.peak", "'fast'", "number"]),
    "whole number": (["trainer.steps=1.5"], ["trainer.steps", "1.5", "whole number"]),
    "word": (["lr.schedule=cosin"], ["cosin", "linear_warmup", "did you mean 'cosine'"]),
    "bound": (["horizon.predict=0"], ["horizon.predict=0", "at least 1"]),
    "train horizon": (["horizon.train=0"], ["horizon.train=0", "at least 1"]),
    "dropout": (["obs_dropout.rate=1.5"], ["1.5", "between 0 and 1"]),
    "number as option": (["lr=1e-4"], ["lr.peak=1e-4", "cosine"]),
    "experiment without plus": (["experiment=multi_horizon"], ["+experiment=multi_horizon"]),
    "experiment": (["+experiment=multi_horizo"], ["multi_horizo", "did you mean 'multi_horizon'"]),
    "sweep without -m": (["lr.peak=1e-4,3e-4"], ["lr.peak=1e-4,3e-4", "-m"]),
    "not an override": (["traain"], ["traain", "key=value"]),
    "negative seed": (["seed=-1"], ["seed=-1", "at least 0"]),
    "resolve": (["--resolve"], ["--resolve", "--cfg"]),
    "task": (["task=trian"], ["trian", "did you mean 'train'"]),
    "missing dataset folder": (["data=lerobot"], ["data.root", "task=collect"]),
    "dataset": (["data.root=nowhere"], ["data.root=nowhere", "there is no dataset", "xp task=collect"]),
    "pretrained": (["pretrained_path=nowhere"], ["pretrained_path=nowhere", "no such folder"]),
    "tokenizer": (
        ["model=octo_small", "data.root=.", "model.language.tokenizer=nowhere"],
        ["model.language.tokenizer=nowhere", "hf download google-t5/t5-base tokenizer.json"],
    ),
    "checkpoint": (["task=predict"], ["predict.checkpoint"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_paragraph_before_anything_heavy(name, tmp_path):
    arguments, expected = MISTAKES[name]
    code, output, errors = run_xp(arguments, tmp_path)
    assert code == 2, output + errors
    assert errors.startswith("xp: ")
    assert len(errors.strip().splitlines()) == 1, errors
    for text in expected:
        assert text in errors, errors
    assert not any(tmp_path.iterdir()), "a mistake must not leave files"


def test_console_script_and_module_are_the_same(checkout, tmp_path):
    script = subprocess.run([f"{sys.prefix}/bin/xp", "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True)
    module = subprocess.run([sys.executable, "-m", "xp", "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True)
    assert script.returncode == module.returncode == 0
    assert script.stdout == module.stdout
