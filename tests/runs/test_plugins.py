"""Claims about parts found by name: xp's own without metadata, others by entry points, and no name taken twice."""

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace

import pytest

from xp import plugins
from xp.config import check, compose
from xp.errors import UserError
from xp.own_parts import OWN_PARTS


@dataclass(frozen=True)
class Lamp:
    """A part that takes one setting."""

    colour: str = "red"


@dataclass(frozen=True)
class Distribution:
    """What metadata say of a package."""

    name: str


NO_PART = "a text"


@pytest.fixture
def metadata_say(monkeypatch):
    """`metadata_say((distribution, name, value), ...)`: what all metadata hold of the group `xp.suites`."""

    def say(*rows):
        points = [
            SimpleNamespace(group="xp.suites", name=name, value=value, dist=Distribution(distribution))
            for distribution, name, value in rows
        ]
        monkeypatch.setattr(metadata, "entry_points", lambda: points)
        plugins.read_again()

    yield say
    monkeypatch.undo()
    plugins.read_again()


def test_the_own_parts_are_those_of_the_project_file(checkout):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    declared = {group: parts for group, parts in project["entry-points"].items() if group.startswith("xp.")}
    assert declared == OWN_PARTS


@pytest.mark.parametrize("group", OWN_PARTS)
def test_every_own_part_is_there_without_metadata(group, metadata_say):
    metadata_say()
    found = {name: entry.load() is not None for name, entry in plugins.entries(group).items()}
    assert found == dict.fromkeys(OWN_PARTS[group], True)


def test_metadata_of_xp_that_are_older_than_its_source_change_nothing(metadata_say):
    metadata_say(
        ("XP_robot.policies", "arm", "xp.old.place:SUITE"),
        ("XP_robot.policies", "leg", "old_place.leg:SUITE"),
        ("xp", "arm", "xp.old.place:SUITE"),
    )
    assert {name: entry.value for name, entry in plugins.entries("xp.suites").items()} == OWN_PARTS["xp.suites"]


def test_parts_of_other_packages_are_read_from_their_metadata(metadata_say):
    metadata_say(("lamps", "lamp", f"{__name__}:Lamp"))
    assert plugins.load_plugin("xp.suites", "lamp", "env.name") is Lamp
    with pytest.raises(UserError, match="env.name=lump: .*did you mean 'lamp'.*Installed: arm, .*lamp"):
        plugins.load_plugin("xp.suites", "lump", "env.name")


def test_a_package_that_offers_an_own_name_is_refused_and_other_names_go_on(offer):
    offer("xp.suites", arm=f"{__name__}:Lamp", lamp=f"{__name__}:Lamp", distribution="lamps")
    with pytest.raises(UserError, match="'arm' of .* group xp.suites .*xp-robot-policies, lamps: .*ninstall"):
        plugins.load_plugin("xp.suites", "arm", "env.name")
    with pytest.raises(UserError, match="'arm' of .*xp-robot-policies, lamps"):
        check(compose([]), complete=False)
    assert plugins.load_plugin("xp.suites", "lamp", "env.name") is Lamp


def test_two_packages_that_offer_one_name_are_both_named(offer):
    offer("xp.families", lamp=f"{__name__}:Lamp", distribution="lamps")
    offer("xp.families", lamp=f"{__name__}:Lamp", distribution="more-lamps")
    with pytest.raises(UserError, match="'lamp' of the entry-point group xp.families .*lamps, more-lamps: "):
        plugins.load_all("xp.families", object)


def test_a_part_is_made_with_its_settings_and_one_it_does_not_have_is_refused(offer):
    offer("xp.suites", lamp=f"{__name__}:Lamp", text=f"{__name__}:NO_PART")
    how = {"key": "env.name", "prefix": "env."}
    assert plugins.make_plugin("xp.suites", "lamp", {"colour": "blue"}, **how, kind=Lamp) == Lamp("blue")
    with pytest.raises(UserError, match="env.color: env.name=lamp has no such setting .*did you mean 'colour'"):
        plugins.make_plugin("xp.suites", "lamp", {"color": "blue"}, **how)
    with pytest.raises(UserError, match=r"'lamp' of xp.suites \(package toy\) gives a Lamp, which is no Exception.*"):
        plugins.make_plugin("xp.suites", "lamp", {}, **how, kind=Exception)
    with pytest.raises(UserError, match="'text' of xp.suites .*gives a str: expected a class or function"):
        plugins.make_plugin("xp.suites", "text", {}, **how)


@pytest.mark.parametrize(("key", "others"), [("env.name", "Installed: arm"), ("model.family", "allowed are .*octo")])
@pytest.mark.parametrize("task", ["train", "predict", "status"])
def test_a_name_that_no_package_offers_is_refused_before_a_run_has_a_folder(key, others, task):
    with pytest.raises(UserError, match=f"{key}=nosuch: .*{others}"):
        check(compose([f"task={task}", f"{key}=nosuch"]), complete=False)


@pytest.mark.parametrize("value", ["nowhere_at_all:PART", "json:NOT_THERE"])
def test_a_package_that_cannot_be_imported_is_named(offer, value):
    offer("xp.suites", broken=value, distribution="half-installed")
    with pytest.raises(
        UserError, match=r"'broken' of .*xp\.suites cannot be imported .*half-installed.*Install that pack"
    ):
        plugins.load_plugin("xp.suites", "broken", "env.name")


def test_what_a_sweep_asks_while_it_is_planned_imports_no_numpy():
    """Suites, data formats and executors are imported by every command that hands jobs in."""
    heavy = ("numpy", "jaxtyping", "pyarrow", "h5py", "torch", "jax", "lerobot", "mujoco")
    code = (
        "import sys\nfrom xp.plugins import load_all\n"
        "for group in ('xp.suites', 'xp.datasets', 'xp.executors'): load_all(group, object)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
