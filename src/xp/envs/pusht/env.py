"""PushT as gym-pusht simulates it, its picture drawn when somebody looks: drawing takes six times as long as a step."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from xp.envs.gym_suite.env import GymnasiumEnv
from xp.envs.gym_suite.registered import Asked, Raw
from xp.envs.lazy import LazyObservation
from xp.envs.pusht.options import CAMERA, ENV_ID, NATIVE_SIZE, PACKAGE, TASKS
from xp.envs.suite import Observation, refuse_unknown_camera
from xp.pictures import resize

TOUCH_PIXELS = 2.0
"""Half the length of the line by which the engine marks a contact (`cpSpaceDebugDraw` of Chipmunk2D)."""


def _load() -> Any:
    """The class of gym-pusht; pygame's greeting and its warning about setuptools are left out."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gym_pusht.envs.pusht import PushTEnv
    return PushTEnv


@dataclass(frozen=True)
class Moment:
    """What a picture shows: where the agent is, the block's pose, and where the block is touched."""

    agent: Float64[np.ndarray, "2"]
    block: Float64[np.ndarray, "3"]
    touches: tuple[tuple[tuple[float, float], tuple[float, float]], ...]
    """The short lines that the engine draws where shapes meet: their ends."""


class Drawing:
    """Draws a moment: pixel by pixel what gym-pusht's own observation shows."""

    def __init__(self) -> None:
        width = height = NATIVE_SIZE
        self._scene = _load()(obs_type="state", observation_width=width, observation_height=height)
        self._scene.reset(seed=0)

    def __call__(self, moment: Moment, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
        """The picture, resized as in training."""
        from gym_pusht.envs.pymunk_override import DrawOptions
        from pymunk.vec2d import Vec2d

        scene = self._scene
        scene.agent.position = tuple(moment.agent)
        scene.block.angle = float(moment.block[2])  # first: it turns the block about its centre of mass
        scene.block.position = tuple(moment.block[:2])
        for body in (scene.agent, scene.block):
            scene.space.reindex_shapes_for_body(body)
        screen = scene._draw()
        options = DrawOptions(screen)
        for begin, end in moment.touches:
            options.draw_segment(Vec2d(*begin), Vec2d(*end), options.collision_point_color)
        picture = scene._get_img(screen, NATIVE_SIZE, NATIVE_SIZE)
        return resize(np.ascontiguousarray(picture, np.uint8), height, width)


class PushtEnv(GymnasiumEnv):
    """PushT by the published protocol: 300 steps at 10 Hz, solved when the block covers more than 95% of the goal.

    An observation has `observation.images.image` [h, w, 3] uint8, drawn at 96 x 96 and resized where another size is
    asked for; `observation.state` [2] float32, where the agent is; on request `observation.environment_state` [16]
    float32, the block's eight corners. An action [2] is the point that the agent shall go to. All in pixels of the
    512 x 512 workspace. A step's reward is the covered share of the goal over 0.95, at most 1.

    Raises:
        UserError: a camera that there is not.
    """

    def __init__(
        self,
        task: str,
        *,
        cameras: Mapping[str, tuple[int, int]],
        max_steps: int | None = None,
        environment_state: bool = False,
    ):
        _load()
        super().__init__(
            Asked(ENV_ID, PACKAGE, '{"obs_type": "environment_state_agent_pos"}'),
            task,
            cameras=cameras,
            language=TASKS[task],
            max_steps=max_steps,
            environment_state=environment_state,
        )

    def _refuse_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        for camera in cameras:
            refuse_unknown_camera(camera, (CAMERA,), (CAMERA,))

    @cached_property
    def _drawing(self) -> Drawing:
        return Drawing()

    @property
    def _simulation(self) -> Any:
        return self._env.unwrapped

    def agent_position(self) -> Float64[np.ndarray, "2"]:
        """Where the agent is, pixels."""
        return np.array(self._simulation.agent.position, np.float64)

    def block_pose(self) -> Float64[np.ndarray, "3"]:
        """Where the block is, pixels, and its angle in radians (`xp.envs.pusht.tee`)."""
        block = self._simulation.block
        return np.array([*block.position, block.angle], np.float64)

    def _look(self, raw: Raw) -> Observation:
        moment = Moment(self.agent_position(), self.block_pose(), self._touches() if self.cameras else ())
        keys = {f"observation.images.{name}": size for name, size in self.cameras.items()}
        return LazyObservation(self._vectors(raw), {key: partial(self._draw, moment, *keys[key]) for key in keys})

    def _touches(self) -> tuple[Any, ...]:
        """The lines that `pymunk.Space.debug_draw` would draw now: two pixels along the normal to either side."""
        found = []

        def add(arbiter: Any) -> None:
            normal = TOUCH_PIXELS * arbiter.contact_point_set.normal
            found.extend(
                (tuple(p.point_a - normal), tuple(p.point_b + normal)) for p in arbiter.contact_point_set.points
            )

        self._simulation.block.each_arbiter(add)
        return tuple(found)

    def _draw(self, moment: Moment, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
        return self._drawing(moment, height, width)
