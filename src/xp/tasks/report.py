"""`xp task=report`: tables, figures and one HTML page of the runs in a folder."""

from pathlib import Path

from omegaconf import DictConfig

from xp.errors import UserError
from xp.json_types import JSON, JSONObject
from xp.runs import Run, find_runs

PAGE = "report.html"


def run(run: Run) -> None:
    """Report on the experiment that this run is a job of, or compare the runs that `report.runs` names."""
    if run.config.report.runs:
        run.write_summary({"task": "report", "runs": compare(run.config, run.folder)})
        return
    given = run.config.report.folder
    run.write_summary({"task": "report", **make_report(Path(given) if given else run.folder.parent)})


def show(config: DictConfig) -> int:
    """Report on `report.folder`; returns the exit code."""
    if config.report.runs:
        compare(config, Path(config.report.output or Path(config.paths.outputs) / "comparison"))
        return 0
    if config.report.folder is None:
        raise UserError(
            "report.folder is not given: which runs? For instance: report.folder=multirun/multi_horizon, or some "
            "runs wherever they lie: report.runs=[RUN,RUN]"
        )
    make_report(Path(config.report.folder))
    return 0


def compare(config: DictConfig, output: Path) -> int:
    """Compare the runs of `report.runs` and print the table; gives their number."""
    from rich.console import Console
    from rich.table import Table

    from xp.report.compare_runs import compare_runs

    rows = compare_runs([str(path) for path in config.report.runs], output, config.report.base)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_shown(row.get(name)) for name in columns))
    console = Console()
    console.print(table)
    console.print(f"Comparison: {output}", markup=False, highlight=False, soft_wrap=True)
    return len(rows)


def _shown(value: JSON) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def make_report(folder: Path) -> JSONObject:
    """Write report.html, summary.json (a list), summary.csv and figures/ into `folder`, and print its table."""
    from xp.report import write_report

    if not folder.is_dir():
        raise UserError(f"report.folder={folder}: no such folder. Give an experiment, a sweep or a run folder.")
    page = write_report(folder)
    print_results(folder)
    return {"folder": str(folder), "page": str(page), "runs": len(list(find_runs(folder)))}


def show_results(folder: Path) -> None:
    """Print the table of an experiment that has been reported on, and where its page is."""
    if (folder / PAGE).is_file():
        print_results(folder)


def print_results(folder: Path) -> None:
    """The table, and the path of the page as the last line."""
    from rich.console import Console

    from xp.report import terminal_table

    console = Console()
    console.print(terminal_table(folder))
    console.print(f"Report: {folder / PAGE}", markup=False, highlight=False, soft_wrap=True)
