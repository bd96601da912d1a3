"""The suite's tasks as a table: the instruction, the cube that it is about, and where that cube must end.

All tasks share one scene (arm, red cube, blue cube, target), drawn from one distribution, so nothing but the language
says which task it is. Light: no MuJoCo here.
"""

from dataclasses import dataclass
from typing import Literal

from xp.envs.suite import refuse_unknown_task

CUBES = ("red", "blue")
"""The cubes of the scene."""


@dataclass(frozen=True)
class TaskInfo:
    """One task.

    `skill` is how the expert goes about it: carry the cube to the target, push it there (it may never leave the table),
    or carry it onto the other cube. `cube` is the cube to move.
    """

    language: str
    cube: Literal["red", "blue"]
    skill: Literal["carry", "push", "stack"]

    @property
    def other(self) -> Literal["red", "blue"]:
        """The cube that is not to be moved."""
        return "blue" if self.cube == "red" else "red"


TASKS: dict[str, TaskInfo] = {
    "red_to_target": TaskInfo("put the red cube on the target", "red", "carry"),
    "blue_to_target": TaskInfo("put the blue cube on the target", "blue", "carry"),
    "push_red": TaskInfo("push the red cube to the target", "red", "push"),
    "stack": TaskInfo("stack the red cube on the blue cube", "red", "stack"),
}
"""Name in configs -> task."""


def task_info(name: str) -> TaskInfo:
    """The task called `name`.

    Raises:
        UserError: there is no such task.
    """
    refuse_unknown_task(name, TASKS)
    return TASKS[name]
