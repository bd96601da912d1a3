"""The report's table of trainings on several datasets: asked and realised shares, and the validation of each."""

from xp.report.json_values import count, is_number, real, section
from xp.report.numbers import number
from xp.report.read import Experiment
from xp.report.results import last_values
from xp.report.tables import Table

_NOTE = (
    "Shares are of the samples of all training batches. Losses are those of the last validation, each of a dataset's "
    "own held-out windows; L1 errors are in the dataset's units."
)
_HEADS = ("run", "dataset", "asked", "realised", "samples", "episodes", "held out", "val_loss", "L1 error")


def mixture_table(experiment: Experiment) -> Table | None:
    """Each dataset of each training on a mixture; None where there is no such training."""
    rows: list[tuple[str, ...]] = []
    for run in experiment.trainings:
        last = last_values(run)
        for name, member in section(run.summary, "data", "members").items():
            share = section(member, "share")
            values = (last.get(f"{name}/{key}") for key in ("val_loss", "l1_error"))
            rows.append((
                run.name,
                name,
                _percent(real(share.get("asked"))),
                _percent(real(share.get("realised"))),
                _count(count(share.get("samples"))),
                _count(count(section(member).get("train_episodes"))),
                _count(count(section(member).get("held_out_episodes"))),
                *(number(float(value)) if is_number(value) else "–" for value in values),
            ))  # fmt: skip
    if not rows:
        return None
    numeric = frozenset(range(2, len(_HEADS)))
    return Table(title="Datasets of the mixtures", heads=_HEADS, rows=tuple(rows), note=_NOTE, numeric=numeric)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)
