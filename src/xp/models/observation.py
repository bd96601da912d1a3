"""Brings what `predict` is given to one form: [B, T, ...] for every key, whichever axes were left out.

Decided by the rank of each key alone: a picture [h, w, 3] or a state [S] is one observation, one axis more is a batch
[B, ...] of the present step, two more are a batch with its history [B, T, ...]. Pure numpy.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from xp.errors import UserError, join_names
from xp.models.policy import Batch, PolicySpec

STATE, ENVIRONMENT, TASK, IMAGES = "observation.state", "observation.environment_state", "task", "observation.images."


def as_windows(observation: Batch, spec: PolicySpec, goals: Collection[str] = ()) -> dict[str, object]:
    """The observation as `Batch` has it, checked against what the policy reads.

    Args:
        observation: pictures uint8 [h, w, 3], [B, h, w, 3] or [B, T, h, w, 3]; states [S], [B, S] or [B, T, S]; `task`
            a text for all or a list of B. Keys that the policy does not read pass untouched.
        spec: what the policy reads.
        goals: keys of goal pictures, [h, w, 3] or [B, h, w, 3].

    Returns:
        Pictures [B, T, h, w, 3], states [B, T, S] float32, `task` a list of B texts ("" where none was given). B is 1
        for one observation; T is the policy's history where no axis of time was given (the present step, repeated, as
        LeRobot's tools begin an episode).

    Raises:
        UserError: names key, shape given and shapes taken.
    """
    sizes = {f"{IMAGES}{camera}": size for camera, size in spec.cameras.items()}
    found = dict(observation)
    for key in (key for key in sizes if observation.get(key) is not None):
        found[key] = _windows(_picture(key, observation[key]), 3, spec)
    for key, size in ((STATE, spec.state_dim), (ENVIRONMENT, spec.environment_dim)):
        if size and observation.get(key) is not None:
            found[key] = _windows(_numbers(key, observation[key], size), 1, spec)
    for key in (key for key in goals if observation.get(key) is not None):
        goal = _picture(key, observation[key])
        found[key] = goal[None] if goal.ndim == 3 else goal
    read = {key: each for key in (*sizes, STATE, ENVIRONMENT) if isinstance(each := found.get(key), np.ndarray)}
    _check_rows(observation, read)
    rows = len(next(iter(read.values()))) if read else 1
    found[TASK] = _texts(observation.get(TASK), rows)
    return found


def _picture(key: str, given: object) -> UInt8[np.ndarray, "*lead height width 3"]:
    array = np.asarray(given)
    if array.dtype != np.uint8 or array.ndim not in (3, 4, 5) or array.shape[-1] != 3:
        raise UserError(
            f"{key} is {array.dtype} of shape {list(array.shape)}; taken are uint8 pictures of 0..255 with the colours "
            f"last, [h, w, 3], [B, h, w, 3] or [B, T, h, w, 3]. {_advice(array)}"
        )
    return array


def _advice(array: np.ndarray) -> str:
    """How to convert what LeRobot's tensors are: colours first, floats of 0..1."""
    steps = []
    if array.ndim >= 3 and array.shape[-1] != 3 and array.shape[-3] == 3:
        steps.append("np.moveaxis(pictures, -3, -1)")
    if np.issubdtype(array.dtype, np.floating):
        steps.append("(pictures * 255).round().astype(np.uint8) where they are of 0..1")
    return f"Type {' and '.join(steps)}." if steps else "Convert them to this form."


def _numbers(key: str, given: object, size: int) -> Float32[np.ndarray, "*lead {size}"]:
    array: np.ndarray = np.empty(0, np.float32)
    with suppress(TypeError, ValueError):
        array = np.asarray(given, np.float32)
    if array.ndim not in (1, 2, 3) or array.shape[-1] != size:
        raise UserError(
            f"{key} has shape {np.asarray(given).shape}; the policy wants ({size},), (B, {size}) or (B, T, {size}), as "
            "many numbers as it was trained on. Give the states the policy was trained on."
        )
    return array


def _windows(array: Shaped[np.ndarray, "..."], own: int, spec: PolicySpec) -> Shaped[np.ndarray, "batch history ..."]:
    """[..., own axes] as [B, T, own axes]."""
    if array.ndim == own:
        array = array[None]
    if array.ndim == own + 1:
        array = np.repeat(array[:, None], spec.history, axis=1)
    return array


def _check_rows(observation: Batch, read: Mapping[str, np.ndarray]) -> None:
    """Every key must have the same B and T."""
    if len({array.shape[:2] for array in read.values()}) > 1:
        shapes = join_names(f"{key} {list(np.asarray(observation[key]).shape)}" for key in read)
        raise UserError(
            f"The observation's keys are of different numbers of rows or steps: {shapes}. Give all of them without a "
            "batch (picture [h, w, 3], state [S]), all as [B, ...], or all as [B, T, ...] with the same B and T."
        )


def _texts(given: object, rows: int) -> list[str]:
    if given is None or isinstance(given, str):
        given = [given] * rows
    assert isinstance(given, Iterable)
    texts = list(given)
    if len(texts) != rows:
        raise UserError(
            f"task holds {len(texts)} texts for {rows} observation{'s' if rows != 1 else ''}. Give one text for all of "
            "them, or a list of as many."
        )
    return ["" if text is None else str(text) for text in texts]


def refuse_without_actions(batch: Batch) -> None:
    """Refuse a batch that no loss can be taken of.

    Raises:
        UserError: it holds no actions.
    """
    if "action" not in batch:
        raise UserError(
            f"A loss needs a batch with actions; this one has {join_names(batch)}. Add 'action': for each row those of "
            "the observed steps before the present one, and the chunk."
        )
