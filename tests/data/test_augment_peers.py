"""Augmentation against those who define it: torchvision (LeRobot), augmax (openpi), TensorFlow's formulas."""

import colorsys
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.config.augmentation import read_views
from xp.data.augment import augmented, colour, warp

ROUNDING = 3e-6
"""Float32 in another order of operations; pixels are of 0 to 1, a grey level is 4e-3."""
SIZE = (13, 17)


def pictures(seed: int, count: int = 2, size: tuple[int, int] = SIZE) -> np.ndarray:
    """[3, N, h, w] of 0 to 1: grey levels, some of them greys, black or white, where hue is not defined."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (3, count, *size)).astype(np.float32)
    pixels[:, :, 0] = pixels[:1, :, 0]
    pixels[:, :, 1, :3], pixels[:, :, 1, 3:6] = 0, 255
    return pixels / np.float32(255)


def changed(operation, pixels: np.ndarray, *amounts: float, **more) -> np.ndarray:
    columns = [np.full((pixels.shape[1], 1), amount, np.float32) for amount in amounts]
    planes = pixels.reshape(*pixels.shape[:2], -1).copy()
    return operation(planes, *columns, **more).reshape(pixels.shape)


factors = st.floats(0, 3, width=32)
turns = st.floats(-0.5, 0.5, width=32)
seeds = st.integers(0, 1000)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness", "hue"])
@settings(max_examples=25)
@given(data=st.data(), seed=seeds)
def test_colours_are_torchvisions(name, data, seed):
    import torch
    from torchvision.transforms.v2 import functional

    pixels, amount = pictures(seed), data.draw(turns if name == "hue" else factors)
    more = {"height": SIZE[0]} if name == "sharpness" else {}
    theirs = getattr(functional, f"adjust_{name}")(torch.from_numpy(pixels.swapaxes(0, 1).copy()), amount)
    ours = changed(getattr(colour, name), pixels, amount, **more)
    assert np.abs(ours - theirs.numpy().swapaxes(0, 1)).max() <= ROUNDING


@settings(max_examples=25)
@given(
    st.floats(-180, 180),
    st.tuples(st.integers(-5, 5), st.integers(-5, 5)),
    st.floats(0.5, 2),
    st.floats(-30, 30),
    seeds,
)
def test_affine_is_torchvisions(degrees, shift, scale, shear, seed):
    import torch
    from torchvision.transforms.v2 import functional

    pixels = pictures(seed)
    maps = warp.affine(*(np.full(2, float(each)) for each in (degrees, *shift, scale, shear)), SIZE)
    ours = warp.sample_nearest(pixels, maps)
    theirs = functional.affine(
        torch.from_numpy(pixels.swapaxes(0, 1).copy()), degrees, list(shift), scale, [shear, 0.0]
    )
    differs = (ours != theirs.numpy().swapaxes(0, 1)).any(axis=0)
    x, y = warp._places(maps, *SIZE)
    near_tie = [np.abs(each - np.floor(each) - 0.5) < 1e-4 for each in (x, y)]
    assert not (differs.reshape(2, -1) & ~(near_tie[0] | near_tie[1])).any()


def test_lerobots_recipe_is_its_configuration():
    from lerobot.transforms.transforms import ImageTransformsConfig
    from omegaconf import OmegaConf

    from xp.config import compose

    (view,) = read_views(OmegaConf.to_container(compose(["augment=lerobot"]).augment.views))
    theirs = ImageTransformsConfig()
    assert view.subset == theirs.max_num_transforms and view.random_order == theirs.random_order
    assert [each.name for each in view.operations] == list(theirs.tfs)
    renamed = {"turn": "hue", "factor": None}
    for each in view.operations:
        other = theirs.tfs[each.name]
        given_there = {renamed.get(key, key) or each.type: value for key, value in each.options.items()}
        assert {key: given_there[key] for key in other.kwargs} == other.kwargs and each.weight == other.weight


@pytest.mark.parametrize("name", ["saturation_hsv", "hue"])
@settings(max_examples=25)
@given(data=st.data(), seed=seeds)
def test_hsv_is_that_of_the_standard_library(name, data, seed):
    """TensorFlow documents both as: to HSV, scale saturation (cut to 1) or add to the hue, back to RGB."""
    pixels, amount = pictures(seed, count=1, size=(4, 8)), data.draw(turns if name == "hue" else factors)
    expected = np.empty((3, 32))
    for i, pixel in enumerate(pixels.reshape(3, -1).T.astype(float)):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        h, s = ((h + amount) % 1, s) if name == "hue" else (h, min(1.0, s * amount))
        expected[:, i] = colorsys.hsv_to_rgb(h, s, v)
    ours = changed(getattr(colour, name), pixels, amount)
    assert np.abs(ours.reshape(3, -1) - expected).max() <= ROUNDING


def test_tensorflows_brightness_and_contrast_by_hand():
    """`adjust_brightness` adds; `adjust_contrast` takes each channel about its own mean."""
    pixels = np.array([[0.2, 0.4], [0.5, 0.5], [0.0, 1.0]], np.float32).reshape(3, 1, 1, 2)
    lighter = changed(colour.brightness_offset, pixels, 0.1).reshape(3, 2)
    np.testing.assert_allclose(lighter, [[0.3, 0.5], [0.6, 0.6], [0.1, 1.0]], atol=1e-6)
    stronger = changed(colour.contrast_by_channel, pixels, 1.5).reshape(3, 2)
    np.testing.assert_allclose(stronger, [[0.15, 0.45], [0.5, 0.5], [0.0, 1.0]], atol=1e-6)


@settings(max_examples=25)
@given(st.floats(0.1, 1), st.floats(0.5, 2), st.floats(0, 1), st.floats(0, 1), seeds)
def test_resized_crop_is_tensorflows_crop_and_resize(scale, ratio, across, down, seed):
    """The documented sampling: place = start (n - 1) + i (end - start) (n - 1) / (n_out - 1), bilinear."""
    pixels = pictures(seed, count=1)
    height, width = SIZE
    high, wide = (min(math.sqrt(each), 1.0) for each in (scale / ratio, scale * ratio))
    top, left = down * (1 - high), across * (1 - wide)
    expected = np.empty((3, *SIZE))
    for i in range(height):
        for j in range(width):
            y = top * (height - 1) + i * (high * (height - 1) / (height - 1))
            x = left * (width - 1) + j * (wide * (width - 1) / (width - 1))
            y0, x0 = min(int(y), height - 2), min(int(x), width - 2)
            four = pixels[:, 0, y0 : y0 + 2, x0 : x0 + 2].astype(float)
            weights = np.outer([y0 + 1 - y, y - y0], [x0 + 1 - x, x - x0])
            expected[:, i, j] = (four * weights).sum(axis=(1, 2))
    maps = warp.resized_crop(*(np.array([each]) for each in (scale, ratio, across, down)), SIZE)
    for sample in (warp.sample_upright, warp.sample_bilinear):
        assert np.abs(sample(pixels, maps)[:, 0] - expected).max() <= ROUNDING


def test_geometry_is_augmaxs_chain():
    """RandomCrop, Resize and Rotate of openpi, with the random numbers that augmax draws, sampled once."""
    import augmax
    import jax
    import jax.numpy as jnp

    pixels = pictures(0, count=1, size=(40, 60))
    height, width = 40, 60
    wide, high = int(width * 0.95), int(height * 0.95)
    limit = jnp.array([(height - high) / 2, (width - wide) / 2])
    chain = augmax.Chain(augmax.RandomCrop(wide, high), augmax.Resize(width, height), augmax.Rotate((-5, 5)))

    def theirs_and_draws(key):
        crop_key, _, turn_key = jax.random.split(jax.random.split(key, 1)[0], 3)
        place = jax.random.uniform(crop_key, [2], minval=-limit, maxval=limit) / limit
        turn = jax.random.uniform(turn_key, minval=math.radians(-5), maxval=math.radians(5))
        return chain(key, jnp.asarray(pixels[:, 0].transpose(1, 2, 0))), (place + 1) / 2, jnp.degrees(turn)

    found = jax.jit(jax.vmap(theirs_and_draws))(jax.random.split(jax.random.key(0), 8))
    theirs, places, turns = (np.asarray(each, np.float64) for each in found)
    maps = warp.crop(np.full(8, 0.95), places[:, 1], places[:, 0], (height, width))
    maps = maps @ warp.rotation(turns, (height, width))
    ours = warp.sample_bilinear(pixels.repeat(8, axis=1), maps)
    assert np.abs(ours.transpose(1, 2, 3, 0) - theirs).max() <= 1e-4


def test_colours_are_augmaxs_jitter():
    """With the random numbers that augmax draws, in the order in which it takes them."""
    import augmax
    import jax
    import jax.numpy as jnp

    pixels = pictures(1, count=1)
    chain = augmax.Chain(augmax.ColorJitter(brightness=0.3, contrast=0.4, saturation=0.5, p=0.5))

    def theirs_and_draws(key):
        own = jax.random.split(jax.random.split(key, 1)[0], 1)[0]  # of the chain, then of its colours
        amounts = [
            jax.random.uniform(k, minval=-s, maxval=s) for k, s in zip(jax.random.split(own, 5), (0.3, 0.4, 0.1))
        ]
        picture = jnp.asarray(pixels[:, 0].transpose(1, 2, 0))
        return chain(key, picture), jnp.stack(amounts), jax.random.bernoulli(own, 0.5)

    found = jax.jit(jax.vmap(theirs_and_draws))(jax.random.split(jax.random.key(0), 12))
    theirs, amounts, applied = (np.asarray(each) for each in found)
    planes = pixels.reshape(3, 1, -1).repeat(12, axis=1)
    ours = np.where(applied[:, None], colour.hsv_jitter(planes.copy(), *amounts.T[:, :, None]), planes)
    assert np.abs(ours.reshape(3, 12, *SIZE).transpose(1, 2, 3, 0) - theirs).max() <= 1e-5
    assert 0 < applied.sum() < 12


def test_the_saturation_that_openpi_asks_for_has_no_effect_in_augmax():
    """Why augment=pi0 has none. Where this fails augmax was mended, and the recipe is another."""
    import augmax
    import jax
    import jax.numpy as jnp

    pixels = jnp.asarray(pictures(2, count=1)[:, 0].transpose(1, 2, 0))
    jitter = augmax.ColorJitter(brightness=0, contrast=0, hue=0, saturation=0.5, p=1.0)
    assert np.abs(np.asarray(jitter(jax.random.key(0), pixels) - pixels)).max() <= 1e-6


def test_a_whole_batch_is_lerobots_pictures_where_its_draws_are_ours():
    """LeRobot's class of transforms on one window, its numbers fixed to the ends of their ranges."""
    import torch
    from lerobot.transforms.transforms import ImageTransformConfig, ImageTransforms, ImageTransformsConfig

    entries = {
        "brightness": ("ColorJitter", {"brightness": (1.2, 1.2)}, {"type": "brightness", "factor": [1.2, 1.2]}),
        "saturation": ("ColorJitter", {"saturation": (0.5, 0.5)}, {"type": "saturation", "factor": [0.5, 0.5]}),
        "hue": ("ColorJitter", {"hue": (0.05, 0.05)}, {"type": "hue", "turn": [0.05, 0.05]}),
        "sharpness": ("SharpnessJitter", {"sharpness": (1.5, 1.5)}, {"type": "sharpness", "factor": [1.5, 1.5]}),
        "affine": ("RandomAffine", {"degrees": (5.0, 5.0)}, {"type": "affine", "degrees": [5.0, 5.0]}),
    }
    tfs = {name: ImageTransformConfig(type=kind, kwargs=kwargs) for name, (kind, kwargs, _) in entries.items()}
    theirs = ImageTransforms(ImageTransformsConfig(enable=True, max_num_transforms=5, tfs=tfs))
    (view,) = read_views({"all": {"cameras": ["*"], "operations": {name: each[2] for name, each in entries.items()}}})
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 24, 24, 3), dtype=np.uint8)
    ours = augmented(images, np.arange(3, dtype=np.uint64), view, "top")
    for window, mine in zip(images, ours):
        floats = torch.from_numpy(window).permute(0, 3, 1, 2).float() / 255
        wanted = theirs(floats).permute(0, 2, 3, 1).numpy() * 255
        off = np.abs(mine - wanted) > 0.5 + 1e-3
        assert off.mean() < 0.002  # a pixel at the border between two, one float away
