"""The expert: a trot by a central pattern generator, held upright by what the robot itself observes.

Diagonal legs move together. A leg's cycle is half swing, half stance: in the swing its foot goes forward and is lifted,
in the stance it goes back and pushes. Feedback from turning and tilt bends the legs (of the kind of Ijspeert, "Central
pattern generators for locomotion control in animals and robots", Neural Networks 21, 2008). The numbers of each robot
were found by `tools/quadruped_gaits.py` and stand in conf/env.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
from jaxtyping import Float, Float32

from xp.envs.quadruped.settings import OBSERVATION_SCALES, Settings
from xp.errors import UserError, join_names

RAMP_SECONDS = 0.3
"""From standing to the full stride."""
_PHASES = np.array([0.0, 0.5, 0.5, 0.0])
_FRONT = np.array([1.0, 1.0, 0.0, 0.0])
_LEFT = np.array([-1.0, 1.0, -1.0, 1.0])
"""+1 for the left legs, -1 for the right ones."""
_FORE = 2 * _FRONT - 1


@dataclass(frozen=True, kw_only=True)
class Gait:
    """The numbers of a trot. Angles in radians, of the servos' targets; gains per radian or rad/s."""

    frequency: float
    """Cycles per second."""
    stride: float
    """How far the thighs swing to either side."""
    lift: float
    """How far the calves bend in the swing."""
    thigh_front: float
    thigh_rear: float
    calf_front: float
    calf_rear: float
    """Differences to the default pose."""
    push_front: float
    push_rear: float
    """How far the calves stretch in the stance."""
    hip: float
    """How far the legs are spread."""
    pitch: float
    pitch_rate: float
    roll: float
    roll_rate: float
    """By tilt and turning: how far the calves on the lower side stretch."""
    hip_roll: float
    hip_roll_rate: float
    """By roll and its rate: how far all hips turn."""
    yaw_rate: float
    """By turning to the left: how much longer the stride of the left legs gets, as a share."""


GAIT_KEYS = tuple(field.name for field in fields(Gait))


def gait_of(given: object) -> Gait | None:
    """The gait of a section `env.gait`; None where there is none.

    Raises:
        UserError: a number is missing, or there is one more.
    """
    if given is None:
        return None
    numbers = cast("Mapping[str, object]", given) if isinstance(given, Mapping) else {}
    wrong = [key for key in GAIT_KEYS if isinstance(numbers.get(key), bool | str | None)]
    if wrong or set(numbers) != set(GAIT_KEYS):
        raise UserError(f"env.gait={given}: expected null, or a mapping of numbers: {join_names(GAIT_KEYS)}.")
    return Gait(**{key: float(cast("float", numbers[key])) for key in GAIT_KEYS})


class Trot:
    """N robots that trot, each with its own numbers, all from the first step of an episode on.

    Args:
        gaits: [N, gait numbers] in the order of `GAIT_KEYS`, or [1, ...] for all.
        settings: of the robots.
    """

    def __init__(self, gaits: Float[np.ndarray, "N numbers"], settings: Settings) -> None:
        self._of = {key: gaits[:, place, None] for place, key in enumerate(GAIT_KEYS)}
        self._fps, self._scale = settings.fps, settings.action_scale
        self._signs = np.array(settings.robot.own_signs if settings.own_signs else (1.0,) * 12)

    def act(self, observation: Float32[np.ndarray, "N 33"], step: np.ndarray) -> Float32[np.ndarray, "N 12"]:
        """The actions at step numbers [N] of the robots' episodes."""
        of, seconds = self._of, np.asarray(step, np.float64)[:, None] / self._fps
        seen = observation[:, :6] / np.array(OBSERVATION_SCALES[:6])
        turning, gravity = seen[:, :3, None], seen[:, 3:, None]
        cycle = 2 * np.pi * (of["frequency"] * seconds + _PHASES)
        ramp = np.minimum(seconds / RAMP_SECONDS, 1.0)
        swing, stance = np.maximum(np.sin(cycle), 0.0), np.maximum(-np.sin(cycle), 0.0)
        longer = 1.0 + _LEFT * of["yaw_rate"] * turning[:, 2]
        upright = (of["pitch"] * gravity[:, 0] + of["pitch_rate"] * turning[:, 1]) * _FORE
        upright = upright + (of["roll"] * gravity[:, 1] + of["roll_rate"] * turning[:, 0]) * _LEFT
        thigh = of["thigh_front"] * _FRONT + of["thigh_rear"] * (1 - _FRONT)
        thigh = thigh + ramp * (of["stride"] * longer * np.cos(cycle) + 0.5 * of["lift"] * swing) - 0.5 * upright
        calf = of["calf_front"] * _FRONT + of["calf_rear"] * (1 - _FRONT) - ramp * of["lift"] * swing
        calf = calf + (of["push_front"] * _FRONT + of["push_rear"] * (1 - _FRONT)) * stance + upright
        hip = of["hip"] * _LEFT + of["hip_roll"] * gravity[:, 1] + of["hip_roll_rate"] * turning[:, 0]
        angles = np.stack(np.broadcast_arrays(hip, thigh, calf), axis=2).reshape(len(observation), 12)
        return (angles / self._scale * self._signs).astype(np.float32)


def numbers_of(gait: Gait) -> Float[np.ndarray, "1 numbers"]:
    """A gait as a row."""
    return np.array([[getattr(gait, key) for key in GAIT_KEYS]])
