"""Instructions to the model's language inputs, each distinct text tokenised once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xp.config.tokenizer import tokenizer_folder
from xp.models.octo.network.unigram import load_unigram
from xp.models.octo.network.words import WordText

Tokenise = Callable[[str], tuple[np.ndarray, np.ndarray]]


class Texts:
    """A memo over a tokeniser: a batch of texts to stacked ids and masks."""

    def __init__(self, tokenise: Tokenise) -> None:
        """`tokenise` maps one text to (ids, mask)."""
        self._tokenise = tokenise
        self._known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return `input_ids` [B, L, ...] and `attention_mask` [B, L], int32."""
        for text in set(texts):
            if text not in self._known:
                self._known[text] = self._tokenise(text)
        rows = [self._known[text] for text in texts]
        return {"input_ids": np.stack([row[0] for row in rows]), "attention_mask": np.stack([row[1] for row in rows])}


class LazyT5Text:
    """T5's tokeniser, looked for when the first text comes: a model can be loaded and fed ids without it."""

    def __init__(self, encoder: str, folder: str | None, max_length: int) -> None:
        """`folder` holds tokenizer.json; None looks in the local Hugging Face cache."""
        self._encoder, self._folder, self._max_length = encoder, folder, max_length
        self._loaded: Tokenise | None = None

    def __call__(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise one text."""
        if self._loaded is None:
            self._loaded = load_unigram(tokenizer_folder(self._encoder, self._folder), self._max_length)
        return self._loaded(text)


def text_inputs(tokenizer: Mapping[str, Any] | None, folder: str | None, max_length: int) -> Texts | None:
    """The text side of a language tokeniser given as ModuleSpec; None for a model without language."""
    if tokenizer is None:
        return None
    kwargs = tokenizer["kwargs"]
    if tokenizer["name"] == "WordTokenizer":
        return Texts(WordText(kwargs["buckets"], kwargs["hashes"], kwargs["max_length"]))
    return Texts(LazyT5Text(str(kwargs.get("encoder", "t5-base")), folder, max_length))
