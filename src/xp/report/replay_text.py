"""A replay's results as text of at most 80 columns: results.txt, and what the terminal shows."""

from collections.abc import Mapping, Sequence

from xp.metrics.replay import MODES
from xp.metrics.replay_summary import Mean, ReplayMetrics, ReplaySummary
from xp.report.numbers import interval, number

ROW_NAMES = {"policy": "policy", "hold_last": "hold-last", "demonstration": "recorded"}
LABEL, COLUMN = 20, 26


def replay_text(metrics: ReplayMetrics) -> str:
    """Each measure of policy, hold-last and demonstration in each mode; joints; and the spread over checkpoints."""
    parts = [_head(metrics)]
    for mode, rows in metrics["replay"].items():
        parts += [_measures(mode, rows, metrics), _joints(rows["policy"], metrics["joints"])]
    if len(metrics["checkpoints"]) > 1:
        parts.append(_checkpoints(metrics))
    return "\n\n".join(parts) + "\n"


def _head(metrics: ReplayMetrics) -> str:
    count = len(metrics["episodes"])
    return "\n".join(
        [
            f"Offline replay of {metrics['checkpoint']}",
            f"{count} episodes: {', '.join(map(str, metrics['episodes']))}",
            f"({metrics['held_out']})",
            f"{metrics['chunk_steps']} of {metrics['horizon']} actions a query, execution {metrics['execution']}; "
            f"prefix: {metrics['prefix_past']} past, {metrics['prefix_future']} committed",
            *_no_overlap(metrics),
            "Means over episodes [95% interval]. std: standard deviation in training.",
        ]
    )


def _no_overlap(metrics: ReplayMetrics) -> list[str]:
    """Blending that has nothing to blend: each chunk ends where the next begins."""
    if not metrics["execution"].startswith("blend") or metrics["chunk_steps"] < metrics["horizon"]:
        return []
    return [
        f"All {metrics['horizon']} actions of a chunk are executed before the next one, so chunks do",
        f"not overlap and {metrics['execution']} equals receding in every digit. To blend, type for",
        f"instance chunk_size.steps={max(1, metrics['horizon'] // 2)}",
    ]


def _measures(mode: str, rows: Mapping[str, ReplaySummary], metrics: ReplayMetrics) -> str:
    policy = rows["policy"]
    extra = f", delay {metrics['delay']} + 0..{metrics['jitter']} frames" if mode == "delayed" else ""
    lines = [f"{MODES[mode]}{extra}: {policy['boundaries']} boundaries"]
    if policy["unheard"]:
        lines[0] += f", {policy['unheard']} answers came after their end"
    lines.append((" " * LABEL + "".join(f"{name:{COLUMN}}" for name in ROW_NAMES.values())).rstrip())
    for key, measure in metrics["measures"].items():
        cells = "".join(f"{_cell(rows[row]['measures'][key], row):{COLUMN}}" for row in ROW_NAMES)
        lines.append(f"{measure['label']:{LABEL}}{cells}".rstrip())
        lines[-1] = lines[-1] if len(lines[-1]) <= 80 else _folded(measure["label"], rows, key)
    return "\n".join(lines)


def _cell(entry: Mean, row: str) -> str:
    if row == "demonstration" or entry["low"] is None:
        return number(entry["value"])
    return f"{number(entry['value'])} {interval(entry['low'], entry['high'])}"


def _folded(label: str, rows: Mapping[str, ReplaySummary], key: str) -> str:
    """Intervals on a line of their own."""
    entries = [rows[row]["measures"][key] for row in ROW_NAMES]
    values = "".join(f"{number(entry['value']):{COLUMN}}" for entry in entries)
    shown = [interval(entry["low"], entry["high"]) for entry in entries[:2]]
    ends = "".join(f"{text:{COLUMN}}" for text in shown)
    return f"{label:{LABEL}}{values}".rstrip() + "\n" + f"{'':{LABEL}}{ends}".rstrip()


def _joints(policy: ReplaySummary, names: list[str]) -> str:
    error, ratio = policy["per_joint"]["l1"], policy["per_joint"]["u_a_ratio"]
    lines = [f"{'policy, by joint':{LABEL}}{'tracking error (unit)':{COLUMN + 4}}U_a over the demonstration's"]
    for index, name in enumerate(names):
        cells = [
            f"{number(each['value'][index])} {interval(_at(each['low'], index), _at(each['high'], index))}"
            for each in (error, ratio)
        ]
        lines.append(f"  {name:18}{cells[0]:{COLUMN + 4}}{cells[1]}")
    return "\n".join(lines)


def _checkpoints(metrics: ReplayMetrics) -> str:
    """Every checkpoint's value of the measures that differ most between neighbours."""
    lines = ["Spread over checkpoints: " + ", ".join(metrics["checkpoints"])]
    for mode in metrics["replay"]:
        lines.append(MODES[mode])
        for key in ("l1", "boundary_jump", "velocity_jump", "u_a_ratio", "u_a", "boundary_spike"):
            values = [number(found[mode][key]) for found in metrics["checkpoints"].values()]
            sd = metrics["spread"][mode][key]["sd"]
            lines.append(f"  {metrics['measures'][key]['label']:20}{', '.join(values)} (sd {number(sd)})")
    return "\n".join(lines)


def _at(values: Sequence[float | None] | None, index: int) -> float | None:
    return None if values is None else values[index]
