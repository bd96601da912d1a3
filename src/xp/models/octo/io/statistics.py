"""Statistics of each dataset that an Octo folder has them of."""

from collections.abc import Mapping


def by_name(statistics: Mapping[str, object]) -> dict[str, object]:
    """Statistics as a folder holds them: of one dataset flat, of a mixture's by name, which Octo's own code reads."""
    members = statistics.get("members")
    return dict(members) if isinstance(members, Mapping) else dict(statistics)


def by_dataset(statistics: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Statistics of each dataset: a file holds one dataset flat (then named ''), or several by name."""
    if "action" in statistics or not statistics:
        return {"": statistics}
    return {name: entry for name, entry in statistics.items() if isinstance(entry, Mapping)}
