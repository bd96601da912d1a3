"""Experiments on disk made of synthetic runs, with metrics computed by xp.metrics as the predict task would."""

import json

import numpy as np

from xp.metrics import prediction_metrics, success_metrics

HORIZONS = (1, 4, 8)
ACTION_DIM, EPISODES, LENGTH = 3, 10, 30
STATISTICS = {"mean": [0.1, 0.0, -0.2], "std": [0.5, 0.4, 0.6], "mask": [True, True, True]}
VERSIONS = {"xp": "0.1.0", "numpy": "2.2.6", "jax": "0.10.0", "mujoco": "3.8.1"}


def write_run(folder, config, *, stage=None, state="done", record=None, **files):
    """A run folder as xp.runs leaves it: config.json, record.json, job.json and whatever `files` name."""
    folder.mkdir(parents=True)
    ended = {"ended": "2026-03-01T10:02:05.000+00:00"} if state in ("done", "failed") else {}
    full = {
        "identity": "0123456789abcdef",
        "state": state,
        "host": "lab-7",
        "git": "4f2d9c1",
        "python": "3.12.5",
        "versions": VERSIONS,
        "started": "2026-03-01T10:00:00.000+00:00",
        **ended,
        **(record or {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "record.json").write_text(json.dumps(full))
    (folder / "job.json").write_text(json.dumps({"name": folder.name, "stage": stage, "config": config}))
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def training_log(seed, steps=400, start=3.0, end=-2.0):
    rng = np.random.default_rng(seed)
    lines = ["step,epoch,loss,lr,timestamp"]
    for step in range(1, steps + 1):
        loss = end + (start - end) * np.exp(-step / (steps / 6)) + rng.normal() * 0.15 + (40 if step < 4 else 0)
        lines.append(f"{step},{step // 50},{loss:.5f},{3e-4:g},2026-03-01T10:00:00.000+00:00")
    return "\n".join(lines) + "\n"


def validation_log(seed, steps=400, end=-1.6):
    rng = np.random.default_rng(seed + 100)
    lines = ["step,epoch,val_loss,l1_error,timestamp"]
    for step in range(50, steps + 1, 50):
        loss = end + 4 * np.exp(-step / (steps / 6)) + rng.normal() * 0.03
        l1 = 0.2 + 0.3 * np.exp(-step / 60)
        lines.append(f"{step},{step // 50},{loss:.5f},{l1:.5f},2026-03-01T10:00:00.000+00:00")
    return "\n".join(lines) + "\n"


def episode_actions():
    """Smooth joint-like trajectories [E, length, A]."""
    rng = np.random.default_rng(0)
    time = np.linspace(0, 1, LENGTH)[:, None]
    phase, speed = rng.uniform(0, 6, (EPISODES, 1, ACTION_DIM)), rng.uniform(3, 9, (EPISODES, 1, ACTION_DIM))
    return 0.5 * np.sin(phase + speed * time) + 0.02 * rng.normal(size=(EPISODES, LENGTH, ACTION_DIM))


def cell_metrics(trained, predicted):
    """What the predict task writes for a model whose error grows with the step and with extension."""
    actions = episode_actions()
    starts = [(episode, step) for episode in range(EPISODES) for step in range(LENGTH)]
    steps = np.array([[min(step + ahead, LENGTH - 1) for ahead in range(predicted)] for _, step in starts])
    episode = np.array([episode for episode, _ in starts])
    truth = actions[episode[:, None], steps]
    is_pad = np.array([[step + ahead >= LENGTH for ahead in range(predicted)] for _, step in starts])
    known = np.minimum(np.arange(predicted), trained - 1)
    rng = np.random.default_rng(trained)
    noise = rng.normal(size=truth.shape) * 0.03 * (1 + 0.1 * np.arange(predicted))[None, :, None]
    mean = truth[:, known] + noise
    held = np.array([actions[e, max(s - 1, 0)] if s else STATISTICS["mean"] for e, s in starts])
    tril = np.broadcast_to(np.eye(ACTION_DIM) * (0.03 if trained > 1 else 0.015), (len(starts), ACTION_DIM, ACTION_DIM))
    return prediction_metrics(
        mean,
        truth,
        is_pad=is_pad,
        episode_index=episode + 40,
        statistics=STATISTICS,
        training_horizon=trained,
        held_action=held,
        distribution=(mean, tril),
        resamples=1000,
    )


def evaluation():
    """What the eval task writes: 42 of 50 successes for the policy over two tasks, 1 of 50 for doing nothing."""

    def scores(*counts):
        parts = {task: success_metrics(np.arange(25) < count, np.arange(25)) for task, count in zip("ab", counts)}
        whole = success_metrics(np.arange(50) < sum(counts), np.arange(50))
        return {"all": whole, "tasks": {"push": parts["a"], "stack": parts["b"]}}

    return {"policies": {"policy": scores(24, 18), "noop": scores(1, 0)}}


def write_multi_horizon(root, cells, *, failed=(8, 4), missing=(4, 8)):
    """A multi_horizon experiment; one predict run failed, one was never begun, unless told otherwise."""
    base = {"seed": 0, "model": {"name": "octo_tiny", "head": "gaussian"}, "paths": {"root": str(root)}}
    write_run(root / "collect", {**base, "task": {"name": "collect"}}, stage="collect")
    for index, horizon in enumerate(HORIZONS):
        config = {**base, "task": {"name": "train"}, "horizon": {"train": horizon, "predict": horizon}}
        write_run(
            root / f"horizon_{horizon}",
            config,
            stage="finetune",
            training_log__csv=training_log(index),
            validation_log__csv=validation_log(index),
            summary__json={"final_loss": -1.9},
        )
    for trained, predicted in cells:
        if (trained, predicted) == missing:
            continue
        config = {**base, "task": {"name": "predict"}, "horizon": {"train": trained, "predict": predicted}}
        config["policy"] = str(root / f"horizon_{trained}" / "final")
        folder = root / f"train_h{trained}_pred_h{predicted}"
        if (trained, predicted) == failed:
            message = "<b>truncated</b> & lost"
            trace = f'Traceback (most recent call last):\n  File "predict.py", line 3\nValueError: {message}\n'
            failure = {"error": {"type": "ValueError", "message": message}, "traceback": trace}
            write_run(folder, config, stage="predict", state="failed", record=failure)
        else:
            write_run(folder, config, stage="predict", metrics__json=cells[trained, predicted])
    write_run(root / "eval_h8", {**base, "task": {"name": "eval"}}, stage="eval", metrics__json=evaluation())
    (root / "eval_h8" / "videos").mkdir()
    (root / "eval_h8" / "videos" / "episode 1.mp4").write_bytes(b"video")
    write_run(root / "report", {**base, "task": {"name": "report"}}, stage="report", state="running")
    return root


def write_sweep(root):
    """A learning-rate sweep of eight finished trainings and one still waiting."""
    for index, peak in enumerate((1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)):
        config = {"task": {"name": "train"}, "seed": 0, "lr": {"peak": peak, "schedule": "cosine"}}
        logs = {
            "training_log__csv": training_log(index, end=0.05 + 0.02 * index, start=4),
            "validation_log__csv": validation_log(index, end=0.1 + 0.03 * abs(index - 3)),
        }
        write_run(root / f"lr.peak={peak:g}", config, stage="sweep", **logs)
    config = {"task": {"name": "train"}, "seed": 0, "lr": {"peak": 0.1, "schedule": "cosine"}}
    write_run(root / "lr.peak=0.1", config, stage="sweep", state="pending")
    return root
