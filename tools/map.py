"""Write the table of packages in docs/map.md: in the order of the layers, each with its docstring's first sentence."""

import ast
import re
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCE = CHECKOUT / "src"


def first_sentence(init: Path) -> str:
    """The first sentence of a package's docstring, on one line."""
    text = ast.get_docstring(ast.parse(init.read_text())) or ""
    return re.split(r"(?<=[.])(?=\s|$)", " ".join(text.split("\n\n")[0].split()))[0]


def layers() -> list[str]:
    """Packages in the order of the import layers, the highest first; those without a layer at the end."""
    contract = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    return [name.strip(" ()") for layer in contract["layers"] for name in layer.split("|")]


def rows() -> list[str]:
    """Rows of the table, one a package."""
    order = layers()

    def place(name: str) -> tuple[int, str]:
        top = ".".join(name.split(".")[:2])
        return (-1 if name == "xp" else order.index(top) if top in order else len(order), name)

    inits = {".".join(init.parent.relative_to(SOURCE).parts): init for init in (SOURCE / "xp").rglob("__init__.py")}
    return [f"| `{name}` | {first_sentence(inits[name])} |" for name in sorted(inits, key=place)]


def main() -> None:
    """Replace the rows of the table in docs/map.md."""
    page = CHECKOUT / "docs/map.md"
    head, _, rest = page.read_text().partition("|---|---|\n")
    tail = re.sub(r"\A(\|.*\n)*", "", rest)
    page.write_text(head + "|---|---|\n" + "\n".join(rows()) + "\n" + tail)


if __name__ == "__main__":
    main()
