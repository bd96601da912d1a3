"""The frames of a dataset of a mixture: opened together, so that its cameras share one budget and one pool."""

from types import SimpleNamespace

import pytest

from xp.tasks._lib import mixture_data

SMALL, LARGE = (24, 24), (48, 48)


@pytest.mark.parametrize(
    ("fed", "sizes", "asked"),
    [
        ({"primary": "top", "wrist": "hand"}, {"primary": LARGE, "wrist": SMALL}, [{"top": LARGE, "hand": SMALL}]),
        ({"primary": "top"}, {"primary": LARGE, "wrist": SMALL}, [{"top": LARGE}]),
        ({"primary": "top", "wrist": "top"}, {"primary": LARGE, "wrist": LARGE}, [{"top": LARGE}]),
        ({"primary": "top", "wrist": "top"}, {"primary": LARGE, "wrist": SMALL}, [{"top": SMALL}, {"top": LARGE}]),
        ({}, {"primary": LARGE}, []),
    ],
)
def test_cameras_are_opened_together(monkeypatch, fed, sizes, asked):
    calls = []

    def shared_frames(run, dataset, wanted):
        calls.append(dict(wanted))
        return {camera: (camera, size) for camera, size in wanted.items()}

    monkeypatch.setattr(mixture_data, "shared_frames", shared_frames)
    member = SimpleNamespace(fed=fed, dataset=None)
    found = mixture_data._frames_of(None, member, sizes)
    assert found == {name: (fed[name], sizes[name]) for name in sizes if name in fed}
    assert calls == asked
