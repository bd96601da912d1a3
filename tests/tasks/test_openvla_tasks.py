"""An OpenVLA goes through what every torch family goes through: killed and resumed, asked, merged, simulated."""

import json
import signal
import time

import pytest
from tasks_setup import EVERY

SMALL = [
    "model=openvla_tiny", "model.image_size=[24,24]", "model.patch=12", "model.dino.width=16", "model.dino.mlp=32",
    "model.siglip.width=16", "model.siglip.mlp=32", "model.language.width=32", "model.language.mlp=48",
    "horizon.train=4", "trainer.batch_size=4", "trainer.val_windows=8", "lr.warmup_steps=2", "trainer.steps=12", *EVERY,
]  # fmt: skip
CAMERAS = "env.cameras={oblique: [32, 32], wrist: [32, 32]}"


def final(run) -> bytes:
    return (run / "final" / "model.safetensors").read_bytes()


def whole_and_killed(xp, *command):
    """Train twice, without a break into `whole`; into `killed` with a kill behind the first checkpoint."""
    xp(*command, "hydra.run.dir=whole")
    process = xp.start(*command, "hydra.run.dir=killed")
    deadline = time.monotonic() + 600
    while not (xp.cwd / "killed/checkpoints/checkpoint-4").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (xp.cwd / "killed/final").exists()
    xp(*command, "hydra.run.dir=killed")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["autoregressive", "parallel"])
def test_a_killed_training_ends_in_the_same_bytes_and_validation_changes_nothing(xp, arm, mode):
    command = ["task=train", f"data.root={arm}", *SMALL, f"model.chunk_mode={mode}"]
    whole_and_killed(xp, *command)
    assert final(xp.cwd / "killed") == final(xp.cwd / "whole")
    xp(*command, "trainer.val_every=12", "hydra.run.dir=seldom")
    assert final(xp.cwd / "seldom") == final(xp.cwd / "whole")


@pytest.mark.slow
def test_what_is_trained_is_asked_merged_started_from_and_simulated(xp, arm):
    xp("task=train", f"data.root={arm}", *SMALL, "hydra.run.dir=run")
    notes = json.loads((xp.cwd / "run/final/xp.json").read_text())
    assert notes["chunk_mode"] == "autoregressive" and notes["effective_hz"] == notes["fps"] / 4
    xp("task=predict", "predict.checkpoint=run", "predict.bootstrap=20", "hydra.run.dir=p")
    metrics = json.loads((xp.cwd / "p/metrics.json").read_text())
    assert metrics["mae"] > 0 and "image_sensitivity" in metrics
    xp("task=merge", "merge_method=average", "merge.checkpoints=[run/checkpoints/checkpoint-8,run/final]",
       "merge.output=merged", "hydra.run.dir=m")  # fmt: skip
    xp("task=eval", "eval.checkpoint=merged", "env.tasks=[red_to_target]", CAMERAS, "chunk_size=c4", "eval.episodes=1",
       "eval.videos=0", "env.max_steps=8", "eval.allow_blind=true", "hydra.run.dir=e")  # fmt: skip
    assert "policy" in json.loads((xp.cwd / "e/metrics.json").read_text())["policies"]
    said = xp("task=train", f"data.root={arm}", *SMALL, "pretrained_path=merged", "model.chunk_mode=parallel",
              "model.head=l1", "model.proprio=true", "hydra.run.dir=next")  # fmt: skip
    assert "Freshly initialised" in said.stdout + said.stderr


@pytest.mark.slow
def test_a_killed_training_of_an_adapter_ends_in_the_same_bytes_and_becomes_one_policy_with_its_base(xp, arm):
    xp("task=train", f"data.root={arm}", *SMALL, "trainer.steps=4", "hydra.run.dir=base")
    lora = "model.lora={r: 4, alpha: 8, dropout: 0.1, targets: [q_proj, v_proj, fc1]}"
    whole_and_killed(xp, "task=train", f"data.root={arm}", *SMALL, "pretrained_path=base", lora)
    for name in ("adapter_model.safetensors", "adapter_config.json", "dataset_statistics.json", "xp.json"):
        one, two = (xp.cwd / run / "final" / name for run in ("whole", "killed"))
        assert one.read_bytes() == two.read_bytes(), name
    assert not (xp.cwd / "whole/final/model.safetensors").exists()
    said = xp("task=predict", "predict.checkpoint=whole", "hydra.run.dir=refused", code=2)
    assert "merge.base=BASE" in said.stdout + said.stderr
    xp("task=merge", "merge_method=average", "merge.checkpoints=[whole]", "merge.base=base",
       "merge.output=merged", "hydra.run.dir=m")  # fmt: skip
    xp("task=predict", "predict.checkpoint=merged", f"predict.data_root={arm}", "predict.bootstrap=20",
       "hydra.run.dir=p")  # fmt: skip
    assert json.loads((xp.cwd / "p/metrics.json").read_text())["motion"]["l1_error"]["value"] > 0


COLUMNS = "step,epoch,val_loss,l1_error,direction_accuracy,gripper_accuracy,position_l1,rotation_l1,timestamp"
FIGURES = {"training_loss.png", "validation_metrics.png", "loss_comparison.png", "learning_rate.png"}


@pytest.mark.slow
def test_chunked_vla_goes_from_demonstrations_to_closed_loop(xp):
    small = [each for each in SMALL if each.startswith("model.")]
    xp("+experiment=chunked_vla", "-m", *small, "debug=fast", "env.cameras={oblique: [32, 32]}", "env.max_steps=60",
       timeout=3000)  # fmt: skip
    root = xp.cwd / "multirun/chunked_vla_fast"
    names = {path.name for path in root.iterdir() if path.name.startswith("chunk")}
    assert names == {
        "chunk4_autoregressive_token", "chunk4_subsample_token", "chunk4_accumulate_token", "chunk4_parallel_token",
        "chunk4_parallel_l1", "chunk5_parallel_l1", "chunk7_parallel_l1",
    }  # fmt: skip
    for name in names:
        run = root / name
        assert (run / "validation_log.csv").read_text().splitlines()[0] == COLUMNS
        assert (run / "training_log.csv").read_text().startswith("step,epoch,loss,lr")
        assert {path.name for path in (run / "figures").iterdir()} == FIGURES
        for part in ("config.json", "summary.json", "best", "final", "checkpoints/checkpoint-4"):
            assert (run / part).exists(), f"{name}/{part}"
        motion = json.loads((root / f"predict_{name}/metrics.json").read_text())["motion"]
        assert {"direction_accuracy", "gripper_accuracy", "rotation_l1"} <= motion.keys()
        assert "majority" in motion["direction_accuracy"]
        assert "noop" in json.loads((root / f"success_{name}/metrics.json").read_text())["policies"]
    assert (root / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_mixture_is_trained_on_validated_and_asked_by_dataset(xp, arm):
    """One dataset under two names, so that both have one width of actions."""
    mix = f"data.mix={{a: {{root: {arm}, weight: 0.7}}, b: {{root: {arm}, weight: 0.3, tasks: ['push*']}}}}"
    xp("task=train", "data=mix", mix, *SMALL, "trainer.steps=4", "hydra.run.dir=run")
    summary = json.loads((xp.cwd / "run/summary.json").read_text())
    assert {name: each["share"]["asked"] for name, each in summary["data"]["members"].items()} == {"a": 0.7, "b": 0.3}
    assert all(f"{name}/l1_error" in summary["final_metrics"] for name in "ab")
    more = ["predict.checkpoint=run", "horizon=h4", "predict.num_trajectories=1"]
    xp("task=predict", *more, "predict.unnorm_key=b", "hydra.run.dir=b")
    done = xp("task=predict", *more, "hydra.run.dir=none", code=2)
    assert "a, b" in done.stderr
