"""A suite, a merge method and a launcher from outside at work, with own parts and with one another."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from xp.checkpoints.flax_msgpack import read_tree, write_tree


def read(path):
    return json.loads(path.read_text())


# --- merging


def test_checkpoints_of_a_family_from_outside_are_merged_by_an_own_method(outside, trained):
    run = trained("toy_mlp")
    outside("task=merge", "merge_method=average", f"merge.checkpoints=[{run}@160,{run}@240]", "hydra.run.dir=m")
    parts = [load_file(run / f"checkpoints/checkpoint-{step}/model.safetensors") for step in (160, 240)]
    merged = load_file(outside.cwd / "m/final/model.safetensors")
    assert merged.keys() == parts[0].keys()
    for name, array in merged.items():
        np.testing.assert_allclose(array, (parts[0][name] + parts[1][name]) / 2, atol=1e-6)
    outside("task=eval", "env=toy_reach", "eval.checkpoint=m", "eval.episodes=8", "eval.videos=0",
            "eval.controls=false", "hydra.run.dir=e")  # fmt: skip
    assert read(outside.cwd / "e/metrics.json")["policies"]["policy"]["all"]["success_rate"] >= 0.6


def test_a_method_from_outside_has_its_closed_form_on_checkpoints_of_any_kind(outside, trained):
    run, power = trained("toy_jax"), 2.0
    outside("task=merge", "merge_method=toy_power", f"merge_method.power={power}",
            f"merge.checkpoints=[{run}@160,{run}@240]", "merge.output=toy", "hydra.run.dir=m")  # fmt: skip
    parts = [load_file(run / f"checkpoints/checkpoint-{step}/model.safetensors") for step in (160, 240)]
    for name, array in load_file(outside.cwd / "toy/model.safetensors").items():
        np.testing.assert_allclose(array, 0.2 * parts[0][name] + 0.8 * parts[1][name], atol=1e-6)
    assert read(outside.cwd / "m/merge.json")["weights"] is not None
    for number, name in enumerate("abc"):
        place = outside.cwd / name / "100" / "default"
        place.mkdir(parents=True)
        write_tree(place / "checkpoint", {"layer": {"kernel": np.full((2, 3), float(number), np.float32)}})
    outside("task=merge", "merge_method=toy_power", "merge.checkpoints=[a,b,c]", "merge.output=octo", "hydra.run.dir=o")
    (file,) = (outside.cwd / "octo").glob("*/default/checkpoint")
    np.testing.assert_allclose(read_tree(file)["layer"]["kernel"], (0 * 1 + 1 * 2 + 2 * 3) / 6, atol=1e-6)


@pytest.mark.slow
def test_weights_of_a_family_from_outside_are_chosen_by_its_loss_on_a_dump(outside, trained, family):
    run = trained(family)
    outside("task=dump", f"dump.checkpoint={run}", "dump.samples=32", "dump.output=val.npz", "hydra.run.dir=d")
    outside("task=merge", "merge_method=gradient_descent", "merge_method.iterations=5", "merge.validation=val.npz",
            f"merge.checkpoints=[{run}@160,{run}@240]", "hydra.run.dir=m")  # fmt: skip
    assert read(outside.cwd / "m/summary.json")["loss"] > 0


# --- the suite


@pytest.mark.slow
def test_the_expert_is_recorded_as_a_dataset_and_trained_on_by_an_own_model(outside):
    outside("task=collect", "env=toy_reach", "env.tasks=[reach,avoid]", "data.root=d", "collect.episodes=6",
            "collect.workers=2", "hydra.run.dir=c")  # fmt: skip
    tasks = read(outside.cwd / "c/summary.json")["tasks"]
    assert {name: entry["num_success"] for name, entry in tasks.items()} == {"reach": 6, "avoid": 6}
    short = ["trainer.steps=4", "trainer.batch_size=4", "trainer.val_every=4", "lr.warmup_steps=1", "horizon.train=2"]
    outside("task=train", "model=act_tiny", "model.image_size=null", "model.dim_model=32", "data.root=d", *short,
            "hydra.run.dir=act")  # fmt: skip
    outside("task=eval", "env=toy_reach", "eval.checkpoint=act", "eval.episodes=2", "eval.videos=1", "chunk_size=c1",
            "env.max_steps=5", "hydra.run.dir=e")  # fmt: skip
    assert len(list((outside.cwd / "e/videos").glob("*.mp4"))) == 1


def test_the_expert_is_recorded_in_the_format_of_the_package(outside):
    collect = ["task=collect", "collect.format=toy_npz", "env=toy_reach", "env.tasks=[reach,avoid]", "data.root=d",
               "collect.episodes=2", "collect.workers=1"]  # fmt: skip
    assert "no environment state and no videos" in outside.refused(*collect, "collect.use_videos=true")
    assert not (outside.cwd / "d").exists()
    outside(*collect, "hydra.run.dir=c")
    assert {path.name for path in outside.cwd.glob("d/*")} == {"toy.json", *(f"episode_{n}.npz" for n in range(4))}
    said = outside.python(
        "from xp.data import open_dataset\n"
        "data = open_dataset('d')\n"
        "frames = [len(pixels) for _, pixels in data.read_frames('above', (32, 32), 'stored')]\n"
        "print(data.episodes.tasks, float(data.fps), data.action.shape[1], sum(frames) == data.num_frames > 8)"
    )
    near, far = ("go to the red square",) * 2, ("go away from the red square",) * 2
    assert said == f"{near + far} 10.0 2 True\n"
    assert "d exists already" in outside.refused(*collect, "hydra.run.dir=again")


def test_the_experts_succeed_and_fail_as_the_suite_says(outside):
    said = outside.python(
        "from xp.envs import collect_episode, suite_named\n"
        "suite = suite_named('toy_reach', {'fps': 10, 'max_steps': None, 'radius': 0.2})\n"
        "for task in suite.tasks:\n"
        "    env = suite.make(task, cameras={'above': (16, 24)})\n"
        "    good = [collect_episode(env, suite.expert(env, noise=0.05, seed=1), seed) for seed in range(20)]\n"
        "    again = collect_episode(env, suite.expert(env, noise=0.05, seed=1), 3)\n"
        "    bad = [collect_episode(env, suite.failing_expert(env, 'mirrored'), seed).success for seed in range(20)]\n"
        "    same = (again.action == good[3].action).all() and again.images['above'].shape[1:] == (16, 24, 3)\n"
        "    print(sum(each.success for each in good), sum(bad), same)\n"
    )
    for line in said.splitlines():
        good, bad, same = line.split()
        assert int(good) >= 19 and int(bad) <= 4 and same == "True", said


# --- the launcher


def test_a_sweep_runs_in_processes_of_its_own_and_is_skipped_when_it_is_done(outside, episodes):
    sweep = ["task=split", "-m", f"data.root={episodes}", "split.seed=1,2,3", "hydra/launcher=toy_processes",
             "hydra.sweep.dir=s"]  # fmt: skip
    outside(*sweep)
    records = [read(path) for path in sorted(outside.cwd.glob("s/*/record.json"))]
    assert [record["state"] for record in records] == ["done"] * 3 and len({record["pid"] for record in records}) == 3
    before = [path.read_bytes() for path in sorted(outside.cwd.glob("s/*/record.json"))]
    outside(*sweep)
    assert [path.read_bytes() for path in sorted(outside.cwd.glob("s/*/record.json"))] == before


def test_a_job_that_fails_is_told_and_the_others_are_done(outside, episodes):
    said = outside("task=split", "-m", f"data.root={episodes}", "data.tasks=null,['no such*']", "hydra.sweep.dir=s",
                   "hydra/launcher=toy_processes", "hydra.launcher.n_jobs=1", code=2)  # fmt: skip
    assert "no such*" in said


@pytest.mark.slow
def test_a_sweep_whose_controller_is_killed_leaves_nothing_at_work_and_goes_on(outside, command):
    sweep = [*command["toy_mlp"], "-m", "seed=1,2", "trainer.steps=2000", "hydra/launcher=toy_processes",
             "hydra.launcher.n_jobs=2", "hydra.sweep.dir=s"]  # fmt: skip
    controller = outside.start(*sweep)
    logs = [outside.cwd / "s" / f"seed_{seed}" / "training_log.csv" for seed in (1, 2)]
    deadline = time.monotonic() + 300
    while not all(log.is_file() and len(log.read_text().splitlines()) > 30 for log in logs):
        assert controller.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    records = [log.with_name("record.json") for log in logs]
    while not all(read(record).get("interrupted") for record in records):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while any(at_work(read(record)["pid"]) for record in records):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    outside(*sweep[:-4], "hydra/launcher=toy_processes", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=s",
            "trainer.steps=2000", timeout=900)  # fmt: skip
    assert [read(record)["state"] for record in records] == ["done", "done"]
    assert all(read(record)["attempts"] == 2 for record in records)


@pytest.mark.slow
def test_a_sweep_that_is_cancelled_leaves_checkpoints_and_goes_on(outside, command):
    sweep = [*command["toy_mlp"], "-m", "seed=1,2", "hydra/launcher=toy_processes", "hydra.launcher.n_jobs=1",
             "hydra.sweep.dir=s", "trainer.steps=1500"]  # fmt: skip
    controller = outside.start(*sweep)
    first, second = (outside.cwd / "s" / f"seed_{seed}" for seed in (1, 2))
    deadline = time.monotonic() + 300
    while not (first / "training_log.csv").is_file() or len((first / "training_log.csv").read_text().splitlines()) < 10:
        assert controller.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert "running" in outside("task=status", "status.folder=s", "status.live=false")
    outside("task=cancel", "cancel.folder=s")
    controller.wait(120)
    record = read(first / "record.json")
    assert record["state"] != "running" and not at_work(record["pid"]) and not (first / "final").exists()
    assert list((first / "checkpoints").glob("checkpoint-*"))
    assert read(second / "record.json")["attempts"] == 0
    outside(*sweep, timeout=900)
    assert [read(folder / "record.json")["state"] for folder in (first, second)] == ["done", "done"]


def at_work(pid: int) -> bool:
    """Whether a process is there; one that has ended and that nobody waited for is not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_lone_safetensors_are_merged_by_the_method_too(outside):
    for number, name in enumerate("ab"):
        (outside.cwd / name).mkdir()
        save_file({"w": np.full(3, float(number), np.float32)}, outside.cwd / name / "model.safetensors")
    outside("task=merge", "merge_method=toy_power", "merge_method.power=0", "merge.checkpoints=[a,b]",
            "merge.output=out", "hydra.run.dir=m")  # fmt: skip
    np.testing.assert_allclose(load_file(outside.cwd / "out/model.safetensors")["w"], 0.5)
