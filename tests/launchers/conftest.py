import sys
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parent / "app"
sys.path.insert(0, str(APP))


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
