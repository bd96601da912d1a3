"""`xp task=gc`: list what experiments have left on other machines; gc.remove=true removes what is finished."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from xp.errors import UserError, human_size
from xp.runs import RunFolder
from xp.runs.executors.controller_health import launcher_of
from xp.runs.executors.submitted import LAUNCHER, ForeignLauncher
from xp.runs.records.folder import RECORD
from xp.runs.records.record import State

OPEN = (State.PENDING, State.RUNNING)


@dataclass(frozen=True, eq=False)
class Remote:
    """A thing that lies on a host, or (`kind` is fault) a host that could not be asked, and why."""

    kind: str
    """experiment, data, environment, or fault."""
    host: str
    path: str
    bytes: int
    what: str
    """In words; of a fault the error."""
    removable: bool
    remove: Callable[[], int]
    """Removes it; returns the bytes it took."""


def show(config: DictConfig) -> int:
    """List what lies on the hosts of the experiments' launchers; removes only finished experiments, only if told to."""
    experiments = _experiments(config)
    console = Console()
    if not experiments:
        console.print("No experiment here has run on other machines.")
        return 0
    found = each_once([item for experiment in experiments for item in _surveyed(experiment, config)])
    if not found:
        console.print("Nothing lies on other machines.")
        return 0
    things = [item for item in found if item.kind != "fault"]
    if things:
        console.print(gc_table(things))
    for item in found:
        if item.kind == "fault":
            console.print(item.what, markup=False, highlight=False, soft_wrap=True)
    removable = [item for item in found if item.removable]
    if not config.gc.remove:
        if removable:
            console.print(
                f"{human_size(sum(item.bytes for item in removable))} can go: the same command with gc.remove=true"
            )
        return 0
    return _remove(removable, console)


def _surveyed(experiment: Path, config: DictConfig) -> list[Remote]:
    """`survey`; among several experiments, one whose hosts are not this user's to ask is a line and stops nothing."""
    try:
        return survey(experiment, data=config.gc.data)
    except ForeignLauncher as error:
        if config.gc.folder is not None:
            raise
        return [_fault("", str(error))]


def _remove(removable: list[Remote], console: Console) -> int:
    """Remove each, saying what stays and why. Exit code 1 if anything did."""
    freed, hosts, stays = 0, set(), False
    for item in removable:
        try:
            freed += item.remove()
            hosts.add(item.host)
        except UserError as error:
            stays = True
            console.print(f"{item.path} at {item.host} stays: {error}", markup=False, soft_wrap=True)
    console.print(f"{human_size(freed)} removed from {len(hosts)} host{'s' * (len(hosts) != 1)}")
    return int(stays)


def survey(experiment: Path, *, data: bool) -> list[Remote]:
    """What lies on the hosts of an experiment's launcher, and whether it may go; `data`: sent data may go too."""
    executor = launcher_of(experiment)
    if executor is None:
        return []
    done = finished(experiment)
    found = []
    for item in executor.survey(experiment):
        if item["kind"] == "fault":
            found.append(_fault(item["host"], item.get("line", "")))
            continue
        mine = item["path"] == str(experiment)
        wanted = mine or (item["kind"] in ("data", "environment") and data)
        found.append(
            Remote(
                kind=item["kind"],
                host=item["host"],
                path=item["path"],
                bytes=item["bytes"],
                what="at work" if item["running"] else _what(item["kind"], mine, done),
                removable=not item["running"] and done and wanted,
                remove=item["remove"],
            )
        )
    return found


def _fault(host: str, line: str) -> Remote:
    return Remote(kind="fault", host=host, path="", bytes=0, what=line, removable=False, remove=lambda: 0)


def each_once(found: list[Remote]) -> list[Remote]:
    """Experiments see one another's things on a host they share: one entry of each is kept, one that may go if any."""
    kept: dict[tuple[str, str, str], Remote] = {}
    for item in sorted(found, key=lambda item: not item.removable):
        kept.setdefault((item.host, item.kind, item.path or item.what), item)
    return [item for item in found if any(item is each for each in kept.values())]


def finished(experiment: Path) -> bool:
    """Whether all runs of an experiment have ended and their results are here."""
    states = [RunFolder(path.parent).record().state for path in experiment.glob(f"*/{RECORD}")]
    return bool(states) and not any(state in OPEN for state in states)


def gc_table(found: list[Remote]) -> Table:
    """Host, path, size, what it is."""
    table = Table(title="On other machines", title_justify="left", title_style="bold")
    for column in ("host", "path", "size", "what"):
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    for item in found:
        table.add_row(item.host, item.path, human_size(item.bytes), item.what)
    return table


def _what(kind: str, mine: bool, done: bool) -> str:
    if kind == "data":
        return "data that was sent"
    if kind == "environment":
        return "the jobs' environment"
    if not mine:
        return "another experiment"
    return "finished: its results are here" if done else "not finished"


def _experiments(config: DictConfig) -> list[Path]:
    if config.gc.folder is not None:
        folder = Path(config.gc.folder).absolute()
        if not (folder / LAUNCHER).is_file():
            raise UserError(
                f"gc.folder={config.gc.folder}: this is no experiment that was handed to other machines (it has no "
                f"{LAUNCHER}). Give its folder, such as multirun/multi_horizon, or leave gc.folder out."
            )
        return [folder]
    return sorted(path.parent.absolute() for path in Path(config.paths.multirun).glob(f"*/{LAUNCHER}"))
