"""Small gymnasium envs for tests: one that follows LeRobot's conventions, and some that do not."""

import gymnasium
import numpy as np
from gymnasium import spaces

SIDE = 24
"""Height of the pictures; they are four pixels wider."""


class Reach(gymnasium.Env):
    """A point in the square from -1 to 1 moves by the action (0.2 a step at most) towards a goal; solved within 0.1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    task_description = "reach the goal"

    def __init__(self, cameras=("front", "side"), solved="is_success", seeded=True, same=False, shown=SIDE, limit=0.1):
        self._solved, self._seeded, self._same, self._shown, self._limit = solved, seeded, same, shown, limit
        box = spaces.Box(0, 255, (SIDE, SIDE + 4, 3), np.uint8)
        pixels = {"pixels": spaces.Dict(dict.fromkeys(cameras, box)) if cameras else box}
        vectors = {key: spaces.Box(-1, 1, (2,), np.float64) for key in ("agent_pos", "environment_state")}
        self.observation_space = spaces.Dict({**pixels, **vectors})
        self.action_space = spaces.Box(-0.2, 0.2, (2,), np.float32)
        self._cameras, self.actions = cameras, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed if self._seeded else None)
        draw = np.random.default_rng(0) if self._same else self.np_random
        self.place, self.goal = draw.uniform(-0.9, 0.9, 2), draw.uniform(-0.9, 0.9, 2)
        return self._seen(), {}

    def step(self, action):
        self.actions.append(action)
        self.place = np.clip(self.place + action, -1, 1)
        distance = float(np.abs(self.place - self.goal).max())
        solved = distance < self._limit
        info = {self._solved: solved} if self._solved else {}
        return self._seen(), -distance, solved, False, info

    def _seen(self):
        shown = np.full((self._shown, SIDE + 4, 3), 128 + int(100 * self.place[0]), np.uint8)
        pixels = {camera: shown + index for index, camera in enumerate(self._cameras)} if self._cameras else shown
        return {"pixels": pixels, "agent_pos": self.place.copy(), "environment_state": self.goal.copy()}


class Silent(Reach):
    """Says neither what is to be done nor how fast it is."""

    task_description = None
    metadata = {"render_modes": []}


class Discrete(Reach):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Discrete(4)


class Flat(Reach):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-1, 1, (4,))


class Grey(Reach):
    def __init__(self):
        super().__init__()
        grey = spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
        self.observation_space = spaces.Dict({**self.observation_space.spaces, "pixels": grey})


class Unseeded(Reach):
    def reset(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().reset()


for name, entry in (("Reach", Reach), ("Silent", Silent), ("Discrete", Discrete), ("Flat", Flat), ("Grey", Grey)):
    gymnasium.register(f"xp_tests/{name}-v0", entry_point=entry, max_episode_steps=30)
gymnasium.register("xp_tests/Unseeded-v0", entry_point=Unseeded, max_episode_steps=30)
gymnasium.register("xp_tests/Endless-v0", entry_point=Reach)
