"""Synthetic experiments as fixtures; they are built in report_experiments.py."""

import pytest
from report_experiments import HORIZONS, cell_metrics, write_multi_horizon, write_sweep

from xp.report.read import read_experiment


@pytest.fixture(scope="session")
def cells():
    """The nine metrics dicts, computed once."""
    return {(t, p): cell_metrics(t, p) for t in HORIZONS for p in HORIZONS}


@pytest.fixture
def broken_experiment(tmp_path, cells):
    """Nine cells, of which one failed and one is missing."""
    return write_multi_horizon(tmp_path / "multi_horizon", cells)


@pytest.fixture
def whole_experiment(tmp_path, cells):
    """All nine cells done."""
    return write_multi_horizon(tmp_path / "multi_horizon", cells, failed=None, missing=None)


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "lr_sweep")


@pytest.fixture
def read():
    return read_experiment
