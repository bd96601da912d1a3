"""A policy's recorded answer: a few observations and its actions for fixed draws, written beside its weights.

Whoever has the folder later can ask the policy again. Where normalisation, weights or the code that reads them have
changed, the answer differs, which no comparison of files tells after a conversion.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from xp.checkpoints.arrays import CorruptFileError
from xp.checkpoints.safetensors import open_safetensors, write_arrays
from xp.errors import UserError
from xp.foreign.paths import member
from xp.foreign.text import printable
from xp.models.members import MEMBER
from xp.models.observation import IMAGES, STATE, TASK
from xp.models.policy import Batch, Policy

FILE = "xp_recorded_answer.safetensors"
ROWS = 2
INSTRUCTION = "pick up the cube"
_WHAT = "a policy's recorded answer"
_BLOCK = 8
"""Pictures are made of so many blocks a side, so that they are small on disk and survive being resized."""
_MOST = 1 << 24
EXACT, NEAR, COARSE = 1e-4, 2e-3, 0.1
"""The largest difference, as a share of the largest action, for the same framework, for another one, and for weights
that are held, or computed with, in half precision."""


class Answer(NamedTuple):
    """What a policy was asked and what it answered."""

    blocks: Mapping[str, np.ndarray]
    """Pictures by camera [B, 8, 8, 3] uint8, each pixel a block of the picture that was shown."""
    state: Float32[np.ndarray, "batch dim"]
    environment: Float32[np.ndarray, "batch dim"]
    noise: np.ndarray
    """What sampling began with, for a policy that takes it; else empty, and the seed was 0."""
    actions: Float32[np.ndarray, "answers horizon action"]
    """An answer a row; of a policy of several datasets the rows of each, one dataset after the other, filled up."""
    framework: str


@runtime_checkable
class TakesNoise(Protocol):
    """A policy whose draws are one array, which `predict(noise=)` takes."""

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """Its shape for a batch."""
        ...


@runtime_checkable
class OfSeveral(Protocol):
    """A policy that can be one of several datasets, none of which is chosen."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """Their names, by `member_index` of an observation; empty for a policy of one."""
        ...


def recorded(policy: Policy) -> Answer:
    """Ask a policy about made-up observations, the same for every policy of its spec."""
    rng, spec = np.random.default_rng(7), policy.spec
    blocks = {camera: rng.integers(0, 256, (ROWS, _BLOCK, _BLOCK, 3), dtype=np.uint8) for camera in spec.cameras}
    state = rng.standard_normal((ROWS, spec.state_dim), dtype=np.float32)
    environment = rng.standard_normal((ROWS, spec.environment_dim), dtype=np.float32)
    noise = np.zeros(0, np.float32)
    if isinstance(policy, TakesNoise):
        noise = rng.standard_normal(policy.noise_shape(ROWS), dtype=np.float32)
    asked = Answer(blocks, state, environment, noise, np.zeros((0, 0, 0), np.float32), policy.framework)
    return asked._replace(actions=_answered(policy, asked))


def _answered(policy: Policy, asked: Answer) -> Float32[np.ndarray, "answers horizon action"]:
    options, seen = {"noise": asked.noise} if asked.noise.size else {}, _observation(policy, asked)
    if not _datasets(policy):
        return np.asarray(policy.predict(seen, seed=0, **options), np.float32)
    found = np.zeros((len(_datasets(policy)), ROWS, policy.spec.horizon, policy.spec.action_dim), np.float32)
    for place, rows in enumerate(found):
        chunk = policy.predict({**seen, MEMBER: np.full(ROWS, place)}, seed=0, **options)
        rows[..., : chunk.shape[-1]] = chunk
    return found.reshape(-1, *found.shape[2:])


def _datasets(policy: Policy) -> tuple[str, ...]:
    return policy.datasets if isinstance(policy, OfSeveral) else ()


def _observation(policy: Policy, asked: Answer) -> Batch:
    spec = policy.spec
    seen: dict[str, object] = {TASK: [INSTRUCTION] * ROWS}
    for camera, (height, width, _) in spec.cameras.items():
        rows, columns = (np.arange(size) * _BLOCK // size for size in (height, width))
        seen[f"{IMAGES}{camera}"] = asked.blocks[camera][:, rows][:, :, columns]
    if spec.state_dim:
        seen[STATE] = asked.state
    if spec.environment_dim:
        seen["observation.environment_state"] = asked.environment
    return seen


def write(folder: Path, answer: Answer) -> None:
    """Write an answer into a policy's folder; the caller makes the folder atomic."""
    arrays = {f"picture/{camera}": blocks for camera, blocks in answer.blocks.items()}
    arrays |= {"state": answer.state, "environment": answer.environment, "noise": answer.noise}
    write_arrays(folder / FILE, {**arrays, f"actions/{answer.framework}": answer.actions})


def read(folder: Path) -> Answer | None:
    """The answer beside a policy's weights; None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    if not os.path.lexists(folder / FILE):
        return None
    path = member(folder, FILE, _WHAT)
    try:
        if path.stat().st_size > _MOST:
            raise CorruptFileError(f"{FILE} has more than {_MOST:,} bytes")
        arrays = open_safetensors((path,), what=_WHAT).load()
        (name,) = [name for name in arrays if name.startswith("actions/")]
        blocks = {key.removeprefix("picture/"): arrays[key] for key in arrays if key.startswith("picture/")}
        parts = [np.asarray(arrays[key], np.float32) for key in ("state", "environment", "noise")]
        return Answer(blocks, *parts, actions=arrays[name], framework=name.removeprefix("actions/"))
    except (CorruptFileError, KeyError, ValueError) as error:
        raise UserError(
            f"{folder / FILE} is no recorded answer ({printable(str(error))}). Remove the file, or take the policy "
            "again from where it was saved."
        ) from error


def compare(policy: Policy, answer: Answer, what: str, *, is_half: bool = False) -> float:
    """Ask a policy again and compare; the largest difference as a share of the largest action.

    Args:
        policy: the policy.
        answer: what it, or the policy it was converted from, answered.
        what: which policy, for the message.
        is_half: whether weights were cast to, or are computed with in, half precision.

    Raises:
        UserError: another policy's answer, or actions that differ by more than rounding explains.
    """
    spec = policy.spec
    wanted = (ROWS * max(len(_datasets(policy)), 1), spec.horizon, spec.action_dim)
    fits = answer.state.shape == (ROWS, spec.state_dim) and answer.environment.shape == (ROWS, spec.environment_dim)
    if set(answer.blocks) != set(spec.cameras) or answer.actions.shape != wanted or not fits:
        raise UserError(
            f"The answer recorded beside {what} is another policy's: its actions have shape {answer.actions.shape} and "
            f"its cameras are {sorted(answer.blocks)}; the policy's are {wanted} and {sorted(spec.cameras)}. Take the "
            "policy again from where it was saved."
        )
    found = _answered(policy, answer)
    furthest = float(np.abs(found - answer.actions).max() / max(float(np.abs(answer.actions).max()), 1e-6))
    bound = COARSE if is_half else EXACT if answer.framework == policy.framework else NEAR
    if not furthest <= bound:
        raise UserError(
            f"{what} no longer answers as it did when it was saved: for the recorded observations its actions differ "
            f"by {furthest:.3g} of the largest of them, where rounding explains {bound:g}. Its weights or its "
            "statistics were changed since. Take the policy again from where it was saved."
        )
    return furthest
