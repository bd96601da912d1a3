"""CPU milliseconds to augment a batch: xp's numpy against those whose recipes they are, on the same pictures.

    python benchmarks/augment.py                         # 64 windows of two cameras (one on the wrist) at 64 px
    python benchmarks/augment.py --size 224 --batch 8

lerobot: LeRobot's own class of transforms (torchvision), called as its dataset does, once a sample and camera, on
float32 pictures, in one thread (as a worker of its loader). pi0: augmax's chain as openpi writes it, compiled by JAX
for the whole batch on the CPU, from and to uint8. octo and openvla have no peer here: theirs is TensorFlow. Rounds
alternate between the two sides; the medians of the process's CPU time count, so other load does not, but for what it
does to caches.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
from omegaconf import OmegaConf

from xp.config import conf_folder
from xp.data.augment import SEED, Augment

CAMERAS = ("oblique", "wrist")


def pictures(batch: int, size: int) -> dict[str, np.ndarray]:
    """Soft colours with some noise: pixels as a camera gives them, neither flat nor random."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    found = {}
    for camera in CAMERAS:
        waves = rng.uniform(2, 9, (batch, 1, 1, 1, 3)) * (x + rng.uniform(0, 1) * y)[:, :, None]
        noise = rng.normal(0, 3, (batch, 1, size, size, 3))
        found[f"observation.images.{camera}"] = (128 + 110 * np.sin(waves) + noise).clip(0, 255).astype(np.uint8)
    return found


def ours(recipe: str, images: dict[str, np.ndarray]) -> Callable[[int], object]:
    """A batch by xp, as a training prepares it."""
    views = OmegaConf.to_container(OmegaConf.load(conf_folder() / "augment" / f"{recipe}.yaml"))
    assert isinstance(views, dict)
    augment = Augment.read(views["views"], list(CAMERAS), "the benchmark")
    count = len(next(iter(images.values())))
    return lambda number: augment(
        {**images, SEED: np.random.default_rng(number).integers(2**63, size=count).astype("u8")}
    )


def lerobots(images: dict[str, np.ndarray]) -> Callable[[int], object]:
    """A batch by LeRobot: its default transforms, a call for each sample and camera."""
    import torch
    from lerobot.transforms.transforms import ImageTransforms, ImageTransformsConfig

    torch.set_num_threads(1)
    transforms = ImageTransforms(ImageTransformsConfig(enable=True))
    windows = [
        torch.from_numpy(window).permute(0, 3, 1, 2).float() / 255 for each in images.values() for window in each
    ]
    return lambda number: [transforms(window) for window in windows]


def augmaxs(images: dict[str, np.ndarray]) -> Callable[[int], object]:
    """A batch by augmax, as openpi's `preprocess_observation` calls it."""
    import augmax
    import jax
    import jax.numpy as jnp

    size = next(iter(images.values())).shape[2]
    side = int(size * 0.95)
    colours = augmax.ColorJitter(brightness=0.3, contrast=0.4, saturation=0.5)
    moved = (augmax.RandomCrop(side, side), augmax.Resize(size, size), augmax.Rotate((-5, 5)))

    def chain(camera: str, keys: jax.Array, pixels: jax.Array) -> jax.Array:
        transforms = (colours,) if "wrist" in camera else (*moved, colours)
        changed = jax.vmap(augmax.Chain(*transforms))(keys, pixels[:, 0].astype(jnp.float32) / 255)
        return jnp.round(changed * 255).astype(jnp.uint8)

    compiled = jax.jit(lambda keys, given: {name: chain(name, keys, each) for name, each in given.items()})
    count = len(next(iter(images.values())))
    return lambda number: jax.device_get(compiled(jax.random.split(jax.random.key(number), count), images))


def medians(sides: list[Callable[[int], object]], rounds: int) -> list[float]:
    """CPU milliseconds of a call of each side, after one that does not count."""
    spent: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, times in zip(sides, spent):
            before = time.process_time()
            side(number)
            times.append(1000 * (time.process_time() - before))
    return [statistics.median(times[1:]) for times in spent]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--size", type=int, default=64)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--only", nargs="*", default=["octo", "openvla", "pi0", "lerobot"])
    given = options.parse_args()
    images = pictures(given.batch, given.size)
    count = math.prod((len(CAMERAS), given.batch))
    print(f"{given.batch} windows of {len(CAMERAS)} cameras at {given.size} px, {given.rounds} rounds: CPU ms a batch")
    peers = {"pi0": augmaxs, "lerobot": lerobots}
    for recipe in given.only:
        peer = peers.get(recipe)
        sides = [ours(recipe, images), *([peer(images)] if peer else [])]
        mine, *others = medians(sides, given.rounds)
        beside = f", {peer.__name__} {others[0]:.1f}, ratio {others[0] / mine:.1f} x" if peer else ""
        print(f"{recipe:8} xp {mine:.1f} ({1000 * mine / count:.0f} us a picture){beside}", flush=True)


if __name__ == "__main__":
    main()
