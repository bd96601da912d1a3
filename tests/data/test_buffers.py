from concurrent.futures import ThreadPoolExecutor

import numpy as np
from data_made_up import made_up, made_up_frames

from xp.data import Batches, Windows
from xp.data.buffers import Buffers


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_nobody_refers_to_it():
    buffers = Buffers()
    places = {address(buffers.empty((1000, 1000))) for _ in range(20)}
    assert len(places) == 1


def test_memory_that_anyone_still_refers_to_is_left_alone():
    buffers = Buffers()
    held = [buffers.empty((50,)) for _ in range(10)]
    assert len({address(array) for array in held}) == 10
    place = address(held[-1])
    for keep in (lambda a: a[3:5], lambda a: a.reshape(5, 10)[::2], memoryview, lambda a: {"deep": [a]}):
        array = buffers.empty((50,))
        array[:] = 1
        kept = keep(array)
        place = address(array)
        del array
        assert address(buffers.empty((50,))) != place
        del kept


def test_memory_shared_with_torch_and_jax_is_left_alone():
    import jax
    import torch

    for share in (torch.from_numpy, lambda a: jax.device_put(a)):
        buffers = Buffers()
        array = buffers.empty((64, 1024))
        array[:] = 7
        shared = share(array)
        del array
        for _ in range(10):
            buffers.empty((64, 1024))[:] = 0
        assert (np.asarray(shared) == 7).all()


def test_batches_that_are_kept_stay_as_they_were():
    dataset = made_up([40])
    batches = Batches(Windows(dataset, made_up_frames(dataset), [0], history=2, horizon=1), batch_size=8, seed=0)
    kept = [batches.at(step) for step in range(12)]
    for step, batch in enumerate(kept):
        np.testing.assert_array_equal(batch["observation.images.top"], batches.at(step)["observation.images.top"])


def test_threads_never_get_the_same_memory():
    buffers = Buffers(keep=8)

    def work(value: int) -> bool:
        array = buffers.empty((2000,))
        array[:] = value
        copies = [array.copy() for _ in range(20)]
        return all((copy == value).all() for copy in copies)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [i % 251 for i in range(2000)]))
