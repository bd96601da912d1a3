"""The scene: an arm on a table, a red cube, a blue cube and a round target, built with MjSpec from primitive shapes.

No mesh, no texture file, no XML: every number stands in this file or in `xp.envs.arm`. Lengths in metres, masses in
kilograms, colours in 0..1.
"""

from typing import Any

import numpy as np

from xp.envs.arm.arm import FINGER_TRAVEL, FORE, HAND, SHOULDER_HEIGHT, UPPER
from xp.envs.arm.joints import JOINTS, Joint
from xp.envs.arm.options import CAMERAS, CameraNumbers
from xp.envs.arm.tasks import CUBES
from xp.envs.mujoco_import import mujoco
from xp.envs.mujoco_types import MjModel
from xp.envs.raycast import MOVING_GROUP, STATIC_GROUP, TABLE_GROUP, Table

CUBE_SIDE = 0.030
CUBE_MASS = 0.030
TARGET_RADIUS = 0.032
TILE = 0.05
"""Side of the squares of the table's checker pattern, which begins at `TILE_ORIGIN` so that no camera's middle row or
column falls exactly on an edge (where the last bit of a float would choose the colour)."""
TILE_ORIGIN = (0.0137, 0.0171)

TABLE_HALF = 0.60
"""The table's picture ends here (its physics does not): half its side."""

_COLOURS = {
    "table": (0.52, 0.53, 0.55),
    "table_dark": (0.44, 0.45, 0.48),
    "metal": (0.30, 0.31, 0.34),
    "shell": (0.93, 0.91, 0.86),
    "finger": (0.96, 0.74, 0.20),
    "red": (0.85, 0.10, 0.10),
    "blue": (0.10, 0.22, 0.88),
    "target": (0.12, 0.66, 0.30),
}
TABLE = Table(half=TABLE_HALF, tile=TILE, origin=TILE_ORIGIN, colours=(_COLOURS["table"], _COLOURS["table_dark"]))


def build_model(timestep: float) -> MjModel:
    """The compiled MjModel of the whole scene, with `timestep` seconds per physics step."""
    spec = mujoco.MjSpec()
    spec.modelname = "xp_arm"
    spec.compiler.degree = False
    _options(spec, timestep)
    world = spec.worldbody
    plane, extent = mujoco.mjtGeom.mjGEOM_PLANE, (TABLE_HALF, TABLE_HALF, 0.05)
    _shape(world, "table", plane, extent, "table", group=TABLE_GROUP, solid=True)
    spec.geom("table").material = _checker(spec)
    hand = _arm(spec)
    for name in CUBES:
        _cube(world, name)
    target = world.add_body(name="target", mocap=True)
    _shape(target, "target", mujoco.mjtGeom.mjGEOM_CYLINDER, (TARGET_RADIUS, 0.0008, 0.0), "target")
    world.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[0.3, -0.4, 1.2], dir=[-0.25, 0.35, -0.9])
    for name, numbers in CAMERAS.items():
        _camera(hand if numbers.body else world, name, numbers)
    return spec.compile()


def _options(spec: Any, timestep: float) -> None:
    """Solver settings; `shadowsize` and `offsamples` 0 must stand in the model before any GL context exists.

    With MuJoCo's defaults (shadow map of 4096 texels, four samples a pixel) a 96x96 frame costs about fifty times more
    on a CPU renderer. The dense Jacobian avoids MuJoCo issue 3767 (a wrong sparse Newton Hessian in one release).
    """
    spec.option.timestep = timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0
    spec.option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.offsamples = 0
    spec.visual.global_.offwidth = 1280
    spec.visual.global_.offheight = 1280
    spec.visual.map.znear = 0.01
    spec.stat.center = [0.15, 0.0, 0.05]
    spec.stat.extent = 1.0


def _checker(spec: Any) -> str:
    """Add the table's checker material (for MuJoCo's own renderer) and give its name."""
    spec.add_texture(
        name="checker",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=list(TABLE.colours[0]),
        rgb2=list(TABLE.colours[1]),
        width=128,
        height=128,
    )
    material = spec.add_material(name="checker", texrepeat=[1 / (2 * TILE), 1 / (2 * TILE)], texuniform=True)
    textures = list(material.textures)
    textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "checker"
    material.textures = textures
    return "checker"


def _shape(body: Any, name: str, kind: Any, size: Any, colour: str, **options: Any) -> None:
    """Add one geom: in the moving group and not solid unless told; other options go to MuJoCo."""
    solid = options.pop("solid", False)
    options.setdefault("group", MOVING_GROUP)
    options.setdefault("mass", 0.0)
    body.add_geom(
        name=name,
        type=kind,
        size=list(size),
        rgba=[*_COLOURS[colour], 1.0],
        contype=int(solid),
        conaffinity=int(solid),
        **options,
    )


def _cube(world: Any, name: str) -> None:
    """A free cube; friction like rubber on wood, some of it torsional so that it does not spin in the grip."""
    body = world.add_body(name=name, pos=[0.2, 0.0, CUBE_SIDE / 2])
    body.add_freejoint(name=name)
    half = CUBE_SIDE / 2
    box = mujoco.mjtGeom.mjGEOM_BOX
    _shape(
        body, name, box, (half, half, half), name, solid=True, mass=CUBE_MASS, friction=[0.9, 0.01, 0.0005], condim=4
    )


def _arm(spec: Any) -> Any:
    """Pedestal, four links, hand and two fingers; gives back the hand's body."""
    box, capsule, cylinder = (getattr(mujoco.mjtGeom, f"mjGEOM_{n}") for n in ("BOX", "CAPSULE", "CYLINDER"))
    _shape(spec.worldbody, "pedestal", cylinder, (0.042, 0.030, 0), "metal", pos=[0, 0, 0.030], group=STATIC_GROUP)
    turret = _link(spec, spec.worldbody, "turret", JOINTS[0], (0, 0, 0.060), axis=(0, 0, 1))
    _shape(turret, "turret", box, (0.024, 0.026, 0.020), "shell", pos=[0, 0, 0.020], mass=0.10)
    upper = _link(spec, turret, "upper", JOINTS[1], (0, 0, SHOULDER_HEIGHT - 0.060))
    _shape(upper, "shoulder", cylinder, (0.019, 0.027, 0), "metal", mass=0.08, quat=[1, 1, 0, 0])
    _shape(upper, "upper", capsule, (0.015, 0, 0), "shell", fromto=[0, 0, 0.012, 0, 0, UPPER - 0.012], mass=0.10)
    fore = _link(spec, upper, "fore", JOINTS[2], (0, 0, UPPER))
    _shape(fore, "elbow", cylinder, (0.017, 0.024, 0), "metal", mass=0.06, quat=[1, 1, 0, 0])
    _shape(fore, "fore", capsule, (0.013, 0, 0), "shell", fromto=[0, 0, 0.012, 0, 0, FORE - 0.012], mass=0.08)
    wrist = _link(spec, fore, "wrist", JOINTS[3], (0, 0, FORE))
    _shape(wrist, "wrist", cylinder, (0.015, 0.020, 0), "metal", mass=0.05, quat=[1, 1, 0, 0])
    hand = _link(spec, wrist, "hand", JOINTS[4], (0, 0, 0.018), axis=(0, 0, 1))
    _shape(hand, "hand", cylinder, (0.013, 0.010, 0), "metal", pos=[0, 0, 0.010], mass=0.03)
    _shape(hand, "palm", box, (0.010, 0.036, 0.008), "shell", pos=[0, 0, 0.028], mass=0.04, solid=True)
    _gripper(spec, hand)
    return hand


def _link(spec: Any, parent: Any, name: str, joint: Joint, position: Any, axis: Any = (0, 1, 0)) -> Any:
    """A body with one servo-driven hinge; gravity is compensated, as a real servo's integral term would do."""
    body = parent.add_body(name=name, pos=list(position), gravcomp=1.0)
    body.add_joint(
        name=joint.name,
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=list(axis),
        limited=1,
        range=[joint.low, joint.high],
        armature=0.01,
    )
    _servo(spec, joint.name, joint, 1.0)
    return body


def _gripper(spec: Any, hand: Any) -> None:
    """Two fingers that slide along the hand's y axis, held symmetric by an equality constraint, as a rack would."""
    grip, length = JOINTS[5], 0.058
    tip = HAND - 0.018
    for side, sign in (("left", 1), ("right", -1)):
        finger = hand.add_body(name=side, pos=[0, sign * 0.004, tip - length / 2 + 0.008], gravcomp=1.0)
        finger.add_joint(
            name=side,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, sign, 0],
            limited=1,
            range=[0.0, FINGER_TRAVEL],
            armature=0.05,
        )
        box = mujoco.mjtGeom.mjGEOM_BOX
        size = (0.008, 0.004, length / 2)
        _shape(finger, side, box, size, "finger", solid=True, mass=0.015, friction=[1.2, 0.02, 0.0005], condim=4)
        _servo(spec, side, grip, FINGER_TRAVEL)
    coupling = np.zeros(mujoco.mjNEQDATA)
    coupling[1] = 1.0  # left = 0 + 1 * right
    spec.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT,
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        name1="left",
        name2="right",
        data=coupling,
    )


def _servo(spec: Any, joint: str, numbers: Joint, scale: float) -> None:
    """A position servo: force = kp (scale * control - position) - damping * velocity, within the force limit."""
    actuator = spec.add_actuator(
        name=joint,
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        gaintype=mujoco.mjtGain.mjGAIN_FIXED,
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        ctrllimited=1,
        ctrlrange=[numbers.low, numbers.high],
        forcelimited=1,
        forcerange=[-numbers.force, numbers.force],
    )
    gain, bias = np.zeros(10), np.zeros(10)
    gain[0], bias[1], bias[2] = numbers.kp * scale, -numbers.kp, -numbers.damping
    actuator.gainprm, actuator.biasprm = gain, bias


def _camera(body: Any, name: str, numbers: CameraNumbers) -> None:
    """A camera that looks along its -z, with x to the right and y up, as in OpenGL."""
    back = np.subtract(numbers.position, numbers.look_at)
    back /= np.linalg.norm(back)
    right = np.cross(numbers.up, back)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(back, right), back], axis=1)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    body.add_camera(name=name, pos=list(numbers.position), quat=quat, fovy=numbers.fovy)
