"""What a small experiment computes, as digests: to tell whether a change of the code changed a number.

    python tools/result_digests.py XP > before.json        # XP: the executable of one checkout
    python tools/result_digests.py XP --compare before.json

Records a dataset, trains octo_tiny, act_tiny and diffusion_tiny, predicts, evaluates in closed loop, merges; prints
{what: sha256 of the file, or the number}. The same machine, the same libraries and the same code give the same output.
Needs no network and no GPU; five minutes on two cores.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SHORT = ["trainer.steps=6", "trainer.batch_size=8", "trainer.checkpoint_every=3"]
WEIGHTS = ("model.safetensors", "checkpoint")
TIMES = ("seconds", "_ms", "time", "wall", "cpu", "duration", "version", "date", "path", "folder", "host")

COMMANDS: dict[str, list[str]] = {
    "data": ["task=collect", "data.root=data", "env.tasks=[push_red]", "collect.episodes=12", "collect.workers=2"],
    "octo": ["task=train", "data.root=data", "model=octo_tiny", "horizon.train=4", *SHORT],
    "octo2": ["task=train", "data.root=data", "model=octo_tiny", "horizon.train=4", "seed=1", *SHORT],
    "act": ["task=train", "data.root=data", "model=act_tiny", "horizon.train=4", *SHORT],
    "smooth": ["task=train", "data.root=data", "model=act_smooth", "model.image_size=[64,64]", "horizon.train=8",
               "trainer.steps=2", "trainer.batch_size=2", "obs_dropout=p30", "model.dim_model=64"],
    "relative": ["task=train", "data.root=data", "model=act_tiny", "action_space=relative", "horizon.train=4", *SHORT],
    "predict_octo": ["task=predict", "predict.checkpoint=octo", "predict.num_trajectories=2", "horizon.predict=8"],
    "predict_act": ["task=predict", "predict.checkpoint=act", "predict.num_trajectories=2"],
    "eval_act": ["task=eval", "eval.checkpoint=act", "eval.episodes=2", "env.tasks=[push_red]",
                 "eval.allow_blind=true"],
    "merged": ["task=merge", "merge_method=average", "merge.checkpoints=[octo,octo2]"],
}  # fmt: skip


def numbers(value: object, path: str = "") -> dict[str, object]:
    """Every leaf of a JSON value by its path, without what depends on the hour."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in numbers(inner, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {k: v for n, inner in enumerate(value) for k, v in numbers(inner, f"{path}[{n}]").items()}
    return {} if any(word in path.lower() for word in TIMES) else {path: value}


def digests(run: Path) -> dict[str, object]:
    """Of one run folder: its final weights' files, metrics.json, and the columns of its logs."""
    found: dict[str, object] = {}
    for file in sorted(run.rglob("*")):
        name = f"{run.name}/{file.relative_to(run)}"
        if file.name in WEIGHTS and "final" in file.parts:
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.name == "metrics.json":
            found |= {f"{name}{path}": value for path, value in numbers(json.loads(file.read_text())).items()}
        elif file.name in ("training_log.csv", "validation_log.csv"):
            rows = file.read_text().splitlines()[1:]
            found[name] = [row.rpartition(",")[0] for row in rows]  # the last column is the hour
    return found


def main() -> None:
    """Run the commands, and print or compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("xp", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    xp, result = options.xp.absolute(), {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for run, arguments in COMMANDS.items():
            if options.only and run not in options.only.split(","):
                continue
            done = subprocess.run([xp, *arguments, f"hydra.run.dir={run}"], cwd=place, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{run}: {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
            result |= digests(place / run)
            print(f"{run}: done", file=sys.stderr, flush=True)
    if options.compare is None:
        print(json.dumps(result, indent=1, sort_keys=True))
        return
    before = json.loads(options.compare.read_text())
    differing = sorted(key for key in before.keys() | result.keys() if before.get(key) != result.get(key))
    for key in differing:
        print(f"{key}: {before.get(key)} -> {result.get(key)}")
    print(f"{len(result)} values, {len(differing)} differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
