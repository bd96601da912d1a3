"""Image augmentation of training batches, on the host, in numpy: the same numbers for every framework and device.

A batch that `Batches` has given seeds (`augment_seed` [B], a pure function of seed, step and position) has its pictures
changed, and the seeds taken out; any other batch (validation, prediction, simulation) passes as it is. So augmentation
is the same after a resumption and however the batch is divided over devices. Pictures are those of the frame cache, at
the model's size, as in Octo, OpenVLA and openpi, which resize first (LeRobot augments at the cameras' size).

All frames of a window get the same change, as in Octo (one seed a window, `dataset.apply_frame_transforms`) and
LeRobot (one call a window); cameras and operations draw independently of one another. Peers differ there by accident:
in Octo one number decides a crop's size, ratio and place, openpi gives all cameras of a sample the same numbers.

Operations are defined as the peers' are: `warp` and `colour` say which function each is. Between operations pictures
are float32 of 0 to 1, cut to that range; at the end they are rounded to uint8, halves to the even number.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8, UInt64

from xp.config.augmentation import View, assign_views, read_views
from xp.data.augment.draws import Draws, chosen
from xp.data.augment.stages import Stage, make_stage, merged
from xp.json_types import JSON
from xp.runs.execution.threads import cores

SEED = "augment_seed"
"""The key of a batch's seeds [B] uint64."""
_IMAGES = "observation.images."
_PIECE = 1 << 16
"""Numbers worked on at a time: as many as the processor keeps at hand."""
_FEW_CORES, _MOST_WORKERS, _LEAST_PIECES = 2, 16, 8

type Windows = UInt8[np.ndarray, "batch history height width 3"]


@dataclass(frozen=True)
class Augment:
    """Changes the pictures of training batches; without views it changes nothing. `views` is by camera."""

    views: Mapping[str, View]

    @classmethod
    def read(cls, views: JSON, cameras: Sequence[str], where: str) -> "Augment":
        """The augmentation that `augment.views` asks for.

        Args:
            views: the plain mapping.
            cameras: those that batches will have.
            where: what has these cameras, for messages.

        Raises:
            UserError: as `xp.config.augmentation.read_views` and `assign_views`.
        """
        return cls(assign_views(read_views(views), cameras, where))

    def __bool__(self) -> bool:
        return bool(self.views)

    def __call__(self, batch: Mapping[str, object]) -> dict[str, object]:
        """The batch with its pictures changed and without seeds; one without seeds as it is.

        `observation.images.<camera>` are [B, T, h, w, 3] uint8; the given arrays are not changed.
        """
        found = dict(batch)
        seeds = found.pop(SEED, None)
        if seeds is None:
            return found
        seeds = np.asarray(seeds)
        for camera, view in self.views.items():
            key = f"{_IMAGES}{camera}"
            if key in found:
                found[key] = augmented(np.asarray(found[key]), seeds, view, camera)
        return found


def augmented(images: Windows, seeds: UInt64[np.ndarray, " batch"], view: View, camera: str) -> Windows:
    """The windows of one camera, changed as a view says by numbers that the samples' seeds and the camera decide."""
    batch, history, height, width, _ = images.shape
    stages = _stages(view, seeds, camera, (height, width))
    out = np.empty(images.shape, np.uint8)
    samples = max(1, _PIECE // max(1, history * height * width * 3))
    starts = range(0, batch, samples)

    def work(start: int) -> None:
        stop = min(start + samples, batch)
        _change(images[start:stop], out[start:stop], stages, start)

    workers = _workers(len(starts))
    if workers == 1:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="xp-augment") as pool:
            list(pool.map(work, starts))
    return out


def _change(piece: Windows, out: Windows, stages: Sequence[Stage], start: int) -> None:
    """Write the samples from number `start` on, changed, into `out`."""
    samples, history, height, width, _ = piece.shape
    planes = np.ascontiguousarray(piece.reshape(samples * history, height, width, 3).transpose(3, 0, 1, 2))
    pictures = planes.astype(np.float32)
    pictures *= np.float32(1 / 255)
    for stage in stages:
        pictures = stage.apply(pictures, start, start + samples, history)
    pictures *= np.float32(255)
    planes = np.rint(pictures, out=pictures).astype(np.uint8)
    for colour, plane in enumerate(planes):
        out[..., colour] = plane.reshape(piece.shape[:-1])


def _workers(pieces: int) -> int:
    """How many threads share a batch; they change nothing in it. One where cores are few: the model needs them."""
    most = min(pieces // _LEAST_PIECES, _MOST_WORKERS)
    allotted = cores() if most > 1 else 1
    return min(allotted, most) if allotted > _FEW_CORES else 1


def _stages(view: View, seeds: UInt64[np.ndarray, " batch"], camera: str, size: tuple[int, int]) -> list[Stage]:
    """What is done to the batch, one stage after the other."""
    operations = view.operations
    draws = [Draws(seeds, f"{camera}/{each.name}") for each in operations]
    count = len(operations) if view.subset is None else view.subset
    if count == len(operations) and not view.random_order:
        everyone = np.ones(len(seeds), bool)
        return merged([make_stage(each, draw, everyone, size) for each, draw in zip(operations, draws)])
    order = chosen(
        Draws(seeds, f"{camera}/"), [each.weight for each in operations], count, random_order=view.random_order
    )
    if view.random_order:
        places = [(i, order[:, place] == i) for place in range(count) for i in range(len(operations))]
    else:
        places = [(i, (order == i).any(axis=1)) for i in range(len(operations))]
    stages = [make_stage(operations[i], draws[i], active, size) for i, active in places]
    return stages if view.random_order else merged(stages)
