"""Turns instructions into the network's language inputs, each distinct text tokenised once."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32

from xp.config.tokenizer import tokenizer_folder
from xp.errors import UserError
from xp.models.octo.network.unigram import load_unigram
from xp.models.octo.network.words import WordText

if TYPE_CHECKING:
    from xp.models.octo.io.spec import ModuleSpec

Tokenise = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""One text to its ids [L] or [L, hashes] and its mask [L], both int32."""


class Texts:
    """A memo over a tokeniser: a batch of texts to stacked ids and masks."""

    def __init__(self, tokenise: Tokenise) -> None:
        """`tokenise` maps one text to (ids, mask)."""
        self._tokenise = tokenise
        self._known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, texts: Sequence[str]) -> dict[str, Int32[np.ndarray, "batch length ..."]]:
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

    def __call__(self, text: str) -> tuple[Int32[np.ndarray, " length"], Int32[np.ndarray, " length"]]:
        """Tokenise one text."""
        if self._loaded is None:
            self._loaded = load_unigram(tokenizer_folder(self._encoder, self._folder), self._max_length)
        return self._loaded(text)


def word_text(tokenizer: "ModuleSpec") -> WordText:
    """The text side of a WordTokenizer.

    Raises:
        UserError: its sizes are no whole numbers.
    """
    sizes = [tokenizer["kwargs"][name] for name in ("buckets", "hashes", "max_length")]
    whole = [size for size in sizes if isinstance(size, int)]
    if len(whole) != 3:
        raise UserError(
            f"config.json has buckets, hashes and max_length of its WordTokenizer as {sizes}: expected three whole "
            "numbers. Give the config.json that was saved with the weights."
        )
    return WordText(*whole)


def text_inputs(tokenizer: "ModuleSpec | None", folder: str | None, max_length: int) -> Texts | None:
    """The text side of a language tokeniser given as ModuleSpec; None for a model without language."""
    if tokenizer is None:
        return None
    if tokenizer["name"] == "WordTokenizer":
        return Texts(word_text(tokenizer))
    return Texts(LazyT5Text(str(tokenizer["kwargs"].get("encoder", "t5-base")), folder, max_length))
