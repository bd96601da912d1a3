"""Turns numpy batches into what LeRobot's processors take: torch tensors, channels first, images in 0..1."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8

from xp.errors import UserError, join_names
from xp.models.policy import Batch
from xp.pictures import fitted, resize

STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
ACTION, IS_PAD, TASK = "action", "action_is_pad", "task"

type Value = torch.Tensor | list[str]
type HostBatch = dict[str, Value]
"""A batch under LeRobot's keys: tensors [B, ...], and B texts under `task`."""
type Processed = dict[str, object]
"""What a preprocessor gives: tensors and texts, and beside them what LeRobot puts there for parts that are missing."""


def host_tensors(
    batch: Batch,
    *,
    images: Mapping[str, tuple[str, int, int]],
    history: int | None,
    state_dim: int,
    environment_dim: int = 0,
    square: int | None = None,
) -> HostBatch:
    """A batch as host tensors under LeRobot's keys; arrays of the right kind are shared, not copied.

    Args:
        batch: numpy batch, images [B, T, h, w, 3] uint8.
        images: for each image input of the policy the dataset camera that feeds it, and (height, width) in pixels.
        history: T that the policy takes; None takes the last step alone, without an axis for time.
        state_dim: S; 0 leaves the state out.
        environment_dim: E; 0 leaves the environment state out.
        square: side of the square that the policy fits pictures into, where it does. It is done here, antialiased:
            LeRobot's own `resize_with_pad_torch` leaves out pixels where it shrinks (0.38 of the range off at 480x640).

    Returns:
        Images [B, (T,) 3, h, w] uint8 in channels-last memory (a view of the batch: convolutions are fastest on it),
        states [B, (T,) S] and [B, (T,) E], action [B, n, A], action_is_pad [B, n], and `task`, a list of strings.

    Raises:
        UserError: a camera or the environment state is missing, or has another form.
    """
    found: HostBatch = {}
    for key, (camera, height, width) in images.items():
        if not camera:  # nothing feeds it: the chosen dataset of a mixture does not have it
            found[key] = _dark(batch, height, width, history)
            continue
        frames = resize(_frames(batch, camera), height, width)
        frames = frames if square is None else fitted(frames, square)
        found[key] = torch.from_numpy(_steps(frames, history)).movedim(-1, -3)
    if state_dim:
        found[STATE] = torch.from_numpy(_steps(np.asarray(batch[STATE], np.float32), history))
    if environment_dim:
        found[ENVIRONMENT] = torch.from_numpy(_steps(_environment(batch, environment_dim), history))
    if ACTION in batch:
        found[ACTION] = torch.from_numpy(np.ascontiguousarray(np.asarray(batch[ACTION]), np.float32))
        found[IS_PAD] = torch.from_numpy(np.ascontiguousarray(np.asarray(batch[IS_PAD]), bool))
    if "action_dim_is_pad" in batch:
        dims = np.asarray(batch["action_dim_is_pad"])
        found["action_dim_is_pad"] = torch.from_numpy(np.ascontiguousarray(dims, bool))
    if "observation_is_dropped" in batch:
        found["observation_is_dropped"] = torch.from_numpy(np.asarray(batch["observation_is_dropped"], bool))
    tasks = batch[TASK]
    assert isinstance(tasks, Iterable)
    found[TASK] = ["" if task is None else str(task) for task in tasks]
    return found


def as_float(inputs: Mapping[str, Value], *, contiguous: bool) -> HostBatch:
    """Images of 0..255 as float32 of 0..1, as `lerobot-train` hands them to the processors; the rest untouched.

    `contiguous` puts channels first in memory too, as LeRobot does, so that convolutions add in the same order.
    """
    memory = torch.contiguous_format if contiguous else torch.preserve_format
    return {
        key: value.to(torch.float32, memory_format=memory).div_(255.0)
        if isinstance(value, torch.Tensor) and value.dtype == torch.uint8
        else value
        for key, value in inputs.items()
    }


def widened(inputs: HostBatch, width: int) -> HostBatch:
    """The state filled up with zeros to `width`: numbers of a dataset that has fewer, or none."""
    state = inputs.get(STATE)
    if state is None:
        images = next(value for value in inputs.values() if isinstance(value, torch.Tensor))
        state = torch.zeros((*images.shape[:-3], 0))
    assert isinstance(state, torch.Tensor)
    return {**inputs, STATE: torch.nn.functional.pad(state, (0, width - state.shape[-1]))}


def _dark(batch: Batch, height: int, width: int, history: int | None) -> torch.Tensor:
    """Black pictures for every row."""
    key = next(name for name in batch if name.startswith((STATE, "observation.images.")))
    lead = np.asarray(batch[key]).shape[: 1 if history is None else 2]
    return torch.zeros((*lead, 3, height, width), dtype=torch.uint8)


def _steps(array: Shaped[np.ndarray, "batch _history ..."], history: int | None) -> Shaped[np.ndarray, "batch ..."]:
    """The last `history` steps; the last one without its axis where history is None."""
    return array[:, -1] if history is None else array[:, -history:]


def _environment(batch: Batch, dim: int) -> Float32[np.ndarray, "batch history {dim}"]:
    given = batch.get(ENVIRONMENT)
    values = None if given is None else np.asarray(given, np.float32)
    if values is None or values.ndim != 3 or values.shape[2] != dim:
        what = "is missing" if values is None else f"has the shape {values.shape}"
        raise UserError(
            f"The policy reads '{ENVIRONMENT}' [B, T, {dim}] float32, which {what} in the observation. Give it (the "
            "suite records it with env.environment_state=true), or take a policy that uses cameras."
        )
    return values


def _frames(batch: Batch, camera: str) -> UInt8[np.ndarray, "batch history height width 3"]:
    key = f"observation.images.{camera}"
    if key not in batch:
        present = [name.removeprefix("observation.images.") for name in batch if name.startswith("observation.images.")]
        raise UserError(
            f"The observation has no camera '{camera}', which the policy needs; it has {join_names(present)}. Add "
            f"'{key}' [B, T, height, width, 3] uint8, or load the policy with a map of cameras: "
            "load_policy(path, camera_map={POLICY_CAMERA: CAMERA})."
        )
    frames = np.asarray(batch[key])
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise UserError(
            f"{key} is {frames.dtype} of shape {frames.shape}; allowed is uint8 [B, T, height, width, 3]. Convert the "
            "images to this form."
        )
    return frames
