"""Prompts from ids, and the tokenisers that make them."""

import json

import numpy as np
import pytest
from openvla_made_up import TASKS

from xp.errors import UserError
from xp.models.openvla.text import BOS, EOS, SPACE, padded, prompt, read_words, small_words


@pytest.fixture(scope="module")
def words():
    return small_words(TASKS, words=512, vocabulary=832)


def tokens(words, instruction):
    return [words._tokenizer.id_to_token(number) for number in words.ids(instruction)]


def test_the_prompt_is_the_originals():
    assert prompt("Push the RED cube") == "In: What action should the robot take to push the red cube?\nOut:"


def test_known_words_are_one_token_and_the_prompt_ends_with_a_lone_space(words):
    found = tokens(words, TASKS[0])
    assert found[:8] == ["▁In:", "▁What", "▁action", "▁should", "▁the", "▁robot", "▁take", "▁to"]
    assert found[8:15] == ["▁push", "▁the", "▁red", "▁cube", "▁to", "▁the", "▁left"]
    assert found[15:] == ["?", "\n", "Out:", SPACE]


def test_other_words_are_spelled_and_letters_that_there_are_not_are_unknown(words):
    assert tokens(words, "zz")[8:11] == [SPACE, "z", "z"]
    assert "<unk>" in tokens(words, "pushé")


def test_special_words_have_the_ids_of_llama(words):
    assert (words.named(BOS), words.named(EOS)) == (1, 2)
    assert max(words.ids("push every ~ @ thing")) < 512


def test_a_tokeniser_is_written_and_read_as_it_is(words, tmp_path):
    assert read_words(tmp_path, 832) is None
    (tmp_path / "tokenizer.json").write_bytes(words.content)
    assert read_words(tmp_path, 832).ids(TASKS[1]) == words.ids(TASKS[1])


def test_too_few_ids_leave_long_words_spelled_and_fewer_than_letters_are_refused():
    few = small_words(TASKS, words=103, vocabulary=423)
    assert tokens(few, "x")[0] == "▁In:" and "▁What" not in tokens(few, "x") and max(few.ids(TASKS[0])) < 103
    with pytest.raises(UserError, match="model.language.vocabulary="):
        small_words(TASKS, words=50, vocabulary=370)


def test_a_tokeniser_of_another_kind_or_with_larger_ids_is_refused(words, tmp_path):
    file = tmp_path / "tokenizer.json"
    content = json.loads(words.content)
    file.write_text(json.dumps({**content, "model": {**content["model"], "type": "WordPiece"}}))
    with pytest.raises(UserError, match="model.type"):
        read_words(tmp_path, 832)
    file.write_bytes(words.content)
    with pytest.raises(UserError, match="gives ids up to"):
        read_words(tmp_path, 64).ids("push")
    file.write_text(json.dumps({**content, "model": {"type": "BPE"}}))
    with pytest.raises(UserError, match="cannot be read as a tokeniser"):
        read_words(tmp_path, 832).ids("push")


def test_rows_are_filled_at_the_front():
    ids, real = padded([[5, 6], [7, 8, 9]], 0)
    assert np.array_equal(ids, [[0, 5, 6], [7, 8, 9]])
    assert np.array_equal(real, [[False, True, True], [True, True, True]])
