# pyright: strict
"""What is known of LIBERO without its package: suites, step limits, cameras, names of numbers. Light."""

from collections.abc import Mapping
from typing import Final

MAX_STEPS: Final[Mapping[str, int]] = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Control steps per episode in the published evaluations (OpenVLA's run_libero_eval.py, since followed by others): the
longest demonstration of each suite, rounded up."""
VARIANTS = ("swap", "object", "lan", "task")
"""LIBERO-PRO's perturbations: places swapped, objects replaced, instructions put differently, other tasks."""
SUITES = (*MAX_STEPS, *(f"{base}_{kind}" for base in MAX_STEPS if base != "libero_90" for kind in VARIANTS))

FPS = 20
"""Control steps a second: the only rate that the demonstrations and published numbers know."""
WAIT_STEPS = 10
"""Published: steps with no motion and an open gripper before a policy is asked, while objects fall into place."""
OFFICIAL_STATES = 50
"""Official initial states of each task."""
FIRST_OFFICIAL = 1_000_000
"""The seed of the first official initial state: where `eval.first_seed` stands, and `task=collect` never comes."""

CAMERAS = ("agentview", "robot0_eye_in_hand", "frontview", "birdview", "sideview")
DEFAULT_CAMERAS: Final[Mapping[str, tuple[int, int]]] = {"agentview": (128, 128), "robot0_eye_in_hand": (128, 128)}
"""Camera name to (height, width), as in conf/env/libero.yaml."""
STATE_NAMES = (
    *(f"eef.{axis}" for axis in "xyz"),
    *(f"eef.rotation.{axis}" for axis in "xyz"),
    "gripper.left",
    "gripper.right",
)
"""The published proprioception: place of the end effector in metres, its rotation as axis times angle in radians, the
two fingers' positions in metres (OpenVLA's and LeRobot's conversions of LIBERO's demonstrations)."""
ACTION_NAMES = (*(f"move.{axis}" for axis in "xyz"), *(f"turn.{axis}" for axis in "xyz"), "gripper")
"""Of robosuite's OSC_POSE controller, each in -1..1: 1 moves the target by 5 cm or turns it by 0.5 rad; gripper -1
opens, 1 closes."""

RENDERINGS = ("published", "fast")
INSTRUCTIONS = ("bddl", "file_name")
FAILING_EXPERTS: Final = ("open_gripper", "wrong_object")
MAX_NOISE = 0.3
"""Standard deviation of noise on the six motion numbers above which the scripted expert itself begins to fail."""
MEGABYTES = 1000
"""What a simulation takes with pictures: 760 to 980 measured, nearly all textures and buffers of OpenGL (the first of a
process 800 more, for libraries)."""


def base_suite(suite: str) -> str:
    """The suite that a variant perturbs: libero_object of libero_object_swap."""
    return next(name for name in MAX_STEPS if suite == name or suite.removeprefix(name)[1:] in VARIANTS)
