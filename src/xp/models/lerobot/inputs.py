"""xp's numpy batches in the form LeRobot's processors take: torch tensors, images float32 in 0..1, channels first."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from xp.errors import UserError, join_names
from xp.models.policy import Batch

STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
ACTION, IS_PAD, TASK = "action", "action_is_pad", "task"


def host_tensors(
    batch: Batch,
    *,
    images: Mapping[str, tuple[str, int, int]],
    history: int | None,
    state_dim: int,
    environment_dim: int = 0,
) -> dict[str, Any]:
    """A batch as host tensors under LeRobot's keys; arrays of the right kind are shared, not copied.

    Args:
        batch: numpy batch, images [B, T, h, w, 3] uint8.
        images: for each image input of the policy the dataset camera that feeds it, and (height, width) in pixels.
        history: T that the policy takes; None takes the last step alone, without an axis for time.
        state_dim: S; 0 leaves the state out.
        environment_dim: E; 0 leaves the environment state out.

    Returns:
        Images [B, (T,) 3, h, w] uint8 in channels-last memory (a view of the batch: convolutions are fastest on it),
        states [B, (T,) S] and [B, (T,) E], action [B, n, A], action_is_pad [B, n], and `task`, a list of strings.

    Raises:
        UserError: a camera or the environment state is missing, or has another form.
    """
    found: dict[str, Any] = {}
    for key, (camera, height, width) in images.items():
        frames = resize(_frames(batch, camera), height, width)
        found[key] = torch.from_numpy(_steps(frames, history)).movedim(-1, -3)
    if state_dim:
        found[STATE] = torch.from_numpy(_steps(np.asarray(batch[STATE], np.float32), history))
    if environment_dim:
        found[ENVIRONMENT] = torch.from_numpy(_steps(_environment(batch, environment_dim), history))
    if ACTION in batch:
        found[ACTION] = torch.from_numpy(np.ascontiguousarray(batch[ACTION], np.float32))
        found[IS_PAD] = torch.from_numpy(np.ascontiguousarray(batch[IS_PAD], bool))
    if "observation_is_dropped" in batch:
        found["observation_is_dropped"] = torch.from_numpy(np.asarray(batch["observation_is_dropped"], bool))
    found[TASK] = ["" if task is None else str(task) for task in batch[TASK]]
    return found


def as_float(inputs: Mapping[str, Any], *, contiguous: bool) -> dict[str, Any]:
    """Images of 0..255 as float32 of 0..1, as `lerobot-train` hands them to the processors; the rest untouched.

    `contiguous` puts channels first in memory too, as LeRobot does, so that convolutions add in the same order.
    """
    memory = torch.contiguous_format if contiguous else torch.preserve_format
    return {
        key: value.to(torch.float32, memory_format=memory).div_(255.0) if _is_bytes(value) else value
        for key, value in inputs.items()
    }


def resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 [..., h, w, 3] with antialiased Lanczos-3; images of the right size pass untouched."""
    if images.shape[-3:-1] == (height, width):
        return images
    from PIL import Image

    flat = images.reshape(-1, *images.shape[-3:])
    sized = [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)) for image in flat]
    return np.stack(sized).reshape(*images.shape[:-3], height, width, 3)


def _is_bytes(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.uint8


def _steps(array: np.ndarray, history: int | None) -> np.ndarray:
    """The last `history` steps of [B, T, ...]; the last one without its axis where history is None."""
    return array[:, -1] if history is None else array[:, -history:]


def _environment(batch: Batch, dim: int) -> np.ndarray:
    given = batch.get(ENVIRONMENT)
    values = None if given is None else np.asarray(given, np.float32)
    if values is None or values.ndim != 3 or values.shape[2] != dim:
        what = "is missing" if values is None else f"has the shape {values.shape}"
        raise UserError(
            f"The policy reads '{ENVIRONMENT}' [B, T, {dim}] float32, which {what} in the observation. Give it (the "
            "suite records it with env.environment_state=true), or take a policy that goes by cameras."
        )
    return values


def _frames(batch: Batch, camera: str) -> np.ndarray:
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
