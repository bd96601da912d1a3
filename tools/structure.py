"""Figures of the source: sizes of files and functions, docstrings, `Any` in public signatures.

    python tools/structure.py [--any [PART] | --check]

`--any [PART]` lists the public functions whose signatures hold `Any`, of the files whose path has PART in it.
`--check` exits with 1 where a bound is passed (a file over 400 lines, a function over 60, 5% of signatures with `Any`).
"""

import argparse
import ast
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOTS = {"src/xp": "src/xp", "launchers": "launchers", "plugin": "plugins"}
LONGEST_FILE, LONGEST_FUNCTION, MOST_ANY = 400, 60, 0.05
ANY = re.compile(r"\bAny\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Found(NamedTuple):
    """A function or method and where it stands; public where its name and those of its classes are."""

    place: Path
    node: Function
    public: bool

    @property
    def lines(self) -> int:
        """From `def` to the end, docstring included."""
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def has_any(self) -> bool:
        """Whether an annotation of the signature holds `Any`."""
        args = self.node.args
        each = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
        annotations = [arg.annotation for arg in each] + [self.node.returns]
        return any(ANY.search(ast.unparse(annotation)) for annotation in annotations if annotation is not None)


def functions(place: Path) -> Iterator[Found]:
    """Every function of a file, those inside functions and of private classes too (not public)."""

    def visit(node: ast.AST, public: bool) -> Iterator[Found]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                shown = public and not child.name.startswith("_")
                yield Found(place, child, shown)
                yield from visit(child, False)
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, public and not child.name.startswith("_"))
            else:
                yield from visit(child, public)

    yield from visit(ast.parse(place.read_text()), True)


def report(name: str, root: Path) -> list[str]:
    """Print the figures of one tree; the bounds that it passes."""
    places = sorted(place for place in root.rglob("*.py") if ".venv" not in place.parts)
    sizes = {place: len(place.read_text().splitlines()) for place in places}
    found = [each for place in places for each in functions(place)]
    public = [each for each in found if each.public]
    lengths = sorted(each.lines for each in found)
    spoken = sum(1 for each in public if ast.get_docstring(each.node))
    loose = sum(1 for each in public if each.has_any)
    share = loose / max(1, len(public))
    print(f"{name}: {len(places)} files, {sum(sizes.values())} lines")
    print(
        f"  functions: {len(found)}; lines: median {statistics.median(lengths):.0f}, "
        f"p95 {lengths[int(0.95 * (len(lengths) - 1))]}, max {lengths[-1]}; over 50: {sum(n > 50 for n in lengths)}"
    )
    print(f"  public: {len(public)}, with a docstring {spoken}, with Any {loose} ({share:.1%})")
    passed = [f"{place}: {size} lines" for place, size in sizes.items() if size > LONGEST_FILE]
    passed += [
        f"{each.place}:{each.node.lineno} {each.node.name}: {each.lines} lines"
        for each in found
        if each.lines > LONGEST_FUNCTION
    ]
    if share > MOST_ANY:
        passed.append(f"{name}: Any in {share:.1%} of public signatures")
    for line in passed:
        print(f"  over the bound: {line}")
    return passed


def main() -> int:
    """Print, or list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--any", nargs="?", const="", metavar="PART")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.any is not None:
        for root in ROOTS.values():
            for place in sorted(Path(root).rglob("*.py")):
                if given.any in str(place):
                    loose = (each for each in functions(place) if each.public and each.has_any)
                    print(*(f"{place}:{each.node.lineno} {each.node.name}" for each in loose), sep="\n", end="\n")
        return 0
    passed = [line for name, root in ROOTS.items() for line in report(name, Path(root))]
    return 1 if given.check and passed else 0


if __name__ == "__main__":
    sys.exit(main())
