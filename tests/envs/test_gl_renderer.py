"""Claims about MuJoCo's own renderer and the question asked before it is opened."""

import gc
import subprocess
import sys

import numpy as np
import pytest

from xp.envs import gl as gl_module
from xp.envs.arm import ArmEnv
from xp.errors import UserError


@pytest.fixture(scope="module")
def backend():
    try:
        return gl_module.working_backend()
    except UserError as error:
        pytest.skip(str(error))


def test_both_renderers_show_the_same_scene(backend):
    cameras = {"oblique": (120, 120), "wrist": (120, 120), "top": (120, 120)}
    images = {}
    for renderer in ("raycast", "gl"):
        images[renderer] = ArmEnv("stack", cameras=cameras, renderer=renderer).reset(0)
    for camera in cameras:
        cast, drawn = (images[kind][f"observation.images.{camera}"].astype(int) for kind in ("raycast", "gl"))
        for channel in (0, 2):
            others = [c for c in range(3) if c != channel]
            ours, theirs = (image[..., channel] > 2 * image[..., others].max(-1) + 10 for image in (cast, drawn))
            both, either = np.sum(ours & theirs), np.sum(ours | theirs)
            assert either == 0 or both / either > 0.8, (camera, channel)


def test_the_gl_image_has_the_asked_size_for_each_camera(backend):
    env = ArmEnv("stack", cameras={"oblique": (48, 64), "top": (32, 32)}, renderer="gl")
    observation = env.reset(0)
    assert observation["observation.images.oblique"].shape == (48, 64, 3)
    assert observation["observation.images.top"].shape == (32, 32, 3)


def test_closing_one_renderer_leaves_the_others_pictures_as_they_were(backend):
    first, second = (ArmEnv("stack", cameras={"oblique": (96, 96)}, renderer="gl") for _ in range(2))
    first.reset(0)
    before = [second.reset(seed)["observation.images.oblique"] for seed in (0, 1)]
    del first
    gc.collect()
    after = [second.reset(seed)["observation.images.oblique"] for seed in (0, 1)]
    np.testing.assert_array_equal(before, after)
    assert before[0].std() > 10 and not np.array_equal(before[0], before[1])


@pytest.mark.parametrize("during", ["its construction", "its picture"])
def test_garbage_collected_while_another_draws_leaves_its_pictures_as_they_were(backend, monkeypatch, during):
    def new() -> ArmEnv:
        return ArmEnv("stack", cameras={"oblique": (96, 96)}, renderer="gl")

    def drop_one_in_a_cycle() -> None:
        old = new()
        old.reset(0)
        vars(old)["itself"] = old  # only the collector of cycles frees it

    def collect_once(context):
        make_current(context)
        monkeypatch.undo()
        collected.append(gc.collect())

    expected = new().reset(0)["observation.images.oblique"]
    context_class = gl_module.mujoco.rendering.classic.renderer.gl_context.GLContext
    make_current, collected = context_class.make_current, []
    gc.disable()
    try:
        env = new() if during == "its picture" else None
        drop_one_in_a_cycle()
        monkeypatch.setattr(context_class, "make_current", collect_once)
        env = env or new()
        shown = [env.reset(0)["observation.images.oblique"] for _ in range(2)]
    finally:
        gc.enable()
    assert collected and collected[0] > 0
    np.testing.assert_array_equal(shown, [expected, expected])


def test_a_process_with_open_renderers_ends_without_a_word(backend):
    code = (
        "from xp.envs.arm import ArmEnv\n"
        "envs = [ArmEnv('stack', cameras={'top': (16, 16), 'wrist': (8, 8)}, renderer='gl') for _ in range(2)]\n"
        "print(envs[0].reset(0)['observation.images.top'].shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(16, 16, 3)", "")


def test_where_no_backend_draws_the_error_names_the_packages(monkeypatch):
    monkeypatch.setattr(gl_module, "probe", lambda backend: (False, f"no {backend} here"))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    gl_module.working_backend.cache_clear()
    try:
        with pytest.raises(UserError) as error:
            ArmEnv("stack", cameras={"top": (16, 16)}, renderer="gl")
    finally:
        gl_module.working_backend.cache_clear()
    for words in ("libegl1 libgl1-mesa-dri", "libosmesa6", "no egl here", "env.renderer=raycast"):
        assert words in str(error.value)


def test_a_backend_that_cannot_be_opened_is_reported_with_its_reason():
    works, said = gl_module.probe("nonsense")
    assert not works and "nonsense" in said


def test_mujoco_gl_decides_which_backend_is_tried(monkeypatch):
    tried = []
    monkeypatch.setattr(gl_module, "probe", lambda backend: (tried.append(backend) is None, "a renderer"))
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    gl_module.working_backend.cache_clear()
    try:
        assert gl_module.working_backend() == ("osmesa", "a renderer")
    finally:
        gl_module.working_backend.cache_clear()
    assert tried == ["osmesa"]
