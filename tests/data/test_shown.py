"""What a notebook shows, and what is said to a name of the Hub."""

import pytest
from data_odd import with_video, write_odd

from xp.data import open_dataset
from xp.data.lerobot.facts import hub_hint
from xp.errors import UserError


def test_a_dataset_is_shown_with_a_line_for_each_key(tmp_path):
    lines = str(open_dataset(with_video(tmp_path / "d", [i / 10 for i in range(7)]))).splitlines()
    assert lines[0] == "Dataset"
    keys = [line.split()[0] for line in lines[1:]]
    assert keys == ["root", "episodes", "cameras", "action", "state", "tasks", "robot"]
    assert "2 of 7 frames at 10 per second" in lines[2] and "top 32x32 (video)" in lines[3]
    assert "(7, 3) float32: action_0, action_1, action_2" in lines[4]


def test_a_dataset_of_many_dimensions_and_tasks_is_shown_in_short_lines(tmp_path):
    feature = {"dtype": "float32", "shape": [300], "names": [f"joint {i}\x1b[2J" for i in range(300)]}
    root = write_odd(tmp_path / "d", action=[[0.0] * 300] * 7, action_feature=feature)
    shown = str(open_dataset(root))
    assert max(map(len, shown.splitlines())) < 500 and "(300 in all)" in shown and "\x1b" not in shown


def test_a_name_of_the_hub_is_answered_with_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_LEROBOT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="type data.root=hf://lerobot/pusht") as caught:
        open_dataset("lerobot/pusht")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["lerobot/lerobot/pusht", "lerobot/hub/datasets--lerobot--pusht/snapshots/abc"])
def test_a_copy_of_a_dataset_of_the_hub_on_this_machine_is_named(tmp_path, monkeypatch, place):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_LEROBOT_HOME", raising=False)
    write_odd(tmp_path / place)
    assert hub_hint("lerobot/pusht").endswith(f"data.root={tmp_path / place}")
    assert open_dataset(tmp_path / place).num_frames == 7


@pytest.mark.parametrize("given", ["pusht", "/data/pusht", "./data/pusht", "a/b/c", "../a/b", "data/"])
def test_other_paths_are_no_names_of_the_hub(given):
    assert hub_hint(given) == ""
