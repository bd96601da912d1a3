"""Nested dicts of arrays and their flat form: one entry a leaf, the path joined by '/'."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from xp.nested import Tree as Tree
from xp.nested import flatten as flatten


@runtime_checkable
class HasShape(Protocol):
    """An array, or a note of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes, outermost first."""
        ...


def unflatten[Leaf](flat: Mapping[str, Leaf]) -> dict[str, Leaf | Tree[Leaf]]:
    """Undo `flatten`."""
    tree: dict[str, Leaf | Tree[Leaf]] = {}
    nested: dict[str, dict[str, Leaf]] = {}
    for path, leaf in flat.items():
        name, slash, rest = path.partition("/")
        if slash:
            nested.setdefault(name, {})[rest] = leaf
            tree.setdefault(name, {})
        else:
            tree[name] = leaf
    return {name: unflatten(nested[name]) if name in nested else leaf for name, leaf in tree.items()}


def leaf_at[Leaf](tree: Tree[Leaf], *path: str) -> Leaf:
    """The leaf at the end of a path of names; KeyError where there is none."""
    for name in path[:-1]:
        tree = branch(tree, name)
    leaf = tree[path[-1]]
    assert not isinstance(leaf, Mapping), f"{'/'.join(path)} has parts: {', '.join(leaf)}"
    return leaf


def branch[Leaf](tree: Tree[Leaf], name: str) -> Tree[Leaf]:
    """The part of a tree below a name; KeyError where there is none."""
    below = tree[name]
    assert isinstance(below, Mapping), f"{name} is a leaf"
    return below
