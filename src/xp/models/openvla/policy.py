"""An OpenVLA with its weights: the `Policy` of the openvla family."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float32, Shaped

from xp.atomic import write_bytes
from xp.errors import UserError, join_names
from xp.models.members import member_asked_for
from xp.models.observation import refuse_without_actions
from xp.models.openvla.adapters import is_adapted, write_adapter
from xp.models.openvla.assembly import Assembly, HostInputs
from xp.models.openvla.folder import write_weights
from xp.models.openvla.model import HEADS, ModelInputs, OpenVLAModel
from xp.models.openvla.sidecar import write_sidecar
from xp.models.policy import Batch, Framework, Seed
from xp.models.torch_arrays import as_array

OPTIONS = ("unnorm_key",)


class OpenVLAPolicy:
    """Observations in, action chunks in dataset units out."""

    framework: ClassVar[Framework] = "torch"

    def __init__(self, assembly: Assembly, module: OpenVLAModel) -> None:
        """`module` is asked in evaluation mode and left in the mode it was in."""
        self.assembly, self.module = assembly, module
        self.spec = assembly.spec

    @property
    def camera_slots(self) -> Mapping[str, str]:
        """See `Policy.camera_slots`."""
        return self.assembly.sidecar.notes.cameras

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of a mixture, by `member_index`, of which none is chosen; empty for a policy of one."""
        notes = self.assembly.sidecar.notes
        return () if notes.unnorm_key is not None else tuple(notes.members)

    def predict(
        self, observation: Batch, *, seed: Seed = 0, **options: object
    ) -> Float32[np.ndarray, "batch horizon action"]:
        """Actions in dataset units, the likeliest: nothing is drawn, so `seed` changes nothing.

        Axes may be left out, see `xp.models.observation`.

        Options:
            unnorm_key: whose statistics bring the actions to dataset units, where the folder has several.
        """
        notes, key = self.assembly.sidecar.notes, _unnorm_key(options)
        if key is None and notes.unnorm_key is None and notes.members:
            key = member_asked_for(observation, tuple(notes.members))
        self.assembly.bounds(key)  # refuses before the network is asked
        inputs = self.assembly.observed(observation)
        with torch.no_grad(), self._asked():
            answer = self.module.answer(as_inputs(inputs, self.module.device))
        return self.assembly.actions(answer, key)

    def predict_distribution(self, observation: Batch) -> None:
        """An OpenVLA's chunk has no Gaussian density."""

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective (`loss`) and its parts on one batch, in evaluation mode."""
        refuse_without_actions(batch)
        with torch.no_grad():
            value, parts = self.loss_with_graph(self.prepare(batch), seed)
        return {"loss": float(value), **{name: float(part) for name, part in parts.items()}}

    def prepare(self, batch: Batch) -> HostInputs:
        """A batch as host tensors; see `Assembly.prepare`."""
        return self.assembly.prepare(batch)

    def loss_with_graph(
        self, inputs: Mapping[str, torch.Tensor | list[str]], seed: int
    ) -> tuple[Shaped[torch.Tensor, ""], Mapping[str, torch.Tensor | float]]:
        """See `TorchPolicy.loss_with_graph`; nothing is drawn."""
        with self._asked():
            return self.module.loss(as_inputs(inputs, self.module.device))

    def weights(self) -> Mapping[str, Shaped[np.ndarray, "..."]]:
        """Every weight by its name; numbers of half precision as float32."""
        return {name: _as_float(as_array(tensor)) for name, tensor in self.module.state_dict().items()}

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "OpenVLAPolicy":
        """A policy of its own with other weights, which are copied."""
        module = copy.deepcopy(self.module)
        state = module.state_dict()
        with torch.no_grad():
            for name, array in weights.items():
                state[name].copy_(torch.from_numpy(np.array(array, np.float32)))
        return OpenVLAPolicy(self.assembly, module)

    def save(self, folder: Path) -> None:
        """Write a folder of the original's layout, and xp's notes; `load_policy(folder)` gives this policy back.

        Of a model with an adapter only this is written, and what is trained whole: the base stays where it is.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_sidecar(folder, self.assembly.sidecar)
        for name, data in self.assembly.around.tokenizer.items():
            write_bytes(folder / name, data)
        if is_adapted(self.module):
            write_adapter(folder, self.module, HEADS)
        else:
            write_weights(folder, self.module.state_dict(), self.assembly.around.shard_map)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Evaluation mode, leaving every module's mode as it was."""
        was = {module: module.training for module in self.module.modules()}
        self.module.eval()
        try:
            yield
        finally:
            for module, training in was.items():
                module.training = training


def as_inputs(inputs: Mapping[str, torch.Tensor | list[str]], device: torch.device) -> ModelInputs:
    """What `Assembly.prepare` made, on a device."""
    tensors = {name: value.to(device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    return cast(ModelInputs, tensors)


def _as_float(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    return array if array.dtype.kind != "V" and array.dtype.itemsize >= 4 else array.astype(np.float32)


def _unnorm_key(options: Mapping[str, object]) -> str | None:
    for name, value in options.items():
        if name not in OPTIONS and value is not None:
            raise UserError(
                f"predict has no option '{name}' for an OpenVLA; it has {join_names(OPTIONS)}. Leave it out."
            )
    key = options.get("unnorm_key")
    return None if key is None else str(key)
