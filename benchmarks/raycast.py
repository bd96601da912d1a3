"""CPU time of a camera image: the ray caster beside MuJoCo's GL renderer (shadows and multi-sampling off), in one run.

    python benchmarks/raycast.py [--sizes 96 128 224] [--frames 30]

Both draw the same states of the same expert episode, taking turns; the least of several rounds counts, since other
processes can only add. CPU time includes all threads of this process; a GPU's time is not in it.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xp.envs.arm import ArmEnv, ScriptedExpert
from xp.envs.arm.scene import TABLE
from xp.envs.mujoco_import import mujoco
from xp.envs.raycast import RayCaster
from xp.errors import UserError

ROUNDS = 5


def episode_states(env: ArmEnv, count: int) -> list:
    """`count` MjData along the expert's episode of seed 0."""
    env.reset(0)
    expert = ScriptedExpert(env)
    states = []
    for _ in range(count):
        env.step(expert.act())
        data = mujoco.MjData(env.model)
        data.qpos[:], data.mocap_pos[:] = env.data.qpos, env.data.mocap_pos
        mujoco.mj_forward(env.model, data)
        states.append(data)
    return states


def milliseconds(render: Callable, states: list) -> float:
    """CPU milliseconds a frame over all states."""
    start = time.process_time()
    for data in states:
        render(data)
    return (time.process_time() - start) / len(states) * 1e3


def side_by_side(renderers: list, camera: str, states: list) -> list[float]:
    """The least CPU ms a frame of each renderer over rounds in which they take turns."""
    rounds = [
        [milliseconds(lambda data, r=renderer: r.render(data, camera), states) for renderer in renderers]
        for _ in range(ROUNDS)
    ]
    return np.min(rounds, axis=0).tolist()


def control_step(size: int) -> float:
    """CPU ms of one control step of an env with two cameras: physics, images and all."""
    env = ArmEnv("stack", cameras={"oblique": (size, size), "wrist": (size, size)})
    best = np.inf
    for _ in range(ROUNDS):
        env.reset(0)
        expert = ScriptedExpert(env)
        actions = [expert.act() for _ in range(30)]
        start = time.process_time()
        for action in actions:
            env.step(action)
        best = min(best, (time.process_time() - start) / len(actions) * 1e3)
    return best


def processor() -> str:
    """The processor's name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()


def main() -> None:
    """Print one line a size and camera."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128, 224])
    parser.add_argument("--frames", type=int, default=30)
    options = parser.parse_args()
    env = ArmEnv("stack", cameras={})
    states = episode_states(env, options.frames)
    cameras = ("oblique", "wrist")
    try:
        from xp.envs.gl import GlRenderer, working_backend

        backend, renderer = working_backend()
        against = f"MuJoCo GL ({backend}, {renderer})"
    except UserError as error:
        GlRenderer, against = None, f"no GL here: {error}"
    print(f"mujoco {mujoco.__version__}, numpy {np.__version__}, {processor()}, {platform.platform()}")
    print(f"ray caster against {against}; CPU ms a frame (frames per CPU second)")
    print(f"{'size':>5} {'camera':>8} {'ray caster':>18} {'GL':>18} {'GL / ray caster':>16}")
    for size in options.sizes:
        sizes = {camera: (size, size) for camera in cameras}
        renderers = [RayCaster(env.model, sizes, table=TABLE), *([GlRenderer(env.model, sizes)] if GlRenderer else [])]
        for camera in cameras:
            times = side_by_side(renderers, camera, states)
            shown = [f"{ms:8.2f} ({1000 / ms:7.0f})" for ms in times] + ["-"] * (2 - len(times))
            ratio = f"{times[1] / times[0]:.2f}" if len(times) == 2 else "-"
            print(f"{size:>5} {camera:>8} {shown[0]:>18} {shown[1]:>18} {ratio:>16}")
    for size in options.sizes:
        print(f"control step with two {size}x{size} cameras, ray caster, physics included: {control_step(size):.2f} ms")


if __name__ == "__main__":
    main()
