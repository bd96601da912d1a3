"""A log on a terminal: its last lines, whatever its size, and nothing in it that the terminal would obey."""

import os

from hypothesis import given
from hypothesis import strategies as st

from xp.tasks import attach


def printed(log, capsys, lines=20):
    position = attach._tail(log, lines)
    while (after := attach._copy(log, position)) != position:
        position = after
    return capsys.readouterr().out


def test_what_a_terminal_would_obey_is_shown_as_text(tmp_path, capsys):
    log = tmp_path / "log.txt"
    log.write_bytes(b"one\n\x1b]0;title\x07\x1b[2Jtwo\r\nthree\t\xff\n")
    out = printed(log, capsys)
    assert "\x1b" not in out and "\x07" not in out
    assert out == "one\n\\x1b]0;title\\x07\\x1b[2Jtwo\nthree\t\ufffd\n"


def test_a_log_of_any_size_is_read_from_its_end(tmp_path, capsys):
    log = tmp_path / "log.txt"
    with log.open("wb") as handle:
        handle.truncate(1 << 40)  # a terabyte of nothing
        handle.seek(1 << 40)
        handle.write(b"\nlast but one\nlast\n")
    assert printed(log, capsys, lines=2) == "last but one\nlast\n"


def test_what_is_no_file_has_no_lines(tmp_path, capsys):
    os.mkfifo(tmp_path / "log.txt")
    assert printed(tmp_path / "log.txt", capsys) == ""
    assert printed(tmp_path / "nothing", capsys) == ""


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20), st.integers(0, 30))
def test_the_last_lines_are_the_last_lines(tmp_path_factory, text, lines):
    log = tmp_path_factory.mktemp("log") / "log.txt"
    content = [f"{text}{number}\n" for number in range(25)]
    log.write_text("".join(content))
    with log.open("rb") as handle:
        assert handle.read()[attach._tail(log, lines) :].decode() == "".join(content[-lines:] if lines else [])
