"""An OpenVLA as it is trained and asked: the network with its heads, from inputs to a loss and to an answer.

Letters: B batch, C cameras, W words, K numbers of an answer, Q actions of an answer, A action, S state.
"""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch.nn import functional

from xp.models.openvla.chunks import ChunkPlan
from xp.models.openvla.decoding import generate, hidden_at_once, hidden_of_whole
from xp.models.openvla.heads import L1Head, Places, ProprioProjector
from xp.models.openvla.network import OpenVLANetwork, Sequence
from xp.models.openvla.sizes import NetworkSizes

IGNORED = -100
"""A label that counts in no loss."""
HEADS = ("places.", "action_head.", "proprio_projector.")
"""What stands beside the network that all OpenVLAs have: drawn anew where the pretrained model has other chunks."""


class ModelInputs(TypedDict):
    """A batch as tensors; the last three where it holds actions."""

    pictures: UInt8[torch.Tensor, "batch cameras h w 3"]
    words: Int[torch.Tensor, "batch words"]
    """The prompt behind BOS, filled at the front."""
    is_word: Bool[torch.Tensor, "batch words"]
    proprio: NotRequired[Float[torch.Tensor, "batch state"]]
    tokens: NotRequired[Int[torch.Tensor, "batch numbers"]]
    targets: NotRequired[Float[torch.Tensor, "batch answers action"]]
    """Normalised actions."""
    is_pad: NotRequired[Bool[torch.Tensor, "batch answers"]]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Ids that are no words: the beginning and the end of a sequence."""

    bos: int
    eos: int


class OpenVLAModel(OpenVLANetwork):
    """The network, and what the plan of its chunks needs beside it."""

    def __init__(self, sizes: NetworkSizes, plan: ChunkPlan, *, marks: Marks, state_dim: int = 0) -> None:
        """`state_dim` > 0: the robot's state is read, as one token behind the pictures."""
        super().__init__(sizes)
        self.plan, self.marks, self.state_dim = plan, marks, state_dim
        self.draw_heads()

    def draw_heads(self) -> None:
        """Make what stands beside the network, its weights drawn from torch's global generator."""
        plan, width = self.plan, self.sizes.language.width
        if plan.mode == "parallel" and plan.tokens > 1:
            self.places = Places(plan.tokens - 1, width)
        if plan.head == "l1":
            self.action_head = L1Head(width, plan.action_dim)
        self.language_model.lm_head.requires_grad_(plan.head == "token")  # an L1 head leaves it unread
        if self.state_dim:
            self.proprio_projector = ProprioProjector(self.state_dim, width)

    def prompt(self, inputs: ModelInputs) -> Sequence:
        """What the language model reads before the answer."""
        images = self.image_tokens(inputs["pictures"])
        if "proprio" in inputs:
            state = self.proprio_projector(inputs["proprio"].to(self.proprio_projector.fc1.weight.dtype))
            images = torch.cat([images, state.to(images.dtype)], 1)
        return self.sequence(images, inputs["words"], inputs["is_word"], self.marks.bos)

    def answer(self, inputs: ModelInputs) -> Shaped[torch.Tensor, "batch ..."]:
        """Ids [B, K] of the likeliest answer; of an L1 head normalised actions [B, Q, A], float32."""
        prompt = self.prompt(inputs)
        if not self.plan.is_at_once:
            return generate(self, prompt, self.plan.tokens)
        hidden = self._hidden_of_answer(prompt)[:, : self.plan.tokens]
        if self.plan.head == "l1":
            return self._numbers(hidden)
        return self.logits(hidden).argmax(-1)

    def forward(self, inputs: ModelInputs) -> tuple[Shaped[torch.Tensor, ""], dict[str, torch.Tensor]]:
        """`loss`: what training calls, so that strategies and compilers find their place."""
        return self.loss(inputs)

    def loss(self, inputs: ModelInputs) -> tuple[Shaped[torch.Tensor, ""], dict[str, torch.Tensor]]:
        """The objective, a mean over numbers that are no padding, and its scalar parts.

        Of tokens it is the cross-entropy, of the answer's and (token by token, and as OpenVLA-OFT has it) of the end of
        the sequence behind it; of an L1 head the mean absolute error of normalised actions.
        """
        assert "is_pad" in inputs, "a batch without actions has no loss"
        prompt, is_pad = self.prompt(inputs), inputs["is_pad"]
        if self.plan.head == "l1":
            assert "targets" in inputs
            hidden = self._hidden_of_answer(prompt)[:, : self.plan.tokens]
            error = (self._numbers(hidden) - inputs["targets"]).abs().mean(-1)
            valid = (~is_pad).to(error.dtype)
            return (error * valid).sum() / valid.sum().clamp(min=1), {}
        assert "tokens" in inputs
        tokens = inputs["tokens"]
        labels = tokens.masked_fill(is_pad.repeat_interleave(self.plan.action_dim, 1), IGNORED)
        if self.plan.mode == "parallel":
            return _cross_entropy(self.logits(self._hidden_of_answer(prompt)), labels, self.plan.tokens)
        ends = labels.new_full((len(labels), 1), self.marks.eos).masked_fill(is_pad[:, -1:], IGNORED)
        if self.plan.is_at_once:
            hidden = self._hidden_of_answer(prompt)
        else:
            hidden = self.hidden(prompt.extended(self.embed(tokens)), last=1 + self.plan.tokens)
        scores = self.logits(hidden)
        return _cross_entropy(scores, torch.cat([labels, ends], 1), self.plan.tokens)

    def _numbers(self, hidden: Float[torch.Tensor, "batch places width"]) -> Float[torch.Tensor, "batch answers a"]:
        """The L1 head's actions, float32; a head that is trained beside an adapter has another type than the base."""
        return self.action_head(hidden.to(self.action_head.model.fc1.weight.dtype)).float()

    def _hidden_of_answer(self, prompt: Sequence) -> Float[torch.Tensor, "batch places width"]:
        """One pass: an output for each number of the answer, and as OpenVLA-OFT has it one more, for its end."""
        if self.plan.mode == "oft":
            return hidden_of_whole(self, prompt, self.plan.tokens, self.marks.eos)
        return hidden_at_once(self, prompt, self.places.weight if self.plan.tokens > 1 else None)


def _cross_entropy(
    scores: Float[torch.Tensor, "batch numbers words"], labels: Int[torch.Tensor, "batch numbers"], count: int
) -> tuple[Shaped[torch.Tensor, ""], dict[str, torch.Tensor]]:
    """The mean over labels that count, and the share of the first `count` that are the likeliest ids."""
    valid = labels != IGNORED
    total = functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    hits = ((scores.argmax(-1) == labels) & valid)[:, :count].sum()
    return total / valid.sum().clamp(min=1), {"token_accuracy": hits / valid[:, :count].sum().clamp(min=1)}
