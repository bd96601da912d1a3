"""Acting step by step in many environments at once, with keys and values kept for each (a KV cache).

The context goes on over attempts: that is how Vintix learns in context. Within it a cached step gives what computing
the whole context anew would. Beyond it the two differ for two layers and more, because the kept keys and values of
deeper layers have themselves seen older tokens; so there are two modes:

- `sliding` is what a rolled cache computes: each layer attends to its last C keys and values as they were made. Cheap.
- `exact` computes the last C tokens anew at every step, as the original without a cache does.

Letters: B environments, C context, S observed numbers, A actions, D width of a token.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from xp.errors import UserError
from xp.models.network_family.torch_policy import as_numpy, evaluating
from xp.models.vintix.attention import KeyValues, age_biases
from xp.models.vintix.inputs import VintixInputs, widened
from xp.models.vintix.network import VintixNetwork
from xp.runs.execution.memory import available_memory

Mode = Literal["sliding", "exact"]


@runtime_checkable
class Vintix(Protocol):
    """What acts: a network, and what turns a batch into its inputs."""

    @property
    def module(self) -> VintixNetwork:
        """The network, whose weights are used as they are at each step."""
        ...

    @property
    def inputs(self) -> VintixInputs:
        """The tasks it knows and their statistics."""
        ...


class Rollout:
    """The state of B environments that a policy acts in, in lockstep.

    Args:
        policy: whose weights are used as they are at each step.
        tasks: the task of each environment [B].
        mode: what is computed beyond the context, see above.
        context: C; None for the model's own.

    Raises:
        UserError: an unknown task, or a context whose keys and values do not fit into memory.
    """

    def __init__(
        self, policy: Vintix, tasks: Sequence[str], *, mode: Mode = "sliding", context: int | None = None
    ) -> None:
        self.inputs, self.module, self.mode = policy.inputs, policy.module, mode
        self._parts = list(self.module.modules())
        options = self.module.options
        self.context = options.context_len if context is None else context
        self.device = next(self.module.parameters()).device
        rows, depth, width = len(tasks), options.transformer_depth, options.hidden_dim
        _check_room(rows, self.context, depth, width, self.device)
        numbers = {task: policy.inputs.tasks.number(task) for task in dict.fromkeys(tasks)}
        self._task = torch.tensor([numbers[task] for task in tasks], device=self.device)
        shape = (rows, options.transformer_heads, self.context, width // options.transformer_heads)
        self._caches = [
            KeyValues(torch.zeros(shape, device=self.device), torch.zeros(shape, device=self.device))
            for _ in range(depth)
        ]
        self._tokens = torch.zeros(rows if mode == "exact" else 0, self.context, width, device=self.device)
        self._seen = 0
        self._first = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._forgets = False
        self._step = np.full(rows, -1, np.int64)
        self._action = np.zeros((rows, self.module.action_dim), np.float32)

    def act(
        self,
        observation: np.ndarray,
        reward: np.ndarray,
        begins: np.ndarray,
        *,
        executed: np.ndarray | None = None,
    ) -> np.ndarray:
        """The next action of each environment, [B, A] float32; A is that of the widest group, zeros beyond.

        Args:
            observation: [B, S], zeros beyond a group's own numbers.
            reward: [B], what the action before brought; without meaning where an attempt begins.
            begins: [B] bool, where an attempt begins; at the first call everywhere, but after a prompt.
            executed: [B, A], the action before as it was executed, where that is not what `act` gave (noise, limits).
        """
        if executed is not None:
            self._action = _padded(np.asarray(executed, np.float32), self.module.action_dim)
        self._step = np.where(begins, 0, self._step + 1)
        with torch.no_grad(), evaluating(self.module, 0, self._parts):
            hidden = self._extend(self._token(observation, self._action, reward, self._step))
            actions = self.module.decoded(hidden, self._task)
        self._action = as_numpy(actions[:, 0].to(torch.float32))
        return self._action.copy()

    def prompt(self, observation: np.ndarray, action: np.ndarray, reward: np.ndarray, step: np.ndarray) -> None:
        """Take in histories before the first step, as the original's prompt.

        Args:
            observation: [B, P, S].
            action: [B, P, A], what was done at each step.
            reward: [B, P], what that brought; the last is given with the next `act`.
            step: [B, P], numbers in their attempts.
        """
        observation = np.asarray(observation, np.float32)
        action = widened(np.asarray(action, np.float32), self.module.action_dim)
        before = np.concatenate([np.zeros_like(action[:, :1]), action[:, :-1]], axis=1)
        brought = np.concatenate([np.zeros_like(reward[:, :1]), reward[:, :-1]], axis=1)
        length = observation.shape[1]
        start = max(length - self.context, 0) if self.mode == "exact" else 0
        with torch.no_grad(), evaluating(self.module, 0, self._parts):
            for t in range(start, length):
                self._extend(self._token(observation[:, t], before[:, t], brought[:, t], step[:, t]))
        self._action, self._step = action[:, -1].copy(), np.asarray(step[:, -1], np.int64).copy()

    def forget(self, rows: np.ndarray) -> None:
        """Begin the context of some environments [B] bool anew, with an attempt that begins at the next step."""
        chosen = torch.from_numpy(np.asarray(rows, bool)).to(self.device)
        self._first = torch.where(chosen, self._seen, self._first)
        self._forgets = True

    def _token(self, observation: np.ndarray, action: np.ndarray, reward: np.ndarray, step: np.ndarray) -> Tensor:
        """The token [B, 1, D] of a step."""
        state = _padded(np.asarray(observation, np.float32), self.module.state_dim)
        arrays = (state, action, np.asarray(reward, np.float32), np.asarray(step, np.int64))
        seen, done, brought, number = (
            torch.from_numpy(np.ascontiguousarray(array)).to(self.device)[:, None] for array in arrays
        )
        return self.module.tokens(seen, done, brought, number, self._task)

    def _extend(self, token: Tensor) -> Tensor:
        """The hidden state [B, 1, D] of a new token; what is kept grows by it."""
        number, place = self._seen, self._seen % self.context
        self._seen += 1
        if self.mode == "exact":
            self._tokens[:, place] = token[:, 0]
            if number >= self.context:
                return self._recomputed(number)
        filled = min(number + 1, self.context)
        age = (number - torch.arange(filled, device=self.device)) % self.context
        bias = age_biases(self.module.transformer.slopes, age[None], self.context)
        if self._forgets:
            forgotten = age > (number - self._first)[:, None]
            bias = bias[None].masked_fill(forgotten[:, None, None], -torch.inf)
        x = token
        for block, cache in zip(self.module.transformer.layers(), self._caches, strict=True):
            x = block.after(x, block.attention.step(block.norm1(x), cache, place, filled, bias))
        return self.module.transformer.ln_f(x)

    def _recomputed(self, number: int) -> Tensor:
        """The hidden state of the newest token, from the last C tokens; those that are forgotten are moved behind."""
        rows = len(self._tokens)
        oldest = number - self.context + 1
        left_out = (self._first - oldest).clamp(min=0)
        order = torch.arange(self.context, device=self.device) + left_out[:, None]
        order = (order % self.context + oldest) % self.context
        tokens = torch.take_along_dim(self._tokens, order[..., None], dim=1)
        hidden = self.module.transformer(tokens)
        return hidden[torch.arange(rows, device=self.device), self.context - 1 - left_out][:, None]


def _padded(values: np.ndarray, width: int) -> np.ndarray:
    """[B, D] as [B, width]."""
    return widened(values[:, None], width)[:, 0]


def _check_room(rows: int, context: int, depth: int, width: int, device: torch.device) -> None:
    """Refuse keys and values that do not fit into the memory that is free."""
    if context < 1 or rows < 1:
        raise UserError(f"A rollout of {rows} environments with a context of {context}: expected at least 1 of each.")
    wanted = 4 * 2 * rows * context * depth * width
    room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if room is not None and wanted > room:
        fewer, shorter = int(room // (wanted // rows)), int(room // (wanted // context))
        ways = [f"at most {fewer} environments at once"] if fewer else []
        ways += [f"a context of at most {shorter}"] if shorter else []
        raise UserError(
            f"The keys and values of {rows} environments with a context of {context} take {wanted / 1e9:.3g} GB, and "
            f"{room / 1e9:.3g} GB of memory are free. Take {' or '.join(ways) or 'a smaller model'}."
        )
