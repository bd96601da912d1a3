"""The table and the sentences about merged policies: every measure with n, interval and what it is compared with."""

from collections.abc import Iterator

from xp.metrics.intervals import PairedDifference
from xp.report.estimates import BASELINES, Estimate, format_estimate
from xp.report.findings import Finding
from xp.report.numbers import enumeration, interval, number, percent
from xp.report.policies import ERROR, LOSS, MERGE, RATE, REFERENCE, SINGLE, EvaluatedPolicy, Policies
from xp.report.results import SuccessRate
from xp.report.tables import Table

KINDS = {SINGLE: "trained on a part", MERGE: "merged", REFERENCE: "reference"}


def policy_table(policies: Policies) -> Table:
    """A row per policy: loss, MAE, success, the paired differences from the best single, the merge's weights."""
    best = policies.best_single
    heads = ("policy", "kind", "loss", "MAE", "success", "n", "MAE − best single", "success − best single", "weights")
    rows: list[tuple[str, ...]] = [
        (
            member.name + (" (best single)" if member is best else ""),
            KINDS[member.kind],
            format_estimate(member.loss),
            format_estimate(member.error),
            _rate(member.success),
            _count(member),
            _difference(policies, member, ERROR),
            _difference(policies, member, RATE),
            weights_text(member),
        )
        for member in policies.members
    ]
    dashes = ("–",) * 3
    for name, estimate in policies.baselines.items():
        rows.append((BASELINES[name], "baseline", "–", format_estimate(estimate), "–", _episodes(estimate), *dashes))
    if policies.idle:
        idle = policies.idle
        rows.append(("doing nothing", "baseline", "–", "–", _rate(idle), f"{idle.episodes} states", *dashes))
    return Table(title="Merged policies", heads=heads, rows=tuple(rows), note=note(policies))


def note(policies: Policies) -> str:
    """How the numbers of the table came about."""
    best = policies.best_single
    chosen = f" The best single, {best.name}, is the one with the lowest validation loss." if best else ""
    return (
        "Loss (the training objective) and MAE (normalised units) on test episodes that neither training nor the "
        "choice of weights has seen; 95% intervals over episodes, Wilson intervals for success. Differences are "
        f"paired: same episodes, same initial states.{chosen} Each interval stands for itself: where nothing differs, "
        "one comparison in twenty would still seem to."
    )


def policy_findings(policies: Policies) -> Iterator[Finding]:
    """Which merges differ from the best single and from the reference, and which cannot be told from them."""
    merges = policies.of(MERGE)
    best = policies.best_single
    rivals = ([(best, f"the best single ({best.name})")] if best else []) + [
        (member, f"{member.name}, which saw all the data") for member in policies.of(REFERENCE)
    ]
    for rival, who in rivals:
        for measure, what in ((LOSS, "loss"), (ERROR, "MAE"), (RATE, "success")):
            yield from _compared(policies, merges, measure, what, rival, who)


def _compared(
    policies: Policies, merges: list[EvaluatedPolicy], measure: str, what: str, rival: EvaluatedPolicy, who: str
) -> Iterator[Finding]:
    verdicts: dict[str, list[EvaluatedPolicy]] = {}
    for merge in merges:
        verdicts.setdefault(policies.verdict(merge, measure, rival), []).append(merge)
    verdicts.pop("–", None)
    if not verdicts:
        return
    parts = []
    for verdict in ("better", "worse", "not distinguishable"):
        if verdict in verdicts:
            names = enumeration([_bare(member) for member in verdicts[verdict]])
            parts.append(f"{verdict}: {names}")
    tone = "good" if "better" in verdicts else "bad" if set(verdicts) == {"worse"} else "neutral"
    yield Finding(
        f"Merges against {who}, {what}: {'; '.join(parts)}{_largest(policies, verdicts, measure, rival)}.", tone
    )


def _largest(
    policies: Policies, verdicts: dict[str, list[EvaluatedPolicy]], measure: str, rival: EvaluatedPolicy
) -> str:
    """The paired difference of the best of the better ones, with its interval and n."""
    if "better" not in verdicts:
        return ""
    found = {member.name: policies.difference(member, measure, rival) for member in verdicts["better"]}
    known = {name: entry for name, entry in found.items() if entry}
    name = min(known, key=lambda name: known[name]["value"])
    entry = known[name]
    value, low, high = _as_success(entry) if measure == RATE else (entry["value"], entry["low"], entry["high"])
    return f" (largest: {name.removeprefix('merge_')} {number(value)} {interval(low, high)}, n = {entry['n_episodes']})"


def _as_success(entry: PairedDifference) -> tuple[float, float | None, float | None]:
    """A difference of failure rates as one of success rates: value, low, high."""
    low, high = entry["low"], entry["high"]
    return -entry["value"], None if high is None else -high, None if low is None else -low


def _bare(member: EvaluatedPolicy) -> str:
    return member.name.removeprefix("merge_")


def weights_text(member: EvaluatedPolicy) -> str:
    """`0.25 0.25 0.25 0.25`, or a dash where there is not one weight per checkpoint."""
    return " ".join(f"{weight:.2f}" for weight in member.weights) if member.weights else "–"


def _difference(policies: Policies, member: EvaluatedPolicy, measure: str) -> str:
    found = policies.difference(member, measure)
    if found is None or found["low"] is None:
        return "–"
    value, low, high = _as_success(found) if measure == RATE else (found["value"], found["low"], found["high"])
    return f"{number(value)} {interval(low, high)} · {policies.verdict(member, measure)}"


def _rate(score: SuccessRate | None) -> str:
    if score is None:
        return "–"
    return f"{score.successes}/{score.episodes} = {percent(score.rate)} [{percent(score.low)}, {percent(score.high)}]"


def _count(member: EvaluatedPolicy) -> str:
    parts = [_episodes(member.error) if member.error else ""]
    parts.append(f"{member.success.episodes} states" if member.success else "")
    return ", ".join(part for part in parts if part) or "–"


def _episodes(estimate: Estimate) -> str:
    return f"{estimate.episodes} episodes"
