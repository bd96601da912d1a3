"""FOLDER@STEP: what counts as a step, and what is part of a name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.checkpoints.reference import CheckpointRef, _expanded, missing_reference


@pytest.mark.parametrize(
    ("text", "path", "step"),
    [
        ("outputs/run", "outputs/run", None),
        ("outputs/run@200", "outputs/run", 200),
        ("me@nas/run", "me@nas/run", None),
        ("me@nas/run@5", "me@nas/run", 5),
        ("run@best", "run@best", None),
        ("run@", "run@", None),
        ("@5", "@5", None),
        ("a@1@2", "a@1", 2),
        ("run@1e3", "run@1e3", None),
        ("~nobody-by-this-name/run@5", "~nobody-by-this-name/run", 5),
    ],
)
def test_a_step_is_a_number_behind_the_last_at(text, path, step):
    assert CheckpointRef.parse(text) == CheckpointRef(Path(path), step)


def test_a_folder_of_that_very_name_is_no_step(tmp_path):
    (tmp_path / "run@200").mkdir()
    assert CheckpointRef.parse(tmp_path / "run@200") == CheckpointRef(tmp_path / "run@200", None)


@given(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=60))
def test_every_text_is_read_and_written_back(text):
    reference = CheckpointRef.parse(text)
    if reference.step is not None:
        assert str(_expanded(text)).rpartition("@")[0] == str(reference.path)
    else:
        assert reference.path == _expanded(text)


def test_a_step_that_is_no_number_is_named(tmp_path):
    assert "'best' is no step" in missing_reference(f"{tmp_path}@best")
    assert missing_reference("nowhere@best") == "no such folder"
