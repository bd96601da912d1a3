import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
APP = HERE / "app"
sys.path[:0] = [str(APP), str(HERE)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder; workers find the fake tasks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(APP))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.fixture
def xp(place, capsys):
    """Run the test program in this process: `code, output = xp("+experiment=chain")`."""
    import app

    def run(*overrides: str) -> tuple[int, str]:
        code = app.main([*overrides, "-m"])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A real SLURM cluster of two nodes with one GPU each, brought up once."""
    import slurm_cluster

    lacking = slurm_cluster.lacking()
    if lacking:
        pytest.skip(lacking)
    cluster = slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def on_slurm(slurm, place, monkeypatch):
    """The cluster, with this test's processes pointed at it and nothing in its queue afterwards."""
    import slurm_cluster

    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    yield slurm
    slurm.tell("scancel", "--user=root", check=False)
    slurm_cluster.wait_for(lambda: not slurm.tell("squeue", "-h", check=False))
