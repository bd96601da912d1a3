"""Datasets to test on, written once per session by LeRobot itself."""

import importlib.util
from pathlib import Path

import pytest
from data_written import CAMERAS, Written, episodes_to_write, together, write
from hypothesis import settings

# How long an example takes says something about the machine's load, not about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Images as PNG in parquet, written by xp through LeRobot."""
    return write(tmp_path_factory.mktemp("sets") / "images", use_videos=False)


@pytest.fixture(scope="session")
def video_set(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """All episodes of a camera in one mp4, written by xp through LeRobot."""
    return write(tmp_path_factory.mktemp("sets") / "videos", use_videos=True)


@pytest.fixture(scope="session")
def parts_set(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Videos and data in several files, written by LeRobot's API alone (tiny file size limits)."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = tmp_path_factory.mktemp("sets") / "parts"
    names = ["height", "width", "channels"]
    features: dict = {
        f"observation.images.{n}": {"dtype": "video", "shape": (*s, 3), "names": names} for n, s in CAMERAS.items()
    }
    features["observation.state"] = {"dtype": "float32", "shape": (4,), "names": None}
    features["action"] = {"dtype": "float32", "shape": (3,), "names": {"motors": ["x", "y", "z"]}}
    dataset = LeRobotDataset.create(
        "local/parts", 10, features, root=root, video_backend="pyav",
        data_files_size_in_mb=0.004, video_files_size_in_mb=0.006,  # type: ignore[arg-type]
    )  # fmt: skip
    for task, images, state, action in episodes_to_write():
        for i in range(len(action)):
            frame = {f"observation.images.{name}": images[name][i] for name in CAMERAS}
            dataset.add_frame({**frame, "observation.state": state[i], "action": action[i], "task": task})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return together(root)


@pytest.fixture(scope="session")
def ffmpeg_environment(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which torchcodec finds FFmpeg's libraries (PyAV's, as the loader benchmark lends them)."""
    spec = importlib.util.spec_from_file_location("loader_benchmark", checkout / "benchmarks" / "loader.py")
    assert spec and spec.loader
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    environment = loader.environment_with_ffmpeg(tmp_path_factory.mktemp("ffmpeg"))
    if environment is None:
        pytest.skip("PyAV brings no FFmpeg libraries that torchcodec could use here")
    return environment
