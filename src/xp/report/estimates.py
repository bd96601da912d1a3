"""A measured value with its interval and the amount of data behind it, read from metrics.json, and as text."""

from dataclasses import dataclass

from xp.json_types import JSON, JSONObject
from xp.report.json_values import count, real, section
from xp.report.numbers import interval, number

BASELINES = {"zero": "zero action", "mean": "mean action", "hold_last": "hold-last"}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with the interval and the amount of data behind it. With several runs: their mean and range."""

    value: float
    low: float | None = None
    high: float | None = None
    episodes: int | None = None
    windows: int | None = None
    runs: int = 1


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Where a metric stands in metrics.json and what to call it. Lower is better for all of them."""

    key: str
    label: str
    unit: str
    path: tuple[str, ...]

    def of(self, metrics: JSON) -> Estimate | None:
        """The estimate in one metrics.json (or one baseline's entry of it); None where it is absent."""
        holder = section(metrics, *self.path[:-1])
        value, ends = real(holder.get(self.path[-1])), section(holder, f"{self.path[-1]}_interval")
        if value is None:
            return None
        return estimate_from(value, ends, section(metrics))


MAE = Metric(key="mae", label="Mean absolute error", unit="normalised units", path=("mae",))
MSE = Metric(key="mse", label="Mean squared error", unit="normalised units squared", path=("mse",))
MAE_DATASET = Metric(
    key="mae_dataset_units", label="Mean absolute error", unit="dataset units", path=("dataset_units", "mae")
)
NLL = Metric(key="nll", label="Negative log-likelihood", unit="nats per step, normalised units", path=("nll",))
METRICS = (MAE, MSE, MAE_DATASET, NLL)


def estimate_from(value: float, ends: JSONObject, counts: JSONObject) -> Estimate:
    """A value with its `*_interval` entry; `counts` has the numbers of episodes and windows where `ends` has none."""
    return Estimate(
        value=value,
        low=real(ends.get("low")),
        high=real(ends.get("high")),
        episodes=count(ends.get("n_episodes", counts.get("num_trajectories"))),
        windows=count(ends.get("n_windows", counts.get("num_windows"))),
    )


def format_estimate(estimate: Estimate | None) -> str:
    """`0.123 [0.110, 0.134]`; a dash for nothing."""
    return "–" if estimate is None else f"{number(estimate.value)} {interval(estimate.low, estimate.high)}"


def with_n(estimate: Estimate) -> str:
    """How much data stands behind a value: `12 episodes, 480 windows`, and how many runs if several."""
    parts = [
        f"{estimate.episodes} episodes" if estimate.episodes else "",
        f"{estimate.windows} windows" if estimate.windows else "",
    ]
    parts.append(f"range of {estimate.runs} runs" if estimate.runs > 1 else "")
    return ", ".join(part for part in parts if part)
