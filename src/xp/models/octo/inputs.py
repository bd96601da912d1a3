"""Turns batches with LeRobot's keys into inputs with Octo's keys: normalised, tokenised, in pure numpy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from xp.errors import UserError, join_names
from xp.models.members import MemberNormals, members_of
from xp.models.normal import Normal
from xp.models.octo.cameras import Slot
from xp.models.octo.network.text import Texts
from xp.models.policy import Batch
from xp.models.tree import Tree, branch, flatten
from xp.pictures import resize

_FIRST_RELEASE = {"tasks": "task", "pad_mask": "timestep_pad_mask"}


@dataclass(frozen=True, kw_only=True)
class Members:
    """The datasets of a mixture: their names and normalisers."""

    names: tuple[str, ...]
    action: MemberNormals
    state: MemberNormals


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turns a batch into flat inputs: `observation/...`, `task/...`, and for training `action`, `action_pad_mask`.

    Actions of fewer dimensions than the head's `action_dim` are filled up with zeros that count in no loss.

    A batch in Octo's own form (`{"observation": {...}, "task": {...}}`, tokenised and normalised) passes through.
    """

    slots: Mapping[str, Slot]
    horizon: int
    action_dim: int
    max_history: int
    action: Normal
    proprio: Normal | None
    texts: Texts | None
    state_dim: int = 0
    """What the network reads of a state; a dataset of a mixture may have less, which is filled up with zeros."""
    members: "Members | None" = None
    """Of a mixture whose batches say whose each window is; None where one dataset's statistics count."""

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Inputs of the network; with `action` in the batch also the targets [B, T, H, A] and their mask."""
        if "observation" in batch:
            return {path: np.asarray(leaf) for path, leaf in flatten(_native(batch)).items()}
        inputs = self._observations(batch)
        inputs.update(self._task(batch, len(inputs["observation/timestep_pad_mask"])))
        if "action" in batch:
            history = inputs["observation/timestep_pad_mask"].shape[1]
            inputs.update(self._targets(batch, history))
        return inputs

    def _observations(self, batch: Batch) -> dict[str, np.ndarray]:
        given = {name: batch.get(f"observation.images.{slot.camera}") for name, slot in self.slots.items()}
        images = {name: None if image is None else np.asarray(image) for name, image in given.items()}
        shapes = [image.shape for image in images.values() if image is not None]
        if not shapes:
            wanted = join_names(slot.camera for slot in self.slots.values() if slot.camera)
            raise UserError(
                f"The observation has none of the policy's cameras ({wanted}); its keys are {join_names(batch)}. "
                "Give at least one as observation.images.<camera> [B, T, h, w, 3]."
            )
        lead = (shapes[0][0], shapes[0][1])
        if lead[1] > self.max_history:
            raise UserError(
                f"The observation has {lead[1]} past steps; the model has positions for {self.max_history}. "
                f"Give at most {self.max_history}, or train with model.max_history={lead[1]}."
            )
        padded = np.asarray(batch.get("observation_is_pad", np.zeros(lead, dtype=bool)), dtype=bool)
        inputs = {"observation/timestep_pad_mask": ~padded}
        for name, slot in self.slots.items():
            inputs.update(_image(name, slot, images[name], lead, batch))
        if self.proprio is not None:
            inputs.update(self._state(batch, lead))
        elif np.any(np.asarray(batch.get("observation_is_dropped", False))):
            raise UserError(
                "Observation dropout hides the robot's state, and this model does not read it (model.proprio=false): "
                "it would change nothing. Type model.proprio=true, or obs_dropout=none."
            )
        return inputs

    def _state(self, batch: Batch, lead: tuple[int, int]) -> dict[str, np.ndarray]:
        """The normalised state and whether it is there: absent or dropped states are masked out of the attention."""
        assert self.proprio is not None
        size = self.state_dim if self.members is not None else len(self.proprio.mean)
        given = batch.get("observation.state") if size else None  # a dataset of a mixture may have none
        state = np.zeros((*lead, size), np.float32) if given is None else np.asarray(given)
        if given is None:
            values, there = state, np.zeros(lead, dtype=bool)
        elif state.shape != (*lead, size):
            raise UserError(
                f"observation.state has shape {state.shape}; the policy wants {(*lead, size)}, that is [B, T, S]. "
                "Give the states the policy was trained on."
            )
        elif self.members is not None:
            member = members_of(batch, self.members.names)
            values = self.members.state.normalize(state, member)
            has_state = np.asarray(self.members.state.there(member).any(axis=1))
            there = np.broadcast_to(has_state[:, None], lead)
        else:
            values, there = self.proprio.normalize(state), np.full(lead, size > 0)
        if values.shape[2] < self.state_dim:
            values = np.pad(values, [(0, 0), (0, 0), (0, self.state_dim - values.shape[2])])
        dropped = np.asarray(batch.get("observation_is_dropped", np.zeros(lead[0], dtype=bool)), dtype=bool)
        mask = there & ~dropped[:, None]
        return {
            "observation/proprio": np.where(mask[..., None], values, np.float32(0.0)),
            "observation/pad_mask_dict/proprio": mask,
        }

    def _task(self, batch: Batch, size: int) -> dict[str, np.ndarray]:
        inputs: dict[str, np.ndarray] = {}
        if self.texts is not None:
            given = batch.get("task") or [""] * size
            assert isinstance(given, Iterable)
            texts = [str(text) for text in given]
            tokens = self.texts(texts)
            inputs.update({f"task/language_instruction/{name}": value for name, value in tokens.items()})
            inputs["task/pad_mask_dict/language_instruction"] = np.array([bool(text.strip()) for text in texts])
        for name, slot in self.slots.items():
            goal = batch.get(f"goal.images.{slot.camera}")
            if goal is not None:
                sized = resize(np.asarray(goal), slot.height, slot.width)
                inputs[f"task/image_{name}"] = sized
                inputs[f"task/pad_mask_dict/image_{name}"] = np.ones(len(sized), dtype=bool)
        return inputs

    def _targets(self, batch: Batch, history: int) -> dict[str, np.ndarray]:
        """For every observed step its chunk: action [B, T-1+H, A] -> [B, T, H, A]; a longer batch is cut to H."""
        action = np.asarray(batch["action"])
        needed, size = history - 1 + self.horizon, len(self.action.mean)
        if self.members is not None:
            size = self.members.action.mean.shape[1]
        if action.ndim != 3 or action.shape[1] < needed or action.shape[2] != size:
            raise UserError(
                f"The batch's actions have shape {action.shape}; the model (history {history}, horizon {self.horizon}) "
                f"needs [B, at least {needed}, {size}]. Use windows of this horizon and a dataset of this action size."
            )
        steps = np.arange(history)[:, None] + np.arange(self.horizon)[None, :]
        padded = batch.get("action_is_pad")
        real = np.ones(action.shape[:2], dtype=bool) if padded is None else ~np.asarray(padded, dtype=bool)
        counts = real[:, steps, None]
        if self.members is None:
            normalised = self.action.normalize(action)
        else:
            member = members_of(batch, self.members.names)
            normalised = self.members.action.normalize(action, member)
            counts = counts & self.members.action.there(member)[:, None, None]
        chunks = normalised[:, steps]
        fixed = {name: np.asarray(batch[name]) for name in ("noise", "time") if name in batch}
        filling = [*[(0, 0)] * 3, (0, self.action_dim - size)]
        counts = np.broadcast_to(counts, chunks.shape)
        return {**fixed, "action": np.pad(chunks, filling), "action_pad_mask": np.pad(counts, filling)}


def _image(
    name: str, slot: Slot, image: Shaped[np.ndarray, "..."] | None, lead: tuple[int, int], batch: Batch
) -> dict[str, UInt8[np.ndarray, "batch history height width 3"] | Bool[np.ndarray, "batch history"]]:
    """One slot's pixels and whether they are there; a missing camera is black and masked out of the attention."""
    key = f"observation.images.{slot.camera}"
    there = ~np.asarray(batch.get(f"{key}_is_pad", np.full(lead, image is None)), dtype=bool)
    if image is None:
        pixels = np.zeros((*lead, slot.height, slot.width, 3), dtype=np.uint8)
    else:
        pixels = image
        if pixels.dtype != np.uint8 or pixels.ndim != 5 or pixels.shape[:2] != lead or pixels.shape[-1] != 3:
            raise UserError(
                f"{key} is {pixels.dtype} of shape {pixels.shape}; allowed is uint8 {[*lead, 'h', 'w', 3]}, that is "
                "[B, T, height, width, colour]. Convert the images to this form."
            )
        pixels = resize(pixels, slot.height, slot.width)
    return {f"observation/image_{name}": pixels, f"observation/pad_mask_dict/image_{name}": there}


def _native(batch: Batch) -> Tree[object]:
    """Octo's own batch, without what the network does not read; names of the first release are taken too."""
    batch = _renamed(batch)
    observation = _renamed(branch(batch, "observation"))
    if "timestep_pad_mask" not in observation:
        raise UserError(
            f"An observation in Octo's form needs timestep_pad_mask [B, T]; this one has {join_names(observation)}. "
            "Add it: True where a step is real."
        )
    others = {name: batch[name] for name in ("task", "action", "action_pad_mask") if name in batch}
    return {"observation": observation, "task": {}, **others}


def _renamed(batch: Batch) -> dict[str, object]:
    return {_FIRST_RELEASE.get(name, name): value for name, value in batch.items()}
