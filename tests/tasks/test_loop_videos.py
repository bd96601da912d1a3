"""The videos of `task=loop`: the attempts as they were made, each drawn once, whole or not there, or refused."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

from xp.config.compose import compose
from xp.envs.batch import BatchSuite, batch_suite
from xp.envs.suite import suite_of
from xp.errors import UserError
from xp.runs import Run
from xp.runs.records.record import Record
from xp.tasks._lib import loop_videos
from xp.tasks._lib.loop_videos import film

CONFIG = ["task=loop", "loop=self_improve", "env=go2", "+env.cameras.side=[24,32]", "loop.video_seconds=0.2"]


@pytest.fixture
def run(tmp_path, capsys):
    config = compose([*CONFIG, "pretrained_path=none"])
    return Run(tmp_path, config, Record(tmp_path / "record.json", {}), echo=False)


def filmed(run: Run, name="loop_01", **changes):
    suite = batch_suite(suite_of(run.config.env), "")
    for key, value in changes.items():
        run.config.loop[key] = value
    film(run, suite, "walk", suite.batch_expert, name, first=7)
    return suite


def frames(path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([each.to_ndarray(format="rgb24") for each in container.decode(stream)]), stream.average_rate


def test_a_video_shows_the_attempt_that_is_scored(run):
    suite = filmed(run, videos=2)
    assert sorted(path.name for path in (run.folder / "videos").iterdir()) == [
        "loop_01_seed7.mp4", "loop_01_seed8.mp4",
    ]  # fmt: skip
    shown, rate = frames(run.folder / "videos" / "loop_01_seed8.mp4")
    assert len(shown) == 11 and rate == 50 and shown.shape[1:] == (264, 352, 3)
    env = suite.make("walk", cameras={"side": (24, 32)})
    observation, actor = env.reset(8), suite.expert(env)
    actor.reset(8)
    for picture in shown:
        wanted = np.asarray(observation["observation.images.side"]).astype(int)
        assert np.abs(picture[5::11, 5::11] - wanted).mean() < 4
        observation = env.step(actor.act()).observation
    assert np.abs(shown[0].astype(int) - shown[-1]).max() > 20, "it moves"


def test_a_video_that_is_there_is_not_drawn_again_and_a_half_written_one_does_not_stay(run, monkeypatch):
    filmed(run)
    kept = run.folder / "videos" / "loop_01_seed7.mp4"
    before = kept.stat()
    half = kept.with_name(".loop_02_seed7.mp4.tmp-99999-0123abcd")
    half.write_bytes(b"half of one")
    filmed(run, "loop_02")
    filmed(run, "loop_01")
    assert not half.exists()
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    shown, again = (frames(run.folder / "videos" / f"loop_0{n}_seed7.mp4")[0].astype(int) for n in (1, 2))
    assert np.abs(shown - again).mean() < 2, "a function of the seed, but for the encoder's last digits"

    def fail(*arguments):
        raise AssertionError("drawn again")

    monkeypatch.setattr(loop_videos, "made_by", fail)
    filmed(run)
    filmed(run, "loop_03", videos=0)


def test_a_stop_ends_filming_and_leaves_no_video(run):
    run.should_stop = iter([False, False, False, True, True]).__next__
    with pytest.raises(run.interrupted):
        filmed(run)
    assert not list(run.folder.glob("videos/*"))


@dataclass
class Suite:
    """A suite whose env is changed."""

    suite: Any
    change: Any

    def __getattr__(self, name):
        return getattr(self.suite, name)

    def make(self, *arguments, **options):
        return self.change(self.suite.make(*arguments, **options))


def test_where_nothing_draws_it_is_said_how_to_go_on_without(run):
    suite = batch_suite(suite_of(run.config.env), "")

    def no_gl(env):
        raise UserError("Pictures of this suite are drawn with OpenGL, but no backend draws on this machine.")

    with pytest.raises(UserError, match=r"no backend draws on this machine\. Or do without videos: loop.videos=0"):
        film(run, cast(BatchSuite, Suite(suite, no_gl)), "walk", suite.batch_expert, "loop_00", first=7)
    assert not list(run.folder.glob("videos/*"))


def test_an_episode_that_goes_another_way_is_told(run, capsys):
    suite = batch_suite(suite_of(run.config.env), "")

    class Other:
        """Begins elsewhere."""

        def __init__(self, env):
            self.env = env

        def __getattr__(self, name):
            return getattr(self.env, name)

        def reset(self, seed):
            return self.env.reset(seed + 1)

    film(run, cast(BatchSuite, Suite(suite, Other)), "walk", suite.batch_expert, "loop_00", first=7)
    assert "initial state 7 went another way when it was filmed" in capsys.readouterr().out
