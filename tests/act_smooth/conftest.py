"""The arrays that the first ACT-smooth computed, and a small dataset."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def reference(checkout):
    """The folder of reference arrays."""
    folder = checkout.parent / "shared/reference/act_smooth"
    if not folder.is_dir():
        pytest.skip("the arrays of the first ACT-smooth are not beside this checkout (../shared/reference/act_smooth)")
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A LeRobot dataset: four episodes of 20 frames at 10 fps, three joints and one camera of 32 x 32 pixels."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    joints = {"dtype": "float32", "shape": (3,), "names": ["joint_0", "joint_1", "joint_2"]}
    camera = {"dtype": "image", "shape": (32, 32, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": joints, "observation.images.front": camera, "action": joints}
    made = LeRobotDataset.create(
        "local/joints", fps=10, root=tmp_path_factory.mktemp("data") / "joints", use_videos=False, features=features
    )
    random = np.random.default_rng(0)
    for _ in range(4):
        for row in random.normal(size=(20, 3)).cumsum(0).astype(np.float32):
            image = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            made.add_frame(
                {"observation.state": row, "observation.images.front": image, "action": row, "task": "go there"}
            )
        made.save_episode()
    made.finalize()
    return made.root
