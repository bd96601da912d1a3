"""Causal self-attention with linear biases (ALiBi), in whole contexts and one token at a time from a cache.

Scores are q.k / sqrt(d) - slope * (i - j) for j <= i (Press, Smith and Lewis 2022, arXiv:2108.12409, section 3), with
layer normalisation of queries and keys over each head (Dehghani et al. 2023, arXiv:2302.05442). Letters: B batch, L
tokens, h heads, d width of a head, D = h * d.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

BLOCK = 512
"""Queries that attend together: a block needs biases for the keys up to its end alone."""


def alibi_slopes(heads: int) -> list[float]:
    """One slope a head: 2^(-8 k / h) for k = 1 .. h where h is a power of two.

    Otherwise those of the power of two below it, and every second one of the power above, as the authors' code has it.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (k + 1) / below) for k in range(below)]
    if below < heads:
        slopes += alibi_slopes(2 * below)[0::2][: heads - below]
    return slopes


def causal_biases(slopes: Float[Tensor, " h"], length: int, dtype: torch.dtype) -> list[Tensor]:
    """Biases [h, queries, keys] of each block of `BLOCK` queries in a context of `length` tokens; -inf for the future.

    They are the same for every layer and sample, so they are made once a pass.
    """
    found = []
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        age = torch.arange(start, stop, device=slopes.device)[:, None] - torch.arange(stop, device=slopes.device)
        found.append(age_biases(slopes, age, stop).to(dtype))
    return found


def age_biases(slopes: Float[Tensor, " h"], age: Tensor, context: int) -> Tensor:
    """-slope * age [h, *age] where 0 <= age < context, -inf elsewhere; `age` counts tokens back from the query."""
    bias = -slopes.view(-1, *(1,) * age.ndim) * age
    return bias.masked_fill((age < 0) | (age >= context), -torch.inf)


@dataclass
class KeyValues:
    """Keys and values of the newest tokens of a layer: [B, h, C, d] each; the token number n lies at place n % C."""

    keys: Tensor
    values: Tensor


class AlibiAttention(nn.Module):
    """One attention layer; the names of its weights are those of the original's state dict."""

    def __init__(self, width: int, heads: int, *, dropout: float, normalize_qk: bool, bias: bool) -> None:
        """`width` D is a multiple of `heads` h."""
        super().__init__()
        self.heads, self.head_dim, self.dropout = heads, width // heads, dropout
        self.in_proj = nn.Linear(width, 3 * width, bias=bias)
        self.out_proj = nn.Linear(width, width, bias=bias)
        self.q_norm = nn.LayerNorm(self.head_dim) if normalize_qk else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim) if normalize_qk else nn.Identity()

    def forward(self, x: Float[Tensor, "B L D"], biases: list[Tensor]) -> Float[Tensor, "B L D"]:
        """Attend within the context `x`; `biases` as of `causal_biases`."""
        q, k, v = self._heads(x)
        dropout = self.dropout if self.training else 0.0
        parts = []
        for bias in biases:
            start, stop = bias.shape[-1] - bias.shape[-2], bias.shape[-1]
            parts.append(
                scaled_dot_product_attention(
                    q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], attn_mask=bias.to(q.dtype), dropout_p=dropout
                )
            )
        return self._joined(torch.cat(parts, dim=2) if len(parts) > 1 else parts[0])

    def step(
        self, x: Float[Tensor, "B 1 D"], cache: KeyValues, place: int, filled: int, bias: Tensor
    ) -> Float[Tensor, "B 1 D"]:
        """Attend from one new token to those in the cache, it among them.

        Args:
            x: the token.
            cache: gets the token's key and value at `place`.
            place: n % C of the token's number n.
            filled: how many places hold a token once it is in.
            bias: [h or B*h.., 1, filled] biases of the places 0 .. filled - 1.
        """
        q, k, v = self._heads(x)
        cache.keys[:, :, place] = k[:, :, 0]
        cache.values[:, :, place] = v[:, :, 0]
        out = scaled_dot_product_attention(
            q, cache.keys[:, :, :filled], cache.values[:, :, :filled], attn_mask=bias.to(q.dtype)
        )
        return self._joined(out)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, h, L, d]."""
        batch, length, _ = x.shape
        q, k, v = self.in_proj(x).view(batch, length, 3, self.heads, self.head_dim).unbind(2)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _joined(self, x: Tensor) -> Tensor:
        """Heads [B, h, L, d] to [B, L, D], projected."""
        batch, _, length, _ = x.shape
        return self.out_proj(x.transpose(1, 2).reshape(batch, length, -1))
