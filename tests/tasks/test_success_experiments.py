"""Experiments that are judged by success, at a size that runs in minutes: every policy scored, beside its controls."""

import json

import pytest
from tasks_setup import Xp

pytestmark = pytest.mark.slow

SMALL = [
    "experiment.pixels=32", "trainer.steps=2", "trainer.batch_size=4", "trainer.val_every=2", "trainer.val_windows=8",
    "lr.warmup_steps=1", "eval.videos=0", "hydra.launcher.n_jobs=2",
]  # fmt: skip


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def counts(folder):
    """How many episodes stand behind each row of an evaluation."""
    return {name: entry["all"]["num_episodes"] for name, entry in metrics_of(folder)["policies"].items()}


def test_the_arm_benchmark_ends_with_every_policy_beside_its_controls(tmp_path, cache):
    xp = Xp(tmp_path, cache)
    line = [
        "+experiment=arm_benchmark",
        "-m",
        "experiment.task=push_red",
        "experiment.demos=5",
        "experiment.episodes=2",
    ]
    done = xp(*line, *SMALL, timeout=1800)
    folder = tmp_path / "multirun/arm_benchmark"
    for family in ("octo", "act", "diffusion"):
        assert counts(folder / f"success_{family}_push_red") == {"policy": 2, "noop": 2, "blind": 2}
        features = json.loads((folder / "collect_push_red/dataset/meta/info.json").read_text())["features"]
        assert not any("environment" in name for name in features), "no policy that sees is told where things are"
    assert counts(folder / "success_state_only_push_red") == {"policy": 2, "noop": 2}
    page = (folder / "report.html").read_text()
    for text in ("with the pictures of other episodes", "Differences in success: push_red", "state_only"):
        assert text in page
    assert "diffusion_push_red" in done.stdout and (folder / "figures/success_policies.png").is_file()


def test_libero_object_ends_with_what_a_perturbation_costs(tmp_path, cache):
    pytest.importorskip("libero")
    xp = Xp(tmp_path, cache)
    line = ["+experiment=libero_object", "-m", "experiment.tasks=1", "experiment.demos=2", "experiment.episodes=1"]
    suites = "env.suite=libero_object,libero_object_swap"
    small = [each for each in SMALL if not each.startswith("eval.")]  # an expert is not filmed
    xp(*line, *small, suites, "experiment.act=false", "experiment.diffusion=false", timeout=3000)
    folder = tmp_path / "multirun/libero_object"
    for suite in ("libero_object", "libero_object_swap"):
        assert counts(folder / f"octo_on_{suite}") == {"policy": 1, "noop": 1}
        assert metrics_of(folder / f"octo_on_{suite}")["suite"] == suite
        assert counts(folder / f"expert_{suite}") == {"expert": 1}
    assert "octo_on_libero_object elsewhere" in (folder / "report.html").read_text()
