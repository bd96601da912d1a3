"""A hub on loopback, and a client whose cache is empty: nothing reaches the hub that there is."""

import sys
from pathlib import Path

import pytest
from hub_server import Hub

from xp.hub import inputs

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("data", "tasks")]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub without repositories, which this process and those that it starts take for the hub."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    made = Hub()
    home = tmp_path / "hf"
    for name, value in {"HF_ENDPOINT": made.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    inputs.forget()
    close_session()
    yield made
    inputs.forget()
    close_session()
    made.stop()


@pytest.fixture
def offline(monkeypatch):
    """`offline()`: as if HF_HUB_OFFLINE had been set when the process began."""
    from huggingface_hub import constants

    def set_it() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        inputs.forget()

    return set_it


@pytest.fixture
def token(monkeypatch):
    """Logged in as somebody who may see and change everything."""
    monkeypatch.setenv("HF_TOKEN", "good-token")


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A LeRobotDataset v3.0 of two episodes with a camera."""
    import numpy as np
    from data_small import write_small

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (7, 16, 16, 3), np.uint8)
    return write_small(tmp_path / "dataset", state=rng.normal(size=(7, 2)), images={"observation.images.top": frames})
