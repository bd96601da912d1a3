"""Shared fixtures. JAX runs on the CPU with one worker's thread setting; nothing reaches for a network."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest-xdist a house (a folder of tests) stays in one process: its session's fixtures are made once."""
    for item in items:
        house = item.path.relative_to(CHECKOUT / "tests").parts[0]
        item.add_marker(pytest.mark.xdist_group(house))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT
