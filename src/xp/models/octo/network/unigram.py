"""T5's text tokeniser from its `tokenizer.json`: SentencePiece's unigram model, read and run natively."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from xp.errors import UserError
from xp.foreign.json_file import read_object
from xp.foreign.paths import RefusedError

_SPACE = "▁"
_UNKNOWN_PENALTY = 10.0  # below the rarest piece, as SentencePiece sets it
_MOST = 64_000_000
"""Bytes of a tokenizer.json: those of T5 have 1.4 million, of the largest vocabularies 35 million."""


@dataclass(frozen=True)
class UnigramText:
    """Text to `input_ids` [max_length] int32 (truncated, closed by `</s>`, padded with 0) and `attention_mask`."""

    scores: dict[str, tuple[int, float]] = field(repr=False)
    floor: float  # log-probability of a character that no piece covers
    unknown: int
    end: int
    max_length: int

    def __call__(self, text: str) -> tuple[Int32[np.ndarray, " length"], Int32[np.ndarray, " length"]]:
        """Tokenise one instruction."""
        pieces = self.encode(text)[: self.max_length - 1] + [self.end]
        ids = np.zeros(self.max_length, dtype=np.int32)
        mask = np.zeros(self.max_length, dtype=np.int32)
        ids[: len(pieces)] = pieces
        mask[: len(pieces)] = 1
        return ids, mask

    def encode(self, text: str) -> list[int]:
        """Ids of the most probable segmentation (Kudo 2018, "Subword Regularization": Viterbi over the pieces).

        Text is normalised with Unicode's NFKC and single spaces, which is SentencePiece's rule but for a few dozen
        control and compatibility characters that no robot instruction holds.
        """
        words = unicodedata.normalize("NFKC", text).split()
        ids: list[int] = []
        for word in words:
            for piece in self._segment(_SPACE + word):
                if not (piece == self.unknown and ids and ids[-1] == self.unknown):  # runs of unknown fuse into one
                    ids.append(piece)
        return ids

    def _segment(self, word: str) -> list[int]:
        best: list[tuple[float, int, int]] = [(0.0, 0, -1)] + [(-np.inf, 0, -1)] * len(word)
        for start in range(len(word)):
            reached = best[start][0]
            for end, (piece, score) in self._pieces(word, start):
                if reached + score > best[end][0]:
                    best[end] = (reached + score, start, piece)
        ids, at = [], len(word)
        while at > 0:
            _, start, piece = best[at]
            ids.append(piece)
            at = start
        return ids[::-1]

    def _pieces(self, word: str, start: int) -> Iterator[tuple[int, tuple[int, float]]]:
        yield start + 1, self.scores.get(word[start], (self.unknown, self.floor))
        for end in range(start + 2, len(word) + 1):
            found = self.scores.get(word[start:end])
            if found is not None:
                yield end, found


def load_unigram(folder: Path, max_length: int) -> UnigramText:
    """Read `tokenizer.json` of a folder.

    Raises:
        UserError: there is none, or it holds another kind of model.
    """
    path = folder / "tokenizer.json"
    try:
        model: Any = read_object(path, "T5's tokenizer", _MOST)["model"]
        vocabulary, unknown = model["vocab"], int(model["unk_id"])
        scores = {piece: (index, float(score)) for index, (piece, score) in enumerate(vocabulary)}
    except (RefusedError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model.language.tokenizer={folder}: no unigram tokenizer.json can be read there ({error}). Give the "
            "folder of T5's tokenizer; `hf download google-t5/t5-base tokenizer.json` fetches it."
        ) from error
    special = ("<pad>", "</s>", "<unk>")
    end = scores.get("</s>", (1, 0.0))[0]
    pieces = {piece: entry for piece, entry in scores.items() if piece not in special}
    floor = min((score for _, score in pieces.values()), default=0.0) - _UNKNOWN_PENALTY
    return UnigramText(pieces, floor, unknown, end, max_length)
