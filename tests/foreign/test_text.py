"""Words from outside cannot drive a terminal."""

from hypothesis import given
from hypothesis import strategies as st

from xp.foreign.text import printable, shown


def test_what_a_terminal_would_obey_becomes_visible():
    assert printable("\x1b[2J\x07") == r"\x1b[2J\x07"
    assert printable("a\r\nb\tc") == r"a\r\nb\tc"
    assert printable("a\nb\tc\r", lines=True) == "a\nb\tc" + r"\r"
    assert printable("\u202eevil\u2028\x9b31m\ud800") == r"\u202eevil\u2028\x9b31m\ud800"


def test_ordinary_words_stay_as_they_are_and_long_ones_are_cut():
    assert printable("Größe 抓取 ü.json") == "Größe 抓取 ü.json"
    assert printable("x" * 1000, 10) == "xxxxxxxxxx... (990 more characters)"
    assert printable(None) == "None"
    assert printable(10**10_000) == "an integer of 33,220 bits"


def test_values_are_quoted_short_whatever_their_size():
    nested: object = []
    for _ in range(100_000):
        nested = [nested]
    for value in ([1] * 10**6, {"a" * 10**6: "b" * 10**6}, {str(i): i for i in range(10**5)}, "x" * 10**7, nested):
        assert len(shown(value)) <= 120
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown({"class": "os.system", "config": {"a": 1}}) == "{'class': 'os.system', 'config': ...}"
    assert shown(None) == "None"


@given(st.text())
def test_the_answer_is_printable_and_a_printable_text_is_its_own_answer(text):
    answer = printable(text, 10_000)
    assert answer.isprintable() and answer.isascii() or any(letter in text for letter in answer)
    assert answer.isprintable()
    assert printable(answer, 10**6) == answer
    assert printable(text, 10_000, lines=True).replace("\n", "").replace("\t", "").isprintable()
