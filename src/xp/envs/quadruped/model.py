"""A quadruped on a floor, built with MjSpec from primitive shapes and the numbers of `Robot`. No mesh, no XML."""

from typing import Any

import numpy as np
from jaxtyping import Float

from xp.envs.mujoco_import import mujoco
from xp.envs.mujoco_types import MjModel
from xp.envs.quadruped.robot import LEGS, PARTS, Body, Robot, Vector
from xp.envs.raycast import MOVING_GROUP, TABLE_GROUP, Table

TIMESTEP = 0.01
"""Seconds of a physics step: as of the Genesis environments (two in a control step)."""
FOOT_FRICTION = (0.8, 0.02, 0.01)
"""Sliding, torsional, rolling: rubber on a hard floor."""
CAMERA = "side"
_COLOURS = {
    "floor": (0.52, 0.53, 0.55),
    "trunk": (0.25, 0.28, 0.34),
    "hip": (0.93, 0.91, 0.86),
    "thigh": (0.96, 0.74, 0.20),
    "calf": (0.30, 0.31, 0.34),
    "foot": (0.08, 0.08, 0.09),
}
FLOOR = Table(half=60.0, tile=0.25, origin=(0.0137, 0.0171), colours=((0.52, 0.53, 0.55), (0.42, 0.44, 0.48)))


def build_model(robot: Robot, **changes: float) -> MjModel:
    """The compiled scene; `changes` as `build_spec` takes them."""
    return build_spec(robot, **changes).compile()


def build_spec(
    robot: Robot, *, friction: float = 1.0, trunk_mass: float = 1.0, gains: float = 1.0, timestep: float = TIMESTEP
) -> Any:
    """The scene; the three factors are for the feet's friction, the trunk's mass and the servos' gains."""
    spec = mujoco.MjSpec()
    spec.modelname = robot.name
    spec.compiler.degree = False
    add_surroundings(spec, timestep=timestep)
    trunk = spec.worldbody.add_body(name="trunk", pos=[0, 0, robot.initial_height])
    trunk.add_freejoint(name="trunk")
    hips = [_hip_position(robot, leg) for leg in LEGS]
    _mass(trunk, _with_rotors(robot.trunk, robot.rotor_mass, hips), trunk_mass)
    box = mujoco.mjtGeom.mjGEOM_BOX
    _shape(trunk, "trunk", box, np.array(robot.trunk_size) / 2, contype=0, conaffinity=1)
    add_camera(trunk)
    for leg, place in zip(LEGS, hips, strict=True):
        _leg(spec, trunk, robot, leg, place, friction, gains)
    return spec


def add_surroundings(spec: Any, *, timestep: float = TIMESTEP, **floor: Any) -> None:
    """The floor, the light and the solver that every quadruped has; `floor` are more settings of the floor."""
    spec.option.timestep = timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE  # MuJoCo issue 3767: a wrong sparse Hessian in 4.0.0
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.offsamples = 0
    spec.visual.global_.offwidth = spec.visual.global_.offheight = 1280
    spec.visual.map.znear = 0.01
    spec.stat.center, spec.stat.extent = [0.0, 0.0, 0.2], 1.0
    plane, sides = mujoco.mjtGeom.mjGEOM_PLANE, (FLOOR.half, FLOOR.half, 0.05)
    settings = {"contype": 1, "conaffinity": 0, "group": TABLE_GROUP, **floor}
    _shape(spec.worldbody, "floor", plane, sides, **settings)
    light = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    spec.worldbody.add_light(type=light, pos=[0.3, -0.4, 3.0], dir=[-0.25, 0.35, -0.9])


def _hip_position(robot: Robot, leg: str) -> Vector:
    front, left = leg[0] == "F", leg[1] == "L"
    x, y = robot.hip_offset
    return (x if front else -x, y if left else -y, 0.0)


def _leg(spec: Any, trunk: Any, robot: Robot, leg: str, place: Vector, friction: float, gains: float) -> None:
    """Hip, thigh, calf and foot; the numbers are of a right front leg and mirrored for the others."""
    side, capsule = (1.0 if leg[1] == "L" else -1.0), mujoco.mjtGeom.mjGEOM_CAPSULE
    thigh_at, calf_at = (0.0, side * robot.thigh_offset, 0.0), (0.0, 0.0, -robot.thigh_length)
    radius = robot.foot_radius
    hip = _link(spec, trunk, robot, leg, "hip", place, (1, 0, 0), gains)
    _mass(hip, _with_rotors(_mirrored(robot.hip, leg, rear=True), robot.rotor_mass, [thigh_at]))
    cylinder = mujoco.mjtGeom.mjGEOM_CYLINDER
    _shape(hip, f"{leg}_hip", cylinder, (0.04, 0.02, 0), colour="hip", quat=[1, 1, 0, 0], pos=thigh_at)
    thigh = _link(spec, hip, robot, leg, "thigh", thigh_at, (0, 1, 0), gains)
    _mass(thigh, _with_rotors(_mirrored(robot.thigh, leg), robot.rotor_mass, [calf_at]))
    _shape(thigh, f"{leg}_thigh", capsule, (0.8 * radius, 0, 0), colour="thigh", fromto=[0, 0, 0, *calf_at])
    calf = _link(spec, thigh, robot, leg, "calf", calf_at, (0, 1, 0), gains)
    _mass(calf, _mirrored(robot.calf, leg))
    foot_at = (0.0, 0.0, -robot.calf_length)
    _shape(calf, f"{leg}_calf", capsule, (0.6 * radius, 0, 0), colour="calf", fromto=[0, 0, 0, *foot_at])
    sphere, rubber = mujoco.mjtGeom.mjGEOM_SPHERE, [friction * FOOT_FRICTION[0], *FOOT_FRICTION[1:]]
    sized = {"pos": list(foot_at), "friction": rubber, "priority": 1, "contype": 0, "conaffinity": 1}
    _shape(calf, f"{leg}_foot", sphere, (radius, 0, 0), colour="foot", **sized)


def _link(spec: Any, parent: Any, robot: Robot, leg: str, part: str, place: Vector, axis: Any, gains: float) -> Any:
    """A body with one hinge and its servo."""
    number, name = PARTS.index(part), f"{leg}_{part}"
    body = parent.add_body(name=name, pos=list(place))
    body.add_joint(
        name=name,
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=list(axis),
        limited=1,
        range=list(getattr(robot, f"{part}_range")),
        armature=robot.armature[number],
        damping=robot.damping,
        frictionloss=robot.frictionloss[number],
    )
    add_servo(spec, robot, leg, part, name, gains)
    return body


def add_servo(spec: Any, robot: Robot, leg: str, part: str, joint: str, gains: float = 1.0) -> None:
    """A servo of a joint: torque = stiffness (target - angle) - damping * speed, within its limit."""
    limit = robot.torque_limit[PARTS.index(part)]
    servo = spec.add_actuator(
        name=f"{leg}_{part}",
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        gaintype=mujoco.mjtGain.mjGAIN_FIXED,
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        forcelimited=1,
        forcerange=[-limit, limit],
    )
    gain, bias = np.zeros(10), np.zeros(10)
    gain[0] = gains * robot.stiffness
    bias[1], bias[2] = -gains * robot.stiffness, -gains * robot.servo_damping
    servo.gainprm, servo.biasprm = gain, bias


def _mirrored(body: Body, leg: str, *, rear: bool = False) -> Body:
    """The body of another leg than the right front one."""
    x, y, z = body.com
    return Body(body.mass, (-x if rear and leg[0] == "R" else x, -y if leg[1] == "L" else y, z), body.inertia)


def _with_rotors(body: Body, mass: float, places: list[Vector]) -> Body:
    """The body with a point mass at each place; products of inertia are left out, and `quat` has to be none."""
    if not mass:
        return body
    total = body.mass + mass * len(places)
    points, com = np.array(places), np.array(body.com)
    centre = (body.mass * com + mass * points.sum(0)) / total
    inertia = np.diag(body.inertia) + body.mass * _spread(com - centre)
    for point in points:
        inertia = inertia + mass * _spread(point - centre)
    return Body(total, tuple(centre), tuple(np.diag(inertia)))


def _spread(offset: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Moments of inertia of a unit point mass (the parallel axis theorem)."""
    return offset @ offset * np.eye(3) - np.outer(offset, offset)


def _mass(target: Any, body: Body, factor: float = 1.0) -> None:
    target.explicitinertial = True
    target.mass, target.ipos, target.iquat = factor * body.mass, list(body.com), list(body.quat)
    target.inertia = [factor * each for each in body.inertia]


def _shape(body: Any, name: str, kind: Any, size: Any, *, colour: str | None = None, **options: Any) -> None:
    for key, value in {"contype": 0, "conaffinity": 0, "group": MOVING_GROUP, "mass": 0.0}.items():
        options.setdefault(key, value)
    body.add_geom(name=name, type=kind, size=list(size), rgba=[*_COLOURS[colour or name], 1.0], **options)


def add_camera(trunk: Any) -> None:
    """A camera that goes with the trunk and keeps its direction: from the right and a little above."""
    quat, back = np.zeros(4), np.array([0.25, -1.1, 0.45])
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    mujoco.mju_mat2Quat(quat, np.stack([right, np.cross(back, right), back], axis=1).ravel())
    track = mujoco.mjtCamLight.mjCAMLIGHT_TRACK
    trunk.add_camera(name=CAMERA, pos=[0.25, -1.1, 0.35], quat=quat, fovy=45.0, mode=track)
