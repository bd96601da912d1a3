"""The suite, task and cameras (with their sizes) that the options of both bridges choose."""

from collections.abc import Sequence

from xp.envs.suite import Suite, refuse_unknown_camera, refuse_unknown_task, suite_named
from xp.json_types import JSONObject


def chosen_suite(name: str, options: JSONObject, **given: float | None) -> Suite:
    """The suite called `name` with its own options; of `given`, what is None is left to the suite.

    Raises:
        UserError: no such suite or option.
    """
    return suite_named(name, {**options, **{key: value for key, value in given.items() if value is not None}})


def chosen_task(suite: Suite, task: str | None) -> str:
    """The task, or the suite's first.

    Raises:
        UserError: the suite has no such task.
    """
    name = next(iter(suite.tasks)) if task is None else task
    refuse_unknown_task(name, suite.tasks)
    return name


def chosen_cameras(
    suite: Suite, names: Sequence[str] | None, height: int | None, width: int | None
) -> dict[str, tuple[int, int]]:
    """Camera name to (height, width); the suite's defaults where nothing is said.

    Raises:
        UserError: the suite has no such camera.
    """
    known = suite.default_cameras
    any_size = next(iter(known.values()), (96, 96))
    sizes = {}
    for name in known if names is None else names:
        refuse_unknown_camera(name, suite.camera_names, known)
        default = known.get(name, any_size)
        sizes[name] = (default[0] if height is None else height, default[1] if width is None else width)
    return sizes
