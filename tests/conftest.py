"""Shared fixtures. JAX runs on the CPU with one worker's thread setting; nothing reaches for a network."""

import os
import sys
from pathlib import Path

import absl.logging
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from left_behind import replaced

# Packages whose annotations (shapes by jaxtyping, all others too) are checked in every call that a test's own process
# makes; xp itself runs without these checks. Modules of flax too: their methods are decorated below `nn.compact`, their
# fields are checked when one is made. Before any of the packages is imported.
CHECKED_PACKAGES = (
    "xp.metrics",
    "xp.pictures",
    "xp.models",
    "xp.merging",
    "xp.checkpoints",
    "xp.training",
    "xp.data",
    "xp.report",
    "xp.envs.arm.arm",
    "xp.envs.gym_suite",
    "xp.envs.pusht",
    "xp.envs.quadruped",
    "xp.envs.raycast",
)
install_import_hook(CHECKED_PACKAGES, "annotation_checks.check")

from xp.runs.execution.scheduling import drop_realtime  # noqa: E402

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


# Folders whose tests share what is made once a process (a dataset, a training, an installation, a SLURM cluster): each
# stays in one process. Longest first, so that none of them begins when the other process has nothing left to do.
WHOLE = ("tasks", "docs", "outside", "launchers", "ssh", "data", "report", "act_smooth")
# Folders of files that take seconds each: they come last and fill up what the others leave.
SHORT = ("foreign", "runs", "metrics")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Under pytest-xdist what shares fixtures stays in one process: a folder of `WHOLE`, of other folders a file."""
    folder = _folder(item)
    item.add_marker(pytest.mark.xdist_group(folder if folder in WHOLE else item.path.stem))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under pytest-xdist the processes take groups in this order (Makefile: --no-loadscope-reorder)."""
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)  # stable: pytest's own order stays within a group


def _rank(item: pytest.Item) -> int:
    folder = _folder(item)
    return WHOLE.index(folder) if folder in WHOLE else len(WHOLE) + (folder in SHORT)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(CHECKOUT / "tests").parts[0]


@pytest.fixture(scope="module", autouse=True)
def nothing_of_a_test_stays_in_xp():
    """Which files of tests share a process, and in which order, is chance: each must leave xp as it was."""
    yield
    left = replaced()
    assert not left, f"put into xp and left there: {', '.join(left)}. Use monkeypatch, which takes it out again."


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch):
    """`offer(group, name="MODULE:ATTRIBUTE", distribution="toy")`: as if an installed package offered that part."""
    from xp import plugins

    made, real = [], plugins.declared
    monkeypatch.setattr(plugins, "declared", lambda group: [*real(group), *(e for e in made if e.group == group)])

    def add(group: str, *, distribution: str = "toy", **values: str) -> None:
        made.extend(plugins.Entry(group, name, value, (distribution,)) for name, value in values.items())
        plugins.read_again()

    yield add
    monkeypatch.undo()
    plugins.read_again()
