"""The options of the arm's envs: cameras and their sizes, the control rate, the renderer. Light: no MuJoCo here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from xp.envs.arm.tasks import CUBES
from xp.envs.suite import refuse_unknown_camera
from xp.errors import UserError

PHYSICS_HZ = 300
LIMIT_SECONDS = 10.0
"""Length limit of an episode where none is given."""
RENDERERS = ("raycast", "gl")
FAILING_EXPERTS: Final = ("open_gripper", "wrong_target", "wrong_cube")
"""Ways in which the expert can go wrong (`xp.envs.arm.controls`)."""
MAX_NOISE = 0.02
"""Standard deviation of joint noise in radians above which the scripted expert itself begins to fail."""

ENVIRONMENT_STATE_NAMES = (
    *(f"{cube}.{part}" for cube in CUBES for part in ("x", "y", "z", "cos_yaw", "sin_yaw")),
    "target.x",
    "target.y",
)
"""What the numbers of `observation.environment_state` are: metres, and a yaw that knows no jump at pi."""


@dataclass(frozen=True)
class CameraNumbers:
    """A pinhole camera: where it stands, what it looks at, its vertical field of view in degrees.

    With `body` None both points are in the world; else in that body's frame, and the camera rides on the body.
    """

    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    up: tuple[float, float, float]
    fovy: float
    body: str | None = None


CAMERAS = {
    "top": CameraNumbers((0.150, 0.0, 0.62), (0.150, 0.0, 0.0), (1.0, 0.0, 0.0), 40.0),
    "oblique": CameraNumbers((0.53, -0.25, 0.36), (0.130, -0.010, 0.050), (0.0, 0.0, 1.0), 36.0),
    "wrist": CameraNumbers((-0.075, 0.0, 0.005), (-0.004, 0.0, 0.125), (-1.0, 0.0, 0.0), 68.0, body="hand"),
}
DEFAULT_CAMERAS = {"oblique": (64, 64), "wrist": (64, 64)}
"""Camera name to (height, width), as in conf/env/arm.yaml."""


def checked_cameras(cameras: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    """Sizes (height, width) of cameras by name, if the suite has them and can draw them.

    Raises:
        UserError: an unknown camera, or a size that cannot be drawn.
    """
    for name, size in cameras.items():
        refuse_unknown_camera(name, tuple(CAMERAS), DEFAULT_CAMERAS)
        if len(size) != 2 or not all(8 <= int(side) <= 1280 for side in size):
            raise UserError(
                f"Camera '{name}' cannot be drawn at {list(size)} pixels: give [height, width], each from 8 to 1280, "
                f"e.g. env.cameras.{name}=[64,64]."
            )
    return {name: (int(size[0]), int(size[1])) for name, size in cameras.items()}


def checked_fps(fps: float) -> int:
    """Control steps a second, if each holds a whole number of physics steps.

    Raises:
        UserError: it does not divide the physics rate.
    """
    if fps != int(fps):
        raise UserError(f"env.fps={fps}: the suite needs a whole number that divides {PHYSICS_HZ}, such as env.fps=10")
    if fps <= 0 or PHYSICS_HZ % fps:
        raise UserError(
            f"env.fps={fps} does not divide the physics rate of {PHYSICS_HZ} Hz; "
            "give one that does, e.g. env.fps=10, 15, 20, 30 or 50."
        )
    return int(fps)
