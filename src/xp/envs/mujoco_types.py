"""The parts of MuJoCo's MjModel and MjData that are used here, as protocols: its own bindings have no types."""

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Element(Protocol):
    """A named part of a model: a body, joint or camera, with what MuJoCo knows of each kind."""

    id: int
    bodyid: np.ndarray
    """Of a camera: its body [1]."""
    qposadr: np.ndarray
    """Of a joint: where its position begins in `qpos` [1]."""
    dofadr: np.ndarray
    """Of a joint: where its velocity begins in `qvel` [1]."""


@runtime_checkable
class Quality(Protocol):
    """Settings of MuJoCo's own renderer."""

    shadowsize: int
    offsamples: int


@runtime_checkable
class Visual(Protocol):
    """The visual settings of a model."""

    quality: Quality


@runtime_checkable
class MjModel(Protocol):
    """A compiled scene."""

    vis: Visual
    body_weldid: np.ndarray
    """[bodies]: the body that each is welded to; 0 is the world, which never moves."""
    cam_fovy: np.ndarray
    """[cameras] vertical field of view, degrees."""
    geom_aabb: np.ndarray
    """[geoms, 6] local boxes: centre and half sides, metres."""
    geom_bodyid: np.ndarray
    """[geoms]."""
    geom_group: np.ndarray
    """[geoms]."""
    geom_rgba: np.ndarray
    """[geoms, 4] in 0..1."""

    def body(self, name: str) -> Element:
        """The body of that name."""
        ...

    def joint(self, name: str) -> Element:
        """The joint of that name."""
        ...

    def camera(self, name: str) -> Element:
        """The camera of that name."""
        ...


@runtime_checkable
class Contacts(Protocol):
    """The contacts of a moment."""

    geom: np.ndarray
    """[contacts, 2]: which shapes touch."""


@runtime_checkable
class MjData(Protocol):
    """The state of a simulation."""

    time: float
    """Seconds."""
    qpos: np.ndarray
    """Positions of the joints [q], radians or metres; of a free body its place [3] and quaternion [4]."""
    qvel: np.ndarray
    """Velocities of the joints [v]."""
    ctrl: np.ndarray
    """Targets of the servos [u]."""
    mocap_pos: np.ndarray
    """Places of bodies that are moved by hand [mocaps, 3], metres."""
    cam_xpos: np.ndarray
    """[cameras, 3] in the world, metres."""
    cam_xmat: np.ndarray
    """[cameras, 9] rotations."""
    geom_xpos: np.ndarray
    """[geoms, 3] in the world, metres."""
    geom_xmat: np.ndarray
    """[geoms, 9] rotations."""
    contact: Contacts
