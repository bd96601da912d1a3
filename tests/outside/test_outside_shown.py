"""An installed package's options are seen where xp's own are; it uses public names alone, and is as small as told."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from outside_setup import DISTRIBUTION, HERE, SOURCE

DOCS = HERE.parents[1] / "docs"
PARTS = {
    "toy_mlp": ("model", "toy_mlp"),
    "toy_jax": ("model", "toy_jax"),
    "toy_reach": ("env", "toy_reach"),
    "toy_npz": None,
    "toy_merge": ("merge_method", "toy_power"),
    "toy_launcher": ("hydra/launcher", "toy_processes"),
}
"""{package: its group and option}; a data format has none."""


def test_options_are_listed_and_composed_like_own_ones(outside):
    shown = outside("--help")
    for group, option in filter(None, PARTS.values()):
        if group != "hydra/launcher":  # no choice of a run
            assert option in re.search(rf"^{group}: (.*)$", shown, re.M)[1].split(", "), group
    composed = outside("--cfg", "all", "model=toy_mlp", "env=toy_reach", "merge_method=toy_power",
                       "hydra/launcher=toy_processes")  # fmt: skip
    for line in ("activation: relu", "radius: 0.2", "power: 1.0", "_target_: hydra_plugins.xp_toys.ToyLauncher"):
        assert line in composed
    assert "Traceback" not in composed


def test_tab_completion_knows_them(outside):
    words = "xp model=toy_"
    told = {**outside.environment(), "COMP_LINE": words, "COMP_POINT": str(len(words))}
    command = [str(Path(sys.executable).with_name("xp")), "-sc", "query=bash"]
    done = subprocess.run(command, env=told, cwd=outside.cwd, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["model=toy_jax", "model=toy_mlp"]


def test_a_part_is_found_by_the_metadata_of_the_installed_package_alone(outside):
    declared = tomllib.loads((DISTRIBUTION / "pyproject.toml").read_text())["project"]["entry-points"]
    assert sum(map(len, declared.values())) == len(PARTS)
    found = outside.python(
        "from importlib.metadata import distribution\n"
        "for each in distribution('xp-toys').entry_points: print(each.group, each.name, each.value)"
    )
    expected = {f"{group} {name} {value}" for group, names in declared.items() for name, value in names.items()}
    assert set(found.splitlines()) == expected
    with pytest.raises(PackageNotFoundError):  # nothing was installed into xp's own environment
        distribution("xp-toys")


def test_what_is_imported_with_every_start_is_light(outside):
    heavy = ("torch", "jax", "flax", "lightning", "lerobot", "mujoco")
    code = (
        "import sys\n"
        "from xp.models.families import installed; installed()\n"
        "from xp.config.dataset_facts import installed_formats; installed_formats()\n"
        "from xp.envs import suite_named; suite_named('toy_reach', {})\n"
        "from xp.merging.method import method_named; method_named('toy_power')\n"
        "from xp.runs.executors.protocol import executor_named; executor_named('toy_processes')\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert outside.python(code) == "[]\n"


def imported(path: Path):
    """(module, name) of everything that a file imports of xp and of Hydra's plugins."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_only_public_names_that_the_pages_name_are_imported():
    pages = "".join((DOCS / name).read_text() for name in ("extending.md", "reference.md"))
    used = {
        (module, name)
        for path in SOURCE.rglob("*.py")
        for module, name in imported(path)
        if module.partition(".")[0] in ("xp", "hydra_plugins")
    }
    assert len(used) > 10
    for module, name in used:
        assert not any(part.startswith("_") for part in (*module.split("."), name)), (module, name)
        # a name out of a package stands in the pages by its own, one out of a module at least with its module
        assert re.search(rf"\b{re.escape(module)}\b", pages), f"docs/extending.md does not name {module}"


def lines_of(package: str) -> int:
    """Lines of a package's Python."""
    return sum(len(path.read_text().splitlines()) for path in (SOURCE / "xp_toys" / package).rglob("*.py"))


@pytest.mark.parametrize("package", PARTS)
def test_the_table_of_line_counts_is_true(package):
    table = (DOCS / "extending.md").read_text()
    row = re.search(rf"^\| [^|]+ \| `{package}` \| (\d+) \| (\d+|none) \|$", table, re.M)
    assert row, f"docs/extending.md has no row of {package}"
    option = PARTS[package]
    yaml = SOURCE / "xp_toys" / "conf" / option[0] / f"{option[1]}.yaml" if option else None
    assert (int(row[1]), row[2]) == (lines_of(package), str(len(yaml.read_text().splitlines())) if yaml else "none")


def test_the_lines_for_hydra_are_as_many_as_told():
    lines = len((SOURCE / "hydra_plugins" / "xp_toys.py").read_text().splitlines())
    assert f"`src/hydra_plugins/xp_toys.py` ({lines} lines)" in (DOCS / "extending.md").read_text()


def test_a_torch_family_takes_at_most_120_lines():
    assert lines_of("toy_mlp") <= 120
