"""The videos of `task=loop`: how the policy of each loop moves, from the first initial states of its evaluations."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from xp.envs import side_by_side, write_video
from xp.envs.batch import Attempt, BatchActor, BatchEnv, BatchSuite
from xp.envs.suite import Env, Observation
from xp.envs.video import sweep_unfinished
from xp.errors import UserError
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked
from xp.tasks._lib.attempting import made_by

VIDEOS = "videos"


def film(
    run: Run, suite: BatchSuite, task: str, actor: Callable[[BatchEnv], BatchActor], name: str, *, first: int
) -> None:
    """Leave videos/NAME_seedN.mp4 of `loop.videos` initial states, the first `loop.video_seconds` of each attempt.

    An attempt is a pure function of (seed, actions): it is made without pictures, as it is scored, and its actions are
    executed once more in an env with cameras. Each video appears whole; those that are there are not drawn again.

    Args:
        run: whose folder they go to.
        suite: of the envs.
        task: its task.
        actor: makes who acts, without a memory of what was before.
        name: of the policy, such as loop_01.
        first: the first initial state.

    Raises:
        UserError: nothing here draws the suite, or no encoder is there.
    """
    loop, folder = run.config.loop, run.folder / VIDEOS
    paths = {seed: folder / f"{name}_seed{seed}.mp4" for seed in range(first, first + loop.videos)}
    missing = [seed for seed, path in paths.items() if not path.exists()]
    if not missing:
        return
    cameras = _cameras(run, suite)
    if not cameras:
        run.log(f"No videos: the suite {suite.name} has no cameras.")
        return
    sweep_unfinished(folder)
    steps = max(1, round(loop.video_seconds * run.config.env.fps))
    limit = min(steps, loop.max_steps_per_episode or steps)
    env = _made(suite, task, cameras)
    with run.progress(len(paths), f"{name}: filming", unit="video", start=len(paths) - len(missing)) as bar:
        for seed in missing:
            (attempt,) = made_by(run, suite, task, actor, [seed], envs=1, max_steps=limit)
            frames = _frames(run, env, attempt)
            write_video(paths[seed], frames, run.config.env.fps)
            bar.advance()
    run.log(f"{name}: {', '.join(str(Path(VIDEOS) / paths[seed].name) for seed in missing)}")


def _cameras(run: Run, suite: BatchSuite) -> dict[str, tuple[int, int]]:
    asked: Mapping[str, tuple[int, int]] = run.config.env.cameras or suite.default_cameras
    return {str(camera): (int(size[0]), int(size[1])) for camera, size in asked.items()}


def _made(suite: BatchSuite, task: str, cameras: Mapping[str, tuple[int, int]]) -> Env:
    try:
        return suite.make(task, cameras=cameras)
    except UserError as error:
        raise _without(error) from error


def _without(error: UserError) -> UserError:
    return UserError(f"{error} Or do without videos: loop.videos=0")


def _frames(run: Run, env: Env, attempt: Attempt) -> UInt8[np.ndarray, "frames height width 3"]:
    """What the cameras see of an attempt, side by side: its first moment and the one after each step."""
    observation, seen, repeats = env.reset(attempt.seed), [], True
    try:
        seen.append(_picture(env, observation))
        for state, action in zip(attempt.state, attempt.action, strict=True):
            repeats &= np.array_equal(np.asarray(observation["observation.state"]), state)
            observation = env.step(action).observation
            seen.append(_picture(env, observation))
            leave_if_asked(run)
    except UserError as error:
        raise _without(error) from error
    if not repeats:
        run.log(
            f"Warning: initial state {attempt.seed} went another way when it was filmed. The suite's episodes are no "
            "function of (task, initial state, actions), so their results cannot be repeated."
        )
    return np.concatenate(seen)


def _picture(env: Env, observation: Observation) -> UInt8[np.ndarray, "1 height width 3"]:
    return side_by_side([np.asarray(observation[f"observation.images.{name}"])[None] for name in env.cameras])
