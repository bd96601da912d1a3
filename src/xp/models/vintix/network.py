"""The network of Vintix: a token a step, encoders and decoders by group, a causal transformer between them.

Modules and weights have the names of the original's state dict (github.com/dunnolab/vintix, `vintix/nn`), so its
model.pth fits key by key. Letters: B batch, L tokens, S observed numbers, A actions, D width of a token; S and A are
those of the widest group, and zeros stand beyond a group's own.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xp.models.vintix.attention import AlibiAttention, alibi_slopes, causal_biases
from xp.models.vintix.options import ORIGINS, VintixOptions
from xp.models.vintix.tasks import EPSILON, Moments, Tasks

MOST_EPISODE = 10_000
"""Step numbers that have an embedding of their own (`inner_ep_pos_enc`); later ones share the last. The original
clamps to this number itself, one beyond its table."""


class RmsNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467) of the last axis."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Each vector over its root mean square, times the weight."""
        return self.weight * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps))


class GeluMlp(nn.Module):
    """Two layers with GELU (GPT-NeoX, arXiv:2204.06745)."""

    def __init__(self, width: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.fc, self.proj = nn.Linear(width, inner, bias=bias), nn.Linear(inner, width, bias=bias)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Both layers."""
        return self.proj(nn.functional.gelu(self.fc(x)))


class GatedMlp(nn.Module):
    """Gated layers with SiLU (LLaMA, arXiv:2302.13971)."""

    def __init__(self, width: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.fc_1, self.fc_2 = nn.Linear(width, inner, bias=bias), nn.Linear(width, inner, bias=bias)
        self.proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """The gated layers."""
        return self.proj(nn.functional.silu(self.fc_1(x)) * self.fc_2(x))


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, options: VintixOptions) -> None:
        super().__init__()
        width = options.hidden_dim
        norm = nn.LayerNorm if options.norm_class == "LayerNorm" else RmsNorm
        self.parallel = options.parallel_residual
        self.norm1 = norm(width, eps=1e-5)
        self.norm2 = None if options.shared_attention_norm else norm(width, eps=1e-5)
        self.drop = nn.Dropout(options.residual_dropout)
        self.attention = AlibiAttention(
            width,
            options.transformer_heads,
            dropout=options.attn_dropout,
            normalize_qk=options.normalize_qk,
            bias=options.bias,
        )
        mlp = GeluMlp if options.mlp_class == "GptNeoxMLP" else GatedMlp
        self.mlp = mlp(width, options.intermediate_size, options.bias)

    def forward(self, x: Float[Tensor, "B L D"], biases: list[Tensor]) -> Float[Tensor, "B L D"]:
        """The layer on a whole context."""
        return self.after(x, self.attention(self.norm1(x), biases))

    def after(self, x: Float[Tensor, "B L D"], attended: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """What follows attention."""
        attended = self.drop(attended)
        if self.parallel:
            return x + attended + self.mlp(self.norm1(x) if self.norm2 is None else self.norm2(x))
        assert self.norm2 is not None, "refused in the options"
        x = x + attended
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Blocks and a last normalisation."""

    slopes: Tensor

    def __init__(self, options: VintixOptions) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.transformer_depth))
        self.ln_f = (nn.LayerNorm if options.norm_class == "LayerNorm" else RmsNorm)(options.hidden_dim, eps=1e-5)
        self.register_buffer("slopes", torch.tensor(alibi_slopes(options.transformer_heads)), persistent=False)
        self._draw(options)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Hidden states of a whole context."""
        x, biases = tokens, causal_biases(self.slopes, tokens.shape[1], tokens.dtype)
        for block in self.blocks:
            x = block(x, biases)
        return self.ln_f(x)

    def layers(self) -> list[Block]:
        """Its blocks, in order."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def _draw(self, options: VintixOptions) -> None:
        """Initial weights as of GPT-NeoX (arXiv:2204.06745, section 2.1): those that end a residual branch smaller."""
        width = options.hidden_dim
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                ends = name.endswith(("out_proj", "mlp.proj"))
                std = 1 / math.sqrt(width) / options.transformer_depth if ends else math.sqrt(2 / 5 / width)
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class Layers(nn.Module):
    """A `layers` of its own, as the original's modules have it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "*lead inputs"]) -> Float[Tensor, "*lead outputs"]:
        """All layers, one after the other."""
        return self.layers(x)


def _encoder(inputs: int, width: int) -> Layers:
    one, two = nn.Linear(inputs, width), nn.Linear(width, width)
    return Layers(one, nn.LeakyReLU(), nn.LayerNorm(width), two, nn.LeakyReLU(), nn.LayerNorm(width))


def _decoder(width: int, outputs: int) -> Layers:
    hidden = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.LeakyReLU())]
    return Layers(*hidden, nn.Linear(width, outputs))


class Encoder(nn.Module):
    """Steps to tokens."""

    def __init__(self, options: VintixOptions, tasks: Tasks) -> None:
        super().__init__()
        dims = options.observation_emb_dim, options.action_emb_dim, options.reward_emb_dim
        groups = tasks.groups
        self.obs_encoders = nn.ModuleDict({name: _encoder(state, dims[0]) for name, (state, _) in groups.items()})
        self.acs_encoders = nn.ModuleDict({name: _encoder(action, dims[1]) for name, (_, action) in groups.items()})
        self.rews_encoders = nn.ModuleDict({name: Layers(nn.Linear(1, dims[2]), nn.LeakyReLU()) for name in groups})
        self.trans_ep_pos_emb = nn.Embedding(MOST_EPISODE, options.hidden_dim) if options.inner_ep_pos_enc else None
        self.prev_acs_padding = nn.Parameter(torch.randn(1, dims[1]))
        self.prev_rew_padding = nn.Parameter(torch.randn(1, dims[2]))


class Head(nn.Module):
    """Hidden states to actions."""

    def __init__(self, options: VintixOptions, tasks: Tasks) -> None:
        super().__init__()
        self.acs_decoders = nn.ModuleDict(
            {name: _decoder(options.hidden_dim, action) for name, (_, action) in tasks.groups.items()}
        )


class VintixNetwork(nn.Module):
    """Trajectories in, the next action at each of their steps out, all in dataset units."""

    obs_mean: Tensor
    obs_std: Tensor
    acs_mean: Tensor
    acs_std: Tensor
    reward_scale: Tensor
    acs_width: Tensor
    group_number: Tensor

    def __init__(self, options: VintixOptions, tasks: Tasks, origin: str) -> None:
        """Weights are drawn from torch's global generator."""
        super().__init__()
        self.options, self.tasks, self.order = options, tasks, ORIGINS[origin]
        self.state_dim = max(task.state_dim for task in tasks.all)
        self.action_dim = max(task.action_dim for task in tasks.all)
        self.encoder = Encoder(options, tasks)
        self.transformer = Transformer(options)
        self.head = Head(options, tasks)
        for name, table in _tables(tasks, self.state_dim, self.action_dim).items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def tokens(
        self,
        observation: Float[Tensor, "B L S"],
        prev_action: Float[Tensor, "B L A"],
        prev_reward: Float[Tensor, "B L"],
        step: Int[Tensor, "B L"],
        task: Int[Tensor, " B"],
    ) -> Float[Tensor, "B L D"]:
        """A token for each step: what is observed, and the action and reward before it.

        Args:
            observation: what is observed at each step.
            prev_action: what was done at the step before; without meaning where `step` is 0.
            prev_reward: what that brought; without meaning where `step` is 0.
            step: number of each step in its attempt.
            task: number of each row's task.
        """
        options = self.options
        reward = (self.reward_scale[task][:, None] * prev_reward)[..., None]
        if options.norm_obs:
            observation = (observation - self.obs_mean[task][:, None]) / (self.obs_std[task][:, None] + EPSILON)
        if options.norm_acs:
            prev_action = (prev_action - self.acs_mean[task][:, None]) / (self.acs_std[task][:, None] + EPSILON)
        begins = (step == 0)[..., None]
        encoder = self.encoder
        tokens = observation.new_zeros(*step.shape, options.hidden_dim)
        for group, (rows, (state_dim, action_dim)) in self._by_group(task).items():
            parts = {
                "observation": encoder.obs_encoders[group](observation[rows, :, :state_dim]),
                "action": torch.where(
                    begins[rows],
                    encoder.prev_acs_padding,
                    encoder.acs_encoders[group](prev_action[rows, :, :action_dim]),
                ),
                "reward": torch.where(
                    begins[rows], encoder.prev_rew_padding, encoder.rews_encoders[group](reward[rows])
                ),
            }
            tokens[rows] = torch.cat([parts[part] for part in self.order], dim=-1).to(tokens.dtype)
        if encoder.trans_ep_pos_emb is not None:
            tokens = tokens + encoder.trans_ep_pos_emb(step.clamp(max=MOST_EPISODE - 1))
        return tokens

    def decoded(self, hidden: Float[Tensor, "B L D"], task: Int[Tensor, " B"]) -> Float[Tensor, "B L A"]:
        """The action of each hidden state; zeros beyond a group's own actions."""
        actions = hidden.new_zeros(*hidden.shape[:2], self.action_dim)
        for group, (rows, (_, action_dim)) in self._by_group(task).items():
            own = self.head.acs_decoders[group](hidden[rows])
            if self.options.norm_acs:
                numbers = task[rows]
                own = own * self.acs_std[numbers][:, None, :action_dim] + self.acs_mean[numbers][:, None, :action_dim]
            padded = nn.functional.pad(own, (0, self.action_dim - action_dim))
            actions[rows] = padded.to(actions.dtype)
        return actions

    def forward(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "B L A"]:
        """The actions of all steps; `inputs` as of `xp.models.vintix.inputs`."""
        task = inputs["task_number"]
        tokens = self.tokens(inputs["observation"], inputs["prev_action"], inputs["prev_reward"], inputs["step"], task)
        return self.decoded(self.transformer(tokens), task)

    def losses(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, " B"]:
        """Mean squared error of each trajectory, over its steps and its group's own actions."""
        error = ((self(inputs) - inputs["action"]) ** 2).sum(-1)
        count = inputs["count"]
        valid = torch.arange(error.shape[1], device=error.device) < count[:, None]
        return torch.where(valid, error, 0).sum(-1) / (count * self.acs_width[inputs["task_number"]]).clamp(min=1)

    def _by_group(self, task: Int[Tensor, " B"]) -> dict[str, tuple[Tensor, tuple[int, int]]]:
        """{group: (rows of the batch, (S, A))} of the groups that the batch has."""
        of_row = self.group_number[task]
        found = {}
        for number, (group, dims) in enumerate(self.tasks.groups.items()):
            rows = torch.nonzero(of_row == number)[:, 0]
            if len(rows):
                found[group] = (rows, dims)
        return found


def _tables(tasks: Tasks, state_dim: int, action_dim: int) -> dict[str, np.ndarray]:
    """What the network looks up by a task's number: [N, S], [N, A] and [N]."""
    groups = list(tasks.groups)

    def stacked(moments: list[Moments], width: int, kind: str, filler: float) -> np.ndarray:
        table = np.full((len(moments), width), filler, np.float32)
        for row, each in zip(table, moments, strict=True):
            values = getattr(each, kind)
            row[: len(values)] = values
        return table

    found = {}
    for name, width in (("observation", state_dim), ("action", action_dim)):
        moments = [getattr(task, name) for task in tasks.all]
        short = {"observation": "obs", "action": "acs"}[name]
        found[f"{short}_mean"] = stacked(moments, width, "mean", 0.0)
        found[f"{short}_std"] = stacked(moments, width, "std", 1.0)
    found["reward_scale"] = np.array([task.reward_scale for task in tasks.all], np.float32)
    found["acs_width"] = np.array([task.action_dim for task in tasks.all], np.int64)
    found["group_number"] = np.array([groups.index(task.group) for task in tasks.all], np.int64)
    return found
