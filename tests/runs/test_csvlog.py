import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xp.runs import CsvLog, read_csv


def test_numbers_come_back_exactly(tmp_path):
    log = CsvLog(tmp_path / "log.csv")
    log.append({"step": 1, "loss": 0.1 + 0.2, "lr": np.float32(1e-4), "note": 'a,b\n"c"', "good": True, "none": None})
    (row,) = read_csv(tmp_path / "log.csv")
    assert row["loss"] == 0.1 + 0.2 and row["lr"] == float(np.float32(1e-4)) and row["step"] == 1
    assert row["note"] == 'a,b\n"c"' and row["good"] is True and row["none"] is None
    assert list(row)[-1] == "timestamp"


def test_nan_is_written_and_read_as_nan(tmp_path):
    CsvLog(tmp_path / "log.csv").append({"step": 1, "loss": float("nan")})
    assert math.isnan(read_csv(tmp_path / "log.csv")[0]["loss"])


def test_no_file_has_no_rows(tmp_path):
    assert read_csv(tmp_path / "none.csv") == []


def test_a_new_column_widens_the_file_and_a_missing_one_stays_empty(tmp_path):
    log = CsvLog(tmp_path / "log.csv")
    log.append({"step": 1, "loss": 2.0})
    log.append({"step": 2, "extra": 5})
    first, second = log.rows()
    assert first["extra"] is None and second["loss"] is None and second["extra"] == 5
    assert list(first) == ["step", "loss", "extra", "timestamp"]


def test_a_line_cut_by_a_kill_is_not_read_and_is_cut_off_before_going_on(tmp_path):
    log = CsvLog(tmp_path / "log.csv")
    log.append({"step": 1, "loss": 2.0})
    with log.path.open("a") as handle:
        handle.write("2,1.9")
    assert [row["step"] for row in read_csv(log.path)] == [1]
    CsvLog(log.path).append({"step": 2, "loss": 1.8})
    assert [(row["step"], row["loss"]) for row in read_csv(log.path)] == [(1, 2.0), (2, 1.8)]


def test_truncating_drops_what_a_resumed_run_writes_again(tmp_path):
    for step in range(1, 6):
        CsvLog(tmp_path / "log.csv").append({"step": step, "loss": step / 7})
    log = CsvLog(tmp_path / "log.csv")
    log.truncate_after(3)
    log.append({"step": 4, "loss": 9.0})
    assert [(row["step"], row["loss"]) for row in log.rows()] == [(1, 1 / 7), (2, 2 / 7), (3, 3 / 7), (4, 9.0)]
    CsvLog(tmp_path / "missing.csv").truncate_after(3)
    assert not (tmp_path / "missing.csv").exists()


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False) | st.integers()), min_size=1))
def test_any_rows_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    for row in rows:
        CsvLog(path).append(row)
    found = read_csv(path)
    assert [{key: got[key] for key in row} for row, got in zip(rows, found, strict=True)] == rows
