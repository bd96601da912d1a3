"""Makes a registered gymnasium env and says what it shows and takes, or why it does not fit LeRobot's conventions."""

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8

from xp.array_types import Numbers
from xp.errors import UserError, did_you_mean, join_names

CAMERA = "image"
"""The one camera of an env whose `pixels` is an array: LeRobot's key for it is `observation.image`."""
CONVENTIONS = (
    "a Dict with agent_pos (a Box [S]) and, where there are cameras, pixels (a uint8 Box [height, width, 3], or a Dict "
    "of such by camera) and environment_state (a Box [E])"
)

type Raw = Mapping[str, Any]
"""An observation as gymnasium gives it. Its values are the env's own: each reader checks what it takes."""


@dataclass(frozen=True)
class Asked:
    """A registered env with its arguments. Hashable, so that processes can share what is found of it."""

    id: str
    package: str | None = None
    kwargs: str = "{}"
    """Arguments for `gymnasium.make`, as JSON."""


@dataclass(frozen=True)
class Found:
    """What an env shows and takes."""

    cameras: Mapping[str, tuple[int, int]]
    """Camera name to (height, width) of its own pictures."""
    state_dim: int
    action_dim: int
    environment_dim: int
    """0 where it gives no environment_state."""
    fps: float
    """Control steps a second."""
    max_steps: int | None
    """Its own limit of an episode; None where it has none."""
    language: str
    """What it says is to be done; its id where it says nothing."""
    initial_states: int | None
    """1 where every seed begins the same episode; None where seeds differ."""


def make_registered(asked: Asked, max_steps: int | None = None) -> gymnasium.Env:
    """Make the env; the module `package` is imported first, so that it can register it.

    Raises:
        UserError: no such module or id, or arguments that the env does not take.
    """
    if asked.package:
        _import(asked)
    given = cast("dict[str, Any]", json.loads(asked.kwargs))
    _refuse_unknown(asked)
    try:
        return gymnasium.make(asked.id, max_episode_steps=max_steps, disable_env_checker=True, **given)
    except Exception as error:  # the env's own code: it may fail in any way
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        more = (
            f"Install what is missing: pip install {missing}"
            if missing
            else (f"Give arguments that it takes (env.kwargs={{NAME: VALUE}}); given is {asked.kwargs}.")
        )
        strange = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        why = f"it takes no argument '{strange[1]}'" if strange else f"{type(error).__name__}: {error}"
        raise UserError(f"env.id={asked.id} cannot be made: {why}. {more}") from error


def _import(asked: Asked) -> None:
    """Import the module that the user named."""
    package = str(asked.package)
    top = package.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != top:
            raise UserError(
                f"The module {package} needs {error.name}, which is not installed: pip install {error.name}"
            ) from error
        raise UserError(
            f"env.package={package}: there is no such module, which is to register {asked.id}. If the package that "
            f"brings it is called the same, type: pip install {top.replace('_', '-')}"
        ) from error
    except Exception as error:  # code of others, run while it is imported
        raise UserError(
            f"The module {package} cannot be imported: {type(error).__name__}: {error}. Install it again with all that "
            "it needs, or name another in env.package."
        ) from error


def _refuse_unknown(asked: Asked) -> None:
    try:
        gymnasium.spec(asked.id)
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        known = [name for name in gymnasium.registry if "/" in name or asked.package is None]
        namespace = asked.id.rpartition("/")[0]
        way = "Give one of the ids that it registers"
        if not asked.package:
            way = f"Name the module that registers it, e.g. env.package={namespace or 'gym_pusht'}"
        raise UserError(
            f"env.id={asked.id}: gymnasium knows no such env{did_you_mean(asked.id, known)}. {way}."
        ) from error


@lru_cache(maxsize=16)
def find(asked: Asked) -> Found:
    """Make the env once, begin three episodes, and say what it shows and takes.

    Raises:
        UserError: as `make_registered`; or spaces, pictures or seeds that do not follow the conventions.
    """
    env = make_registered(asked)
    try:
        return _found(asked, env)
    finally:
        env.close()


def _found(asked: Asked, env: gymnasium.Env) -> Found:
    where = f"env.id={asked.id}"
    seen, action = env.observation_space, env.action_space
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise UserError(f"{where} takes actions of {action}: expected a Box [A], the numbers of one action.")
    if not isinstance(seen, spaces.Dict) or _width(seen.get("agent_pos")) is None:
        raise UserError(_unconventional(where, seen, asked))
    pixels = seen.get("pixels")
    pictures = pixels.spaces if isinstance(pixels, spaces.Dict) else {} if pixels is None else {CAMERA: pixels}
    for space in pictures.values():
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3 or space.shape[2] != 3:
            raise UserError(_unconventional(where, seen, asked))
    surroundings = _width(seen.get("environment_state"))
    if "environment_state" in seen.spaces and surroundings is None:
        raise UserError(_unconventional(where, seen, asked))
    first, again, other = (_reset(env, seed, where) for seed in (0, 0, 1))
    for camera, space in pictures.items():
        shown = picture(first, camera)
        if shown.shape != space.shape:
            raise UserError(
                f"{where}: the camera {camera} gives pictures {list(shown.shape)} where the observation space says "
                f"{list(space.shape or ())}. Give arguments with which it keeps its word (env.kwargs), or another env."
            )
    if not _alike(first, again):
        raise UserError(
            f"{where}: two episodes of the same seed begin differently, so no result could be repeated. Expected is an "
            "env whose reset(seed=N) decides the initial state (self.np_random after super().reset(seed=seed))."
        )
    return Found(
        cameras={name: (space.shape[0], space.shape[1]) for name, space in pictures.items() if space.shape},
        state_dim=_width(seen.get("agent_pos")) or 0,
        action_dim=action.shape[0],
        environment_dim=surroundings or 0,
        fps=_fps(env, where),
        max_steps=_limit(env),
        language=_language(env) or asked.id,
        initial_states=1 if _alike(first, other) else None,
    )


def picture(raw: Raw, camera: str) -> UInt8[np.ndarray, "height width 3"]:
    """What a camera shows in an observation."""
    pixels = raw["pixels"]
    return np.asarray(pixels[camera] if isinstance(pixels, Mapping) else pixels)


def _unconventional(where: str, seen: gymnasium.Space, asked: Asked) -> str:
    own = ", ".join(f"{key}: {space}" for key, space in seen.spaces.items()) if isinstance(seen, spaces.Dict) else seen
    return (
        f"{where} shows {own}, which does not follow LeRobot's conventions: expected is {CONVENTIONS}. Where the env "
        f"has an option for it, type it, e.g. 'env.kwargs={{obs_type: pixels_agent_pos}}' (given is {asked.kwargs})."
    )


def _reset(env: gymnasium.Env, seed: int, where: str) -> Raw:
    try:
        return env.reset(seed=seed)[0]
    except TypeError as error:
        raise UserError(
            f"{where}: its reset takes no seed ({error}), so no episode could be repeated. Expected is gymnasium's "
            "reset(*, seed=None, options=None)."
        ) from error


def _alike(one: object, other: object) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    return np.array_equal(np.asarray(one), np.asarray(other))


def _width(space: gymnasium.Space | None) -> int | None:
    """The width of a Box [n]; None for another space."""
    return space.shape[0] if isinstance(space, spaces.Box) and len(space.shape) == 1 else None


def _fps(env: gymnasium.Env, where: str) -> float:
    rate = env.metadata.get("render_fps")
    if not isinstance(rate, int | float) or rate <= 0:
        raise UserError(
            f"{where}: its metadata say render_fps={rate}, so nobody knows how many control steps a second has. "
            "Expected is metadata = {'render_fps': N, ...}, as LeRobot's conventions say."
        )
    return float(rate)


def _limit(env: gymnasium.Env) -> int | None:
    limit = env.spec.max_episode_steps if env.spec else None
    limit = limit or getattr(env.unwrapped, "_max_episode_steps", None)
    return int(limit) if limit else None


def _language(env: gymnasium.Env) -> str:
    """What LeRobot's evaluation takes as the instruction: `task_description`, else `task`; values or methods."""
    for name in ("task_description", "task"):
        said = getattr(env.unwrapped, name, "")
        said = said() if callable(said) else said
        if isinstance(said, str) and said:
            return said
    return ""


def numbers(raw: Raw, key: str, width: int) -> Numbers:
    """The vector [width] float32 under a key of an observation.

    Raises:
        UserError: it has another width.
    """
    values = np.asarray(raw[key], np.float32)
    if values.shape != (width,):
        raise UserError(
            f"The env gave {key} of shape {list(values.shape)} where its observation space says [{width}]. "
            f"Give another env, or arguments with which it keeps its word (env.kwargs). Keys: {join_names(raw)}."
        )
    return values
