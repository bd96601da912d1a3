"""The model of a robot whose bodies an MJCF describes: canonical signs, the suite's servos and floor."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xp.envs.mujoco_import import mujoco
from xp.envs.mujoco_types import MjModel
from xp.envs.quadruped.description import Description
from xp.envs.quadruped.model import add_camera, add_servo, add_surroundings
from xp.envs.quadruped.robot import JOINTS, LEGS, PARTS, Robot
from xp.envs.raycast import MOVING_GROUP
from xp.errors import UserError, some
from xp.foreign.text import printable

ALIGNED = 0.9
"""Least cosine between a joint's axis and the trunk's: a tilt of up to 25 degrees."""
BENT = 0.35
"""Most radians that a leg may be bent where all joints are 0: all made legs hang straight down there."""
_FEET = ("foot", "toe")
_HIDDEN_GROUP = 3
_FLOOR: dict[str, Any] = {
    "conaffinity": 1, "condim": 3, "priority": 0, "friction": [1.0, 0.005, 0.0001], "solmix": 1.0,
    "solref": [0.02, 1.0], "solimp": [0.9, 0.95, 0.001, 0.5, 2.0], "margin": 0.0, "gap": 0.0,
}  # fmt: skip
"""MuJoCo's own defaults, said because an MJCF may have changed them; the floor touches what touches anything."""


def described_model(description: Description, robot: Robot, *, pictures: bool = False) -> MjModel:
    """The compiled scene.

    Args:
        description: the robot's bodies.
        robot: what the suite takes from its own numbers: servos, poses.
        pictures: with what is only seen; without, what touches nothing is left out, and the physics is the same.

    Raises:
        UserError: MuJoCo cannot compile it, a joint is no hinge or turns about another axis than a quadruped's, a leg
            is in another place or does not hang straight down where its joints are 0, a foot cannot touch the floor, or
            the default pose is out of a joint's range.
    """
    spec = _parsed(description)
    spec.compiler.discardvisual = not pictures
    spec.compiler.fusestatic = True  # a foot that is a body of its own is no softer than one of the calf's shapes
    add_surroundings(spec, **_FLOOR)
    add_camera(spec.body(description.trunk))
    for joint, name in zip(JOINTS, description.joints, strict=True):
        leg, part = joint.split("_")
        add_servo(spec, robot, leg, part, name)
    _group(spec)
    model = _compiled(spec, description)
    signs = _signs(model, description)
    if (signs < 0).any():
        for name, sign in zip(description.joints, signs, strict=True):
            if sign < 0:
                _flip(spec.joint(name))
        model = _compiled(spec, description)
    _refuse_other_robots(model, description, robot)
    return model


def state_order(model: MjModel, description: Description) -> Int[np.ndarray, "38"]:
    """Where in the model's full physics state (time, qpos, qvel) each number of the canonical state stands."""
    positions = [int(model.joint(name).qposadr[0]) for name in description.joints]
    speeds = [int(model.joint(name).dofadr[0]) for name in description.joints]
    return np.array([0, *range(1, 8), *(1 + at for at in positions), *range(20, 26), *(20 + at for at in speeds)])


def varied(
    model: Any, description: Description, *, friction: float = 1.0, trunk_mass: float = 1.0, gains: float = 1.0
) -> MjModel:
    """A copy of a described model with factors for friction, the trunk's mass and the servos' gains.

    Friction of floor and feet is scaled together: of a contact the larger of both counts, or that of higher priority.
    """
    model = copy.copy(model)
    touching = [model.geom("floor").id, *(model.geom(foot).id for foot in feet_of(model, description))]
    model.geom_friction[touching, 0] *= friction
    trunk = model.body(description.trunk).id
    model.body_mass[trunk] *= trunk_mass
    model.body_inertia[trunk] *= trunk_mass
    model.actuator_gainprm[:, 0] *= gains
    model.actuator_biasprm[:, 1:3] *= gains
    mujoco.mj_setConst(model, mujoco.MjData(model))  # what follows from masses
    return model


def feet_of(model: Any, description: Description) -> list[str]:
    """The shape that each leg stands on [4]: one named foot, toe or as the leg, else the lowest of the straight leg.

    Raises:
        UserError: nothing below a knee can touch the floor.
    """
    data = _posed(model)
    return [_foot(model, data, leg, description) for leg in LEGS]


def _foot(model: Any, data: Any, leg: str, description: Description) -> str:
    calf = int(model.jnt_bodyid[model.joint(description.joints[JOINTS.index(f"{leg}_calf")]).id])
    below = [body for body in range(model.nbody) if _is_below(model, body, calf)]
    touching = [
        geom
        for geom in range(model.ngeom)
        if model.geom_bodyid[geom] in below and (model.geom_contype[geom] | model.geom_conaffinity[geom]) & 1
    ]
    if not touching:
        raise UserError(
            f"{description.mjcf.path}: no shape below the knee of the leg {leg} can touch the floor. Give its foot a "
            '<geom> with contype="1" conaffinity="1".'
        )
    named = [geom for geom in touching if _is_foot(model.geom(geom).name, leg)]
    lowest = min(named or touching, key=lambda geom: _bottom(model, data, geom))
    return str(model.geom(lowest).name)


def _is_foot(name: str, leg: str) -> bool:
    return name.upper() == leg or any(word in name.lower() for word in _FEET)


def _bottom(model: Any, data: Any, geom: int) -> float:
    """The lowest height of a shape's bounding box, m."""
    centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
    up = data.geom_xmat[geom].reshape(3, 3)[2]
    return float(data.geom_xpos[geom, 2] + up @ centre - np.abs(up) @ half)


def _is_below(model: Any, body: int, ancestor: int) -> bool:
    while body > ancestor:
        body = int(model.body_parentid[body])
    return body == ancestor


def _parsed(description: Description) -> Any:
    assets = description.mjcf.assets()
    try:
        return mujoco.MjSpec.from_string(description.text, assets=assets)
    except (ValueError, mujoco.FatalError) as error:
        raise _unreadable(description, error) from error


def _compiled(spec: Any, description: Description) -> Any:
    try:
        model = spec.compile()
    except (ValueError, mujoco.FatalError) as error:
        raise _unreadable(description, error) from error
    hinge = mujoco.mjtJoint.mjJNT_HINGE
    others = [name for name in description.joints if model.jnt_type[model.joint(name).id] != hinge]
    if others or (model.nq, model.nv, model.na) != (19, 18, 0):
        raise UserError(
            f"{description.mjcf.path}: a quadruped has a free trunk and twelve hinges, so 19 positions and 18 "
            f"velocities; here are {model.nq} and {model.nv}, and no hinge is {some(map(printable, others), 3)}."
        )
    for name in ("body_mass", "body_inertia", "geom_friction", "dof_damping", "dof_armature", "jnt_range"):
        if not np.isfinite(getattr(model, name)).all():
            raise UserError(f"{description.mjcf.path}: {name} has a number that is not finite.")
    return model


def _unreadable(description: Description, error: Exception) -> UserError:
    said = " ".join(str(error).split())
    return UserError(f"{description.mjcf.path}: MuJoCo cannot make a model of it: {printable(said, 300)}")


def _group(spec: Any) -> None:
    """What MuJoCo shows by default (groups 0 to 2) is seen, the rest is hidden; shapes get their materials' colours."""
    shapes = [geom for geom in spec.geoms if geom.name != "floor"]
    seen = [geom for geom in shapes if geom.group < _HIDDEN_GROUP] or shapes
    for geom in shapes:
        if geom.material:
            geom.rgba = spec.material(geom.material).rgba
    for geom in shapes:
        geom.group = _HIDDEN_GROUP
    for geom in seen:
        geom.group = MOVING_GROUP


def _flip(joint: Any) -> None:
    """Turn a joint's axis round: the same joint, its positions of the other sign."""
    joint.axis = -joint.axis
    for name in ("range", "actfrcrange"):
        low, high = getattr(joint, name)
        setattr(joint, name, [-high, -low])
    joint.ref, joint.springref = -joint.ref, -joint.springref


def _posed(model: Any, joints: Float[np.ndarray, "12"] | None = None) -> Any:
    """Data with the trunk level at the origin; the joints, in the model's order, as given or 0."""
    data = mujoco.MjData(model)
    data.qpos[:] = 0.0
    data.qpos[3] = 1.0
    if joints is not None:
        data.qpos[7:] = joints
    mujoco.mj_kinematics(model, data)
    return data


def _signs(model: Any, description: Description) -> Float[np.ndarray, "12"]:
    """Of each joint in canonical order: 1 where it turns as Unitree's (hips about x, the others about y), else -1.

    Raises:
        UserError: a joint turns about neither.
    """
    data = _posed(model)
    signs = np.ones(len(JOINTS))
    for number, (joint, name) in enumerate(zip(JOINTS, description.joints, strict=True)):
        axis = data.xaxis[model.joint(name).id]
        along = axis[0 if joint.endswith("_hip") else 1]
        if abs(along) < ALIGNED:
            raise UserError(
                f"{description.mjcf.path}: the joint {printable(name)} turns about {_shown(axis)} in the frame of the "
                f"trunk; as {joint} it should turn about {'x' if joint.endswith('_hip') else 'y'}. Give the trunk a "
                "frame with x forward and z up, or say which joint is which by env.mjcf_joints."
            )
        signs[number] = np.sign(along)
    return signs


def _refuse_other_robots(model: Any, description: Description, robot: Robot) -> None:
    """Refuse what would not stand where the suite begins: legs exchanged, another zero, limits elsewhere."""
    data, path = _posed(model), description.mjcf.path
    anchors = {joint: data.xanchor[model.joint(name).id] for joint, name in zip(JOINTS, description.joints)}
    bodies = {joint: int(model.jnt_bodyid[model.joint(name).id]) for joint, name in zip(JOINTS, description.joints)}
    middle = np.mean([anchors[f"{leg}_hip"] for leg in LEGS], axis=0)
    feet = feet_of(model, description)
    for leg, foot in zip(LEGS, feet, strict=True):
        x, y, _ = anchors[f"{leg}_hip"] - middle
        if (x > 0) != (leg[0] == "F") or (y > 0) != (leg[1] == "L"):
            raise UserError(
                f"{path}: the hip of the leg {leg} is at {_shown(anchors[f'{leg}_hip'])} in the trunk's frame (x "
                "forward, y to the left), where another leg should be. Say which joint is which by env.mjcf_joints."
            )
        chain = [bodies[f"{leg}_{part}"] for part in PARTS]
        if not (_is_below(model, chain[1], chain[0]) and _is_below(model, chain[2], chain[1]) and len(set(chain)) == 3):
            raise UserError(f"{path}: of the leg {leg} the calf is not below the thigh and that not below the hip.")
        points = [anchors[f"{leg}_thigh"], anchors[f"{leg}_calf"], data.geom(foot).xpos]
        for part, upper, lower in zip(PARTS[1:], points, points[1:]):
            _refuse_other_zero(lower - upper, f"{path}: the {part} of the leg {leg}")
    _refuse_out_of_range(model, description, robot.default_pose)


def _refuse_other_zero(along: Float[np.ndarray, "3"], what: str) -> None:
    bent = float(np.arctan2(along[0], -along[2]))
    if abs(bent) > BENT:
        raise UserError(
            f"{what} points {_shown(along)} (x forward, z up) where its joints are 0, {np.degrees(bent):.0f} degrees "
            "from straight down. The suite's poses count from straight legs: give the file's joints a `ref`."
        )


def _refuse_out_of_range(model: Any, description: Description, pose: Sequence[float]) -> None:
    for joint, name, angle in zip(JOINTS, description.joints, pose, strict=True):
        low, high = model.jnt_range[model.joint(name).id]
        if model.jnt_limited[model.joint(name).id] and not low <= angle <= high:
            raise UserError(
                f"{description.mjcf.path}: the joint {printable(name)} goes from {low:.3g} to {high:.3g} rad "
                f"(canonical signs), and the default pose has {joint} at {angle:.3g} (env.robot.default_pose). Choose "
                "the robot that the file describes (env=), or another pose."
            )


def _shown(vector: Float[np.ndarray, "3"]) -> str:
    return f"({', '.join(f'{each:.2f}' for each in vector)})"
