"""Jobs found by the values they share with another stage's jobs, without looking at each pair of them."""

from collections.abc import Hashable, Mapping, Sequence

from xp.json_types import JSON


class Joinable[T]:
    """Jobs of one stage, each with its swept values, in their order."""

    def __init__(self) -> None:
        self.jobs: list[T] = []
        self.values: list[Mapping[str, JSON]] = []
        self._found: dict[tuple[frozenset[str], tuple[str, ...]], dict[Hashable, list[int]]] = {}
        self._by_keys: dict[frozenset[str], list[int]] = {}

    def add(self, job: T, values: Mapping[str, JSON]) -> None:
        """Append a job; its values are plain ones."""
        self._by_keys.setdefault(frozenset(values), []).append(len(self.jobs))
        self.jobs.append(job)
        self.values.append(values)
        self._found.clear()

    def fitting(self, values: Mapping[str, JSON]) -> list[T]:
        """The jobs that agree with `values` on every key that both have (a natural join)."""
        found: list[int] = []
        for keys, numbers in self._by_keys.items():
            shared = tuple(sorted(keys & values.keys()))
            if (keys, shared) not in self._found:
                index: dict[Hashable, list[int]] = {}
                for number in numbers:
                    index.setdefault(_key(self.values[number], shared), []).append(number)
                self._found[keys, shared] = index
            found += self._found[keys, shared].get(_key(values, shared), [])
        return [self.jobs[number] for number in sorted(found)]


def _key(values: Mapping[str, JSON], keys: tuple[str, ...]) -> tuple[Hashable, ...]:
    return tuple(_hashable(values[key]) for key in keys)


def _hashable(value: JSON) -> Hashable:
    """Equal for equal values, as `==` says; a value that differs from itself (nan) equals nothing."""
    if isinstance(value, Mapping):
        return ("mapping", frozenset((key, _hashable(inner)) for key, inner in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(_hashable, value))
    assert not isinstance(value, Sequence) or isinstance(value, str), "sequences of JSON are lists"
    return value if value == value else object()
