"""The arm's negative controls: experts that must fail. A success test that lets these through measures nothing."""

from dataclasses import replace
from typing import Literal

import numpy as np

from xp.envs.arm.env import ArmEnv
from xp.envs.arm.expert import ScriptedExpert
from xp.envs.arm.tasks import TaskInfo

Control = Literal["open_gripper", "wrong_target", "wrong_cube"]


class OpenGripperExpert(ScriptedExpert):
    """The expert with a gripper that never closes."""

    def act(self) -> np.ndarray:
        """The expert's action [A] with the gripper, its last number, open."""
        action = super().act()
        action[-1] = 1.0
        return action


class WrongPlaceExpert(ScriptedExpert):
    """The expert that moves the right cube to the wrong place: the target (or cube) mirrored in the arm's x axis.

    Where the mirrored place lies within a hand's breadth of the right one, it is moved aside by that much.
    """

    AWAY = 0.08

    def _place(self) -> np.ndarray:
        right = super()._place()
        wrong = right * np.array([1.0, -1.0])
        if np.hypot(*(wrong - right)) < self.AWAY:
            wrong = right - np.array([0.0, np.sign(right[1] or 1.0) * self.AWAY])
        return wrong


def failing_expert(env: ArmEnv, control: Control) -> ScriptedExpert:
    """The expert gone wrong in the way named by `control`."""
    if control == "open_gripper":
        return OpenGripperExpert(env)
    if control == "wrong_target":
        return WrongPlaceExpert(env)
    return ScriptedExpert(env, task=_other_cube(env.info))


def _other_cube(task: TaskInfo) -> TaskInfo:
    """The same task for the other cube: what a policy does that does not read its instruction."""
    return replace(task, cube=task.other)
