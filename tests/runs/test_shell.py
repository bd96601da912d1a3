"""What xp prints for pasting is what a shell and Hydra read back."""

import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from xp.shell import command, override, quoted

PLACES = [
    "multirun/lr_sweep", "with space", "it's", 'say "so"', "a$HOME", "a`id`", "a,b", "a=b", "a;b", "a&b", "a*?[x]",
    "~x", "-x", "a\\", "a\\\\", 'a\\"', "a${b}", "a\\${b}", "1", "007", "1e5", "null", "true", "nan", "", " lead",
    "trail ", "a#b", "!x", "(x)", "{x}", "[x]", "sweep(1,2)", "ü/ñ", "a:b", "a|b", "a@b", "a\nb", "a\x1b[31mb",
    "$(touch x)", "choice(1,2)", "+a", "a\u202eb",
]  # fmt: skip


def read_back(line: str) -> list[str]:
    """The words that a shell makes of a pasted line."""
    script = f"set -- {line}\nfor word; do printf '%s\\0' \"$word\"; done"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def value_of(word: str):
    parsed = OverridesParser.create().parse_override(word)
    assert not parsed.is_sweep_override()
    return OmegaConf.create({"key": parsed.value()}).key


@pytest.mark.parametrize("place", PLACES)
def test_a_line_for_pasting_names_the_folder_it_is_about(place):
    """Folders with spaces, quotes, dollars, commas, equals signs; numbers and words of Hydra's grammar."""
    (word,) = read_back(override("status.folder", place))
    assert word.partition("=")[0] == "status.folder" and value_of(word) == place
    assert read_back(command("task=status", status__folder=place)) == ["xp", "task=status", word]


@settings(deadline=None, max_examples=150)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12))
def test_any_text_is_read_back_and_no_control_character_is_printed(text):
    line = override("key", text)
    if not line.startswith("$'"):
        (word,) = shlex.split(line)
        assert value_of(word) == text
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in line)


def test_lists_and_numbers_are_written_in_hydras_grammar():
    assert override("merge.checkpoints", ["a b", "c,d"]) == '\'merge.checkpoints=["a b","c,d"]\''
    assert override("seed", 3) == "seed=3" and override("x", None) == "x=null" and override("y", True) == "y=true"
    assert override("z", {"front": "top"}) == "'z={front:top}'" and quoted("plain") == "plain"
