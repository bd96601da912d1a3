"""A small recorded dataset and a run trained on it, made once for all tests of tasks."""

from pathlib import Path

import pytest
from tasks_setup import EVERY, SMALL, Xp


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Decoded frames and compiled programs of the session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def xp(tmp_path, cache) -> Xp:
    """xp in an empty folder."""
    return Xp(tmp_path, cache)


@pytest.fixture(scope="session")
def arm(tmp_path_factory, cache) -> Path:
    """Twelve expert episodes of two tasks, 32 px."""
    folder = tmp_path_factory.mktemp("arm")
    Xp(folder, cache)(
        "task=collect",
        "data.root=dataset",
        "env.tasks=[red_to_target,push_red]",
        "env.cameras={oblique: [32, 32], wrist: [32, 32]}",
        "collect.episodes=6",
        "collect.workers=1",
    )
    return folder / "dataset"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, cache, arm) -> Path:
    """A run of twelve steps at horizon 4."""
    folder = tmp_path_factory.mktemp("trained")
    Xp(folder, cache)("task=train", f"data.root={arm}", *SMALL, "trainer.steps=12", *EVERY, "hydra.run.dir=run")
    return folder / "run"
