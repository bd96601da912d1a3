# pyright: strict
"""Augments the pictures of training batches before any model prepares them."""

import dataclasses
from collections.abc import Mapping

from xp.data.augment import Augment
from xp.models.policy import Batch
from xp.models.trainable import Trainable


def with_augmentation[T: Trainable](trainable: T, augment: Augment) -> T:
    """A model whose `prepare` first changes the pictures of batches that carry seeds (`Batches(augment=True)`).

    So it is done in the thread that prepares batches ahead, by each device for its own share of a batch, and never to
    what is validated, predicted or simulated: those batches have no seeds.
    """
    if not augment:
        return trainable
    prepare = trainable.prepare

    def augmented(batch: Batch) -> Mapping[str, object]:
        return prepare(augment(batch))

    return dataclasses.replace(trainable, prepare=augmented)
