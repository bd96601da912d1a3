"""Jobs that differ from a composed one in plain values only: those are put in its place, and what depends on them.

A sweep's jobs are mostly alike: the same choices of groups, the same keys set, other numbers. The first such job is
composed by Hydra's own functions and resolved by OmegaConf; of the others only the leaves that can differ are touched:
the swept values, and the interpolations that (transitively) read one of them or whose resolver may read anything. An
interpolation is resolved by OmegaConf itself, in a configuration that holds the job's values. What cannot be told this
way is composed in full (`NotAlikeError`). A property test compares both ways.

Nested values of the resolved configurations are shared between jobs, so nobody may change them in place.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import AnyNode, Container, DictConfig, ListConfig, OmegaConf

from xp.json_types import JSON

Path = tuple[str | int, ...]
Scalar = int | float | bool | str | None
_REFERENCE = re.compile(r"\$\{\s*(?:(?P<resolver>[A-Za-z_][\w.]*)\s*:|(?P<node>[\w.\[\]]+)\s*\})")


class NotAlikeError(Exception):
    """The job cannot be told from the composed one by its values alone: compose it in full."""


class Template:
    """A composed configuration whose `keys` may take other plain values.

    Args:
        config: composed, unresolved; changed in place by every use, so it must belong to the template.
        keys: dotted keys that hold plain values in it.
        pure: {resolver that reads nothing but its arguments: further keys that it reads}.
        named: the same with further sections; shown with the job's values too.

    Raises:
        NotAlikeError: a key holds something else, or is part of a typed configuration.
    """

    def __init__(self, config: DictConfig, keys: Sequence[str], pure: Mapping[str, tuple[str, ...]], named: DictConfig):
        self.config, self.named = config, named
        self._paths: list[Path] = [tuple(key.split(".")) for key in keys]
        self._slots = [[_slot(each, path) for each in (config, named)] for path in self._paths]
        raw: Any = OmegaConf.to_container(config, resolve=False)
        texts = {path: text for path, text in _leaves(raw) if "${" in text}
        self._open = [(path, *_parent(config, path)) for path in _touched(texts, self._paths, pure)]
        self._resolved: dict[str, JSON] | None = None

    def take(self, values: Sequence[Scalar]) -> None:
        """Put a job's values into the configurations."""
        for slots, value in zip(self._slots, values):
            for slot in slots:
                slot._set_value(value)

    @property
    def changing(self) -> list[str]:
        """Dotted keys whose values, as they resolve, may differ between the jobs."""
        return [_dotted(path) for path in self._paths] + [_dotted(path) for path, *_ in self._open]

    def resolved(self, values: Sequence[Scalar]) -> dict[str, JSON]:
        """The plain resolved configuration with these values, which `take` was given."""
        if self._resolved is None:
            self._resolved = _resolve(self.config)
            return self._resolved
        changes: list[tuple[Path, JSON]] = list(zip(self._paths, values))
        for path, parent, last in self._open:
            changes.append((path, _resolved_leaf(parent, last)))
        return patched(self._resolved, changes)


def _resolve(config: DictConfig) -> dict[str, JSON]:
    content: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return content


def patched(root: Mapping[str, JSON], changes: Iterable[tuple[Path, JSON]]) -> dict[str, JSON]:
    """A nested structure with other leaves; what is beside the changed paths is shared with `root`."""
    new = dict(root)
    own: dict[Path, Any] = {(): new}
    for path, value in changes:
        node: Any = new
        for depth in range(1, len(path)):
            here = path[:depth]
            if here not in own:
                inner = node[path[depth - 1]]
                own[here] = node[path[depth - 1]] = list(inner) if isinstance(inner, list) else dict(inner)
            node = own[here]
        node[path[-1]] = value
    return new


def overlapping(keys: Iterable[str]) -> set[str]:
    """The dotted keys that are inside another of them, or hold one."""
    known = list(keys)
    there = set(known)
    found: set[str] = set()
    for key in known:
        for end in (index for index, letter in enumerate(key) if letter == "."):
            if key[:end] in there:
                found |= {key, key[:end]}
    return found


def _slot(config: DictConfig, path: Path) -> AnyNode:
    parent, last = _parent(config, path)
    node = parent._get_node(last) if isinstance(parent, DictConfig) else None
    if type(node) is not AnyNode or node._is_interpolation() or node._is_missing():
        raise NotAlikeError(".".join(map(str, path)))
    return node


def _parent(config: DictConfig, path: Path) -> tuple[Any, str | int]:
    node: Any = config
    for part in path[:-1]:
        node = _child(node, part)
    if not isinstance(node, DictConfig | ListConfig):
        raise NotAlikeError(".".join(map(str, path)))
    return node, path[-1]


def _child(node: Any, part: str | int) -> Any:
    if isinstance(node, DictConfig):
        return node._get_node(part, validate_access=False)
    return node._get_node(part) if isinstance(node, ListConfig) and isinstance(part, int) else None


def _resolved_leaf(parent: Any, last: str | int) -> JSON:
    """One leaf as `OmegaConf.to_container(resolve=True)` gives it."""
    node = parent._get_node(last)._dereference_node()
    if isinstance(node, Container):
        content: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        return content
    if node is None or node._is_missing():
        raise NotAlikeError(str(last))
    return node._value()


def _leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, (*path, index))
    elif isinstance(node, str):
        yield path, node


def _touched(texts: Mapping[Path, str], changed: Sequence[Path], pure: Mapping[str, tuple[str, ...]]) -> list[Path]:
    """The interpolations that must be resolved anew when `changed` have other values, in the order of the file."""
    reads = {path: _reads(path, text, pure) for path, text in texts.items()}
    touched = {_dotted(path) for path in changed} | {_dotted(path) for path, keys in reads.items() if keys is None}
    while True:
        new = {
            _dotted(path)
            for path, keys in reads.items()
            if keys is not None and _dotted(path) not in touched and any(_meet(key, touched) for key in keys)
        }
        if not new:
            return [path for path in texts if _dotted(path) in touched]
        touched |= new


def _reads(path: Path, text: str, pure: Mapping[str, tuple[str, ...]]) -> list[str] | None:
    """The absolute keys that an interpolation reads; None where that cannot be told from its text."""
    found: list[str] = []
    for start in (match.start() for match in re.finditer(r"\$\{", text)):
        match = _REFERENCE.match(text, start)
        if match is None:
            return None
        name, node = match["resolver"], match["node"]
        if name is not None:
            if name not in pure:
                return None
            found += pure[name]
            continue
        node = node.replace("[", ".").replace("]", "") if not node.startswith("[") else None
        if node is None:
            return None
        above = len(node) - len(node.lstrip("."))
        found.append(_dotted((*path[: len(path) - above], node[above:])) if above else node)
    return found


def _meet(key: str, touched: set[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") or each.startswith(f"{key}.") for each in touched)


def _dotted(path: Path) -> str:
    return ".".join(map(str, path)).strip(".")
