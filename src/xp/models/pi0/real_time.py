"""Real-time chunking: a new chunk is bound to the plan that is executed while it is computed.

Black, Galliker & Levine 2025, "Real-Time Execution of Action Chunking Flow Policies". At every step of sampling the
velocity is moved by the pseudo-inverse guidance of an inpainting (Pokle et al. 2023; Song et al. 2023), so that the
actions it leads to fall in with the plan where the mask of the plan is large.

A network that was trained with the first actions given (`model.max_delay`) needs no guidance: it is given them (Black,
Ren, Equi & Levine 2025, "Training-Time Action Conditioning for Efficient Real-Time Chunking").
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from xp.errors import UserError

GUIDANCE = 5.0
"""The most that guidance weighs (beta): the paper's value."""
PLAN, PLAN_MASK, PLAN_WEIGHT, PLAN_GIVEN, DELAY = "plan", "plan_mask", "plan_weight", "plan_given", "delay"
"""Among the inputs of a network: the plan as its targets are, [B, H, A]; its mask [B, H]; the most it weighs [B]; for a
network that was trained behind given actions which of the plan are given, [B, H] bool; in training how many are [B]."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is left of the chunk that is being executed, and how much of it will have been when the answer is there."""

    actions: Float32[np.ndarray, "batch left action"]
    """From the present step on, in dataset units; those that the next chunk is to replace wholly are left out."""
    delay: int = 0
    """How many of them are executed while the answer is computed: the answer keeps to these."""
    guidance: float = GUIDANCE

    @classmethod
    def from_given(cls, given: Mapping[str, object]) -> "Plan | None":
        """Read the options of `predict` that say it; None where none does.

        Raises:
            UserError: a delay or a guidance without a plan, or one out of its bounds.
        """
        plan, delay, guidance = given.get("plan"), given.get("delay"), given.get("guidance")
        if plan is None:
            for name, value in (("delay", delay), ("guidance", guidance)):
                if value is not None:
                    raise UserError(
                        f"{name}={value} without plan: it says how a chunk is bound to a plan. Give plan, the actions "
                        f"[B, m, A] that are left of the last chunk, or leave {name} out."
                    )
            return None
        actions = np.asarray(plan, np.float32)
        if actions.ndim != 3 or not actions.shape[1]:
            raise UserError(f"plan has shape {actions.shape}; expected [B, m, A] with one action or more. Give that.")
        delay = 0 if delay is None else delay
        left = actions.shape[1]
        if isinstance(delay, bool) or not isinstance(delay, int | np.integer) or not 0 <= delay <= left:
            raise UserError(f"delay={delay}: expected a whole number from 0 to {left}, the actions of the plan.")
        guidance = GUIDANCE if guidance is None else guidance
        if isinstance(guidance, bool) or not isinstance(guidance, int | float) or not 0 < guidance < np.inf:
            raise UserError(f"guidance={guidance}: expected a number above 0. Type for instance guidance={GUIDANCE}")
        return cls(actions=actions, delay=int(delay), guidance=float(guidance))

    def whole(self, rows: int, horizon: int, width: int) -> Float32[np.ndarray, "batch horizon action"]:
        """The plan up to the horizon, its last action repeated where nothing is planned (the mask is 0 there).

        Raises:
            UserError: another number of rows, more actions than a chunk has, or actions of another width.
        """
        given = self.actions.shape
        if given[0] != rows or given[1] > horizon or given[2] != width:
            raise UserError(
                f"plan has shape {list(given)}; the policy wants [{rows}, m, {width}] with at most {horizon} actions: "
                "those that are left of its last chunk, from the present step on."
            )
        return np.concatenate([self.actions, np.repeat(self.actions[:, -1:], horizon - given[1], axis=1)], axis=1)

    def given(self, horizon: int, most: int) -> Bool[np.ndarray, " horizon"]:
        """Which actions of the chunk are given to a network that was trained with up to `most` given ones.

        Raises:
            UserError: more are executed meanwhile than it was trained with.
        """
        if self.delay > most:
            raise UserError(
                f"delay={self.delay}: the policy was trained with at most {most} given actions (model.max_delay={most})"
                f". Ask with a delay of at most {most}, or train with a larger model.max_delay."
            )
        return np.arange(horizon) < self.delay

    def mask(self, horizon: int) -> Float32[np.ndarray, " horizon"]:
        """How much each action of the chunk is bound to the plan, 0 to 1; see `soft_mask`."""
        return soft_mask(self.delay, self.actions.shape[1], horizon)


def soft_mask(delay: int, left: int, horizon: int) -> Float32[np.ndarray, " horizon"]:
    """The paper's soft mask: 1 for what is executed meanwhile, then falling exponentially, 0 where nothing is planned.

    Args:
        delay: actions that are executed while the chunk is computed (d).
        left: actions that are left of the plan (H - s, for s executed ones).
        horizon: actions of a chunk (H).
    """
    share = np.clip((left - np.arange(horizon)) / (left - delay + 1), 0.0, 1.0)
    falling = share * np.expm1(share) / np.expm1(1.0)
    return np.where(np.arange(horizon) < delay, 1.0, falling).astype(np.float32)
