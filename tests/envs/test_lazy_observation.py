"""Claims about observations that draw late: each picture once, only when asked for, and whole after a pickle."""

import pickle

import numpy as np
import pytest

from xp.envs.lazy import LazyObservation
from xp.envs.rollout import History


class Camera:
    def __init__(self, value: int):
        self.value, self.drawn = value, 0

    def __call__(self) -> np.ndarray:
        self.drawn += 1
        return np.full((2, 3, 3), self.value, np.uint8)


def observation(camera: Camera) -> LazyObservation:
    known = {"observation.state": np.zeros(2, np.float32), "task": "go"}
    return LazyObservation(known, {"observation.images.front": camera})


def test_a_picture_is_drawn_when_it_is_first_looked_at():
    camera = Camera(7)
    seen = observation(camera)
    assert list(seen) == ["observation.images.front", "observation.state", "task"] and len(seen) == 3
    assert seen["task"] == "go" and "observation.images.front" in list(seen) and camera.drawn == 0
    first, again = seen["observation.images.front"], seen["observation.images.front"]
    assert first is again and camera.drawn == 1
    with pytest.raises(KeyError):
        seen["observation.images.back"]


def test_a_history_draws_what_its_window_holds_and_no_more():
    cameras = [Camera(index) for index in range(4)]
    history = History(observation(cameras[0]), 2, seed=0)
    for camera in cameras[1:]:
        history.add(observation(camera))
    assert [camera.drawn for camera in cameras] == [0, 0, 0, 0]
    window = np.asarray(history.batch()["observation.images.front"])
    assert window.shape == (1, 2, 2, 3, 3) and window[0, :, 0, 0, 0].tolist() == [2, 3]
    assert [camera.drawn for camera in cameras] == [0, 0, 1, 1]


def test_a_pickle_holds_the_pictures():
    sent = pickle.loads(pickle.dumps(observation(Camera(5))))
    assert isinstance(sent, dict) and sent["observation.images.front"].max() == 5 and sent["task"] == "go"
