"""Logs of numbers by step (`training_log.csv`, `validation_log.csv`) that survive kill -9 and can be cut back."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from xp.atomic import HasList, write_text

type Cell = None | bool | int | float | str
"""What a log holds in one place."""


def read_csv(path: str | Path) -> list[dict[str, Cell]]:
    """Rows of a log as dicts: integers, floats, None for an empty cell, text otherwise. No file: no rows.

    A last line without its newline was cut off by a kill, or is being written right now: it is left out.
    """
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return []
    rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    return [dict(zip(rows[0], map(_value, row))) for row in rows[1:]] if rows else []


def number_in(row: Mapping[str, Cell], column: str) -> float:
    """The number in a column of a row; NaN where there is none."""
    value = row.get(column)
    return float(value) if isinstance(value, int | float) else math.nan


class CsvLog:
    """Append rows to a CSV file, one unbuffered write per row, so that readers see whole rows.

    A `timestamp` (UTC, ISO 8601) closes each row. A row with a new column makes the file be rewritten with a wider
    header; a missing column is left empty.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._columns: list[str] | None = None

    def append(self, row: Mapping[str, object]) -> None:
        """Add one row; `step` is what `truncate_after` goes by."""
        row = {**row, "timestamp": row.get("timestamp") or datetime.now(UTC).isoformat(timespec="milliseconds")}
        if self._columns is None:
            self._open()
        new = [key for key in row if key not in (self._columns or [])]
        if new:
            self._widen(new)
        assert self._columns is not None
        with self.path.open("ab", buffering=0) as handle:
            handle.write(_line([row.get(column) for column in self._columns]).encode())

    def truncate_after(self, step: int) -> None:
        """Drop rows with a step beyond `step`: a resumed run writes them again."""
        if not self.path.exists():
            return
        self._open()
        kept = [row for row in read_csv(self.path) if not isinstance(at := row.get("step"), int | float) or at <= step]
        self._rewrite(kept)

    def rows(self) -> list[dict[str, Cell]]:
        """What the file holds now."""
        return read_csv(self.path)

    def _open(self) -> None:
        """Take over the columns of an existing file, and cut off a half-written last line."""
        if not self.path.exists():
            self._columns = []
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        self._columns = next(csv.reader(io.StringIO(whole.decode())), [])
        if whole != data:
            write_text(self.path, whole.decode())

    def _widen(self, new: list[str]) -> None:
        """Add columns, keeping `timestamp` the last."""
        rows = read_csv(self.path)
        columns = [*(self._columns or []), *new]
        self._columns = [column for column in columns if column != "timestamp"] + ["timestamp"]
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, Cell]]) -> None:
        assert self._columns is not None
        lines = [_line(self._columns)] + [_line([row.get(column) for column in self._columns]) for row in rows]
        write_text(self.path, "".join(lines))


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_cell(cell) for cell in cells])
    return text.getvalue()


def _cell(value: object) -> str:
    """Text of a value; numbers in full precision, so that reading gives the same number back."""
    if value is None:
        return ""
    value = value.tolist() if isinstance(value, HasList) else value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(cell: str) -> Cell:
    if cell == "":
        return None
    if cell in ("true", "false"):
        return cell == "true"
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
