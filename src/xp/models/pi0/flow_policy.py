"""What pi0's policies in both frameworks do alike: read observations, choose noise, give actions in dataset units."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from xp.models.observation import TASK, as_windows
from xp.models.pi0.inputs.prepare import ACTION, IS_PAD, Prepare
from xp.models.pi0.interface import Interface, PredictOptions
from xp.models.pi0.real_time import PLAN, PLAN_GIVEN, PLAN_MASK, PLAN_WEIGHT, Plan
from xp.models.policy import Batch, Seed

type Arrays = dict[str, np.ndarray]
"""What `Prepare` makes: arrays by name, the first axis of each the batch."""


class FlowPolicy(ABC):
    """Observations in, action chunks in dataset units out. See `predict` for its options."""

    def __init__(self, interface: Interface) -> None:
        """Everything but the weights."""
        self.interface, self.spec = interface, interface.spec

    @property
    def given_in_training(self) -> int:
        """With up to how many given actions its network was trained and can be asked; 0: it is guided to a plan."""
        return 0

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of a mixture, by `member_index`, of which none is chosen; empty for a policy of one."""
        return tuple(self.interface.notes.members)

    @property
    def camera_slots(self) -> dict[str, str]:
        """See `Policy.camera_slots`."""
        return dict(self.interface.prepare.cameras)

    def predict(
        self, observation: Batch, *, seed: Seed = 0, **options: object
    ) -> Float32[np.ndarray, "batch horizon action"]:
        """Actions [B, H, A] float32 in dataset units.

        Axes may be left out, see `xp.models.observation`; a camera too, which then takes no part. Of a policy of
        several datasets `member_index` [B] of the observation says which one is asked about; A is that of its actions.

        Options:
            noise: what sampling begins with, [B, H, width of the model]; default: drawn from `seed`, a row by itself.
            num_steps: steps of Euler's method; default: those of the policy.
            normalized: True leaves the actions in normalised units, with every dimension of the model.
            plan, delay, guidance: real-time chunking, see `Plan`; plan [B, m, A] in dataset units.

        Raises:
            UserError: an unknown option, an observation that does not fit, or several datasets of which none is said.
        """
        asked = PredictOptions.from_given(options, self.interface.notes.sample_steps)
        seen = {name: value for name, value in observation.items() if not name.startswith(ACTION)}
        prepare, windows = self.interface.prepare.own(as_windows(seen, self.spec))
        chunk = self._sample(self._inputs(prepare, windows, asked.plan), asked, seed)
        return chunk if asked.normalized else prepare.actions(chunk, windows)

    def _inputs(self, prepare: Prepare, windows: Mapping[str, object], plan: Plan | None) -> Arrays:
        """Prepared inputs; with a plan, which is normalised as the actions of a training are."""
        if plan is None:
            return prepare(windows)
        texts, horizon = windows[TASK], self.spec.horizon
        assert isinstance(texts, list)
        rows = len(texts)
        inputs = prepare({**windows, ACTION: plan.whole(rows, horizon, prepare.action.stats.width)})
        inputs[PLAN] = inputs.pop(ACTION)
        inputs.pop(IS_PAD)
        if self.given_in_training:
            inputs[PLAN_GIVEN] = np.tile(plan.given(horizon, self.given_in_training), (rows, 1))
            return inputs
        inputs[PLAN_MASK] = np.tile(plan.mask(horizon), (rows, 1))
        inputs[PLAN_WEIGHT] = np.full(rows, plan.guidance, np.float32)
        return inputs

    @abstractmethod
    def _sample(self, inputs: Arrays, asked: PredictOptions, seed: Seed) -> Float32[np.ndarray, "batch horizon width"]:
        """Normalised chunks for prepared inputs."""

    def noise_shape(self, rows: int) -> tuple[int, int, int]:
        """Shape of `noise` for a batch."""
        return rows, self.interface.prepare.horizon, self.interface.prepare.width

    def predict_distribution(self, observation: Batch) -> None:  # noqa: B027 - nothing is what it gives
        """A flow has no density that could be given as a Gaussian."""
