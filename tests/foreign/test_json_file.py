"""JSON from outside: bounded, and each field is what is expected or refused by name."""

import json
import math
import os
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.foreign.json_file import Fields, parsed, read_fields, read_json, read_lines, read_object
from xp.foreign.paths import MissingError, RefusedError

INFO = "the dataset's description"


def _file(tmp_path, content: str | bytes):
    path = tmp_path / "info.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_is_read_as_it_stands(tmp_path):
    content = {"a": [1, 2.5, None, True, "ü"], "b": {"c": {}}}
    assert read_json(_file(tmp_path, json.dumps(content)), INFO) == content
    assert read_object(_file(tmp_path, "\ufeff" + json.dumps(content)), INFO) == content
    assert read_json(_file(tmp_path, r'"😀"'), INFO) == "😀"


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "is not the JSON of"),
        (b"{", "is not the JSON of"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b'{"a": 1, "a": 2}', "has 'a' twice"),
        (b'"\\ud800"', "surrogate"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b"[" * 10**6, "nested deeper than 64|is not the JSON"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64"),
        (b"9" * 5000, "is not the JSON of"),
        (b"\x1b]0;x\x07", "is not the JSON of"),
    ],
)
def test_what_is_no_json_is_refused_with_the_file_and_the_reason(tmp_path, content, found):
    with pytest.raises(RefusedError, match=found) as caught:
        read_json(_file(tmp_path, content), INFO)
    message = str(caught.value)
    assert "info.json" in message and INFO in message and message.isprintable()


def test_a_file_that_is_larger_than_the_bound_is_refused_without_reading_it(tmp_path):
    path = _file(tmp_path, b"[1]")
    os.truncate(path, 10**12)  # a hole: a terabyte that takes no room
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedError, match=r"has 1,000,000,000,000 bytes: expected the dataset's description"):
        read_json(path, INFO)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert read_json(_file(tmp_path, b"[1]"), INFO, most=3) == [1]


def test_a_missing_file_is_told_apart(tmp_path):
    with pytest.raises(MissingError):
        read_json(tmp_path / "gone", INFO)


def test_anything_but_an_object_is_refused_where_an_object_is_expected(tmp_path):
    with pytest.raises(RefusedError, match=r"info.json holds \[1, 2\]: expected an object"):
        read_fields(_file(tmp_path, "[1, 2]"), INFO)


FIELDS = Fields(
    {
        "text": "abc", "int": 3, "float": 2.5, "nan": math.nan, "huge": 10**400, "true": True, "null": None,
        "texts": ["a", "b"], "ints": [1, 2], "floats": [1, 2.5], "shape": [3, 4], "object": {"inner": {"x": 1}},
        "objects": [{"x": 1}, {"x": 2}],
        "mixed": [1, "a"], "negative": [-1, 2], "absurd": [2**62, 4], "\x1bname": 1,
    },
    "info.json",
)  # fmt: skip


def test_fields_give_the_type_that_is_asked_for():
    assert FIELDS.text("text") == "abc"
    assert FIELDS.text("text", among=("abc", "d")) == "abc"
    assert FIELDS.text("text", pattern="[a-c]+") == "abc"
    assert FIELDS.integer("int", low=3, high=3) == 3
    assert FIELDS.number("int") == 3.0 and isinstance(FIELDS.number("int"), float)
    assert FIELDS.flag("true") is True
    assert FIELDS.texts("texts", count=2) == ["a", "b"]
    assert FIELDS.integers("ints", low=1) == [1, 2]
    assert FIELDS.numbers("floats") == [1, 2.5]
    assert FIELDS.shape("shape") == (3, 4)
    assert FIELDS.object("object").object("inner").integer("x") == 1
    assert [entry.integer("x") for entry in FIELDS.list_of_objects("objects")] == [1, 2]
    assert dict(FIELDS.object("object").objects())["inner"].integer("x") == 1
    assert "text" in FIELDS and "null" not in FIELDS and "gone" not in FIELDS


def test_a_missing_or_null_field_gives_the_default_and_without_one_a_refusal():
    assert FIELDS.text("gone", None) is None
    assert FIELDS.number("null", 7) == 7
    assert FIELDS.object("gone", None) is None
    assert FIELDS.list_of_objects("gone", []) == []
    with pytest.raises(RefusedError, match=r"info.json: gone is missing: expected a text"):
        FIELDS.text("gone")
    with pytest.raises(RefusedError, match=r"info.json: null is None: expected a number"):
        FIELDS.number("null")


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda f: f.text("int"), "int is 3: expected a text"),
        (lambda f: f.text("text", most=2), "text is 'abc': expected a text of at most 2 characters"),
        (lambda f: f.text("text", among=("x", "y")), "text is 'abc': expected one of x, y"),
        (lambda f: f.text("text", pattern="[0-9]+"), r"text is 'abc': expected a text of the form \[0-9\]\+"),
        (lambda f: f.integer("true"), "true is True: expected a whole number"),
        (lambda f: f.integer("float"), "float is 2.5: expected a whole number"),
        (lambda f: f.integer("int", low=4), "int is 3: expected a whole number from 4"),
        (lambda f: f.number("nan"), "nan is nan: expected a number"),
        (lambda f: f.number("huge"), "huge is 1000"),
        (lambda f: f.number("float", low=0, high=1), "float is 2.5: expected a number from 0 up to 1"),
        (lambda f: f.flag("int"), "int is 3: expected true or false"),
        (lambda f: f.texts("mixed"), "expected a list of at most 100,000 texts"),
        (lambda f: f.integers("floats"), "expected a list of"),
        (lambda f: f.integers("ints", count=3), "expected a list of exactly 3 whole numbers"),
        (lambda f: f.shape("negative"), r"negative is \[-1, 2\]: expected the shape of an array"),
        (lambda f: f.shape("absurd"), "expected the shape of an array"),
        (lambda f: f.shape("shape", most_elements=11), "with at most 11 elements in all"),
        (lambda f: f.object("ints"), "expected an object"),
        (lambda f: f.list_of_objects("ints"), "expected a list of"),
        (lambda f: f.object("object").object("inner").text("x"), "info.json: object.inner.x is 1: expected a text"),
        (lambda f: f.list_of_objects("objects")[1].text("x"), r"info.json: objects\[1\].x is 2: expected a text"),
        (lambda f: f.refuse_others(["text"]), "int is not known here: expected text"),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_what_is_there_and_what_is_expected(ask, message):
    with pytest.raises(RefusedError, match=message) as caught:
        ask(FIELDS)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_lines_are_read_one_by_one_and_refused_by_number(tmp_path):
    path = _file(tmp_path, '{"a": 1}\n\n{"a": 2}\n[3]\n')
    lines = read_lines(path, "the tasks")
    assert [next(lines).integer("a"), next(lines).integer("a")] == [1, 2]
    with pytest.raises(RefusedError, match=r"line 4 holds \[3\]: expected an object"):
        next(lines)
    with pytest.raises(RefusedError, match="more than 5 bytes"):
        list(read_lines(path, "the tasks", most=5))


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(_values)
def test_a_value_survives_or_is_refused_and_every_access_has_the_type_or_a_refusal(value):
    content = parsed(json.dumps({"x": value}, ensure_ascii=False).encode("utf-8", "surrogatepass"), "f", "it")
    if value == value:
        assert json.dumps(content) == json.dumps({"x": value})
    fields = Fields(content, "f")
    kinds = {
        "text": str,
        "integer": int,
        "number": float,
        "flag": bool,
        "texts": list,
        "integers": list,
        "numbers": list,
        "shape": tuple,
    }
    for name, kind in kinds.items():
        try:
            assert isinstance(getattr(fields, name)("x"), kind)
        except RefusedError as error:
            assert str(error).isprintable() and len(str(error)) < 600


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0123tfn.e-', max_size=60).map(str.encode))
def test_any_bytes_are_json_or_one_refusal(data):
    try:
        parsed(data, "f", "it")
    except RefusedError as error:
        assert str(error).isprintable()
