"""LeRobot's own commands run what xp trains, and xp takes what they train: in a suite, as env and as robot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tasks_setup import environment

pytestmark = pytest.mark.slow
SIZE = 32
SMALL = [
    "task=train", f"model.image_size=[{SIZE},{SIZE}]", "horizon.train=6", "trainer.steps=4", "trainer.batch_size=4",
    "trainer.val_every=null", "trainer.accelerator=cpu",
]  # fmt: skip
MODELS = {
    "act": ["model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32"],
    "act_smooth": [
        "model=act_smooth", "model.dim_model=32", "model.n_heads=4", "model.dim_feedforward=32",
        "model.n_encoder_layers=1", "model.length_prefix_past=2", "model.length_prefix_future=3",
        "action_space=relative", "action_space.anchor=last_prefix",
    ],
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory, cache, arm):
    """A run of xp, and the name of its model."""
    from tasks_setup import Xp

    folder = tmp_path_factory.mktemp(request.param)
    Xp(folder, cache)(*SMALL, *MODELS[request.param], f"data.root={arm}", "hydra.run.dir=run")
    return folder / "run", request.param


def lerobot(command, *arguments, cwd):
    script = Path(sys.executable).with_name(f"lerobot-{command}")
    place = {**environment(), "HF_HOME": str(cwd / "hf"), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    done = subprocess.run(
        [str(script), *arguments], cwd=cwd, env=place, capture_output=True, text=True, timeout=560,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def test_lerobot_eval_runs_an_episode(run, tmp_path):
    lerobot(
        "eval", f"--policy.path={run[0] / 'final'}", "--policy.device=cpu",
        "--env.discover_packages_path=xp.envs.lerobot_bridge", "--env.type=xp_suite", "--env.suite=arm",
        "--env.task=push_red",
        f"--env.height={SIZE}", f"--env.width={SIZE}", "--env.max_steps=14", "--eval.n_episodes=1",
        "--eval.batch_size=1", "--seed=1000000", f"--output_dir={tmp_path / 'out'}", cwd=tmp_path,
    )  # fmt: skip
    info = json.loads((tmp_path / "out/eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 1 and info["overall"]["pc_success"] in (0.0, 100.0)
    assert list((tmp_path / "out").rglob("*.mp4"))


def test_lerobot_rollout_drives_the_arm_and_act_smooth_in_real_time(run, tmp_path):
    folder, model = run
    inference = ["--inference.type=rtc", "--inference.rtc.execution_horizon=6", "--inference.queue_threshold=4"]
    said = lerobot(
        "rollout", f"--policy.path={folder / 'final'}", "--device=cpu", "--fps=10", "--duration=14",
        "--robot.discover_packages_path=xp.envs.lerobot_bridge", "--robot.type=xp_suite", "--robot.suite=arm",
        "--robot.task=push_red",
        f"--robot.height={SIZE}", f"--robot.width={SIZE}", "--task=push the red cube to the target",
        "--play_sounds=false", "--return_to_initial_position=false",
        *(inference if model == "act_smooth" else []), cwd=tmp_path,
    )  # fmt: skip
    assert "xp_suite: 0 of 1 episodes solved" in said or "xp_suite: 1 of 1 episodes solved" in said
    assert "Rollout finished" in said and "Traceback" not in said


def test_lerobot_train_goes_on_from_it_and_xp_takes_the_result(run, xp, arm, tmp_path):
    from safetensors.numpy import load_file

    lerobot(
        "train", f"--policy.path={run[0] / 'final'}", "--policy.device=cpu", "--policy.push_to_hub=false",
        "--dataset.repo_id=local/arm", f"--dataset.root={arm}", "--steps=2", "--save_freq=2", "--batch_size=4",
        "--num_workers=0", "--wandb.enable=false", f"--output_dir={tmp_path / 'out'}", cwd=tmp_path,
    )  # fmt: skip
    result = tmp_path / "out/checkpoints/last/pretrained_model"
    before, after = (load_file(folder / "model.safetensors") for folder in (run[0] / "final", result))
    assert before.keys() == after.keys()
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert moved and all(np.abs(before[name] - after[name]).max() < 1e-2 for name in moved)
    xp("task=predict", f"predict.checkpoint={result}", f"predict.data_root={arm}", "predict.num_trajectories=1",
       "horizon.predict=4", "hydra.run.dir=predicted")  # fmt: skip
    assert json.loads((xp.cwd / "predicted/metrics.json").read_text())["num_windows"] > 10


def test_the_env_keeps_gymnasiums_contract_and_is_the_suites():
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    from xp.envs.arm import ArmEnv, ScriptedExpert
    from xp.envs.lerobot_bridge import SuiteGymEnv

    env = SuiteGymEnv("arm", task="push_red", cameras=("wrist",), height=16, width=24, max_steps=90)
    check_env(env, skip_render_check=True)
    assert isinstance(env, gymnasium.Env) and env.render().shape == (16, 24, 3)
    plain = ArmEnv("push_red", cameras={"wrist": (16, 24)}, max_steps=90)
    expert = ScriptedExpert(plain)
    seen, wanted = env.reset(seed=5)[0], plain.reset(5)
    expert.reset(5)
    solved, reward = False, 0.0
    while not solved:
        np.testing.assert_array_equal(seen["pixels"]["wrist"], wanted["observation.images.wrist"])
        np.testing.assert_array_equal(seen["agent_pos"], wanted["observation.state"])
        action = expert.act()
        wanted = plain.step(action).observation
        seen, gained, solved, truncated, info = env.step(np.float32(action))
        reward += gained
        assert not truncated and info["is_success"] == solved
    assert reward == 1.0


def test_the_robot_gives_and_takes_what_it_says(tmp_path):
    from xp.envs.lerobot_bridge import XpSuite, XpSuiteConfig

    robot = XpSuite(
        XpSuiteConfig(
            suite="arm", id="made_up", calibration_dir=tmp_path, task="push_red", views=["wrist"], height=16, width=16
        )
    )
    with pytest.raises(RuntimeError, match="not connected"):
        robot.get_observation()
    with robot:
        seen = robot.get_observation()
        assert seen.keys() == robot.observation_features.keys() and seen["wrist"].shape == (16, 16, 3)
        sent = robot.send_action({**{name: seen[name] for name in robot.action_features}, "gripper.pos": 7.0})
        assert sent["gripper.pos"] == 1.0 and sent.keys() == robot.action_features.keys()
        for _ in range(100):
            robot.send_action({name: seen[name] for name in robot.action_features})
        assert (robot.episodes, robot.solved) == (1, 0)
    assert not robot.is_connected
