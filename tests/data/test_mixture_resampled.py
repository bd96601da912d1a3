"""A dataset of a mixture on its own: every n-th row, with what the mixture's windows have there."""

import numpy as np
import pytest
from data_made_up import made_up, made_up_frames
from data_videos import write_videos
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.config.mixture import MemberOptions
from xp.data import Windows, open_dataset, open_frames
from xp.data.dataset import Dataset
from xp.data.mixture.resampled import resampled
from xp.errors import UserError


def options(**more) -> MemberOptions:
    return MemberOptions(name="fast", root="F", **more)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    stride=st.integers(2, 4),
    kind=st.sampled_from(["every", "sum"]),
    horizon=st.integers(1, 4),
    history=st.integers(1, 3),
)
def test_its_windows_are_those_of_the_mixture_that_begin_at_an_nth_row(lengths, stride, kind, horizon, history):
    whole, member = made_up(lengths, action_dim=3, state_dim=2), options(resample=kind)
    alone = resampled(member, whole, whole.fps / stride)
    episodes = range(len(lengths))
    frames = made_up_frames(whole)
    mixed = Windows(whole, frames, episodes, history=history, horizon=horizon, stride=stride).batch(
        np.flatnonzero(whole.frame_index % stride == 0)
    )
    kept = {"top": frames["top"][whole.frame_index % stride == 0]}
    own = Windows(alone, kept, episodes, history=history, horizon=horizon).batch(range(alone.num_frames))
    assert isinstance(alone, Dataset) and alone.fps == whole.fps / stride
    for key in ("action_is_pad", "observation.state", "observation_is_pad", "observation.images.top"):
        np.testing.assert_array_equal(own[key], mixed[key], err_msg=key)
    assert own["task"] == mixed["task"]
    ends = (whole.episodes.starts + whole.episodes.lengths)[whole.episode_index]
    begin = np.flatnonzero(whole.frame_index % stride == 0)
    for row, (actions, padded) in enumerate(zip(own["action"], own["action_is_pad"], strict=True)):
        for step in np.flatnonzero(~padded[history - 1 :]):
            at = begin[row] + step * stride
            taken = whole.action[at : min(at + stride, ends[at])] if kind == "sum" else whole.action[at : at + 1]
            np.testing.assert_allclose(actions[history - 1 + step], taken.sum(0), rtol=1e-6)


def test_dimensions_that_are_kept_are_not_added_up():
    whole = made_up([6], action_dim=2)
    alone = resampled(options(resample="sum", keep=(whole.action_names[1],)), whole, whole.fps / 3)
    np.testing.assert_array_equal(alone.action[:, 1], whole.action[[0, 3], 1])
    np.testing.assert_allclose(alone.action[0, 0], whole.action[:3, 0].sum(), rtol=1e-6)


def test_its_frames_are_the_wholes_and_its_fingerprint_is_not(tmp_path):
    root = write_videos(tmp_path / "d", lengths=(7, 9), files=((0,), (1,)), codec="mpeg4", g="3")
    whole = open_dataset(root)
    alone = resampled(options(resample="every"), whole, whole.fps / 2)
    assert alone.fingerprint != whole.fingerprint
    assert alone.camera_fingerprint("top") == whole.camera_fingerprint("top")
    assert alone.episodes.tasks == whole.episodes.tasks
    one, other = (
        open_frames(each, {"top": (16, 24)}, cache_dir=tmp_path / "cache", cache_gb=1)["top"] for each in (whole, alone)
    )
    np.testing.assert_array_equal(other, one[whole.frame_index % 2 == 0])


def test_a_dataset_of_the_mixtures_rate_is_left_as_it_is_and_another_is_refused():
    whole = made_up([5])
    assert resampled(options(), whole, whole.fps) is whole
    with pytest.raises(UserError, match="no multiple of"):
        resampled(options(resample="every"), whole, whole.fps / 1.5)
