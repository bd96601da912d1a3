"""Statistics of each dataset that an Octo folder has them of."""

from collections.abc import Mapping


def by_dataset(statistics: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Statistics of each dataset: a file holds one dataset flat (then named ''), or several by name."""
    if "action" in statistics or not statistics:
        return {"": statistics}
    return {name: entry for name, entry in statistics.items() if isinstance(entry, Mapping)}
