"""Import MuJoCo so that no value of MUJOCO_GL can break it.

`import mujoco` opens the GL backend that MUJOCO_GL names, and dies with an AttributeError where its library is missing
(even for a caller who only wants physics). Here the variable says `disable` for the moment of the import; `xp.envs.gl`
opens a backend later, by hand, once a subprocess has shown that it works.
"""

import importlib
import os
from typing import Any


def _import() -> Any:
    asked = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        return importlib.import_module("mujoco")
    finally:
        if asked is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = asked


mujoco: Any = _import()
"""The module, typed Any: its bindings have no types. What is used of its models and data: `xp.envs.mujoco_types`."""
