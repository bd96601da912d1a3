"""`xp task=merge`: several checkpoints of one model become one, in their own format."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from xp import atomic
from xp.data.dumps import refuse_foreign_file
from xp.merging import Hooks, merge
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked

if TYPE_CHECKING:
    from xp.merging.objective import Objective
    from xp.merging.record import MergeRecord

OF_THE_OBJECTIVE = ("validation", "objective", "camera_map", "unnorm_key", "load_options")
"""Keys of the section that say how a search measures, for `xp.tasks._lib.objectives`."""
FINAL = "final"
"""Where a merged policy lies in its run's folder: the run then counts as a policy, like a training run."""


def run(run: Run) -> None:
    """Leaves the merged checkpoint (`merge.output`, or final/ of the run), merge.json beside it and summary.json."""
    config = run.config
    if config.merge.validation:
        refuse_foreign_file(Path(config.merge.validation))
    asked, method = _keywords(config.merge), _keywords(config.merge_method)
    checkpoints, output = asked.pop("checkpoints"), asked.pop("output")
    for name in OF_THE_OBJECTIVE:
        del asked[name]
    own = output is None
    merged = merge(
        checkpoints,
        method.pop("name"),
        output=run.folder / FINAL if own else Path(output),
        objective=lambda: _objective(run, checkpoints[0]),
        hooks=Hooks(progress=run.progress, log=run.log, stop=lambda: leave_if_asked(run)),
        seed=config.seed,
        **{**asked, "overwrite": asked["overwrite"] or own},
        **method,
    )
    if not own:
        atomic.write_json(run.folder / "merge.json", merged.record)
    run.write_summary(_summary(merged.path, merged.record))
    run.log(f"merged: {merged.path}")


def _keywords(section: DictConfig) -> dict[str, Any]:
    """A section as keyword arguments of `merge`, whose types the schema has checked."""
    content = OmegaConf.to_container(section, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _objective(run: Run, first: str) -> "Objective":
    """What to choose weights by, made only for the methods that ask for one."""
    from xp.tasks._lib.objectives import make_objective

    return make_objective(run.config, first)


def _summary(path: Path, record: "MergeRecord") -> dict[str, Any]:
    chosen = record["chosen"]
    return {
        "task": "merge",
        "method": record["method"],
        "checkpoints": [entry["path"] for entry in record["checkpoints"]],
        "weights": record["weights"],
        "loss": chosen["loss"] if chosen else None,
        "candidates": len(chosen["candidates"]) if chosen else 0,
        "output": str(path),
        "content": record["output"]["content"],
        "warnings": record["warnings"],
    }
