"""Reading an experiment: what is there, what is broken, in what order; never a crash over one damaged file."""

import pytest

from xp.errors import UserError
from xp.report.json_values import count, real, reals, section
from xp.report.read import natural_order


def entry(experiment, name):
    return next(run for run in experiment.runs if run.name == name)


def test_runs_are_read_with_their_states_horizons_and_logs(broken_experiment, read):
    experiment = read(broken_experiment)
    assert len(experiment.predictions) == 8
    assert entry(experiment, "train_h1_pred_h8").horizons == (1, 8)
    assert entry(experiment, "train_h8_pred_h4").standing == "failed"
    assert entry(experiment, "train_h8_pred_h4").problem == "ValueError: <b>truncated</b> & lost"
    assert len(entry(experiment, "horizon_4").training) == 400
    assert entry(experiment, "horizon_4").seconds == 125
    assert entry(experiment, "eval_h8").videos == ("eval_h8/videos/episode 1.mp4",)


def test_the_reports_own_run_is_not_part_of_the_report(broken_experiment, read):
    assert "report" not in [run.name for run in read(broken_experiment).runs]


def test_a_failed_prediction_knows_its_cell_from_its_configuration(broken_experiment, read):
    assert entry(read(broken_experiment), "train_h8_pred_h4").horizons == (8, 4)


@pytest.mark.parametrize("name", ["config.json", "record.json", "metrics.json"])
def test_a_damaged_file_marks_its_run_and_leaves_the_others(broken_experiment, read, name):
    (broken_experiment / "train_h1_pred_h1" / name).write_text('{"cut off')
    experiment = read(broken_experiment)
    damaged = entry(experiment, "train_h1_pred_h1")
    assert damaged.standing == "damaged"
    assert name in damaged.problem
    assert entry(experiment, "train_h1_pred_h4").standing == "done"


def test_names_sort_as_people_count():
    names = ["h16", "h4", "lr=1e-4", "lr=3e-5", "lr=0.1", "h1"]
    assert sorted(names, key=natural_order) == ["h1", "h4", "h16", "lr=3e-5", "lr=1e-4", "lr=0.1"]


def test_no_folder_and_a_folder_without_runs_are_answered_with_what_to_type(tmp_path, read):
    with pytest.raises(UserError, match="There is no folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty" / "notes").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no run.*python -m xp"):
        read(tmp_path / "empty")


def test_values_of_another_kind_count_as_missing():
    damaged = {"a": {"b": 1.5, "c": True, "d": "text", "e": [1, None, "x"]}, "f": [1]}
    assert section(damaged, "a", "b") == section(damaged, "f", "g") == section("text") == {}
    assert real(section(damaged, "a")["b"]) == 1.5 and count(section(damaged, "a")["b"]) is None
    assert real(True) is None and count(True) is None and count(3) == 3
    assert reals(section(damaged, "a")["e"]) == [1.0, None, None] and reals("text") == []
