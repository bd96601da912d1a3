"""A family, a suite or a data format is named in its own package alone: everything else asks by protocol."""

import ast
import re
from pathlib import Path

import pytest

import xp
from xp.own_parts import OWN_PARTS

SOURCE = Path(xp.__file__).parent
GROUPS = ("xp.families", "xp.suites", "xp.datasets")
PACKAGES = {
    f"{target.partition(':')[0].removeprefix('xp.').rpartition('.')[0].replace('.', '/')}/"
    for group in GROUPS
    for target in OWN_PARTS[group].values()
}
"""Folders of the packages that bring them, such as `models/octo/`."""
BRIDGES = ("envs/lerobot_bridge",)
"""What another program finds by a name of its own: suites for LeRobot's commands."""
TABLES = ("own_parts.py", "config/identity_keys.py")
"""The parts that xp itself brings; and what runs were before there was a key, which no later choice changes."""
NAMES = {name for group in GROUPS for name in OWN_PARTS[group]} | {"act_smooth"}


def docstrings(tree: ast.AST) -> set[int]:
    """Ids of the strings that stand alone: docstrings of modules, classes, functions and attributes."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def words(text: str) -> list[str]:
    """The text of one place of the program, cut into words in lower case."""
    return re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)*", text.lower())


def code(path: Path):
    """(line, text) of every name and string of a file; neither comments nor docstrings."""
    tree = ast.parse(path.read_text())
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield line, node.value
        elif isinstance(node, ast.Name):
            yield line, node.id
        elif isinstance(node, ast.Attribute):
            yield line, node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield line, node.name
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield line, node.arg
        elif isinstance(node, ast.ImportFrom):
            yield line, " ".join([node.module or "", *(alias.name for alias in node.names)])
        elif isinstance(node, ast.Import):
            yield line, " ".join(alias.name for alias in node.names)


def named(path: Path) -> list[str]:
    """Where the code of a file says the name of a part."""
    found = [
        (line, name)
        for line, text in code(path)
        for name in NAMES
        if any(re.search(rf"(^|_){name}(_|$)", word) for word in words(text))
    ]
    return [f"{path}:{line}: {name}" for line, name in sorted(set(found))]


def test_every_part_has_a_package_of_its_own():
    assert all((SOURCE / folder).is_dir() for folder in PACKAGES) and len(PACKAGES) == sum(
        len(OWN_PARTS[group]) for group in GROUPS
    )


def test_the_code_names_a_part_in_its_own_package_alone():
    own = (*PACKAGES, *BRIDGES)
    others = [
        path
        for path in SOURCE.rglob("*.py")
        if not (inside := path.relative_to(SOURCE).as_posix()).startswith(own) and inside not in TABLES
    ]
    assert len(others) > 150
    assert [line for path in others for line in named(path)] == []


@pytest.mark.parametrize(
    "line",
    ["from xp.models.octo import family", "if name == 'lerobot': pass", "def load_octo(): pass", "f(octo_folder=1)",
     "raise ValueError(f'use {x} of act_smooth')", "import lerobot.datasets"],
)  # fmt: skip
def test_a_name_in_code_is_found(tmp_path, line):
    (tmp_path / "a.py").write_text(f'"""Octo\'s rule."""\n{line}  # as LeRobot does\n')
    assert [found.rpartition(":")[0] for found in named(tmp_path / "a.py")] == [f"{tmp_path}/a.py:2"]


def test_a_name_in_documentation_is_none(tmp_path):
    (tmp_path / "a.py").write_text('"""Octo\'s rule."""\nx = 1  # as LeRobot does\n"""As act_smooth."""\nharm = x\n')
    assert named(tmp_path / "a.py") == []
