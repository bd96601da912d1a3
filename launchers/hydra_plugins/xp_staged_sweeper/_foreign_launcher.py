"""With a launcher that is not ours: stage by stage through `Launcher.launch`, which blocks until results are there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_plugins.xp_staged_sweeper._experiment import PlannedJob
from xp.config.override_text import text
from xp.runs.executors.protocol import JobState
from xp.runs.records.folder import RECORD
from xp.runs.records.record import Record, State

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher


def launch(launcher: "Launcher", jobs: Sequence[PlannedJob]) -> dict[Path, JobState]:
    """Run frozen jobs through a stock launcher; each lands in its own folder, where it finds itself frozen."""
    states: dict[Path, JobState] = {}
    number = 0
    for stage in dict.fromkeys((planned.job.experiment, planned.stage.key) for planned in jobs):
        batch = [planned for planned in jobs if (planned.job.experiment, planned.stage.key) == stage]
        ready = [planned for planned in batch if _fed(planned, states)]
        states |= {planned.job.folder: JobState.BLOCKED for planned in batch if planned not in ready}
        if ready:
            launcher.launch([_overrides(planned) for planned in ready], initial_job_idx=number)
            number += len(ready)
        states |= {planned.job.folder: _state(planned.job.folder) for planned in ready}
    return states


def _fed(planned: PlannedJob, states: dict[Path, JobState]) -> bool:
    needs = [states[need.job.folder] for need in planned.needs if need.job.folder in states]
    return planned.job.always or all(state is JobState.DONE for state in needs)


def _overrides(planned: PlannedJob) -> list[str]:
    folder = planned.job.folder
    where = [f"hydra.sweep.dir={text(str(folder.parent))}", f"hydra.sweep.subdir={text(folder.name)}"]
    return [*planned.job.overrides, *where]


def _state(folder: Path) -> JobState:
    state = Record(folder / RECORD).state
    if state is State.DONE:
        return JobState.DONE
    return JobState.FAILED if state is State.FAILED else JobState.INTERRUPTED
