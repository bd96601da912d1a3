"""Instructions to word hashes: the embedded suite's tokeniser, which needs no vocabulary and no download."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int32

from xp.errors import UserError


@lru_cache(maxsize=65536)
def word_rows(word: str, buckets: int, hashes: int) -> tuple[int, ...]:
    """Rows 1..buckets-1 of a word (row 0 is padding): the same on every machine and in every process."""
    digests = (hashlib.blake2b(f"{index}:{word}".encode(), digest_size=8).digest() for index in range(hashes))
    return tuple(1 + int.from_bytes(digest) % (buckets - 1) for digest in digests)


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers of an instruction, punctuation dropped."""
    return re.findall(r"\w+", text.lower())


@dataclass(frozen=True)
class WordText:
    """Text to `input_ids` [max_length, hashes] int32 and `attention_mask` [max_length] int32."""

    buckets: int
    hashes: int
    max_length: int

    def __call__(self, text: str) -> tuple[Int32[np.ndarray, "length hashes"], Int32[np.ndarray, " length"]]:
        """Tokenise one instruction; one that does not fit is an error, since its end would be lost silently."""
        words = words_of(text)
        if len(words) > self.max_length:
            raise UserError(
                f"The instruction '{text}' has {len(words)} words; the model reads {self.max_length}. "
                f"Type model.language.max_length={len(words)} to train a model that reads it whole."
            )
        ids = np.zeros((self.max_length, self.hashes), dtype=np.int32)
        mask = np.zeros(self.max_length, dtype=np.int32)
        for index, word in enumerate(words):
            ids[index] = word_rows(word, self.buckets, self.hashes)
            mask[index] = 1
        return ids, mask
