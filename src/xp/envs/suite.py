# pyright: strict
"""The protocol of a simulated suite: tasks and cameras as light facts, envs made on demand, experts that must fail.

Suites are found by name through the entry-point group `xp.suites`; `env.name` chooses one. An entry is a class (or
function) that takes the suite's own keys of the `env` section, `fps` and `max_steps` among them, and gives a `Suite`.
Nothing heavy is imported before `Suite.make` (no NumPy here either).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from xp.config.schema import SUITES
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSONObject
from xp.plugins import make_plugin

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.array_types import Floats, Numbers
    from xp.json_types import JSON

COMMON_KEYS = ("name", "tasks", "cameras", "environment_state")
"""Keys of the `env` section that say what is asked of a suite; all others are the suite's own."""

type Observation = Mapping[str, Numbers | str]
"""A dict, or a mapping that draws a picture when it is first looked at (`xp.envs.lazy`). LeRobot's keys, unbatched:
`observation.images.<camera>` [h, w, 3] uint8, `observation.state` [S] float32, `task` (the instruction); where it was
asked for, `observation.environment_state` [E] float32."""

type Window = Mapping[str, Numbers | list[str]]
"""A batch of one observation window, as `Predict` takes it."""

type Predict = Callable[[Window], Floats]
"""Batch of one observation window -> actions [1, H, A] in dataset units.

The batch: `observation.images.<camera>` [1, T, h, w, 3] uint8, `observation.state` [1, T, S] float32,
`observation_is_pad` [1, T] bool, `task` list of one string, `episode_index` [1] (the seed) and `frame_index` [1] int64;
also `observation.environment_state` [1, T, E] float32 where the env gives it.
"""


@dataclass(frozen=True)
class StepResult:
    """What follows an action. `done` is true on success and when the step limit is reached.

    `reward` is how good the step was by the suite's own measure; None where it has none. Success is not told by it.
    """

    observation: Observation
    success: bool
    done: bool
    reward: float | None = None


@runtime_checkable
class Env(Protocol):
    """One task of a suite, simulated. An episode is a pure function of (task, seed, actions)."""

    @property
    def task(self) -> str:
        """The task's name."""
        ...

    @property
    def language(self) -> str:
        """The task's instruction, which observations hold too."""
        ...

    @property
    def fps(self) -> int:
        """Control steps a second."""
        ...

    @property
    def max_steps(self) -> int:
        """Control steps after which an episode is done."""
        ...

    @property
    def steps(self) -> int:
        """Control steps taken since the last reset."""
        ...

    @property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """Camera name to (height, width) in pixels of the images in observations."""
        ...

    @property
    def action_low(self) -> "Floats":
        """Least value of each action dimension [A]; a smaller one is clipped."""
        ...

    @property
    def action_high(self) -> "Floats":
        """Largest value of each action dimension [A]; a larger one is clipped."""
        ...

    def reset(self, seed: int) -> Observation:
        """Begin the episode of initial state `seed` and give its first observation."""
        ...

    def step(self, action: "Floats") -> StepResult:
        """Act for one control step with `action` [A].

        Raises:
            UserError: the action has another shape or is not finite.
        """
        ...

    def observe(self) -> Observation:
        """The present observation: what `reset` or `step` gave last."""
        ...


@runtime_checkable
class Actor(Protocol):
    """What acts in an env that it was made for: a scripted expert, or a policy with its history."""

    def reset(self, episode: int) -> None:
        """Begin the episode that the env was just reset to."""
        ...

    def act(self) -> "Floats":
        """The next action [A] float32."""
        ...


@runtime_checkable
class NoisyActor(Actor, Protocol):
    """An actor that puts noise on its actions and knows what it meant."""

    @property
    def intended(self) -> "Floats":
        """The action [A] float32 that `act` gave last, without the noise."""
        ...


@runtime_checkable
class Suite(Protocol):
    """A suite with its options. Hashable and picklable (a frozen dataclass), so that processes can share and keep envs.

    A class may also have `schema`: a dataclass derived from `xp.config.schema.Env` with the suite's own keys, for the
    check of types, words and bounds before a run.

    It may also have `refuse_seeds(first, count, keys)`, which raises a `UserError` where some of the initial states
    first .. first + count - 1 do not exist although there is no single last one; `keys` are the configuration keys of
    both, for the message; `env_megabytes`, the memory that an env takes while an episode is under way, where that is so
    much that fewer envs have to stand side by side; and `input_files(env)`, a static method that gives {key: files} of
    what an `env` section makes the suite read from outside, the file that the key names first: a run notes the content
    of each (`xp.runs.jobs.inputs`).
    """

    @property
    def name(self) -> str:
        """The suite's name, as in `env.name`."""
        ...

    @property
    def robot_type(self) -> str:
        """What a recorded dataset notes as its robot."""
        ...

    @property
    def tasks(self) -> Mapping[str, str]:
        """Task name to instruction."""
        ...

    @property
    def camera_names(self) -> Sequence[str]:
        """All cameras that there are."""
        ...

    @property
    def default_cameras(self) -> Mapping[str, tuple[int, int]]:
        """What a policy sees where nothing else is said: camera name to (height, width) in pixels."""
        ...

    @property
    def state_names(self) -> Sequence[str]:
        """Names of the S numbers of `observation.state`."""
        ...

    @property
    def action_names(self) -> Sequence[str]:
        """Names of the A numbers of an action."""
        ...

    @property
    def environment_state_names(self) -> Sequence[str]:
        """Names of the E numbers of `observation.environment_state`; empty where the suite gives none."""
        ...

    @property
    def num_initial_states(self) -> int | None:
        """Initial states 0 .. n-1 that each task has; None where every seed gives one."""
        ...

    @property
    def max_expert_noise(self) -> float | None:
        """The most noise on actions that the expert bears (standard deviation); None: the suite has no expert."""
        ...

    @property
    def failing_experts(self) -> Sequence[str]:
        """Names of the experts gone wrong, for `failing_expert`; empty where there are none."""
        ...

    def check(self, env: JSONObject) -> None:
        """Refuse an `env` section beyond what `check_env` sees: sizes that cannot be drawn, say.

        Raises:
            UserError: naming the key, what is allowed and what to type.
        """
        ...

    def make(self, task: str, *, cameras: Mapping[str, tuple[int, int]], environment_state: bool = False) -> Env:
        """The env of a task, seen by `cameras` (name to height, width), with or without the simulator's knowledge.

        Raises:
            UserError: a task, camera or size that there is not.
        """
        ...

    def expert(self, env: Env, *, noise: float = 0.0, seed: int = 0) -> Actor:
        """The scripted expert of an env that `make` gave; `noise` on its actions is drawn from `seed`.

        Raises:
            UserError: there is no expert, or noise beyond `max_expert_noise`.
        """
        ...

    def failing_expert(self, env: Env, control: str) -> Actor:
        """The expert gone wrong in a way that `failing_experts` names: it must fail, else success means nothing."""
        ...

    def noop(self, horizon: int) -> Predict:
        """A policy that does nothing, in chunks of `horizon` actions: the floor of every success rate."""
        ...

    def provenance(self) -> dict[str, str]:
        """What results depend on beside policy and seed, for the record: versions of the simulator, its renderer."""
        ...


def suite_named(name: str, options: JSONObject) -> Suite:
    """The suite that an installed package calls `name`, with its own keys of the `env` section.

    Raises:
        UserError: there is none of that name, two packages offer it, it has no such key, or it is no `Suite`.
    """
    return make_plugin(SUITES, name, options, key="env.name", prefix="env.", kind=Suite)


def suite_of(env: "JSONObject | DictConfig") -> Suite:
    """The suite that an `env` section (plain or OmegaConf's) asks for, once its tasks and cameras are found there.

    Raises:
        UserError: there is no such suite, task or camera, or an option is impossible.
    """
    plain = _plain(env)
    suite = suite_named(str(plain["name"]), {key: plain[key] for key in plain if key not in COMMON_KEYS})
    tasks, cameras = plain["tasks"], plain["cameras"]
    assert isinstance(tasks, Sequence) and isinstance(cameras, Mapping), "checked before a run"
    for task in tasks:
        refuse_unknown_task(str(task), suite.tasks)
    for camera in cameras:
        refuse_unknown_camera(camera, suite.camera_names, suite.default_cameras)
    if plain["environment_state"] and not suite.environment_state_names:
        raise UserError(
            f"env.environment_state=true: the suite {suite.name} gives none. Type env.environment_state=false"
        )
    suite.check(plain)
    return suite


def _plain(env: "JSONObject | DictConfig") -> JSONObject:
    from omegaconf import DictConfig, OmegaConf

    if not isinstance(env, DictConfig):
        return env
    return cast("dict[str, JSON]", OmegaConf.to_container(env, resolve=True))


def refuse_unknown_task(name: str, tasks: Mapping[str, object]) -> None:
    """Refuse a task that a suite does not have.

    Raises:
        UserError: naming the tasks there are.
    """
    if name not in tasks:
        raise UserError(
            f"There is no task '{name}' in the suite{did_you_mean(name, tasks)}. The tasks are {join_names(tasks)}: "
            f"give one of them, e.g. env.tasks=[{next(iter(tasks), 'NAME')}]."
        )


def refuse_unknown_camera(name: str, cameras: Sequence[str], examples: Iterable[str]) -> None:
    """Refuse a camera that a suite does not have; `examples` are some that one could want.

    Raises:
        UserError: naming the cameras there are.
    """
    if name not in cameras:
        raise UserError(
            f"The suite has no camera '{name}'{did_you_mean(name, cameras)}. It has {join_names(cameras)}: "
            f"give sizes for these alone, e.g. 'env.cameras={{{next(iter(examples), 'NAME')}: [64, 64]}}'."
        )


def refuse_missing_states(suite: Suite, first: int, count: int, keys: tuple[str, str]) -> None:
    """Refuse initial states that a suite does not have.

    Args:
        suite: the suite.
        first: the first initial state asked for.
        count: how many are asked for of each task.
        keys: the configuration keys of both, for the message.

    Raises:
        UserError: naming how many there are and what to type.
    """
    refuse = getattr(suite, "refuse_seeds", None)
    if refuse is not None:
        refuse(first, count, keys)
    known = suite.num_initial_states
    if known is not None and first + count > known:
        raise UserError(
            f"{keys[0]}={first} {keys[1]}={count}: the suite {suite.name} has the initial states 0 to {known - 1}. "
            f"Give for instance {keys[0]}=0 {keys[1]}={min(count, known)}"
        )
