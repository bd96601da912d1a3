"""docs/migration.md has a row for every flag of every script it replaces, and its overrides compose."""

import re
import shlex

import pytest
from documents import CHECKOUT, flag_tables
from old_flags import FLAGS, LINES
from substitutions import substituted

from xp.config import check, compose
from xp.config.shorthand import expand_shorthand

PAGE = CHECKOUT / "docs/migration.md"
TABLES = flag_tables(PAGE)


@pytest.mark.parametrize("script", FLAGS)
def test_every_flag_of_a_script_has_a_row_and_no_other_has(script):
    assert set(TABLES[script]) == {f"--{flag}" for flag in FLAGS[script].split()}


def test_every_table_is_of_a_known_script():
    assert set(TABLES) == set(FLAGS)


@pytest.mark.parametrize("line", LINES)
def test_lines_around_the_scripts_are_in_the_table_of_environments(line):
    table = PAGE.read_text().split("## Environments")[1].split("\n## ")[0]
    assert re.search(rf"^\| `[^|]*{re.escape(line)}", table, re.M)


def test_every_row_says_an_override_or_that_none_is_needed_or_what_it_comes_with():
    families = ("OpenVLA", "pi0", "Vintix")
    for script, rows in TABLES.items():
        for flag, became in rows.items():
            later = re.search(r"comes with model family (\w+)", became)
            assert later is None or later[1] in families, f"{script} {flag}"
            assert later or became.startswith("none") or re.search(r"`'?[\w.]+=", became), f"{script} {flag}"


def overrides():
    """Every override that a row of the tables gives, with its script and flag."""
    for script, rows in TABLES.items():
        for flag, became in rows.items():
            for span in re.findall(r"`([^`]*)`", became):
                words = shlex.split(span.removeprefix("xp "))
                # `CUDA_VISIBLE_DEVICES=0` is the shell's; `resources.tags` and other names of keys have no value
                if words and all(re.match(r"[+a-z][\w./]*=.", word) for word in words):
                    yield pytest.param(script, words, id=f"{script} {flag} {span}")


@pytest.mark.parametrize(("script", "words"), list(overrides()))
def test_an_override_of_the_tables_composes(script, words, tmp_path):
    model = {"lerobot-train": "act_smooth", "eval_offline_replay.py": "act_smooth"}.get(script, "octo_tiny")
    base = [] if any(word.startswith("model=") for word in words) else [f"model={model}"]
    if script == "eval_offline_replay.py":
        base += ["eval=offline_replay"]
    if script.startswith("arithmetic") and not any(word.startswith("merge_method=") for word in words):
        base += ["merge_method=gradient_descent"]
    if any(word.startswith("loop.") for word in words):
        base += ["loop=as_published"]  # what the script does
    if script == "save_vintix.py" and any(word.startswith("eval.") for word in words):
        base += ["eval=returns"]
    if any(word.startswith("experiment.") for word in words):
        base += ["+experiment=multi_horizon"]
    given = [word for word in substituted(words, tmp_path) if not word.startswith("hydra.")]
    single = [re.sub(r"(=[\w.]+)(,[\w.]+)+$", r"\1", word) for word in given]  # of a sweep, its first value
    check(compose(expand_shorthand([*base, *single])), complete=False)
