import io
import json

from xp.runs import Progress
from xp.runs.execution.progress import clock_text, print_above, seconds_left
from xp.runs.execution.streams import to_log


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_file_shows_rate_and_values_and_is_throttled(tmp_path):
    clock, file = Clock(), tmp_path / "progress.json"
    with Progress(100, "training", start=20, file=file, say=lambda line: None, clock=clock) as progress:
        written = []
        for _ in range(40):
            clock.now += 0.1
            progress.advance(loss=progress.step / 2)
            written.append(json.loads(file.read_text())["step"])
        assert len(set(written)) <= 1 + 40 * 0.1 / 0.5
        assert progress.rate == 40 / (clock.now - 100.0)
    content = json.loads(file.read_text())
    assert content["step"] == 60 and content["total"] == 100 and content["shown"] == {"loss": 29.5}
    assert list(content) == ["description", "step", "total", "unit", "rate", "shown", "time"]


def test_without_a_terminal_there_are_few_plain_lines(tmp_path):
    clock, lines = Clock(), []
    with Progress(300, "training", say=lines.append, clock=clock) as progress:
        for _ in range(300):
            clock.now += 0.1
            progress.advance(loss=0.123456)
    assert lines[0].startswith("training: ") and "10 steps/s" in lines[0] and "left" in lines[0]
    assert lines[-1] == "training: 300/300 steps, 10 steps/s, took 0:30, loss 0.1235"
    assert 2 <= len(lines) <= 4


def test_values_are_looked_at_only_when_shown(tmp_path):
    class Lazy:
        looked = 0

        def tolist(self):
            Lazy.looked += 1
            return 1.0

    clock = Clock()
    with Progress(1000, "training", file=tmp_path / "p.json", say=lambda line: None, clock=clock) as progress:
        for _ in range(1000):
            progress.advance(loss=Lazy())
        assert Lazy.looked == 0


def test_a_bar_is_drawn_on_a_terminal_and_lines_go_above_it():
    clock, terminal = Clock(), Terminal()
    with Progress(10, "training", terminal=terminal, say=lambda line: None, clock=clock) as progress:
        clock.now += 1
        progress.advance(5, loss=1.0)
        print_above("a line [not markup]\n", terminal)
    assert "5/10 steps" in terminal.getvalue() and "a line [not markup]" in terminal.getvalue()


def test_times_read_like_a_clock():
    assert [clock_text(seconds) for seconds in (7.4, 750, 11100)] == ["0:07", "12:30", "3:05:00"]
    assert seconds_left(5, 10, 0.0) is None and seconds_left(5, 10, 2.0) == 2.5


def test_what_is_printed_goes_to_the_log_and_the_terminal(tmp_path, capfd):
    with to_log(tmp_path / "log.txt", echo=True):
        print("hello")
        print("unfinished", end="")
    assert (tmp_path / "log.txt").read_text() == "hello\nunfinished"
    assert capfd.readouterr().out == "hello\nunfinished\n"


def test_a_worker_sends_even_words_of_other_languages_to_the_log(tmp_path, capfd):
    import os

    with to_log(tmp_path / "log.txt", echo=False):
        print("python")
        os.write(1, b"from below\n")
        os.write(2, b"error from below\n")
    assert (tmp_path / "log.txt").read_text() == "python\nfrom below\nerror from below\n"
    assert capfd.readouterr().out == ""


def test_a_handler_made_in_one_run_writes_to_the_log_of_the_next(tmp_path, capfd):
    import logging

    logger = logging.getLogger("a library that is imported once")
    with to_log(tmp_path / "first.txt", echo=False):
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        logger.warning("one")
    try:
        with to_log(tmp_path / "second.txt", echo=False):
            logger.warning("two")
            print("three")
        logger.warning("between")
    finally:
        logger.removeHandler(handler)
    assert (tmp_path / "first.txt").read_text() == "one\n"
    assert (tmp_path / "second.txt").read_text() == "two\nthree\n"
    assert "I/O operation on closed file" not in capfd.readouterr().err
