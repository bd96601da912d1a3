"""Shared fixtures. JAX runs on the CPU with one worker's thread setting; nothing reaches for a network."""

import os
import sys
from pathlib import Path

import absl.logging
import pytest
from hypothesis import settings

from xp.runs.execution.scheduling import drop_realtime

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

# absl keeps the stderr of the time of its import and closes it when logging is set up anew, as submitit does when it is
# imported: in a test that captures, that would be pytest's own file.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# Tests write videos by LeRobot itself too, whose encoder makes the process of a root user a real-time one.
drop_realtime()

CHECKOUT = Path(__file__).resolve().parents[1]

# A shared machine may stop for longer than any deadline. `make test` draws the same examples every time, so that a
# change is judged by what it changes; `make test-all` draws new ones (--hypothesis-profile=random).
settings.register_profile("random", deadline=None, print_blob=True)
settings.register_profile("repeatable", settings.get_profile("random"), derandomize=True)
settings.load_profile("repeatable")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Under pytest-xdist a house (a folder of tests) stays in one process: its session's fixtures are made once."""
    house = item.path.relative_to(CHECKOUT / "tests").parts[0]
    item.add_marker(pytest.mark.xdist_group(house))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT
