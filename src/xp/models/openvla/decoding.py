"""From a sequence to the answer of a model: token by token with a cache, or all places at once, in two ways."""

import torch
from jaxtyping import Float, Int
from transformers.cache_utils import DynamicCache

from xp.models.openvla.network import OpenVLANetwork, Sequence


def generate(
    network: OpenVLANetwork, sequence: Sequence, count: int, *, is_cached: bool = True
) -> Int[torch.Tensor, "batch {count}"]:
    """The `count` likeliest ids, each given those before it.

    Ids that stand for no action are not passed over, and an end-of-sentence does not stop it: as in the original, where
    the answer has a fixed length.

    Args:
        network: asked as it is.
        sequence: the prompt.
        count: how many ids.
        is_cached: keep keys and values of what was read; otherwise everything is read again for each id.
    """
    cache, fresh, found = DynamicCache(config=network.language_model.config), sequence.embeddings.shape[1], []
    while True:
        if is_cached:
            hidden = network.hidden_cached(sequence, cache, fresh)[:, -1:]
        else:
            hidden = network.hidden(sequence, last=1)
        found.append(network.logits(hidden).argmax(-1))
        if len(found) == count:
            return torch.cat(found, 1)
        sequence, fresh = sequence.extended(network.embed(found[-1])), 1


def hidden_at_once(
    network: OpenVLANetwork, sequence: Sequence, places: Float[torch.Tensor, "more width"] | None
) -> Float[torch.Tensor, "batch places width"]:
    """The outputs at the end of the prompt and at `places` behind it, in one pass.

    The prompt's last token is the first place, where the first action would be told token by token. All places attend
    to each other (Kim et al., "Fine-Tuning Vision-Language-Action Models: Optimizing Speed and Success", 2025, section
    4.1, of the whole sequence); with one place this is a plain forward pass.

    Args:
        network: asked as it is.
        sequence: the prompt.
        places: embeddings of the places behind the prompt; None: there are none.
    """
    if places is None:
        return network.hidden(sequence, slots=1, last=1)
    grown = sequence.extended(places.expand(len(sequence.embeddings), -1, -1).to(sequence.embeddings.dtype))
    count = 1 + len(places)
    return network.hidden(grown, slots=count, last=count)


def hidden_of_whole(
    network: OpenVLANetwork, sequence: Sequence, count: int, end: int
) -> Float[torch.Tensor, "batch {count}+1 width"]:
    """The outputs at the end of the prompt and at `count` places of zeros behind it, as OpenVLA-OFT computes them.

    Kim et al. 2025, section 4.1, and `modeling_prismatic.py` of its code: [prompt, `count` embeddings of zeros, the end
    of the sequence], every token attends to every token that is no padding, and the number that a place is asked for is
    told one place before it. So the first `count` outputs are those of the numbers; the last one tells the end.

    Args:
        network: asked as it is.
        sequence: the prompt.
        count: numbers of an answer.
        end: the id of the end of a sequence.
    """
    rows, width = len(sequence.embeddings), sequence.embeddings.shape[-1]
    zeros = sequence.embeddings.new_zeros(rows, count, width)
    last = network.embed(torch.full((rows, 1), end, device=zeros.device)).to(zeros.dtype)
    grown = sequence.extended(torch.cat([zeros, last], 1))
    return network.hidden(grown, slots=grown.embeddings.shape[1], last=count + 2)[:, :-1]
