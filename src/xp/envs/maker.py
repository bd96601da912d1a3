"""Which suite, seen by which cameras: what one job wants, made into envs where they are needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from xp.envs.suite import Env, Suite, suite_of

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class EnvMaker:
    """Makes the envs of a suite as one job wants them. Can be sent to another process, which makes each env once."""

    suite: Suite
    cameras: tuple[tuple[str, tuple[int, int]], ...]
    """Camera names with their (height, width)."""
    environment_state: bool

    @classmethod
    def of(
        cls, env: "DictConfig", cameras: Mapping[str, Sequence[int]] | None = None, *, environment_state: bool
    ) -> "EnvMaker":
        """From the `env` section; `cameras` (name to height, width) stand for its own.

        Raises:
            UserError: as `xp.envs.suite_of`.
        """
        sizes = (env.cameras if cameras is None else cameras).items()
        seen = tuple((str(name), (int(height), int(width))) for name, (height, width) in sizes)
        return cls(suite_of(env), seen, environment_state)

    def make(self, task: str) -> Env:
        """The env of a task; the same one while it is asked for: only the last one is kept, an env may be large."""
        return _make(self, task)

    def make_new(self, task: str) -> Env:
        """An env of a task that nobody else has: for several side by side."""
        return self.suite.make(task, cameras=dict(self.cameras), environment_state=self.environment_state)


@lru_cache(maxsize=1)
def _make(maker: EnvMaker, task: str) -> Env:
    return maker.make_new(task)
