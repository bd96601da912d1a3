"""A LeRobot policy with its processors: the `Policy` of the lerobot family."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Shaped

from xp.errors import UserError, did_you_mean, join_names
from xp.models.lerobot.cameras import camera_name
from xp.models.lerobot.folder import Notes, write_folder
from xp.models.lerobot.inputs import HostBatch, Processed, Value, as_float, host_tensors, widened
from xp.models.lerobot.members import DIM_IS_PAD, Members, padded_dimensions_left_out, write_members
from xp.models.lerobot.processors import camera_names_in
from xp.models.members import member_asked_for
from xp.models.observation import IMAGES, STATE, TASK, as_windows, refuse_without_actions
from xp.models.policy import Batch, Framework, PolicySpec, Seed
from xp.models.torch_draws import predict_by_row

if TYPE_CHECKING:
    from lerobot.policies.pretrained import PreTrainedPolicy

    from xp.models.lerobot.processors import Processors

type Parts = dict[str, torch.Tensor | float]
"""The scalar parts of a loss by name."""
OPTIONS = ("prefix", "past")
DROPPED = "observation_is_dropped"
SHAPES = "pictures uint8 [h, w, 3], states [S], with B or B and T before them, task a text or a list of B"


@dataclass(frozen=True)
class Assembly:
    """All that a policy is but its weights: how a batch goes in and how actions come out.

    `images` gives for each image input of the policy the dataset camera that feeds it and (height, width) in pixels;
    `time` is the number of observed steps that the policy takes an axis for, or None; `notes` go to xp.json.
    """

    spec: PolicySpec
    processors: "Processors"
    images: Mapping[str, tuple[str, int, int]]
    time: int | None
    notes: Notes
    square: int | None = None
    """Side of the square that the policy fits pictures into."""
    members: Members | None = None
    """Of a mixture, of which no dataset has been chosen."""
    state_width: int = 0
    """What the network reads of a state, where the chosen dataset of a mixture has less."""

    def prepare(self, batch: Batch) -> HostBatch:
        """A numpy batch as host tensors; see `xp.models.lerobot.inputs`."""
        found = host_tensors(
            batch if self.members is None else self.members.normalise(batch),
            images=self.images,
            history=self.time,
            state_dim=self.spec.state_dim,
            environment_dim=self.spec.environment_dim,
            square=self.square,
        )
        return widened(found, self.state_width) if self.state_width > self.spec.state_dim else found

    def preprocess(self, inputs: Mapping[str, Value], *, contiguous: bool = True) -> Processed:
        """What the policy itself takes: normalised, tokenised, on its device; see `as_float` for `contiguous`.

        Which samples lose their state goes to the step that hides it and, since LeRobot's batches do not carry it
        through the processors, to a policy that hides it itself.
        """
        dropped, dims = inputs.get(DROPPED), inputs.get(DIM_IS_PAD)
        if dims is not None:
            others = {name: value for name, value in inputs.items() if name != DIM_IS_PAD}
            return {**self.preprocess(others, contiguous=contiguous), DIM_IS_PAD: dims}
        if dropped is None:
            return self.processors[0](as_float(inputs, contiguous=contiguous))
        given = {name: value for name, value in inputs.items() if name != DROPPED}
        marked = {**given, "observation.is_dropped": dropped}
        return {**self.processors[0](as_float(marked, contiguous=contiguous)), DROPPED: dropped}

    def normalise(
        self, actions: Shaped[np.ndarray, "batch steps action"], device: torch.device
    ) -> Float32[torch.Tensor, "batch steps action"]:
        """Actions in dataset units as the policy's own, on a device."""
        from lerobot.processor import NormalizerProcessorStep, create_transition

        transition = create_transition(action=torch.as_tensor(np.asarray(actions, np.float32), device=device))
        for step in self.processors[0].steps:
            if isinstance(step, NormalizerProcessorStep):
                transition = step(transition)
        normalised = dict(transition)["action"]
        assert isinstance(normalised, torch.Tensor)
        return normalised


@runtime_checkable
class TakesPrefix(Protocol):
    """A policy that can be told which actions are committed, as act_smooth can."""

    def continue_prefix(
        self, batch: Mapping[str, object], future: torch.Tensor, past: torch.Tensor | None
    ) -> Float32[torch.Tensor, "batch horizon action"]:
        """The chunk behind the committed actions [B, d, A] and the executed ones [B, k, A]; all normalised."""
        ...


class LeRobotPolicy:
    """Observations in, action chunks in dataset units out."""

    framework: ClassVar[Framework] = "torch"

    def __init__(self, assembly: Assembly, module: "PreTrainedPolicy") -> None:
        """`module` is asked in evaluation mode and left in the mode it was in."""
        self.assembly = assembly
        self.spec = assembly.spec
        self.module = module
        self._warned = False

    @property
    def camera_slots(self) -> dict[str, str]:
        """See `Policy.camera_slots`."""
        return {camera_name(key): camera for key, (camera, _, _) in self.assembly.images.items() if camera}

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of a mixture, by `member_index`, of which none is chosen; empty for a policy of one."""
        members = self.assembly.members
        return () if members is None else members.names

    def predict(
        self, observation: Batch, *, seed: Seed = 0, **options: object
    ) -> Float32[np.ndarray, "batch horizon action"]:
        """Actions in dataset units; `seed` fixes every draw (a diffusion policy's noise).

        Axes may be left out, see `xp.models.observation`; `task` too, where the policy reads none. Pictures of another
        size are resized as in training.

        With `prefix` [B, d, A] and `past` [B, k, A], for a policy that takes them, the chunk begins behind the prefix.
        """
        if isinstance(seed, np.ndarray):
            return predict_by_row(self.predict, observation, seed, options)
        prefix, past = _told(options, self.spec)
        members = self.assembly.members
        name = None if members is None else members.chosen(member_asked_for(observation, members.names))
        seen = {name: value for name, value in observation.items() if not name.startswith(("action", DROPPED))}
        seen = self._checked(as_windows(seen, self.spec), observation)
        with torch.no_grad(), self._seeded_eval_mode(seed):
            inputs = self.assembly.preprocess(self.prepare(seen))
            device = next(self.module.parameters()).device
            if prefix is not None:
                assert isinstance(self.module, TakesPrefix)
                before = None if past is None else self.assembly.normalise(past, device)
                actions = self.module.continue_prefix(inputs, self.assembly.normalise(prefix, device), before)
            else:
                actions = predict_chunk(self.module, inputs)[:, : self.spec.horizon]
            found = self.assembly.processors[1](actions)
        actions = found.to(torch.float32).cpu().numpy()
        if members is not None and name is not None:
            return members.actions(actions, name)
        return actions[..., : self.spec.action_dim]

    def _checked(self, seen: Batch, observation: Batch) -> Batch:
        """Refuse an observation that lacks what the policy reads; say once where xp alone changes a picture's size."""
        wanted = [f"{IMAGES}{camera}" for camera in self.spec.cameras]
        wanted += [key for key, size in ((STATE, self.spec.state_dim), (TASK, self.spec.language)) if size]
        missing = [key for key in wanted if observation.get(key) is None]
        if any(key.startswith(IMAGES) for key in missing):
            return seen  # `host_tensors` says which cameras there are, and how to map them
        if missing:
            raise UserError(
                f"The observation lacks '{missing[0]}', which the policy reads; its keys are "
                f"{join_names(observation)}. "
                f"The policy reads {join_names(wanted)}: {SHAPES}."
            )
        steps = {np.asarray(seen[key]).shape[1] for key in wanted if key != TASK}
        if steps and min(steps) < self.spec.history:
            raise UserError(
                f"The observation holds {min(steps)} step; the policy looks at {self.spec.history}. Give [B, "
                f"{self.spec.history}, ...], the oldest first, or the present step alone as [B, ...]: it is repeated."
            )
        if not self._warned:
            self._warned = resized_by_xp_alone(seen, self.assembly)
        return seen

    def predict_distribution(self, observation: Batch) -> None:
        """LeRobot's policies have no density."""

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective (`loss`) and its parts on one batch: no dropout, no random crop.

        A policy with a variational encoder keeps it: its KL term is part of what is trained (LeRobot's own evaluation
        loss leaves it out and cannot be compared with the training loss).
        """
        refuse_without_actions(batch)
        with torch.no_grad():
            value, parts = self.loss_with_graph(self.prepare(batch), seed)
        return {"loss": float(value), **{name: float(part) for name, part in parts.items()}}

    def prepare(self, batch: Batch) -> HostBatch:
        """A batch as host tensors; see `xp.models.lerobot.inputs`."""
        return self.assembly.prepare(batch)

    def loss_with_graph(self, inputs: Mapping[str, Value], seed: int) -> tuple[Shaped[torch.Tensor, ""], Parts]:
        """See `TorchPolicy.loss_with_graph`."""
        with self._seeded_eval_mode(seed):
            if getattr(self.module.config, "use_vae", False):
                model = self.module.model
                assert isinstance(model, torch.nn.Module)
                model.training = True
            return objective(self.module, self.assembly.preprocess(inputs))

    def weights(self) -> Mapping[str, Shaped[np.ndarray, "..."]]:
        """Every weight and buffer by its name in model.safetensors; numbers of half precision as float32."""
        return {name: as_numpy(tensor) for name, tensor in self.module.state_dict().items()}

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "LeRobotPolicy":
        """A policy of its own with other weights, which are copied."""
        module = copy.deepcopy(self.module)
        state = module.state_dict()
        with torch.no_grad():
            for name, array in weights.items():
                state[name].copy_(torch.from_numpy(np.array(array)))
        return LeRobotPolicy(self.assembly, module)

    def save(self, folder: Path) -> None:
        """Write a LeRobot `pretrained_model` folder; `load_policy(folder)` gives this policy back exactly."""
        with camera_names_in(self.assembly.processors[0], self.assembly.notes["cameras"]):
            write_folder(Path(folder), self.module, self.assembly.processors, self.assembly.notes)
        if self.assembly.members is not None:
            write_members(Path(folder), self.assembly.members)

    @contextmanager
    def _seeded_eval_mode(self, seed: int) -> Iterator[None]:
        """Evaluation mode and draws from `seed`, leaving generators and mode as they were."""
        was = {module: module.training for module in self.module.modules()}
        device = next(self.module.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.module.eval()
            self.module.reset()
            for processor in self.assembly.processors:
                processor.reset()
            try:
                yield
            finally:
                for module, training in was.items():
                    module.training = training


def resized_by_xp_alone(seen: Batch, assembly: Assembly) -> bool:
    """Warn where pictures are of another size than the policy's and its folder has no step that resizes them."""
    if any(type(step).__name__ == "LanczosResizeStep" for step in assembly.processors[0].steps):
        return False
    for camera, (height, width, _) in assembly.spec.cameras.items():
        given = np.asarray(seen[f"{IMAGES}{camera}"]).shape[2:4]
        if given != (height, width):
            warnings.warn(
                f"Pictures of '{camera}' are {given[0]} x {given[1]} and are resized to {height} x {width}, on which "
                "the policy was trained. LeRobot's own tools would give it the pictures as they are, since its folder "
                "has no step that resizes; a policy that xp trains with model.image_size has one.",
                stacklevel=4,
            )
            return True
    return False


def predict_chunk(module: "PreTrainedPolicy", inputs: Processed) -> Float32[torch.Tensor, "batch actions action"]:
    """Normalised actions for processed inputs; LeRobot writes of tensors alone, and means the task's words too."""
    return module.predict_action_chunk(inputs)  # pyright: ignore[reportArgumentType]


def objective(module: "PreTrainedPolicy", inputs: Processed) -> tuple[Shaped[torch.Tensor, ""], Parts]:
    """The policy's loss on processed inputs and its scalar parts."""
    dims = inputs.get(DIM_IS_PAD)
    if dims is None:
        value, parts = module(inputs)
    else:
        assert isinstance(dims, torch.Tensor)
        with padded_dimensions_left_out(dims, module.config.type):
            value, parts = module({name: each for name, each in inputs.items() if name != DIM_IS_PAD})
    return value, {name: part for name, part in (parts or {}).items() if _is_scalar(part) and name != "loss"}


def as_numpy(tensor: Shaped[torch.Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """A tensor as numpy on the host; bfloat16 and float16 become float32."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.to(torch.float32)
    return tensor.cpu().numpy()


def _is_scalar(part: object) -> bool:
    return isinstance(part, int | float) or (isinstance(part, torch.Tensor) and part.numel() == 1)


def _told(options: Mapping[str, object], spec: PolicySpec) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The committed actions [B, d, A] and the executed ones [B, k, A] among the options of `predict`."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise UserError(
                f"predict has no option '{name}'; allowed are "
                f"{join_names(OPTIONS)}{did_you_mean(name, OPTIONS)}. Leave it out."
            )
        if value is not None and not spec.prefix_future:
            raise UserError(
                f"predict({name}=...): this policy takes no committed actions. Leave {name} out, or take a policy that "
                "does, such as model=act_smooth."
            )
    if options.get("past") is not None and options.get("prefix") is None:
        raise UserError("predict(past=...) without prefix: past actions go with the committed ones. Give both.")
    prefix, past = (None if options.get(name) is None else np.asarray(options[name]) for name in OPTIONS)
    length = 0 if prefix is None else prefix.shape[1]
    if length > spec.prefix_future:
        raise UserError(
            f"predict(prefix=...) holds {length} committed actions; this policy takes 1..{spec.prefix_future}. Give "
            f"fewer, or train it with model.length_prefix_future={length}."
        )
    return prefix, past
