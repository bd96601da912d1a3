"""Camera images by casting rays with `mujoco.mj_multiRay`: no GL, and the same pixels on every machine.

One ray a pixel (no shadows, no anti-aliasing) and one light. Three facts make it cheap: the table is met in closed
form, what never moves is cast once per fixed camera and kept, and rays are cast at other shapes only inside the boxes
that these cover in the image. That gives the very pixels that casting every ray at every shape gives (a test holds it
to that).

Same pixels: all arithmetic that touches a pixel is element-wise float64 (no BLAS, whose sums depend on the processor),
brightness is rounded to 256 levels, and nothing in the scene lies exactly on a rounding or a pattern edge.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from xp.envs.mujoco_import import mujoco
from xp.envs.mujoco_types import MjData, MjModel

TABLE_GROUP, STATIC_GROUP, MOVING_GROUP = 0, 1, 2
"""Geom groups of a scene: the table (drawn as a `Table`), what else never moves, and what does."""

LIGHT = np.array([0.31, -0.42, 0.853])
"""Direction towards the light, about unit length; the numbers are generic on purpose (see the module's text)."""
SKY = np.array([196, 206, 219], np.uint8)
NEAR = 0.002
"""A shape with a corner nearer than this (metres before the camera, or behind it) may cover the whole image."""
FAR = 10.0
_LEVELS = 256


@dataclass(frozen=True)
class Table:
    """A square with a checker pattern in the plane z = 0, seen from above; lengths in metres, colours in 0..1.

    `half` is half its side, `tile` the side of the pattern's squares, which begin at `origin`.
    """

    half: float
    tile: float
    origin: tuple[float, float]
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass
class _View:
    """One camera at one size. Its rays have depth 1, so that a ray is a column's part plus a row's part."""

    camera: int
    height: int
    width: int
    focal: float
    """Pixels per unit of (side / depth)."""
    x: Float[np.ndarray, " width"]
    """To the right, of each column's pixel centres [w] at depth 1."""
    y: Float[np.ndarray, " height"]
    """Upwards, of each row's [h]."""


@dataclass(frozen=True)
class _Still:
    """The picture [P, 3] uint8 of what does not move, its depths [P] in metres, and the world's rays [3, P]."""

    image: UInt8[np.ndarray, "pixels 3"]
    depth: Float[np.ndarray, " pixels"]
    rays: Float[np.ndarray, "3 pixels"]


class RayCaster:
    """Draws the cameras of one MjModel at fixed sizes.

    Args:
        model: the scene's MjModel.
        cameras: camera name to (height, width) in pixels.
        table: what lies in the plane z = 0.
    """

    def __init__(self, model: MjModel, cameras: Mapping[str, tuple[int, int]], *, table: Table):
        self._model = model
        self._board = table
        self._views = {name: _make_view(model, name, *size) for name, size in cameras.items()}
        self._fixed = {name for name in cameras if model.body_weldid[model.camera(name).bodyid[0]] == 0}
        self._stills: dict[str, _Still] = {}
        self._palette = _palette(np.asarray(model.geom_rgba, np.float64)[:, :3])
        self._tiles = _palette(np.array(table.colours))[:, _brightness(np.array([[0.0, 0.0, 1.0]]))[0]]
        self._corners = _box_corners(np.asarray(model.geom_aabb))

    def render(self, data: MjData, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """The image [h, w, 3] uint8 that `camera` sees in `data` (an MjData after mj_forward)."""
        view = self._views[camera]
        if camera not in self._fixed:
            still = self._table(data, view)
            image = self._draw(data, view, still, (STATIC_GROUP, MOVING_GROUP))[0]
        else:
            if camera not in self._stills:
                self._stills[camera] = self._furniture(data, view)
            image = self._draw(data, view, self._stills[camera], (MOVING_GROUP,))[0]
        return image.reshape(view.height, view.width, 3)

    def _furniture(self, data: MjData, view: _View) -> _Still:
        """Table and pedestal as a fixed camera always sees them."""
        table = self._table(data, view)
        image, depth = self._draw(data, view, table, (STATIC_GROUP,))
        return _Still(image, depth, table.rays)

    def _table(self, data: MjData, view: _View) -> _Still:
        """The checkered table (the plane z = 0, seen from above) and the sky."""
        rays = _world_rays(view, np.array(data.cam_xmat[view.camera]).reshape(3, 3))
        x0, y0, z0 = data.cam_xpos[view.camera]
        half, tile, origin = self._board.half, self._board.tile, self._board.origin
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = -z0 / rays[2]
            x, y = depth * rays[0] + x0, depth * rays[1] + y0
            seen = (depth > 0) & (np.abs(x) < half) & (np.abs(y) < half)
            column = ((x - (origin[0] - 1000 * tile)) / tile).astype(np.int32)  # positive: truncated is floored
            row = ((y - (origin[1] - 1000 * tile)) / tile).astype(np.int32)
        colours = np.stack([self._tiles[0], self._tiles[1], SKY])
        which = np.where(seen, (column + row) & 1, 2)
        return _Still(colours.take(which, axis=0), np.where(seen, depth, np.inf), rays)

    def _draw(
        self, data: MjData, view: _View, still: _Still, groups: tuple[int, ...]
    ) -> tuple[UInt8[np.ndarray, "pixels 3"], Float[np.ndarray, " pixels"]]:
        """Image and depths after drawing the shapes of `groups` over a still picture."""
        image, depth = still.image.copy(), still.depth.copy()
        inside = np.flatnonzero(self._covered(data, view, groups))
        if len(inside):
            geom, near, normal = self._cast(data, view, still.rays[:, inside], groups)
            hit = np.flatnonzero((geom >= 0) & (near < depth[inside]))
            pixels = inside[hit]
            shade = geom[hit] * _LEVELS + _brightness(normal[hit])
            image[pixels] = self._palette.reshape(-1, 3).take(shade, axis=0)
            depth[pixels] = near[hit]
        return image, depth

    def _cast(
        self, data: MjData, view: _View, rays: Float[np.ndarray, "3 rays"], groups: tuple[int, ...]
    ) -> tuple[Int[np.ndarray, " rays"], Float[np.ndarray, " rays"], Float[np.ndarray, "rays 3"]]:
        """What the rays [3, P] meet first in `groups`: id [P] (-1: none), depth [P] in metres, unit normal [P, 3]."""
        count = rays.shape[1]
        geom, depth, normal = np.empty(count, np.int32), np.empty(count), np.empty((count, 3))
        chosen = np.zeros(mujoco.mjNGROUP, np.uint8)
        chosen[list(groups)] = 1
        position = np.array(data.cam_xpos[view.camera])
        flat, out = rays.T.reshape(-1), normal.reshape(-1)
        mujoco.mj_multiRay(self._model, data, position, flat, chosen, True, -1, geom, depth, out, count, FAR)
        return geom, depth, normal

    def _covered(self, data: MjData, view: _View, groups: tuple[int, ...]) -> Bool[np.ndarray, " pixels"]:
        """Mask [P] of the pixels inside the box that some shape of `groups` covers in the image.

        A shape lies within the hull of its bounding box's eight corners. All eight beyond one side of the image: it is
        not seen. All before the camera: its picture lies within the rectangle that spans theirs. Else, the whole image.
        """
        shapes = np.flatnonzero(np.isin(self._model.geom_group, groups))
        turn = np.asarray(data.geom_xmat)[shapes].reshape(-1, 3, 3)
        centre = np.asarray(data.geom_xpos)[shapes] - data.cam_xpos[view.camera]
        corners = self._corners[shapes] @ turn.transpose(0, 2, 1) + centre[:, None]
        seen = corners @ np.asarray(data.cam_xmat[view.camera]).reshape(3, 3)
        across, up, depth = seen[..., 0] * view.focal, -seen[..., 1] * view.focal, -seen[..., 2]
        half_w, half_h = view.width / 2, view.height / 2
        outside = (
            (across > depth * half_w).all(1) | (-across > depth * half_w).all(1) | (depth < 0).all(1)
            | (up > depth * half_h).all(1) | (-up > depth * half_h).all(1)
        )  # fmt: skip
        mask = np.zeros((view.height, view.width), bool)
        if np.any((depth <= NEAR).any(1) & ~outside):
            mask[:] = True
            return mask.ravel()
        column, row = across[~outside] / depth[~outside] + half_w, up[~outside] / depth[~outside] + half_h
        for left, right, top, bottom in zip(column.min(1), column.max(1), row.min(1), row.max(1)):
            mask[max(int(top) - 1, 0) : max(int(bottom) + 2, 0), max(int(left) - 1, 0) : max(int(right) + 2, 0)] = True
        return mask.ravel()


def _make_view(model: MjModel, name: str, height: int, width: int) -> _View:
    """Rays through the pixels' centres of MuJoCo's camera (looks along -z, y up, `fovy` degrees from top to bottom)."""
    camera = model.camera(name).id
    focal = height / 2 / np.tan(np.radians(float(model.cam_fovy[camera])) / 2)
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (height / 2 - 0.5 - np.arange(height)) / focal
    return _View(camera, height, width, float(focal), x, y)


def _box_corners(boxes: Float[np.ndarray, "geoms 6"]) -> Float[np.ndarray, "geoms 8 3"]:
    """Corners [G, 8, 3] of local boxes [G, 6] (centre, half sides)."""
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij")).reshape(3, 8).T
    return boxes[:, None, :3] + signs[None] * boxes[:, None, 3:]


def _world_rays(view: _View, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 pixels"]:
    """The view's rays [3, P] in the world; each number is a sum in a fixed order (see the module's text)."""
    right, up, back = rotation.T[:, :, None]
    columns, rows = view.x * right - back, view.y * up
    return (rows[:, :, None] + columns[:, None, :]).reshape(3, -1)


def _brightness(normal: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    """Level 0..255 of each unit normal [P, 3]: the cosine to the light, from facing away to facing it."""
    cosine = (normal[:, 0] * LIGHT[0] + normal[:, 1] * LIGHT[1]) + normal[:, 2] * LIGHT[2]
    return np.clip(np.rint((cosine + 1.0) * (_LEVELS - 1) / 2), 0, _LEVELS - 1).astype(np.int64)


def _palette(colours: Float[np.ndarray, "geoms 3"]) -> UInt8[np.ndarray, "geoms 256 3"]:
    """Colours [G, 256, 3] uint8 of each base colour [G, 3] (0..1) at each brightness level.

    The whole range of the cosine, -1..1, is used, so that faces turned away still differ from one another (the idea of
    half-Lambert shading: Mitchell, McTaggart, Green, "Shading in Valve's Source Engine", SIGGRAPH 2006 course).
    """
    shade = 0.35 + 0.75 * np.linspace(0.0, 1.0, _LEVELS) ** 1.5
    return np.rint(np.clip(colours[:, None] * shade[None, :, None], 0.0, 1.0) * 255).astype(np.uint8)
