"""All that an OpenVLA is but its weights: how a batch goes in and how an answer becomes actions.

Letters: B batch, C cameras, H horizon, A action, S state.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8

from xp.errors import UserError, join_names
from xp.models.members import MEMBER, members_of
from xp.models.observation import IMAGES, STATE, TASK, as_windows
from xp.models.openvla.action_tokens import ActionTokens
from xp.models.openvla.bounds import EPS, Bounds
from xp.models.openvla.crop import center_crop
from xp.models.openvla.folder import Around
from xp.models.openvla.model import Marks
from xp.models.openvla.sidecar import Sidecar
from xp.models.openvla.text import BOS, EOS, Words, padded
from xp.models.policy import Batch, PolicySpec
from xp.pictures import resize

DROPPED = "observation_is_dropped"
LLAMA_MARKS = Marks(bos=1, eos=2)
"""Of Llama's tokenisers, where a folder has none of its own."""
MISSING = (
    "The policy has no tokeniser (tokenizer.json), so it cannot read '{text}'. Put the tokenizer files of the model "
    "that it was trained from into its folder (for openvla-7b: hf download openvla/openvla-7b tokenizer.json)."
)

type HostInputs = dict[str, torch.Tensor | list[str]]
"""`ModelInputs` as the training loop sees them."""


@dataclass(frozen=True)
class Assembly:
    """The way in and the way out. `around` is what is written again beside the weights."""

    sidecar: Sidecar
    words: Words | None
    around: Around = field(repr=False)
    state_dim: int = 0

    @cached_property
    def spec(self) -> PolicySpec:
        """What the policy takes, its cameras named by what feeds them."""
        notes, (height, width) = self.sidecar.notes, self.sidecar.sizes.image
        return PolicySpec(
            horizon=notes.plan.horizon,
            action_dim=notes.plan.action_dim,
            state_dim=self.state_dim,
            cameras={camera: (height, width, 3) for camera in notes.cameras.values()},
            language=True,
        )

    @cached_property
    def tokens(self) -> ActionTokens:
        """The ids that actions have."""
        return ActionTokens(self.sidecar.vocabulary)

    @property
    def marks(self) -> Marks:
        """Ids of the beginning and the end of a sequence."""
        if self.words is None:
            return LLAMA_MARKS
        return Marks(bos=self.words.named(BOS), eos=self.words.named(EOS))

    def bounds(self, key: str | None = None, part: str = "action") -> Bounds:
        """By which actions (`action`) or states (`proprio`) are normalised.

        Raises:
            UserError: several datasets and no key, an unknown key, or statistics of another width.
        """
        name, entry = self.sidecar.entry(key)
        notes = self.sidecar.notes
        eps_back = EPS if notes.plan.mode == "oft" else 0.0
        found = Bounds.of(entry.object(part).content, f"of {name}: {part}", notes.ends, eps_back)
        width = notes.plan.action_dim if part == "action" else self.state_dim
        if len(found.low) != width:
            raise UserError(
                f"The statistics of {name} are of {len(found.low)} numbers ({part}), the policy has {width}. Give the "
                "dataset_statistics.json that was saved with it."
            )
        return found

    def prepare(self, batch: Batch) -> HostInputs:
        """A batch as `ModelInputs`, on the host.

        Raises:
            UserError: what the policy reads is not in the batch, or there is no tokeniser.
        """
        notes, plan = self.sidecar.notes, self.sidecar.notes.plan
        pictures = [self._picture(batch, camera) for camera in notes.cameras.values()]
        ids, is_word = self._words(batch)
        found: dict[str, Shaped[np.ndarray, ...]] = {"pictures": np.stack(pictures, 1), "words": ids}
        found["is_word"] = is_word
        if self.state_dim:
            found["proprio"] = self._proprio(batch)
        if "action" in batch:
            recorded = np.asarray(batch["action"], np.float32)[:, -plan.horizon :]
            if notes.gripper == "turned":
                recorded = np.concatenate([recorded[..., :-1], (1 - recorded[..., -1:]) / 2], -1)
            learned, is_pad = plan.learned(recorded, np.asarray(batch["action_is_pad"], bool)[:, -plan.horizon :])
            targets = self._normalised(batch, learned, "action")
            found |= {"targets": targets, "is_pad": is_pad, "tokens": self.tokens.encode(targets).reshape(len(ids), -1)}
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}

    def observed(self, observation: Batch) -> HostInputs:
        """What `predict` is asked with (see `xp.models.observation`), without actions."""
        seen = {name: value for name, value in observation.items() if not name.startswith(("action", DROPPED))}
        windows = as_windows(seen, self.spec)
        return self.prepare({**windows, MEMBER: observation[MEMBER]} if MEMBER in observation else windows)

    def actions(self, answer: Shaped[torch.Tensor, "batch ..."], key: str | None) -> Float32[np.ndarray, "b h a"]:
        """A model's answer as the chunk that is executed, in dataset units."""
        plan = self.sidecar.notes.plan
        given = answer.cpu().numpy()
        numbers = given if plan.head == "l1" else self.tokens.decode(given)
        normalised = numbers.reshape(len(given), plan.actions, plan.action_dim)
        chunk = plan.executed(self.bounds(key).unnormalize(normalised))
        if self.sidecar.notes.gripper == "turned":
            chunk[..., -1] = -np.sign(2 * chunk[..., -1] - 1)
        return chunk

    def _words(self, batch: Batch) -> tuple[Shaped[np.ndarray, "batch words"], Shaped[np.ndarray, "batch words"]]:
        texts = batch.get(TASK)
        assert isinstance(texts, Iterable)
        rows = ["" if text is None else str(text) for text in texts]
        if self.words is None:
            raise UserError(MISSING.format(text=rows[0] if rows else ""))
        each = {text: self.words.ids(text) for text in dict.fromkeys(rows)}
        return padded([each[text] for text in rows], self.tokens.vocabulary)

    def _picture(self, batch: Batch, camera: str) -> UInt8[np.ndarray, "batch h w 3"]:
        given = self._given(batch, f"{IMAGES}{camera}")[:, -1]
        size, notes = self.sidecar.sizes.image, self.sidecar.notes
        sized = resize(given, *size) if notes.is_lanczos else resize_bicubic(given, *size)
        return sized if notes.crop is None else center_crop(sized, notes.crop)

    def _proprio(self, batch: Batch) -> Float32[np.ndarray, "batch state"]:
        state = self._normalised(batch, self._given(batch, STATE)[:, -1].astype(np.float32), "proprio")
        dropped = batch.get(DROPPED)
        return state if dropped is None else np.where(np.asarray(dropped)[:, None], np.float32(0), state)

    def _normalised(self, batch: Batch, values: Shaped[np.ndarray, "batch ..."], part: str) -> np.ndarray:
        """Each row by the statistics of its own dataset, where the policy has those of several and none is chosen."""
        notes = self.sidecar.notes
        if not notes.members or notes.unnorm_key is not None:
            return self.bounds(part=part).normalize(values)
        names, found = tuple(notes.members), np.empty(values.shape, np.float32)
        whose = members_of(batch, names)
        for place in np.unique(whose):
            found[whose == place] = self.bounds(names[place], part).normalize(values[whose == place])
        return found

    def _given(self, batch: Batch, key: str) -> Shaped[np.ndarray, "..."]:
        if batch.get(key) is None:
            raise UserError(
                f"The observation lacks '{key}', which the policy reads; its keys are {join_names(batch)}. Add it, or "
                "for a camera of another name load the policy with a map of cameras: "
                f"load_policy(path, camera_map={{{next(iter(self.sidecar.notes.cameras))}: CAMERA}})."
            )
        return np.asarray(batch[key])


def resize_bicubic(
    images: UInt8[np.ndarray, "*lead _h _w 3"], height: int, width: int
) -> UInt8[np.ndarray, "*lead {height} {width} 3"]:
    """Resize as OpenVLA's own preprocessing does pictures that are not of its size yet: bicubic with antialiasing."""
    if images.shape[-3:-1] == (height, width):
        return images
    from PIL import Image

    flat = images.reshape(-1, *images.shape[-3:])
    sized = [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in flat]
    return np.stack(sized).reshape(*images.shape[:-3], height, width, 3)


def feeding(cameras: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    """{the policy's camera: what feeds it} with a user's map, which is checked, over the policy's own.

    Raises:
        UserError: a camera is left without one.
    """
    for name, camera in given.items():
        if camera is None:
            raise UserError(
                f"The map of cameras gives '{name}' nothing, and an OpenVLA cannot go without a camera. Name the "
                f"camera that feeds it, for instance {{{name}: front}}"
            )
    return {name: str(given.get(name, camera)) for name, camera in cameras.items()}
