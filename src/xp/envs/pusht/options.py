"""The light facts of PushT: nothing here imports the simulator."""

from importlib.util import find_spec

from xp.errors import UserError

ENV_ID, PACKAGE = "gym_pusht/PushT-v0", "gym_pusht"
TASKS = {"push_t": "Push the T-shaped block onto the T-shaped target."}
"""The instruction is that of the published demonstrations (lerobot/pusht)."""
CAMERA = "image"
"""As the camera of the published demonstrations is called: their key is `observation.image`."""
NATIVE_SIZE = 96
"""Height and width of gym-pusht's own pictures, pixels."""
FPS = 10
STATE_NAMES = ("x", "y")
ENVIRONMENT_STATE_NAMES = tuple(f"corner_{corner}_{axis}" for corner in range(8) for axis in "xy")
MAX_NOISE = 5.0
"""Most noise on the expert's actions, pixels: no more was tried (docs/suites.md has what it solved at it)."""
FAILING_EXPERTS = ("upside_down", "beside")


def require_package() -> None:
    """Make sure that gym-pusht is installed.

    Raises:
        UserError: it is not; the command that installs it.
    """
    if find_spec(PACKAGE) is None:
        raise UserError(
            "env=pusht needs the package gym-pusht, which is not installed. Install it with `uv sync --extra pusht` "
            "(or `pip install 'xp-robot-policies[pusht]'`), or take another suite, e.g. env=arm."
        )


def checked_fps(fps: float) -> int:
    """The rate, which is gym-pusht's own.

    Raises:
        UserError: another one.
    """
    if fps != FPS:
        raise UserError(f"env.fps={fps:g}: PushT makes {FPS} control steps a second. Type env.fps={FPS}")
    return FPS
