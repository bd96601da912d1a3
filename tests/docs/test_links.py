"""Links between pages lead somewhere, and the map names every package."""

import ast
import re

import pytest
from documents import CHECKOUT, anchors, links, pages

PAGES = [str(page.relative_to(CHECKOUT)) for page in pages()]


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_of_a_page_lead_to_a_file_and_a_heading(name):
    page = CHECKOUT / name
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{name} links to {target}; headings: {sorted(anchors(there))}"


def test_every_page_can_be_reached_from_the_front_page():
    reached, todo = set(), [CHECKOUT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [(page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"]
    assert {CHECKOUT / name for name in PAGES} <= reached


def packages():
    """Dotted names of the packages under src/xp, with the first sentence of each docstring."""
    source = CHECKOUT / "src"
    for init in sorted((source / "xp").rglob("__init__.py")):
        name = ".".join(init.parent.relative_to(source).parts)
        text = ast.get_docstring(ast.parse(init.read_text()))
        assert text, f"{name} has no docstring"
        yield pytest.param(name, re.split(r"(?<=[.])(?=\s|$)", " ".join(text.split("\n\n")[0].split()))[0], id=name)


@pytest.mark.parametrize(("name", "sentence"), list(packages()))
def test_the_map_has_every_package_with_the_first_sentence_of_its_docstring(name, sentence):
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", (CHECKOUT / "docs/map.md").read_text(), re.M))
    assert name in rows, f"docs/map.md does not name {name}: python tools/map.py"
    assert rows[name] == sentence, "python tools/map.py"


def test_the_map_names_only_packages_that_are_there():
    rows = re.findall(r"^\| `(xp[\w.]*)` \|", (CHECKOUT / "docs/map.md").read_text(), re.M)
    assert set(rows) <= {param.values[0] for param in packages()}
    assert len(rows) == len(set(rows))


def test_what_is_public_is_listed_and_there():
    import tomllib

    import xp

    text = (CHECKOUT / "docs/map.md").read_text().split("## What is public")[1]
    assert all(f"`xp.{name}`" in text for name in xp.__all__)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    ours = {group for group in project["entry-points"] if group.startswith("xp.")}
    assert set(re.findall(r"`(xp\.[a-z_]+)`(?= \(entry points\))", text)) == ours


def test_every_page_is_in_the_navigation_of_the_site():
    import yaml

    text = (CHECKOUT / "mkdocs.yml").read_text()

    def named(entry):
        if isinstance(entry, str):
            return {entry}
        return set().union(*(named(part) for part in (entry.values() if isinstance(entry, dict) else entry)))

    outside = {"index.md" if name == "README.md" else name for name in PAGES if "/" not in name}
    assert named(yaml.safe_load(text)["nav"]) == outside | {name.removeprefix("docs/") for name in PAGES if "/" in name}
