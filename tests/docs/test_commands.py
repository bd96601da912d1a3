"""Every command of the pages: composed and checked here; what a small machine can run is run by the slow tests."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from command_sequences import sequences
from documents import CHECKOUT, blocks, commands, inline_commands, inline_python
from hydra.core.override_parser.overrides_parser import OverridesParser
from substitutions import FEWER, FOLDERS, PRELUDES, PROGRAMS, fields, only_composed, substituted

from xp.__main__ import _parse
from xp.config import check
from xp.config.compose import CONFIG_NAME, open_hydra, without_hydra

OURS = [(place, words[1:]) for place, words in [*commands(), *inline_commands()] if words[0] == "xp"]
# A command that stands in several places is composed once, for the first.
DISTINCT = list({tuple(words): (place, words) for place, words in reversed(OURS)}.values())[::-1]
OTHERS = [(place, words) for place, words in commands() if words[0] != "xp"]


def ids(cases):
    return [f"{place} {' '.join(rest)[:60]}" for place, rest in cases]


def combinations(overrides):
    """Overrides without sweeps: of every list of values the first, and of every list the last."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    for end in (0, -1):
        yield [
            f"{override.input_line.partition('=')[0]}={list(override.sweep_string_iterator())[end]}"
            if override.is_sweep_override()
            else override.input_line
            for override in parsed
        ]
        if not any(override.is_sweep_override() for override in parsed):
            return


@pytest.mark.parametrize(("place", "words"), DISTINCT, ids=ids(DISTINCT))
def test_a_command_composes(place, words, tmp_path):
    from hydra.types import RunMode

    _, options = _parse(substituted(words, tmp_path))
    if options.help or options.version or options.shell_completion:
        assert not options.overrides, place
        return
    for overrides in combinations(options.overrides):
        config = open_hydra().compose_config(CONFIG_NAME, overrides, run_mode=RunMode.RUN, with_log_configuration=False)
        check(without_hydra(config), complete=False)


@pytest.mark.parametrize(("place", "words"), OTHERS, ids=ids(OTHERS))
def test_another_program_is_there(place, words):
    words = list(words)
    if words[0] == "eval":
        words = re.findall(r"\$\((.*)\)", words[1])[0].split()
        assert words[0] == "xp"
    elif words[0] == "export":
        assert re.fullmatch(r"[A-Z_]+=\S+", words[1])
        assert words[1].partition("=")[0] in " ".join(path.read_text() for path in (CHECKOUT / "src").rglob("*.py"))
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (CHECKOUT / "Makefile").read_text(), re.M), f"{place}: make {words[1]}"
    elif words[0].startswith(".venv/bin/"):
        files = [word for word in words if word.endswith(".py")]
        assert all((CHECKOUT / name).is_file() for name in files)
    elif words[0] == "python":
        assert (CHECKOUT / words[1]).is_file(), f"{place}: {words[1]}"
    else:
        assert words[0] in PROGRAMS, f"{place}: {words[0]} is in no list of tests/docs/substitutions.py"
        assert all((CHECKOUT / name).is_file() for name in re.findall(r"tests/\S+\.py", PROGRAMS[words[0]]))
    if words[0].startswith("lerobot-"):
        assert shutil.which(words[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_block_compiles_and_what_it_imports_is_there(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = __import__(str(node.module), fromlist=[name.name for name in node.names])
            assert all(hasattr(module, name.name) for name in node.names), block
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "xp":
            assert node.attr in __import__("xp").__all__, f"{block}: xp.{node.attr}"


def test_every_block_says_its_language():
    allowed = {"bash", "python", "text", "toml", "yaml"}
    assert [f"{block}: {block.language!r}" for block in blocks() if block.language not in allowed] == []


def run_xp(words, folder, cache):
    """Run a command of xp in `folder`; returns what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    line = [sys.executable, "-m", "xp", f"paths.cache={cache}", *words]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"xp {' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


PLANNED = [(place, words) for place, words in OURS if any(re.match(r"\+experiment=|-m$", word) for word in words)]
SHOWN = [(place, words) for place, words in OURS if {"--help", "--version", "--cfg"} & set(words)]
COMPOSED = [(place, words) for place, words in OURS if only_composed(words) and not {"--cfg"} & set(words)]
RUNS = sequences([case for case in OURS if case not in [*PLANNED, *SHOWN, *COMPOSED]])


def test_every_command_is_run_or_planned_or_has_a_line_that_says_what_it_would_need():
    run = [case for sequence in RUNS for case in sequence.commands]
    for case in OURS:
        assert sum(case in cases for cases in (PLANNED, SHOWN, run)) == 1 or case in COMPOSED, case[0]
    assert all(any(word.startswith("task=") for word in words) for _, words in run)


@pytest.mark.parametrize("line", sorted({" ".join(words) for _, words in SHOWN}))
def test_a_command_that_shows_something_says_it(line, tmp_path):
    said = run_xp(line.split(), tmp_path, tmp_path / "cache")
    assert re.search({"--help": r"task=train", "--version": r"^xp \d", "--cfg": r"^lr:"}[line.split()[0]], said, re.M)


def test_the_line_for_tab_completion_installs_it(tmp_path):
    [line] = [words[1] for place, words in OTHERS if words[0] == "eval"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = f'eval "{line}" && complete -p xp'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True)
    assert done.returncode == 0 and b"xp" in done.stdout, done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize(("place", "words"), PLANNED, ids=ids(PLANNED))
def test_an_experiment_is_planned(place, words, places, tmp_path):
    given = substituted(words, tmp_path, **places)
    # the hosts of the pages are not there: the plan is the same with any launcher
    given = [word for word in given if not re.match(r"\+?hydra[./]launcher", word)]
    given = [word for word in given if not re.match(r"experiment\.skip_finetuning=true|hydra\.sweep\.dir=", word)]
    if "model=octo_small" in given or "model=octo_base" in given:
        given += ["model.language.encoder=words"]  # T5's tokenizer is not there
    output = run_xp([*given, "hydra.sweeper.dry_run=true"], tmp_path, places["cache"])
    assert re.search(r"to run", output)


@pytest.mark.slow
@pytest.mark.parametrize("sequence", RUNS, ids=str)
def test_a_command_runs(sequence, places, tmp_path):
    made: dict[str, str] = {}
    for _, words in sequence.commands:
        given = substituted(words, tmp_path, made, **places)
        heavy = any(word in ("task=train", "task=eval", "task=collect", "task=predict") for word in given)
        run_xp([*given, *(FEWER if heavy else [])], tmp_path, places["cache"])
    assert all(Path(path).exists() for path in made.values())


def run_block(block, places):
    """Run a Python block after the prelude of its page; returns the names it leaves."""
    named = {name: str(path) for name, path in places.items()}
    text = textwrap.dedent(PRELUDES[block.page]).format(**named) + block.text
    for name, place in FOLDERS.items():
        if f'"{name}"' in text:
            text = text.replace(f'"{name}"', repr(place.format(**{"work": "", "lerobot": "", **named})))
    names: dict[str, Any] = {}
    exec(compile(text, str(block), "exec"), names)
    return names


LIGHT = [block for block in blocks("python") if fields(PRELUDES.get(block.page, "")) <= {"run"}]


@pytest.mark.parametrize("block", LIGHT, ids=str)
def test_a_python_block_of_any_policy_runs(block, policy_folder):
    names = run_block(block, {"run": policy_folder})
    if "policy" in names and "observation" in names:  # a page whose policy is asked for itself
        assert names["actions"].ndim == 3 and names["actions"].dtype == "float32", "[B, H, A]"
        assert names["actions"].shape[2] == names["policy"].spec.action_dim


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_block_runs(block, places):
    run_block(block, places)


@pytest.mark.parametrize(("place", "call"), inline_python(), ids=str)
def test_a_call_in_the_text_is_of_what_is_public_with_its_arguments(place, call):
    import xp

    [name] = re.findall(r"xp\.(\w+)\(", call)
    assert name in xp.__all__, place
    parameters = inspect.signature(getattr(xp, name)).parameters
    others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert others or set(re.findall(r"(\w+)=", call)) <= set(parameters), f"{place}: {call}"
