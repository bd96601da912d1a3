"""Prompts of pi0 and pi0.5: instructions, and for pi0.5 the state as numbers in the text, tokenised."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int32

from xp.errors import UserError
from xp.foreign.paths import regular_file
from xp.foreign.text import printable

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

WORDS = "words"
"""The tokeniser that needs no file: hashed words, for models that are trained from nothing."""
FILES = ("paligemma_tokenizer.model", "tokenizer.model")
"""Names of SentencePiece's file in a tokeniser's folder."""
BINS = 256
"""Levels of a discretised state, over -1..1."""
_MOST = 64 << 20
_BEGIN, _NUMBERS, _FIRST_WORD = 2, 4, 4 + BINS + 1
"""Of the hashed words: the id that begins a text, that of the number -1 less -1, and the first of other words."""

type Encode = Callable[[str, bool], list[int]]
"""`encode(text, begins)`: ids of a text, with the id that begins a text before them where asked."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Instructions (and states) to ids and masks, `length` of each; each distinct text is tokenised once."""

    encode: Encode
    length: int
    reads_state: bool
    _known: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def __call__(
        self, tasks: Sequence[str], state: Float[np.ndarray, "batch dim"] | None
    ) -> tuple[Int32[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """Ids, filled up with 0, and which of them are there.

        Args:
            tasks: instructions.
            state: normalised and not filled up; read where the prompt has it.

        Raises:
            UserError: a prompt is longer than `length`.
        """
        ids, there = np.zeros((len(tasks), self.length), np.int32), np.zeros((len(tasks), self.length), bool)
        for row, task in enumerate(tasks):
            found = self._ids(task, state[row] if state is not None and self.reads_state else None)
            ids[row, : len(found)], there[row, : len(found)] = found, True
        return ids, there

    def _ids(self, task: str, state: Float[np.ndarray, " dim"] | None) -> list[int]:
        cleaned = " ".join(task.strip().replace("_", " ").split("\n"))
        if not self.reads_state:
            if cleaned not in self._known:
                self._known[cleaned] = self._fitting([*self.encode(cleaned, True), *self.encode("\n", False)], cleaned)
            return self._known[cleaned]
        numbers = " ".join(map(str, discretised(state))) if state is not None else ""
        text = f"Task: {cleaned}, State: {numbers};\nAction: "
        return self._fitting(self.encode(text, True), text)

    def _fitting(self, ids: list[int], text: str) -> list[int]:
        if len(ids) > self.length:
            raise UserError(
                f"The prompt {printable(repr(text), 120)} has {len(ids)} tokens; the policy reads {self.length}. "
                f"Shorten the instruction, or train with a longer prompt: model.prompt_length={len(ids)}"
            )
        return ids


def discretised(state: Float[np.ndarray, " dim"]) -> list[int]:
    """A normalised state as levels 0 to 255 of -1..1; -1 below, as in openpi."""
    return (np.digitize(state, np.linspace(-1, 1, BINS + 1)[:-1]) - 1).tolist()


def prompts(tokenizer: str | None, *, vocabulary: int, length: int, reads_state: bool) -> Prompts:
    """The way from instructions to ids.

    Args:
        tokenizer: `words`, or the folder or file of PaliGemma's SentencePiece model, which is opened with the first
            prompt; None: refuses the first prompt.
        vocabulary: of the model; the tokeniser must have just as many pieces.
        length: the most tokens of a prompt.
        reads_state: whether the state stands in the prompt (pi0.5).
    """
    encode = hashed_words(vocabulary) if tokenizer == WORDS else _SentencePiece(tokenizer, vocabulary)
    return Prompts(encode=encode, length=length, reads_state=reads_state)


def hashed_words(vocabulary: int) -> Encode:
    """Words and signs by hash, numbers of -1 to 255 by their value; the same text has the same ids everywhere.

    Raises:
        UserError: a vocabulary without room for words.
    """
    if vocabulary <= _FIRST_WORD:
        raise UserError(
            f"model.vocabulary={vocabulary}: the tokeniser `{WORDS}` takes {_FIRST_WORD} ids for numbers and signs, so "
            f"more than those are needed for words. Type model.vocabulary={2 * BINS}."
        )

    def one(word: str) -> int:
        if re.fullmatch(r"-1|\d{1,3}", word) and int(word) < BINS:
            return _NUMBERS + 1 + int(word)
        digest = hashlib.blake2b(word.lower().encode(), digest_size=8).digest()
        return _FIRST_WORD + int.from_bytes(digest) % (vocabulary - _FIRST_WORD)

    def encode(text: str, begins: bool) -> list[int]:
        return [*([_BEGIN] if begins else []), *(one(word) for word in _tokens(text))]

    return encode


def _tokens(text: str) -> list[str]:
    """Words, whole numbers with their sign, line ends and signs."""
    return re.findall(r"-?\d+|[^\W\d_]+|\n|[^\w\s]", text)


class _SentencePiece:
    """PaliGemma's tokeniser, opened when the first text comes: a model can be loaded and fed ids without it."""

    def __init__(self, place: str | None, vocabulary: int) -> None:
        self._place, self._vocabulary = place, vocabulary
        self._opened: SentencePieceProcessor | None = None

    def __call__(self, text: str, begins: bool) -> list[int]:
        if self._opened is None:
            self._opened = self._open()
        return list(self._opened.encode(text, add_bos=begins))

    def _open(self) -> "SentencePieceProcessor":
        if self._place is None:
            raise UserError(
                "The policy reads text, and nothing says where its tokeniser is. Give the folder that holds "
                f"{FILES[0]}: model.tokenizer=FOLDER in training; else 'load_options={{tokenizer: FOLDER}}' of the "
                "section that names the policy (predict, eval, dump, collect, merge, convert), or tokenizer=FOLDER in "
                "Python."
            )
        from sentencepiece import SentencePieceProcessor

        path = tokenizer_file(Path(self._place).expanduser())
        try:
            found = SentencePieceProcessor(model_proto=path.read_bytes())
        except RuntimeError as error:
            raise UserError(
                f"{path} is no SentencePiece model ({printable(error)}). Give the tokenizer of PaliGemma: the folder "
                f"with {FILES[0]}."
            ) from error
        size = found.vocab_size()
        if size != self._vocabulary:
            raise UserError(
                f"The tokeniser {path} has {size:,} pieces, the policy's vocabulary {self._vocabulary:,}: its ids "
                "would mean other words. Give the tokeniser that the policy was trained with."
            )
        return found


def tokenizer_file(place: Path) -> Path:
    """The SentencePiece file that a folder or a file name means.

    Raises:
        UserError: there is none, or it is larger than any such file.
    """
    candidates = [place / name for name in FILES] if place.is_dir() else [place]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise UserError(
            f"There is no tokeniser in {place}: looked for {' and '.join(FILES)}. Give the folder that holds "
            "PaliGemma's tokenizer: model.tokenizer=FOLDER"
        )
    path = regular_file(found, "a tokeniser")
    if path.stat().st_size > _MOST:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes: a SentencePiece model has at most {_MOST:,}.")
    return path
