"""Every input of `bad_inputs` is answered by one clear paragraph, and leaves nothing behind."""

import argparse
import sys
from pathlib import Path

import bad_inputs
import pytest

CPU_S = 30.0
"""Seconds of processor time here: the machine may be busy, and threads that share a core count more."""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> tuple[Path, dict[str, str], str]:
    xp = str(Path(sys.executable).with_name("xp"))
    folder = tmp_path_factory.mktemp("bad_inputs")
    return folder, bad_inputs.fixtures(xp, folder), xp


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if i % 5 else []) for i, name in enumerate(bad_inputs.CASES)],
)
def test_the_answer_is_clear(name, work):
    folder, places, xp = work
    limits = argparse.Namespace(wall=300.0, memory=8.0, cpu=CPU_S)
    _, faults, text, *_ = bad_inputs.judge(xp, folder, places, limits, name, bad_inputs.CASES[name])
    assert not faults, f"{faults}\n{text}"


def test_there_are_three_hundred_of_them():
    assert len(bad_inputs.CASES) >= 300
