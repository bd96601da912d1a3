"""A copy of the code that made an experiment, stored once per content under `.code/HASH`."""

import hashlib
from pathlib import Path

from xp import atomic

_SUFFIXES = (".py", ".yaml", ".toml", ".lock", ".typed", ".j2", ".css", ".js", ".md")


def code_files(package: Path | None = None) -> dict[str, Path]:
    """{name in the snapshot: file} of the code that would run now.

    In a checkout: its code folders and the project's own files. Installed: the package and its plugins.
    """
    package = package or Path(__file__).resolve().parents[2]
    root = package.parents[1]
    if (root / "pyproject.toml").is_file() and package.parent.name == "src":
        folders = [root / "src", root / "launchers", root / "conf", root / "plugins"]
        single = [path for path in (root / "pyproject.toml", root / "uv.lock", root / "README.md") if path.is_file()]
    else:
        root, single = package.parent, []
        folders = [package, *sorted((root / "hydra_plugins").glob("xp_*"))]
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if _is_code(path)]
    return {str(path.relative_to(root)): path for path in [*found, *single]}


def take(experiment: Path, package: Path | None = None) -> str:
    """Store the present code below `experiment` unless it is there already; gives its hash (16 hex digits)."""
    files = {name: path.read_bytes() for name, path in code_files(package).items()}
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    key = digest.hexdigest()[:16]
    place = experiment / ".code" / key
    if not place.is_dir():
        with atomic.folder(place) as folder:
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
    return key


def import_roots(experiment: Path, key: str) -> list[Path]:
    """The folders of a stored snapshot that go on Python's path so that its code is what is imported; empty if none."""
    place = experiment / ".code" / key
    if (place / "src").is_dir():
        return [place / "src", place / "launchers"]
    return [place] if place.is_dir() else []


def _is_code(path: Path) -> bool:
    return path.suffix in _SUFFIXES and path.is_file() and "__pycache__" not in path.parts
