"""Claims about the ray caster's images."""

import hashlib

import numpy as np
import pytest

from xp.envs.arm.arm import inverse
from xp.envs.arm.options import CAMERAS
from xp.envs.arm.scene import TABLE, build_model
from xp.envs.mujoco_import import mujoco
from xp.envs.raycast import MOVING_GROUP, SKY, STATIC_GROUP, TABLE_GROUP, RayCaster

SIZE = (64, 96)


@pytest.fixture(scope="module")
def model():
    return build_model(1 / 300)


def scene(model, seed):
    """An MjData with everything somewhere."""
    random = np.random.default_rng(seed)
    data = mujoco.MjData(model)
    bearing, radius = random.uniform(-0.9, 0.9), random.uniform(0.13, 0.2)
    tip = np.round([radius * np.cos(bearing), radius * np.sin(bearing), random.uniform(0.015, 0.1)], 6)
    data.qpos[:5] = np.round(inverse(tip, roll=random.uniform(-1, 1)), 6)
    data.qpos[5:7] = 0.02
    for start in (7, 14):
        data.qpos[start : start + 3] = np.round([random.uniform(0.1, 0.2), random.uniform(-0.2, 0.2), 0.015], 6)
        turn = random.uniform(-0.4, 0.4)
        data.qpos[start + 3 : start + 7] = np.round([np.cos(turn), 0, 0, np.sin(turn)], 9)
    data.mocap_pos[0] = [0.17, round(random.uniform(-0.15, 0.15), 6), 0.0008]
    mujoco.mj_forward(model, data)
    return data


def cast_everything(model, data, camera, size):
    """Geom id [h, w] of the nearest shape (or -1), from one `mj_multiRay` of every ray at every shape."""
    number, (height, width) = model.camera(camera).id, size
    focal = height / 2 / np.tan(np.radians(model.cam_fovy[number]) / 2)
    row, column = np.mgrid[:height, :width] + 0.5
    rays = np.stack([column - width / 2, height / 2 - row, np.full(size, -focal)], axis=-1).reshape(-1, 3)
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True) @ data.cam_xmat[number].reshape(3, 3).T
    count = len(rays)
    geom, distance = np.empty(count, np.int32), np.empty(count)
    groups = np.zeros(6, np.uint8)
    groups[[TABLE_GROUP, STATIC_GROUP, MOVING_GROUP]] = 1
    mujoco.mj_multiRay(
        model, data, data.cam_xpos[number], rays.ravel(), groups, True, -1, geom, distance, None, count, 10.0
    )
    return geom.reshape(size)


@pytest.mark.parametrize("camera", CAMERAS)
def test_every_pixel_shows_the_shape_that_casting_every_ray_at_every_shape_finds(model, camera):
    caster = RayCaster(model, {camera: SIZE}, table=TABLE)
    for seed in range(6):
        data = scene(model, seed)
        image = caster.render(data, camera)
        geom = cast_everything(model, data, camera, SIZE)
        for index in range(-1, model.ngeom):
            shown = image[geom == index].reshape(-1, 3)
            if index < 0:
                assert np.all(shown == SKY)
            elif index == model.geom("table").id:
                assert np.isin(shown, caster._tiles).all()
            elif len(shown):
                known = {tuple(colour) for colour in caster._palette[index].tolist()}
                assert {tuple(pixel) for pixel in shown.tolist()} <= known, model.geom(index).name


@pytest.mark.parametrize("camera", CAMERAS)
def test_casting_only_inside_boxes_changes_no_pixel(model, camera, monkeypatch):
    quick = RayCaster(model, {camera: SIZE}, table=TABLE)
    images = [quick.render(scene(model, seed), camera) for seed in range(6)]
    monkeypatch.setattr(RayCaster, "_covered", lambda self, data, view, groups: np.ones(SIZE, bool).ravel())
    full = RayCaster(model, {camera: SIZE}, table=TABLE)
    for seed, image in enumerate(images):
        np.testing.assert_array_equal(image, full.render(scene(model, seed), camera))


@pytest.mark.parametrize("camera", ["top", "oblique", "wrist"])
def test_the_boxes_leave_out_most_of_the_image(model, camera):
    """Else they would cost and not save; on average over scenes."""
    caster = RayCaster(model, {camera: SIZE}, table=TABLE)
    groups = (MOVING_GROUP,) if camera != "wrist" else (STATIC_GROUP, MOVING_GROUP)
    shares = [caster._covered(scene(model, s), caster._views[camera], groups).mean() for s in range(8)]
    assert np.mean(shares) < 0.6


def test_the_image_is_a_pure_function_of_the_state(model):
    caster = RayCaster(model, {name: SIZE for name in CAMERAS}, table=TABLE)
    first = [caster.render(scene(model, 0), name) for name in CAMERAS]
    for name in CAMERAS:
        caster.render(scene(model, 5), name)
    again = [caster.render(scene(model, 0), name) for name in CAMERAS]
    np.testing.assert_array_equal(first, again)
    assert not np.shares_memory(first[0], again[0])


def test_a_larger_image_shows_the_same_picture(model):
    data = scene(model, 2)
    small = RayCaster(model, {"oblique": (48, 48)}, table=TABLE).render(data, "oblique").astype(float)
    large = RayCaster(model, {"oblique": (240, 240)}, table=TABLE).render(data, "oblique").astype(float)
    shrunk = large.reshape(48, 5, 48, 5, 3)[:, 2, :, 2]  # the middle of 5 x 5 pixels is the small one's ray
    np.testing.assert_array_equal(small, shrunk)


def test_cubes_and_target_are_drawn_where_the_camera_projects_them(model):
    data = scene(model, 1)
    data.qpos[:5] = 0.0  # the arm stands upright, behind them all
    mujoco.mj_forward(model, data)
    height, width = 120, 160
    image = RayCaster(model, {"top": (height, width)}, table=TABLE).render(data, "top").astype(int)
    camera = model.camera("top").id
    for body, channel in (("red", 0), ("blue", 2), ("target", 1)):
        offset = data.xpos[model.body(body).id] - data.cam_xpos[camera]
        right, up, back = data.cam_xmat[camera].reshape(3, 3).T @ offset
        focal = height / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
        row, column = height / 2 - focal * up / -back, width / 2 + focal * right / -back
        others = [c for c in range(3) if c != channel]
        mask = image[..., channel] > image[..., others].max(-1) + 60
        found = np.argwhere(mask).mean(0) + 0.5
        np.testing.assert_allclose(found, [row, column], atol=1.5)


def test_faces_of_a_cube_differ_in_brightness(model):
    data = scene(model, 1)
    image = RayCaster(model, {"oblique": (240, 240)}, table=TABLE).render(data, "oblique").astype(int)
    red = image[(image[..., 0] > 80) & (image[..., 1:].max(-1) * 4 < image[..., 0])]
    assert len(np.unique(red[:, 0])) >= 3


def test_pixels_are_those_of_every_other_machine(model):
    """The digest was computed once. States are given, not simulated, so it depends on nothing but the caster."""
    caster = RayCaster(model, {name: (96, 96) for name in CAMERAS}, table=TABLE)
    digest = hashlib.sha256()
    for seed in range(4):
        for name in CAMERAS:
            digest.update(caster.render(scene(model, seed), name).tobytes())
    assert digest.hexdigest()[:16] == DIGEST


DIGEST = "6aa812c0955a6829"
