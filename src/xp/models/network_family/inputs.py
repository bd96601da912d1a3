"""Batches to a network's inputs and its chunks to actions: normalised by the policy's statistics. Pure numpy.

Letters: B batch, T observation history, H horizon, A action, S state, E environment state.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xp.errors import UserError, join_names
from xp.models.network_family.folder import Description
from xp.models.normal import normal_of
from xp.models.observation import ENVIRONMENT, IMAGES, STATE, TASK, as_windows
from xp.models.policy import Batch, PolicySpec
from xp.pictures import resize

ACTION, IS_PAD, OBSERVATION_IS_PAD = "action", "action_is_pad", "observation_is_pad"
_KEYS = {ACTION: "action", STATE: "proprio", ENVIRONMENT: "environment_state"}
"""What is normalised, and by which entry of the statistics."""


class Inputs:
    """The way in and the way out of a policy's network."""

    def __init__(self, described: Description, encode: Callable[[Sequence[str]], Mapping[str, np.ndarray]]):
        """`encode` turns instructions into arrays [B, ...], where the policy reads any.

        Raises:
            UserError: statistics that are missing, of other dimensions, or that nothing can be normalised by.
        """
        self.described, self._encode = described, encode
        own = described.spec
        dims = {ACTION: own.action_dim, STATE: own.state_dim, ENVIRONMENT: own.environment_dim}
        self._normal = {key: normal_of(described.statistics, _KEYS[key]) for key, size in dims.items() if size}
        for key, normal in self._normal.items():
            if len(normal.mean) != dims[key]:
                raise UserError(
                    f"The statistics of '{_KEYS[key]}' have {len(normal.mean)} dimensions, the policy {dims[key]}. "
                    "Give the dataset_statistics.json that was saved with it."
                )
        cameras = {camera: own.cameras[name] for name, camera in described.fed.items()}
        self.spec = PolicySpec(**{**vars(own), "cameras": cameras})
        """What the policy takes, its cameras named by what feeds them."""

    def prepare(self, batch: Batch) -> dict[str, np.ndarray]:
        """A batch as the network's inputs.

        Returns:
            Under the policy's own names of cameras: pictures [B, T, h, w, 3] uint8 of its sizes; states [B, T, S] and
            [B, T, E] float32 normalised; `observation_is_pad` [B, T]; what `encode` makes of the texts; and, where the
            batch holds actions, `action` [B, H, A] float32 normalised and `action_is_pad` [B, H].

        Raises:
            UserError: what the policy reads is not in the batch, or has another form.
        """
        own, found = self.described.spec, {}
        for name, camera in self.described.fed.items():
            pictures = np.asarray(self._given(batch, f"{IMAGES}{camera}"))[:, -own.history :]
            found[f"{IMAGES}{name}"] = resize(pictures, *own.cameras[name][:2])
        for key in (key for key in (STATE, ENVIRONMENT) if key in self._normal):
            found[key] = self._normal[key].normalize(np.asarray(self._given(batch, key))[:, -own.history :])
        rows = len(next(iter(found.values()))) if found else len(self._texts(batch))
        is_pad = np.asarray(batch.get(OBSERVATION_IS_PAD, np.zeros((rows, own.history), bool)))
        found[OBSERVATION_IS_PAD] = is_pad[:, -own.history :]
        if own.language:
            found |= self._encode(self._texts(batch))
        if ACTION in batch:
            found[ACTION] = self._normal[ACTION].normalize(np.asarray(batch[ACTION])[:, -own.horizon :])
            found[IS_PAD] = np.asarray(batch[IS_PAD])[:, -own.horizon :]
        return found

    def observed(self, observation: Batch) -> dict[str, np.ndarray]:
        """What `predict` is asked with (see `xp.models.observation`) as the network's inputs, without actions."""
        seen = {name: value for name, value in observation.items() if not name.startswith(ACTION)}
        return self.prepare(as_windows(seen, self.spec))

    def example(self, rows: int = 1) -> dict[str, np.ndarray]:
        """Inputs of the right shapes, all zero: for making weights."""
        spec = self.spec
        batch: dict[str, Any] = {f"{IMAGES}{name}": np.zeros(size, np.uint8) for name, size in spec.cameras.items()}
        batch |= {STATE: np.zeros(spec.state_dim, np.float32), ENVIRONMENT: np.zeros(spec.environment_dim, np.float32)}
        one = self.observed({key: value for key, value in batch.items() if value.size} | {TASK: ""})
        return {key: np.repeat(value, rows, axis=0) for key, value in one.items()}

    def actions(self, chunk: np.ndarray) -> np.ndarray:
        """Chunks [B, H, A] of the network in dataset units, float32."""
        assert chunk.shape[-2:] == (self.spec.horizon, self.spec.action_dim), f"the network gives {chunk.shape}"
        return self._normal[ACTION].unnormalize(np.asarray(chunk, np.float32))

    def _texts(self, batch: Batch) -> list[str]:
        texts = self._given(batch, TASK)
        return [str(text) for text in texts]

    def _given(self, batch: Batch, key: str) -> Any:
        if batch.get(key) is None:
            raise UserError(
                f"The observation lacks '{key}', which the policy reads; its keys are {join_names(batch)}. Add it, or "
                "for a camera of another name load the policy with a map of cameras: "
                "load_policy(path, camera_map={POLICY_CAMERA: CAMERA})."
            )
        return batch[key]


def refuse_predict_options(options: Mapping[str, object]) -> None:
    """Refuse options of `predict`: these policies have none.

    Raises:
        UserError: the first that is given.
    """
    for name, value in options.items():
        if value is not None:
            raise UserError(f"predict has no option '{name}' for this policy. Leave it out.")
