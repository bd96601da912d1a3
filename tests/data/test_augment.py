"""Laws of augmentation: what it depends on, what it leaves alone, and how its numbers are drawn."""

import hashlib
from functools import cache

import numpy as np
import pytest
from data_made_up import made_up, made_up_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from xp.config import conf_folder
from xp.config.augmentation import Operation, View, read_views
from xp.data import Batches, Windows, in_order
from xp.data.augment import SEED, Augment, augmented
from xp.data.augment.draws import Draws, chosen

PRESETS = ("octo", "openvla", "pi0", "lerobot")
NEUTRAL = {
    "resized_crop": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)},
    "crop": {"size": (1.0, 1.0)},
    "rotation": {"degrees": (0.0, 0.0)},
    "affine": {"degrees": (0.0, 0.0), "translate": (0.0, 0.0), "scale": (1.0, 1.0), "shear": (0.0, 0.0)},
    "brightness_offset": {"delta": (0.0, 0.0)},
    "contrast_by_channel": {"factor": (1.0, 1.0)},
    "saturation_hsv": {"factor": (1.0, 1.0)},
    "hue": {"turn": (0.0, 0.0)},
    "brightness": {"factor": (1.0, 1.0)},
    "contrast": {"factor": (1.0, 1.0)},
    "saturation": {"factor": (1.0, 1.0)},
    "sharpness": {"factor": (1.0, 1.0)},
    "hsv_jitter": {"brightness": (0.0,) * 2, "contrast": (0.0,) * 2, "hue": (0.0,) * 2, "probability": (1.0,) * 2},
}
"""{operation: the options with which it changes nothing}."""


@cache
def preset(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(conf_folder() / "augment" / f"{name}.yaml").views)


@cache
def view(name: str, camera: str = "top") -> View:
    return Augment.read(preset(name), [camera], "here").views[camera]


def images(seed: int, batch: int = 6, history: int = 2, size: tuple[int, int] = (12, 10)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, history, *size, 3), dtype=np.uint8)


def seeds_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def test_every_operation_has_a_neutral_setting_here():
    from xp.config.augmentation import OPERATIONS

    assert {name: set(options) for name, options in OPERATIONS.items()} == {
        name: set(options) for name, options in NEUTRAL.items()
    }


@pytest.mark.parametrize("kind", NEUTRAL)
def test_an_operation_of_no_strength_changes_nothing(kind):
    every_grey = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 1, 16, 16, 3)
    operation = Operation(name="one", type=kind, options=NEUTRAL[kind])
    for pixels in (images(0, size=(16, 16)), every_grey):
        alone = View(name="all", cameras=["*"], operations=[operation])
        assert np.array_equal(augmented(pixels, seeds_of(len(pixels)), alone, "top"), pixels)


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=20)
@given(data=st.data())
def test_samples_are_changed_alone(name, data):
    """Any order of the samples and any division of the batch gives each sample the same picture."""
    pixels, seeds = images(data.draw(st.integers(0, 50))), seeds_of(6)
    order = np.array(data.draw(st.permutations(range(6))))
    cut = data.draw(st.integers(1, 5))
    whole = augmented(pixels, seeds, view(name), "top")
    parts = [augmented(pixels[order[s]], seeds[order[s]], view(name), "top") for s in (slice(cut), slice(cut, None))]
    assert np.array_equal(np.concatenate(parts), whole[order])


@pytest.mark.parametrize("name", PRESETS)
def test_the_size_of_the_pieces_and_the_threads_change_nothing(name, monkeypatch):
    pixels, seeds = images(1, batch=33), seeds_of(33)
    whole = augmented(pixels, seeds, view(name), "top")
    monkeypatch.setattr("xp.data.augment._PIECE", 1)
    assert np.array_equal(augmented(pixels, seeds, view(name), "top"), whole)
    monkeypatch.setattr("xp.data.augment.cores", lambda: 4)
    assert np.array_equal(augmented(pixels, seeds, view(name), "top"), whole)


@pytest.mark.parametrize("name", PRESETS)
def test_frames_of_a_window_are_changed_alike_and_cameras_are_not(name):
    pixels, seeds = images(2, batch=8, history=1).repeat(2, axis=1), seeds_of(8)
    found = augmented(pixels, seeds, view(name), "top")
    assert np.array_equal(found[:, 0], found[:, 1])
    assert not np.array_equal(found, augmented(pixels, seeds, view(name), "side"))
    assert not np.array_equal(found, pixels)


@pytest.mark.parametrize("name", PRESETS)
def test_pictures_are_those_of_earlier_versions(name):
    """A run that is resumed by a later xp goes on with the same pictures. A change here changes what runs learn."""
    smooth = (np.add.outer(np.arange(16) * 9, np.arange(16) * 5)[..., None] + (0, 40, 80)) % 256
    pixels = np.broadcast_to(smooth.astype(np.uint8), (16, 1, 16, 16, 3))
    found = augmented(pixels, np.arange(16, dtype=np.uint64), view(name), "top").astype(int)
    # Sums of many pixels, as one grey level may be rounded otherwise on another processor.
    assert found.sum(axis=(1, 2, 3, 4))[:3].tolist() == pytest.approx(SUMS[name], abs=8)


SUMS = {
    "octo": [121960, 106770, 110702],
    "openvla": [130115, 108512, 121193],
    "pi0": [80590, 80056, 104170],
    "lerobot": [114840, 107757, 118142],
}
"""Of the pixels of the first three samples."""


def test_an_operation_draws_the_same_whatever_else_there_is():
    octo = preset("octo")
    alone = {"only": {"cameras": ["*"], "operations": {"hue": octo["others"]["operations"]["hue"]}}}
    more = {"only": {"cameras": ["*"], "operations": {
        "brightness": {"type": "brightness", "factor": [1.0, 1.0]}, "hue": octo["others"]["operations"]["hue"],
    }}}  # fmt: skip
    pixels, seeds = images(3), seeds_of(6)
    one, two = (augmented(pixels, seeds, read_views(each)[0], "top") for each in (alone, more))
    assert np.array_equal(one, two)


def test_a_batch_without_seeds_is_passed_as_it_is():
    augment = Augment.read(preset("octo"), ["top", "wrist"], "here")
    batch = {"observation.images.top": images(4), "action": np.ones((6, 1, 2))}
    assert augment(batch) == batch
    found = augment({**batch, SEED: seeds_of(6)})
    assert set(found) == set(batch) and found["action"] is batch["action"]
    assert not np.array_equal(found["observation.images.top"], batch["observation.images.top"])
    assert np.array_equal(batch["observation.images.top"], images(4))


def test_seeds_are_a_function_of_seed_step_and_position_alone():
    dataset = made_up([30])
    windows = Windows(dataset, made_up_frames(dataset), [0], history=1, horizon=2)

    def seeds(step: int, size: int, seed: int = 0) -> list[int]:
        return Batches(windows, batch_size=size, seed=seed, augment=True).at(step)[SEED].tolist()  # type: ignore[union-attr]

    assert seeds(7, 8)[:5] == seeds(7, 5)
    found = [each for step in range(20) for seed in (0, 1) for each in seeds(step, 8, seed)]
    assert len(set(found)) == len(found)
    assert SEED not in Batches(windows, batch_size=8, seed=0).at(0)
    assert all(SEED not in batch for batch in in_order(windows, 8))


def test_augmenting_leaves_the_order_and_the_dropped_states_alone():
    dataset = made_up([30])
    windows = Windows(dataset, made_up_frames(dataset), [0], history=1, horizon=2)
    plain, other = (Batches(windows, batch_size=8, seed=3, drop_rate=0.5, augment=each).at(4) for each in (False, True))
    assert all(np.array_equal(plain[key], other[key]) for key in plain) and set(other) - set(plain) == {SEED}


def test_numbers_are_uniform_and_independent():
    draws = Draws(seeds_of(20_000), "top/crop")
    numbers = np.stack([draws.uniform(i) for i in range(3)] + [Draws(draws.seeds, "side/crop").uniform(0)])
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.abs(numbers.mean(axis=1) - 0.5).max() < 4 / np.sqrt(12 * 20_000)
    correlation = np.corrcoef(numbers) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(20_000)


def test_a_known_sequence_of_splitmix64():
    """The first words from seed 1234567, as its authors' C code prints them."""
    label = "a"
    start = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little")
    draws = Draws(np.array([1234567 ^ start], np.uint64), label)
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [draws.uniform(i).item() for i in range(3)] == [(word >> 11) * 2.0**-53 for word in words]


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=6), st.data())
def test_a_subset_has_its_size_and_no_operation_twice(weights, data):
    count = data.draw(st.integers(1, len(weights)))
    found = chosen(Draws(seeds_of(50), "top/"), weights, count, random_order=False)
    assert found.shape == (50, count) and (np.diff(found, axis=1) > 0).all()


def test_a_subset_is_drawn_by_weight():
    """The first of a draw without replacement has probabilities in proportion to the weights."""
    weights = [1.0, 2.0, 5.0]
    first = chosen(Draws(seeds_of(40_000), "top/"), weights, 2, random_order=True)[:, 0]
    shares = np.bincount(first, minlength=3) / 40_000
    assert np.abs(shares - np.array(weights) / 8).max() < 4 * np.sqrt(0.25 / 40_000)


def test_a_random_order_is_that_of_the_draw():
    """Two operations that do not commute: a sample gets one order or the other, and both occur."""
    entry = {
        "cameras": ["*"], "random_order": True,
        "operations": {
            "up": {"type": "brightness_offset", "delta": [0.2, 0.2]},
            "half": {"type": "brightness", "factor": [0.5, 0.5]},
        },
    }  # fmt: skip
    pixels = np.full((64, 1, 4, 4, 3), 100, np.uint8)
    found = augmented(pixels, seeds_of(64), read_views({"all": entry})[0], "top")[:, 0, 0, 0, 0]
    assert set(found.tolist()) == {round((100 + 51) / 2), 50 + 51} and 16 < (found == 101).sum() < 48


def test_half_of_the_samples_keep_their_colours_in_pi0():
    pixels = images(5, batch=400, history=1, size=(4, 4))
    found = augmented(pixels, seeds_of(400), view("pi0", "wrist"), "wrist")
    same = (found == pixels).all(axis=(1, 2, 3, 4)).mean()
    assert abs(same - 0.5) < 4 * np.sqrt(0.25 / 400)


def test_wrist_cameras_are_not_cropped_where_the_recipe_does_not():
    for name in ("octo", "pi0"):
        kinds = {camera: {each.type for each in view(name, camera).operations} for camera in ("Left_Wrist", "top")}
        assert {"resized_crop", "crop"} & kinds["top"] and not {"resized_crop", "crop"} & kinds["Left_Wrist"]
