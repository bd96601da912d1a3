r"""Instructions as token ids: the prompt, the tokeniser of a folder, and a small one for models of one's own.

The prompt of OpenVLA's code (`prismatic/extern/hf` and `vla-scripts/deploy.py`): "In: What action should the robot take
to ...?\nOut:", then the token of a lone space (29871 in Llama-2), then the actions. It is put together from ids: what
tokenising the decoded text again would give is not always the same tokens.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int64

from xp.errors import UserError
from xp.foreign.json_file import Fields, parsed
from xp.foreign.paths import member, opened
from xp.foreign.text import printable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
BOS, EOS, SPACE, UNKNOWN = "<s>", "</s>", "\u2581", "<unk>"
"""Tokens by the names that Llama's tokeniser has for them; a lone space ends the prompt."""
_WHAT = "a tokeniser"
_MOST = 64_000_000
"""Bytes of a tokenizer.json; Llama-2's has 1.8 million."""


def prompt(instruction: str) -> str:
    """The words that a model is asked with."""
    return f"In: What action should the robot take to {instruction.strip().lower()}?\nOut:"


@dataclass(frozen=True)
class Words:
    """A tokeniser: the content of its tokenizer.json, and the file that it was read from."""

    content: bytes = field(repr=False)
    source: str
    vocabulary: int
    """Rows of the embedding: no id is larger."""

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_str(self.content.decode())
        except Exception as error:  # whatever the library raises
            raise UserError(
                f"{self.source} cannot be read as a tokeniser ({printable(error)}). Take it again from where the model "
                "came from."
            ) from error

    def named(self, token: str) -> int:
        """The id of a token.

        Raises:
            UserError: the tokeniser has none of that name.
        """
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise UserError(
                f"{self.source} has no token {token!r}, which OpenVLA's prompts need: it is not a Llama's tokeniser. "
                "Give the folder of the one that the model was trained with: model.tokenizer=FOLDER"
            )
        return found

    def ids(self, instruction: str) -> list[int]:
        """The prompt after BOS: its words, and the lone space that the actions follow.

        Raises:
            UserError: an id beyond the embedding.
        """
        found = self._tokenizer.encode(prompt(instruction), add_special_tokens=False).ids
        if max(found, default=0) >= self.vocabulary:
            raise UserError(
                f"{self.source} gives ids up to {max(found)}, and the model has {self.vocabulary} words. Give the "
                "folder of the tokeniser that it was trained with: model.tokenizer=FOLDER"
            )
        space = self.named(SPACE)
        return found if found[-1:] == [space] else [*found, space]


def padded(
    rows: Sequence[Sequence[int]], pad: int
) -> tuple[Int64[np.ndarray, "batch words"], Bool[np.ndarray, "batch words"]]:
    """Rows of ids as one array, filled with `pad` at the front, and which are no filling."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), pad, np.int64)
    for row, words in enumerate(rows):
        ids[row, width - len(words) :] = words
    lengths = np.array([len(words) for words in rows])
    return ids, np.arange(width) >= width - lengths[:, None]


def read_words(folder: Path, vocabulary: int) -> Words | None:
    """The tokeniser of a folder; None where it has none. The file is data: nothing that it names is loaded.

    Raises:
        UserError: it is damaged, or of a kind that no Llama has.
    """
    if not (folder / TOKENIZER).exists():
        return None
    path = member(folder, TOKENIZER, _WHAT)
    with opened(path, _WHAT) as handle:
        data = handle.read(_MOST + 1)
    source = printable(path)
    if len(data) > _MOST:
        raise UserError(f"{source} has more than {_MOST:,} bytes: expected {_WHAT}. Take it again from its model.")
    content = parsed(data, source, _WHAT)
    fields = Fields(content if isinstance(content, Mapping) else {}, source)
    fields.object("model").text("type", among=("BPE",))
    return Words(data, source, vocabulary)


def small_words(instructions: Iterable[str], *, words: int, vocabulary: int) -> Words:
    """A tokeniser for a small model: each word of the instructions is one token, any other is spelled.

    It is of the same kind as Llama's (byte pairs, spaces as the sign U+2581), so every code that reads the one reads
    the other. A word is built from its left, a letter at a time; which words get a token of their own is decided by
    their order, as long as there is room.

    Args:
        instructions: of the dataset.
        words: ids that are free for words; actions follow behind them.
        vocabulary: rows of the embedding.

    Raises:
        UserError: too few ids for the letters alone.
    """
    letters = [SPACE, "\n", *(chr(code) for code in range(33, 127))]
    ids = {token: number for number, token in enumerate([UNKNOWN, BOS, EOS, *letters])}
    if len(ids) > words:
        raise UserError(
            f"model.language.vocabulary leaves {words} words beside the actions, and a tokeniser of its own needs "
            f"{len(ids)}. Type model.language.vocabulary={vocabulary + len(ids) - words + 100}"
        )
    merges = []
    for word in dict.fromkeys(_pieces(["", *instructions])):
        steps = [(word[:end], word[end]) for end in range(1, len(word)) if word[: end + 1] not in ids]
        if len(ids) + len(steps) > words or any(letter not in ids for letter in word):
            continue
        for left, right in steps:
            ids[left + right] = len(ids)
            merges.append([left, right])
    content = json.dumps(_tokenizer_json(ids, merges), ensure_ascii=False).encode()
    return Words(content, "the model's own tokeniser", vocabulary)


def _pieces(instructions: Iterable[str]) -> Iterable[str]:
    """Words as they stand in prompts, each with the space before it; "Out:" stands behind a line's end."""
    for instruction in instructions:
        for line in prompt(instruction).split("\n"):
            head, *rest = line.split(" ")
            yield head if head == "Out:" else SPACE + head
            yield from (SPACE + word.rstrip("?") for word in rest)


def _tokenizer_json(ids: Mapping[str, int], merges: Sequence[Sequence[str]]) -> dict[str, object]:
    """The file in the form of Hugging Face's `tokenizers`."""
    special = [
        {
            "id": ids[name], "content": name, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for name in (UNKNOWN, BOS, EOS)
    ]  # fmt: skip
    spaces = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": spaces},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(ids),
            "merges": [list(merge) for merge in merges],
        },
    }
