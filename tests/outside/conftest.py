"""One installation of xp_toys, its demonstrations, and a training of each of its families, for all tests here."""

from pathlib import Path

import pytest
from outside_setup import EPISODES, Outside, install

TRAIN = {
    "toy_mlp": ["task=train", "model=toy_mlp", "trainer.steps=240"],
    "toy_jax": ["task=train", "model=toy_jax", "trainer.steps=240"],
}
SHORT = ["trainer.batch_size=32", "trainer.val_every=120", "trainer.checkpoint_every=80", "trainer.log_every=4",
         "lr.warmup_steps=10"]  # fmt: skip


@pytest.fixture(scope="session")
def session(tmp_path_factory) -> Outside:
    """Where what all tests share lies."""
    folder = tmp_path_factory.mktemp("outside")
    return Outside(folder, install(folder), folder / "cache")


@pytest.fixture
def outside(session, tmp_path) -> Outside:
    """A working folder of the test's own."""
    return Outside(tmp_path, session.site, session.cache)


@pytest.fixture(scope="session")
def episodes(session) -> Path:
    """Demonstrations of the toy suite in the toy format."""
    session.python(EPISODES, "episodes", "60")
    return session.cwd / "episodes"


@pytest.fixture(scope="session")
def command(episodes):
    """{family: the command that trains it}, without the run's folder."""
    return {name: [*words, f"data.root={episodes}", "env=toy_reach", *SHORT] for name, words in TRAIN.items()}


@pytest.fixture(scope="session", params=TRAIN)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def trained(session, command):
    """The run of a family, trained once: `trained(name)`."""

    def of(name: str) -> Path:
        run = session.cwd / name
        if not run.exists():
            session(*command[name], f"hydra.run.dir={run}")
        return run

    return of
