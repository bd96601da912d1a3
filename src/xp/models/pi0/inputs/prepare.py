"""Batches with LeRobot's keys to the inputs of a pi0, in openpi's order of steps; pure numpy.

Differences to the state, then normalising, then pictures, then the prompt (of the state that is normalised and not yet
filled up), then zeros up to the model's width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Shaped

from xp.errors import UserError, join_names
from xp.models.observation import IMAGES, STATE, TASK
from xp.models.pi0.inputs.prompt import Prompts
from xp.models.pi0.io.norm_stats import Scale
from xp.models.policy import Batch
from xp.models.transforms import RelativeActions, hide_states
from xp.pictures import fitted

ACTION, IS_PAD, NOISE, TIME = "action", "action_is_pad", "noise", "time"
_EARLIEST = 0.001


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """The way in. See `__call__`; `actions` is the way out."""

    cameras: Mapping[str, str]
    """{image input: the camera that feeds it}; an input that nothing feeds takes no part."""
    side: int
    """Of the pictures, in pixels."""
    horizon: int
    width: int
    """Of states and actions in the model."""
    state: Scale
    action: Scale
    prompts: Prompts
    relative: RelativeActions | None
    """Where the model learns differences to the state."""

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Inputs as `xp.models.pi0.network.model.Inputs` has them; with `action` in the batch the targets too.

        `noise` and `time` of a batch are those of a dump, several draws a window [B, D, T, H, A] and [B, D, T] (the
        quantile of the time), or the model's own, [B, H, width] and [B].

        Raises:
            UserError: what the policy reads is not in the batch, or has another form.
        """
        return self.pictures(batch) | self.numbers(batch)

    def numbers(self, batch: Batch) -> dict[str, np.ndarray]:
        """What `__call__` gives but the pictures: prompts, states and targets, by the statistics of the policy."""
        if self.relative is not None:
            batch = self.relative.to_relative(batch)
        seen = hide_states(batch, self.state.stats.mean)
        state = self.state.normalize(self._state(seen))
        texts = seen.get(TASK)
        tasks = [str(text) for text in texts] if isinstance(texts, list | tuple | np.ndarray) else [""] * len(state)
        found: dict[str, np.ndarray] = {}
        found["tokens"], found["token_mask"] = self.prompts(tasks, state)
        found["state"] = self._filled(state)
        return found | (self._targets(batch) if ACTION in batch else {})

    def own(self, batch: Batch) -> tuple["Prepare", Batch]:
        """Itself: a policy of one dataset; see `MixedPrepare.own`."""
        return self, batch

    def actions(
        self, chunk: Float[np.ndarray, "batch horizon width"], observation: Batch
    ) -> Float32[np.ndarray, "batch horizon action"]:
        """A chunk of the model in dataset units."""
        found = self.action.unnormalize(chunk)[..., : self.action.stats.width]
        return found if self.relative is None else found + self.relative.anchor(observation)

    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Pictures and which are there, by image input, of the cameras that the batch has; see `__call__`."""
        found: dict[str, np.ndarray] = {}
        for name, camera in self.cameras.items():
            given = batch.get(f"{IMAGES}{camera}")
            if given is None:
                continue
            pictures = np.asarray(given)[:, -1]
            is_pad = np.asarray(batch.get(f"{IMAGES}{camera}_is_pad", np.zeros((len(pictures), 1), bool)), bool)
            found[f"image/{name}"] = fitted(pictures, self.side)
            found[f"image_mask/{name}"] = ~is_pad.reshape(len(pictures), -1)[:, -1]
        if not found:
            raise UserError(
                f"The observation has none of the policy's cameras ({join_names(self.cameras.values())}); its keys are "
                f"{join_names(batch)}. Give at least one as {IMAGES}CAMERA, or for a camera of another name load the "
                "policy with a map of cameras: load_policy(path, camera_map={POLICY_CAMERA: CAMERA})."
            )
        return found

    def _state(self, batch: Batch) -> Float32[np.ndarray, "batch dim"]:
        wanted = self.state.stats.width
        state = np.asarray(batch[STATE], np.float32) if batch.get(STATE) is not None else np.zeros((0, 0, 0))
        if state.ndim != 3 or state.shape[-1] != wanted:
            given = f"of shape {state.shape}" if batch.get(STATE) is not None else "not there"
            raise UserError(
                f"'{STATE}' is {given}; the policy wants (B, T, {wanted}), as many numbers as its statistics have. "
                "Give the states that the policy was trained on."
            )
        return state[:, -1]

    def _filled(self, values: Float[np.ndarray, "*lead dim"]) -> Float32[np.ndarray, "*lead {self.width}"]:
        filling = [*[(0, 0)] * (values.ndim - 1), (0, self.width - values.shape[-1])]
        return np.pad(values.astype(np.float32), filling)

    def _targets(self, batch: Batch) -> dict[str, np.ndarray]:
        action = np.asarray(batch[ACTION], np.float32)
        if action.ndim != 3 or action.shape[1] < self.horizon or action.shape[2] != self.action.stats.width:
            raise UserError(
                f"'{ACTION}' has shape {action.shape}; the policy wants "
                f"(B, {self.horizon}, {self.action.stats.width}). Give the actions that the policy was trained on."
            )
        given = batch.get(IS_PAD)
        is_pad = np.zeros(action.shape[:2], bool) if given is None else np.asarray(given, bool)
        found = {
            ACTION: self._filled(self.action.normalize(action[:, : self.horizon])),
            IS_PAD: is_pad[:, : self.horizon],
        }
        return found | (self._draws(batch) if batch.get(NOISE) is not None else {})

    def _draws(self, batch: Batch) -> dict[str, Float32[np.ndarray, "..."]]:
        noise, time = np.asarray(batch[NOISE], np.float32), np.asarray(batch[TIME], np.float32)
        if noise.ndim != 5:
            return {NOISE: noise, TIME: time}
        now = noise[:, :, -1, : self.horizon]
        quantile = time[:, :, -1].astype(np.float64) ** (2 / 3)  # of Beta(1.5, 1), whose distribution is t^1.5
        times = quantile * (1 - _EARLIEST) + _EARLIEST
        return {NOISE: np.concatenate([now, self._filling(batch, now)], axis=-1), TIME: times.astype(np.float32)}

    def _filling(
        self, batch: Batch, noise: Float32[np.ndarray, "batch draw horizon dim"]
    ) -> Shaped[np.ndarray, "batch draw horizon filling"]:
        """Noise for the dimensions that are filled up: a function of the window, so that it is the same each time."""
        shape = (*noise.shape[1:3], self.width - noise.shape[-1])
        rows = range(len(noise))
        episodes, frames = (np.asarray(batch.get(name, rows)) for name in ("episode_index", "frame_index"))
        drawn = [np.random.default_rng([int(e), int(f)]).standard_normal(shape) for e, f in zip(episodes, frames)]
        return np.asarray(drawn, np.float32).reshape(len(noise), *shape)
