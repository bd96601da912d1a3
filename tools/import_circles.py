"""Circles of imports between the modules of xp and its launchers: prints each, exit code 1 if there is one.

    python tools/import_circles.py [FOLDER ...]

Read from the source, so imports inside functions and under TYPE_CHECKING count as much as those at a module's top: two
modules that need each other, however late, cannot be understood or moved one by one. A package stands for its own
`__init__.py` only; that it is imported before its modules makes no circle.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "src", ROOT / "launchers")


def modules(folders: Iterable[Path]) -> dict[str, Path]:
    """{dotted name: file} of all modules below folders of packages."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, name: str, known: Mapping[str, Path]) -> set[str]:
    """The known modules that a module's text imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name, is_package=path.name == "__init__.py")
            for alias in node.names:  # `from package import module` imports the module, and only then the package
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return {each for each in found if each in known and each != name}


def _absolute(node: ast.ImportFrom, name: str, *, is_package: bool) -> str:
    """The dotted name after `from`, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = name.split(".") if is_package else name.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *filter(None, [node.module])])


def circles(graph: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """Groups of modules each of which reaches all the others (strongly connected components, by Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in number:
                yield from visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                yield sorted(group)

    for name in graph:
        if name not in number:
            yield from visit(name)


def main(arguments: list[str]) -> int:
    """Print every circle with the imports that make it; gives the exit code."""
    known = modules([Path(each) for each in arguments] or FOLDERS)
    graph = {name: imported(path, name, known) for name, path in known.items()}
    found = list(circles(graph))
    for group in found:
        print(f"{len(group)} modules import one another:")
        for name in group:
            print(f"  {name} -> {', '.join(sorted(graph[name].intersection(group)))}")
    print(f"{len(known)} modules, {len(found)} circles of imports")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
