"""Runs beside each other wherever they lie: the table, the figures, and what a fine-tuning gained on its base."""

import csv
import json

import pytest

from xp.errors import UserError
from xp.report.compare_runs import compare_runs
from xp.report.training_figures import draw_training
from xp.runs import RunFolder

PNG = b"\x89PNG"


def training(folder, mode, losses):
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"state": "done"}))
    config = {"task": {"name": "train"}, "model": {"name": "m", "chunk_mode": mode}, "horizon": {"train": 4}, "seed": 0}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "training_log.csv").write_text("step,epoch,loss,lr\n10,0,2.0,0.0\n20,1,1.0,0.001\n")
    heads = "step,epoch,val_loss,l1_error,direction_accuracy,gripper_accuracy,position_l1,rotation_l1\n"
    rows = [f"{10 * i},0,{loss},0.1,0.6,0.9,0.2,\n" for i, loss in enumerate(losses)]
    (folder / "validation_log.csv").write_text(heads + "".join(rows))
    return folder


def prediction(folder, l1, direction):
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"state": "done"}))
    config = {"task": {"name": "predict"}, "horizon": {"predict": 4}, "predict": {"checkpoint": "somewhere"}}
    (folder / "config.json").write_text(json.dumps(config))
    motion = {"l1_error": {"value": l1}, "direction_accuracy": {"value": direction, "majority": {"value": 0.55}}}
    (folder / "metrics.json").write_text(json.dumps({"num_windows": 30, "motion": motion}))
    return folder


def test_trainings_of_two_folders_are_a_table_and_a_figure(tmp_path):
    one, two = training(tmp_path / "x/one", "parallel", [3, 1, 2]), training(tmp_path / "y/two", "subsample", [3, 4])
    rows = compare_runs([str(one), str(two)], tmp_path / "out")
    assert [(row["run"], row["chunk_mode"], row["best_val_loss"], row["best_step"]) for row in rows] == [
        ("one", "parallel", 1, 10),
        ("two", "subsample", 3, 0),
    ]
    assert rows[0]["val_loss"] == 2 and "rotation_l1" not in rows[0]
    written = list(csv.DictReader((tmp_path / "out/comparison.csv").open()))
    assert [row["run"] for row in written] == ["one", "two"]
    assert (tmp_path / "out/comparison.png").read_bytes().startswith(PNG)
    drawn = {path.name for path in draw_training(RunFolder(one))}
    assert drawn == {"training_loss.png", "learning_rate.png", "validation_metrics.png", "loss_comparison.png"}
    assert all((one / "figures" / name).read_bytes().startswith(PNG) for name in drawn)


def test_a_fine_tuning_is_compared_with_its_base_in_the_published_form(tmp_path):
    base, tuned = prediction(tmp_path / "base", 0.4, 0.5), prediction(tmp_path / "tuned", 0.3, 0.7)
    rows = compare_runs([str(tuned)], tmp_path / "out", str(base))
    assert rows[0]["direction_accuracy_majority"] == 0.55
    found = json.loads((tmp_path / "out/evaluation_results.json").read_text())
    assert found["improvement"]["l1_error_reduction_pct"] == pytest.approx(25)
    assert found["improvement"]["direction_accuracy_change"] == pytest.approx(0.2)
    assert found["improvement"]["gripper_accuracy_change"] is None
    assert (found["num_samples"], found["base_model"]["l1_error"], found["chunk_size"]) == (30, 0.4, 4)


def test_what_cannot_be_compared_is_refused(tmp_path):
    one = training(tmp_path / "one", "parallel", [1])
    with pytest.raises(UserError, match="named once"):
        compare_runs([str(one), str(one)], tmp_path / "out")
    with pytest.raises(UserError, match=r"report\.base=.*task=predict"):
        compare_runs([str(one)], tmp_path / "out", str(prediction(tmp_path / "base", 0.4, 0.5)))
    with pytest.raises(UserError, match="no folder"):
        compare_runs([str(tmp_path / "none")], tmp_path / "out")
