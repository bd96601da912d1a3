"""Augmentation around a model in training: before its `prepare`, in training alone, the same on every device."""

import dataclasses

import numpy as np
import pytest

from xp.data.augment import SEED, Augment
from xp.models.policy import PolicySpec
from xp.models.trainable import Trainable
from xp.training.augmentation import with_augmentation
from xp.training.overfit import Overfit

VIEWS = {"all": {"cameras": ["*"], "operations": {"hue": {"type": "hue", "turn": [-0.5, 0.5]}}}}
KEY = "observation.images.top"


@pytest.fixture
def seen() -> list:
    """The batches that the model's own `prepare` was given."""
    return []


@pytest.fixture
def trainable(seen) -> Trainable:
    def prepare(batch):
        seen.append(batch)
        return batch

    spec = PolicySpec(horizon=1, action_dim=1, state_dim=1, cameras={"top": (8, 8, 3)})
    return Trainable(spec=spec, prepare=prepare, policy=lambda *weights: None)  # type: ignore[arg-type, return-value]


def batch(count: int = 4) -> dict:
    rng = np.random.default_rng(0)
    return {
        KEY: rng.integers(0, 256, (count, 1, 8, 8, 3), dtype=np.uint8),
        "action": np.zeros((count, 1, 1), np.float32),
        SEED: np.arange(count, dtype=np.uint64),
    }


def test_a_model_sees_changed_pictures_and_no_seeds(trainable, seen):
    with_augmentation(trainable, Augment.read(VIEWS, ["top"], "here")).prepare(batch())
    assert set(seen[0]) == {KEY, "action"} and not np.array_equal(seen[0][KEY], batch()[KEY])


def test_what_is_validated_is_passed_untouched(trainable, seen):
    given = {name: value for name, value in batch().items() if name != SEED}
    with_augmentation(trainable, Augment.read(VIEWS, ["top"], "here")).prepare(given)
    assert seen[0] == given


def test_each_device_prepares_its_share_as_one_device_prepares_all(trainable):
    augmented = with_augmentation(trainable, Augment.read(VIEWS, ["top"], "here"))
    whole = augmented.prepare(batch())
    for part in (slice(0, 2), slice(2, 4)):
        share = augmented.prepare({name: value[part] for name, value in batch().items()})
        assert all(np.array_equal(share[name], whole[name][part]) for name in whole)


def test_without_augmentation_a_model_is_as_it_was(trainable):
    assert with_augmentation(trainable, Augment.read({}, ["top"], "here")) is trainable
    other = with_augmentation(trainable, Augment.read(VIEWS, ["top"], "here"))
    same = {each.name for each in dataclasses.fields(other)} - {"prepare"}
    assert all(getattr(other, name) is getattr(trainable, name) for name in same)


def test_overfitting_repeats_the_same_pictures():
    class Steps:
        def at(self, step):
            return {**batch(), SEED: np.arange(4, dtype=np.uint64) + np.uint64(10 * step)}

        def epoch(self, step):
            return 0.0

    augment, repeated = Augment.read(VIEWS, ["top"], "here"), Overfit(Steps(), 2)
    first, again, other = (augment(repeated.at(step))[KEY] for step in (0, 2, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
