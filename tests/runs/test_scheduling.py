"""No library makes xp a real-time process that pushes a machine's other work aside."""

import os
import subprocess
import sys

import pytest

ENCODE = """
import os, sys
from contextlib import nullcontext
import av, numpy as np
from xp.runs.execution.scheduling import ordinary_scheduling

def policies():
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}

def encode(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("libsvtav1", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for n in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * n, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        during = policies()
        for packet in stream.encode():
            container.mux(packet)
    return during | policies()

with ordinary_scheduling():
    guarded = encode(sys.argv[1])
bare = encode(sys.argv[1])
print(guarded == {os.SCHED_OTHER}, os.SCHED_FIFO in bare)
"""
WRITE = """
import os, sys
import numpy as np
from xp.data.lerobot.writer import LeRobotWriter
from xp.envs import write_video
from pathlib import Path

images = np.zeros((4, 64, 64, 3), np.uint8)
folder = Path(sys.argv[1])
with LeRobotWriter(folder / "data", fps=10, cameras={"top": (64, 64)}, state_names=["x"], action_names=["x"],
                   robot_type="none", use_videos=True) as writer:
    writer.add_episode("look", {"top": images}, np.zeros((4, 1)), np.zeros((4, 1)))
write_video(folder / "episode.mp4", images, 10)
print({os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")} == {os.SCHED_OTHER})
"""

ASK = """
import os
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except PermissionError:
    print(False)
else:
    print(True)
"""
"""Whether a process may become a real-time one here: root's may not in a control group without a share of such time."""


def _run(program, *arguments):
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask for real-time scheduling")
def test_the_encoder_of_roots_process_stays_an_ordinary_one_in_the_block_and_the_right_comes_back(tmp_path):
    assert _run(ENCODE, tmp_path / "x.mp4") == ["True", *_run(ASK)]


def test_writing_a_dataset_with_videos_and_an_episode_leaves_the_process_an_ordinary_one(tmp_path):
    assert _run(WRITE, tmp_path)[-1] == "True"
