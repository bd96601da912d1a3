"""MuJoCo's own renderer, for those who want its pixels: opened only after a subprocess has shown that it works.

A broken GL stack does not raise: it aborts the process, or kills `import mujoco`. So the first question to a backend is
asked from a process that may die.
"""

import atexit
import functools
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from xp.envs.mujoco_import import mujoco
from xp.errors import UserError

BACKENDS = ("egl", "osmesa")
PROBE_SECONDS = 60
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
        f"env.renderer=gl was asked for, but no OpenGL backend draws on this machine ({reasons}). "
        f"Install one ({packages} on Debian), or use env.renderer=raycast, which needs none."
    )


class GlRenderer:
    """Draws cameras with `mujoco.Renderer`: shadows, reflections and multi-sampling off.

    The model must say `shadowsize` and `offsamples` 0 (as `xp.envs.arm.scene` does) because both are fixed when the
    context is made. One context a size; contexts belong to the thread that made them.

    Raises:
        UserError: no backend works here.
    """

    def __init__(self, model: Any, cameras: Mapping[str, tuple[int, int]]):
        assert model.vis.quality.shadowsize == 0 and model.vis.quality.offsamples == 0
        backend, self.description = working_backend()
        _use(backend)
        self._sizes = dict(cameras)
        self._renderers = {size: mujoco.Renderer(model, *size) for size in set(self._sizes.values())}
        for renderer in self._renderers.values():
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        _OPEN.add(self)
        _close_all_at_exit()

    def render(self, data: Any, camera: str) -> np.ndarray:
        """The image [h, w, 3] uint8 that `camera` sees in `data`."""
        renderer = self._renderers[self._sizes[camera]]
        renderer.update_scene(data, camera)
        return renderer.render().copy()

    def close(self) -> None:
        """Free the GL contexts.

        `mujoco.Renderer.close` deletes its textures by number in whichever context is current, which may be another
        renderer's (whose pictures then turn black, without an error): its own is made current first.
        """
        for renderer in self._renderers.values():
            renderer._gl_context.make_current()
            renderer.close()
        self._renderers = {}

    def __del__(self) -> None:
        if getattr(self, "_renderers", None):
            self.close()


_OPEN: "weakref.WeakSet[GlRenderer]" = weakref.WeakSet()


@functools.cache
def _close_all_at_exit() -> None:
    """Close what is open before MuJoCo ends EGL.

    It asks for that (with atexit, last come first served) when it makes its first context: this must be called later.
    """

    def close() -> None:
        for renderer in list(_OPEN):
            renderer.close()

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
