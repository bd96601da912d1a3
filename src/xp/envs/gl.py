"""MuJoCo's own OpenGL renderer: opened only after a subprocess has shown that it works.

A broken GL stack does not raise: it aborts the process, or kills `import mujoco`. So the first question to a backend is
asked from a process that may die.
"""

import atexit
import functools
import itertools
import os
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from xp.envs.mujoco_import import mujoco
from xp.envs.mujoco_types import MjData, MjModel
from xp.errors import UserError

BACKENDS = ("egl", "osmesa")
PROBE_SECONDS = 180  # a machine under load takes a minute to start two processes and import MuJoCo
PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
"""Debian packages that bring each backend on a machine without a graphics driver."""

_PROBE = """
import mujoco
spec = mujoco.MjSpec()
spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.1, 0, 0])
spec.visual.quality.shadowsize = 0
spec.visual.quality.offsamples = 0
model = spec.compile()
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
assert renderer.render().max() > 0, "the picture is black"
from OpenGL import GL
print("GL:", GL.glGetString(GL.GL_RENDERER).decode())
"""


def probe(backend: str) -> tuple[bool, str]:
    """Whether `backend` (egl or osmesa) draws here, tried in a subprocess; with the GL renderer's name or the error."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return False, f"no picture within {PROBE_SECONDS} s"
    drawn = [line for line in done.stdout.splitlines() if line.startswith("GL: ")]
    if done.returncode == 0 and drawn:
        return True, drawn[-1].removeprefix("GL: ")
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return False, said[-1].strip() if said else f"the probe ended with code {done.returncode}"


@functools.cache
def working_backend() -> tuple[str, str]:
    """The first backend that draws and its GL renderer's name; MUJOCO_GL, where it names one, is the only one tried.

    Raises:
        UserError: none draws; says why each did not and which Debian packages bring it.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    tried = {}
    for backend in (asked,) if asked in BACKENDS else BACKENDS:
        works, said = probe(backend)
        if works:
            return backend, said
        tried[backend] = said
    reasons = "; ".join(f"{backend}: {said}" for backend, said in tried.items())
    packages = " or ".join(f"`apt-get install {PACKAGES[backend]}`" for backend in tried)
    raise UserError(
        f"Pictures of this suite are drawn with OpenGL, but no backend draws on this machine ({reasons}). "
        f"Install one: {packages} on Debian"
    )


class GlRenderer:
    """Draws cameras with `mujoco.Renderer`, by default with shadows, reflections and multi-sampling off.

    Then the model must say `shadowsize` and `offsamples` 0 (as `xp.envs.arm.scene` does) because both are fixed when
    the context is made. One context a size; contexts belong to the thread that made them.

    Args:
        model: the scene.
        cameras: camera name to (height, width).
        effects: shadows, reflections and multi-sampling as the model asks for them.
        hidden_groups: the groups of shapes (MuJoCo's `geomgroup`) that are left out of the pictures.
        instead: what else the user can type where nothing draws, as the end of a sentence.

    Raises:
        UserError: no backend works here.
    """

    def __init__(
        self,
        model: MjModel,
        cameras: Mapping[str, tuple[int, int]],
        *,
        effects: bool = False,
        hidden_groups: tuple[int, ...] = (),
        instead: str = "",
    ):
        assert effects or (model.vis.quality.shadowsize == 0 and model.vis.quality.offsamples == 0)
        try:
            backend, self.description = working_backend()
        except UserError as error:
            raise UserError(f"{error}{instead}.") from error
        _use(backend)
        self._sizes = dict(cameras)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[list(hidden_groups)] = 0
        _free_abandoned()
        self._key = next(_KEYS)
        renderers = _HELD[self._key] = {}
        weakref.finalize(self, _ABANDONED.append, (self._key, threading.get_ident())).atexit = False
        for size in set(self._sizes.values()):
            renderers[size] = mujoco.Renderer(model, *size)
        for renderer in renderers.values() if not effects else ():
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        _close_all_at_exit()

    def render(self, data: MjData, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """The image [h, w, 3] uint8 that `camera` sees in `data`."""
        _free_abandoned()
        renderer = _HELD[self._key][self._sizes[camera]]
        renderer.update_scene(data, camera, self._option)
        return renderer.render().copy()

    def close(self) -> None:
        """Free the GL contexts now; what is dropped without this is freed before the next picture or renderer."""
        _free(self._key)


# Freeing changes which context is current, and Python collects cycles between any two instructions: also between those
# with which MuJoCo makes a context current and draws into it. So no garbage ever holds a context: they stay here, and
# those whose owner is gone are freed where nothing is being drawn, by the thread that made them.
_KEYS = itertools.count()
_HELD: dict[int, dict[tuple[int, int], Any]] = {}
_ABANDONED: "deque[tuple[int, int]]" = deque()


def _free_abandoned() -> None:
    """Free what this thread made and no `GlRenderer` owns any more."""
    for _ in range(len(_ABANDONED)):
        key, thread = _ABANDONED.popleft()
        if thread == threading.get_ident():
            _free(key)
        else:
            _ABANDONED.append((key, thread))


def _free(key: int) -> None:
    """Free one owner's contexts.

    `mujoco.Renderer.close` deletes its textures by number in whichever context is current, which may be another
    renderer's (whose pictures then turn black, without an error): its own is made current first.
    """
    for renderer in _HELD.pop(key, {}).values():
        renderer._gl_context.make_current()
        renderer.close()


@functools.cache
def _close_all_at_exit() -> None:
    """Close what is open before MuJoCo ends EGL.

    It asks for that (with atexit, last come first served) when it makes its first context: this must be called later.
    """

    def close() -> None:
        for key in list(_HELD):
            _free(key)

    atexit.register(close)


def _use(backend: str) -> None:
    """Give `mujoco.Renderer` the backend's context class.

    MuJoCo chooses it once, at import, from MUJOCO_GL; `xp.envs.mujoco_import` had it choose none.
    """
    if backend == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    sys.modules[mujoco.Renderer.__module__].gl_context.GLContext = GLContext
