"""What a model learns of N recorded actions and what is executed of its answer, by `chunk_mode`. Pure numpy.

- `autoregressive`, `parallel`, `oft`: all N actions are learned and executed.
- `subsample`: the first of N is learned, as the published fine-tuning at a lower rate does it. Executed at that rate it
  is one action in N steps, so the robot moves about 1/N of the way.
- `accumulate`: one action for N frames is learned: the sum of the position deltas, the composition of the rotations,
  the gripper's last value; executed as N steps of 1/N each, since a controller clips what one step may do. The way
  that is gone is the recorded one.

The last two need actions of seven numbers: three position deltas, a rotation vector, a gripper. Rotations are
composed in the frame that stays (a later one stands on the left), as robosuite's OSC_POSE and LIBERO apply them.

Letters: N frames.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from xp.errors import UserError, did_you_mean, join_names

MODES = ("autoregressive", "parallel", "oft", "subsample", "accumulate")
AT_ONCE = ("parallel", "oft")
"""Modes that tell all numbers of a chunk in one pass."""
HEADS = ("token", "l1")
POSITION, ROTATION, GRIPPER = slice(0, 3), slice(3, 6), 6
WIDTH = 7
"""Numbers of an end-effector action."""


@dataclass(frozen=True, kw_only=True)
class ChunkPlan:
    """How a chunk of `horizon` actions is asked for: the mode, the head that answers, and the units of rotations."""

    mode: str = "autoregressive"
    head: str = "token"
    horizon: int = 1
    action_dim: int = WIDTH
    rotation_unit: float = 1.0
    """Radians that 1 means in the action's rotations (LIBERO: 0.5)."""

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            UserError: an unknown mode or head, a head that the mode does not have, or actions that cannot be summed.
        """
        for key, value, allowed in (("chunk_mode", self.mode, MODES), ("head", self.head, HEADS)):
            if value not in allowed:
                raise UserError(
                    f"model.{key}={value}: allowed are {join_names(allowed)}{did_you_mean(value, allowed)}. Type "
                    f"model.{key}={allowed[0]}"
                )
        if self.head == "l1" and not self.is_at_once:
            raise UserError(
                f"model.head=l1 reads all actions of a chunk from one pass, which model.chunk_mode={self.mode} does "
                "not have. Type model.chunk_mode=parallel (or oft), or model.head=token"
            )
        if not self.is_whole and self.action_dim != WIDTH:
            raise UserError(
                f"model.chunk_mode={self.mode} needs actions of {WIDTH} numbers (three position deltas, a rotation "
                f"vector, a gripper); the dataset's have {self.action_dim}. Take a dataset of end-effector deltas, or "
                "type model.chunk_mode=autoregressive"
            )

    @property
    def is_whole(self) -> bool:
        """Whether every action of the chunk is learned, not one for all."""
        return self.mode in ("autoregressive", *AT_ONCE)

    @property
    def is_at_once(self) -> bool:
        """Whether all numbers of an answer are told in one pass."""
        return self.mode in AT_ONCE

    @property
    def actions(self) -> int:
        """Actions that one answer of the model holds."""
        return self.horizon if self.is_whole else 1

    @property
    def tokens(self) -> int:
        """Numbers that one answer of the model holds."""
        return self.actions * self.action_dim

    def effective_hz(self, fps: float) -> float:
        """Queries a second where a whole chunk is executed before the next query."""
        return fps / self.horizon

    def learned(
        self, actions: Float[np.ndarray, "*lead frames dim"], is_pad: Bool[np.ndarray, "*lead frames"]
    ) -> tuple[Float32[np.ndarray, "*lead answers dim"], Bool[np.ndarray, "*lead answers"]]:
        """What the model learns of recorded actions, and what of it lies beyond an episode's end.

        For `accumulate` it is the action of one of the N equal steps that are executed; frames beyond the end move
        nothing.
        """
        if self.is_whole:
            return actions.astype(np.float32), is_pad
        if self.mode == "subsample":
            return actions[..., :1, :].astype(np.float32), is_pad[..., :1]
        total = accumulated(actions, is_pad, self.rotation_unit)
        total[..., : ROTATION.stop] /= actions.shape[-2]
        return total[..., None, :], is_pad[..., :1]

    def executed(self, answer: Float[np.ndarray, "*lead answers dim"]) -> Float32[np.ndarray, "*lead frames dim"]:
        """The actions that are executed of an answer of the model, one for each of `horizon` steps."""
        if self.is_whole:
            return answer.astype(np.float32)
        chunk = np.repeat(answer.astype(np.float32), self.horizon, axis=-2)
        if self.mode == "subsample":
            chunk[..., 1:, : ROTATION.stop] = 0
        return chunk


def accumulated(
    actions: Float[np.ndarray, "*lead frames 7"], is_pad: Bool[np.ndarray, "*lead frames"], rotation_unit: float = 1.0
) -> Float32[np.ndarray, "*lead 7"]:
    """One action for all N: deltas summed, rotations composed, the gripper's last value.

    Args:
        actions: [..., N, 7]: position deltas, rotation vectors, gripper.
        is_pad: [..., N], True for frames that are none: they move nothing. They stand behind the others.
        rotation_unit: radians that 1 means in the rotations.
    """
    moves = np.where(is_pad[..., None], 0.0, actions.astype(np.float64))
    turned = _composed(rotation_unit * moves[..., ROTATION]) / rotation_unit
    last = np.maximum((~is_pad).sum(-1) - 1, 0)[..., None]
    gripper = np.take_along_axis(actions[..., GRIPPER], last, axis=-1)
    return np.concatenate([moves[..., POSITION].sum(-2), turned, gripper], -1).astype(np.float32)


def _composed(vectors: Float[np.ndarray, "*lead frames 3"]) -> Float[np.ndarray, "*lead 3"]:
    """The rotation vector of all rotations one after the other, of at most half a turn."""
    from scipy.spatial.transform import Rotation

    lead, frames = vectors.shape[:-2], vectors.shape[-2]
    steps = vectors.reshape(-1, frames, 3)
    total = Rotation.from_rotvec(np.zeros((len(steps), 3)))
    for frame in range(frames):
        total = Rotation.from_rotvec(steps[:, frame]) * total
    return total.as_rotvec().reshape(*lead, 3)
