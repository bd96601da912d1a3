"""What each part of a recipe for the embedded arm is worth: success in closed loop, one change at a time.

    python benchmarks/arm_recipe.py --list                           # the changes
    python benchmarks/arm_recipe.py --root FOLDER                    # measure them all on push_red; hours
    python benchmarks/arm_recipe.py --root FOLDER --only base batch_32 --seeds 0 1 2 --episodes 200
    python benchmarks/arm_recipe.py --root FOLDER --change "wide:train:model.embed_dim=128" --only wide
    python benchmarks/arm_recipe.py --root FOLDER --table            # what is there, without measuring

A change is a set of overrides over the base, of the recording, the training and the evaluation. What does not differ is
shared: demonstrations by all changes that record alike, a training by all that only execute it differently. Every part
is a run in a folder of its own below --root, so the same command goes on where it was left (Ctrl-C, kill -9, or
--minutes gone), and what is finished is not done again.

The table has, for each change: successes of n episodes from initial states that were never recorded, all seeds of the
training together, with Wilson's 95% interval; the difference to the base on the same seeds and states, and the p-value
of the exact sign test on the pairs that differ (McNemar 1947); CPU minutes of the training (the whole process, imports
included, all attempts; a program that was compiled before comes from the cache, which spares it some ten seconds) and
of the recording; and the L1 error on held-out episodes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

from xp.atomic import write_json
from xp.metrics.intervals import wilson
from xp.runs import State, load_run

PARTS = ("collect", "train", "eval")
COMMANDS = {
    "collect": ("task=collect", "data.root={folder}/dataset", "env.tasks=[{task}]"),
    "train": ("task=train", "data.root={collect}/dataset", "seed={seed}"),
    "eval": (
        "task=eval", "eval.checkpoint={train}", "env.tasks=[{task}]", "eval.episodes={episodes}",
        "eval.controls=false", "eval.videos=0", "eval.allow_blind=true",
    ),
}  # fmt: skip
"""What every run of a part is told; the words in braces are folders of runs, and what was asked for."""
OUTPUT, SPENT = ".output.txt", ".cpu_seconds.json"
"""What a run printed and took, in files beside its folder, which has to be empty when it begins."""
Overrides = Mapping[str, str]
"""Key (or group) to value, as on the command line."""

BASE: dict[str, Overrides] = {
    "collect": {
        "collect.episodes": "300",
        "collect.noise": "0.01",
    },
    "train": {
        "model": "octo_tiny_l1",
        "horizon.train": "8",
        "trainer.steps": "2000",
        "trainer.val_every": "1000",
        "trainer.val_windows": "512",
    },
    "eval": {"chunk_size.steps": "4"},
}


@dataclass(frozen=True)
class Change:
    """Overrides over the base by part, and the part of the recipe that they are about."""

    about: str
    collect: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    eval: tuple[str, ...] = ()

    def overrides(self, part: str, base: Overrides) -> dict[str, str]:
        """`base` with this change's overrides of a part in the place of its own; "~key" takes a key out.

        Another model takes no options of the one before it.
        """
        kept = dict(base)
        for override in getattr(self, part):
            key, _, value = override.partition("=")
            inside = "model." if key == "model" else f"{key.removeprefix('~')}."
            kept = {name: old for name, old in kept.items() if not name.startswith(inside)}
            kept[key] = value
        return kept


def _pixels(oblique: int, wrist: int) -> Change:
    sizes = {"oblique": oblique, "wrist": wrist}
    return Change(
        "resolution",
        collect=tuple(f"env.cameras.{name}=[{side},{side}]" for name, side in sizes.items()),
        train=(f"model.cameras.primary.size=[{oblique},{oblique}]", f"model.cameras.wrist.size=[{wrist},{wrist}]"),
    )


def _keypoints(features: str, strides: str, kernels: str = "null", points: int = 32) -> Change:
    stem = {"features": features, "strides": strides, "kernels": kernels, "tokens_dim": points}
    return Change("stem", train=tuple(f"model.stem.{key}={value}" for key, value in stem.items()))


def _train(about: str, *overrides: str) -> Change:
    return Change(about, train=overrides)


_ACT: Overrides = {
    "model": "act_tiny", "model.image_size": "[64,64]", "model.cameras": "[oblique]", "model.use_vae": "false",
    "model.dropout": "0.0", "horizon.train": "16", "lr": "cosine", "trainer.batch_size": "16", "trainer.steps": "9000",
}  # fmt: skip
"""LeRobot's ACT as arm_benchmark trains it; forty CPU minutes."""
_DIFFUSION: Overrides = {
    "model": "diffusion_tiny", "model.image_size": "[64,64]", "model.cameras": "[oblique]", "model.n_obs_steps": "1",
    "horizon.train": "16", "lr": "cosine", "lr.peak": "5e-4", "trainer.ema_decay": "0.99", "trainer.batch_size": "16",
    "trainer.steps": "7000",
}  # fmt: skip
"""LeRobot's Diffusion Policy as arm_benchmark trains it; thirty CPU minutes."""


def _lerobot(recipe: Overrides, about: str, *overrides: str) -> Change:
    recipe = {**recipe, **dict(override.split("=", 1) for override in overrides)}
    return Change(about, train=tuple(f"{key}={value}" for key, value in recipe.items()))


CHANGES: dict[str, Change] = {
    "base": Change("base"),
    "px_32": _pixels(32, 32),
    "px_48": _pixels(48, 48),
    "px_96": _pixels(96, 96),
    "px_64_32": _pixels(64, 32),
    "oblique_only": Change("resolution", train=("~model.cameras.wrist",)),
    "stem_short": _keypoints("[16,32]", "[2,2]"),
    "stem_3": _keypoints("[16,32,32]", "[2,2,1]"),
    "stem_3_strided": _keypoints("[16,32,32]", "[2,2,2]"),
    "stem_3_narrow": _keypoints("[8,16,32]", "[2,2,2]"),
    "stem_wide": _keypoints("[32,64]", "[4,1]", "[4,3]"),
    "stem_overlapping": _keypoints("[32,32]", "[4,1]", "[8,3]"),
    "stem_16_points": _keypoints("[16,32]", "[4,1]", "[4,3]", points=16),
    "stem_small16": _train(
        "stem", "model.stem.type=small16", "model.stem.features=[16,32,32,64]", "model.stem.tokens_dim=64"
    ),
    "stem_patch": _train("stem", "model.stem.type=patch", "model.stem.tokens_dim=64"),
    "layers_1": _train("network", "model.layers=1"),
    "layers_2": _train("network", "model.layers=2"),
    "width_128": _train("network", "model.embed_dim=128", "model.mlp_dim=512"),
    "no_state": _train("network", "model.proprio=false"),
    "noise_0": Change("demonstrations", collect=("collect.noise=0.0",)),
    "noise_005": Change("demonstrations", collect=("collect.noise=0.005",)),
    "noise_02": Change("demonstrations", collect=("collect.noise=0.02",)),
    "intended": Change("demonstrations", collect=("collect.label=intended",)),
    "intended_02": Change("demonstrations", collect=("collect.label=intended", "collect.noise=0.02")),
    "demos_75": Change("demonstrations", collect=("collect.episodes=75",)),
    "demos_150": Change("demonstrations", collect=("collect.episodes=150",)),
    "demos_600": Change("demonstrations", collect=("collect.episodes=600",)),
    "horizon_4": _train("chunk", "horizon.train=4"),
    "horizon_16": _train("chunk", "horizon.train=16"),
    "execute_1": Change("chunk", eval=("chunk_size.steps=1",)),
    "execute_2": Change("chunk", eval=("chunk_size.steps=2",)),
    "execute_8": Change("chunk", eval=("chunk_size.steps=8",)),
    "ensembling": Change("chunk", eval=("chunk_size.steps=8", "chunk_size.execution=ensembling")),
    "mse": _train("loss", "model.head.type=mse"),
    "gaussian": _train("loss", "model.head.type=gaussian"),
    "diffusion": _train("loss", "model.head.type=diffusion"),
    "discrete": _train("loss", "model.head.type=discrete"),
    "steps_500": _train("steps", "trainer.steps=500"),
    "steps_1000": _train("steps", "trainer.steps=1000"),
    "steps_4000": _train("steps", "trainer.steps=4000"),
    "lr_1e-3": _train("learning rate", "lr.peak=1e-3"),
    "lr_2e-3": _train("learning rate", "lr.peak=2e-3"),
    "lr_5e-3": _train("learning rate", "lr.peak=5e-3"),
    "constant": _train("schedule", "lr=constant"),
    "constant_ema": _train("schedule", "lr=constant", "trainer.ema_decay=0.99"),
    "ema": _train("schedule", "trainer.ema_decay=0.99"),
    "no_decay": _train("schedule", "trainer.weight_decay=0.0"),
    "batch_16": _train("batch", "trainer.batch_size=16"),
    "batch_64": _train("batch", "trainer.batch_size=64"),
    "batch_128": _train("batch", "trainer.batch_size=128"),
    "batch_16_steps_4000": _train("batch", "trainer.batch_size=16", "trainer.steps=4000"),
    "history_2": _train("history", "model.history=2"),
    "act": _lerobot(_ACT, "family"),
    "act_relative": _lerobot(_ACT, "action space", "action_space=relative"),
    "act_both_cameras": _lerobot(_ACT, "resolution", "model.cameras=[oblique,wrist]"),
    "act_vae": _lerobot(_ACT, "loss", "model.use_vae=true"),
    "act_dropout": _lerobot(_ACT, "network", "model.dropout=0.1"),
    "act_lr_1e-3": _lerobot(_ACT, "learning rate", "lr.peak=1e-3"),
    "lerobot_diffusion": _lerobot(_DIFFUSION, "family"),
    "lerobot_diffusion_relative": _lerobot(_DIFFUSION, "action space", "action_space=relative"),
    "lerobot_diffusion_both_cameras": _lerobot(_DIFFUSION, "resolution", "model.cameras=[oblique,wrist]"),
    "lerobot_diffusion_epsilon": _lerobot(_DIFFUSION, "loss", "model.prediction_type=epsilon"),
    "lerobot_diffusion_16_keypoints": _lerobot(_DIFFUSION, "network", "model.spatial_softmax_num_keypoints=16"),
    "lerobot_diffusion_history_2": _lerobot(_DIFFUSION, "history", "model.n_obs_steps=2"),
}


@dataclass(frozen=True)
class Recipe:
    """Where runs lie, and what they are all about."""

    root: Path
    task: str
    episodes: int
    base: Mapping[str, Overrides]

    def commands(self, name: str, change: Change, seed: int) -> dict[str, tuple[Path, list[str]]]:
        """The run's folder and overrides of each part of a change, in the order in which they are done.

        A recording and a training are called by what they are told, so that changes that agree share them.
        """
        found: dict[str, tuple[Path, list[str]]] = {}
        known = {"task": self.task, "episodes": str(self.episodes), "seed": str(seed)}
        for part in PARTS:
            own = change.overrides(part, self.base[part])
            told = [f"{key}={value}" if value else key for key, value in own.items()]
            before = {earlier: folder.name for earlier, (folder, _) in found.items()}
            text = "\n".join([*sorted(told), *(word.format(folder="", **known, **before) for word in COMMANDS[part])])
            digest = hashlib.sha256(text.encode()).hexdigest()[:10]
            folder = self.root / part / (f"{name}_seed{seed}_{digest}" if part == "eval" else digest)
            where = {earlier: str(place) for earlier, (place, _) in found.items()}
            found[part] = folder, [word.format(folder=folder, **known, **where) for word in COMMANDS[part]] + told
        return found


def main() -> None:
    """Measure what is asked for, as long as there is time, and print the table."""
    asked = _arguments()
    changes = {**CHANGES, **_augmentations(), **dict(_given(text) for text in asked.change)}
    unknown = [name for name in asked.only or () if name not in changes]
    if unknown:
        sys.exit(f"There is no change {', '.join(unknown)}; there are {', '.join(changes)}.")
    chosen = {name: changes[name] for name in (asked.only or changes)}
    recipe = Recipe(Path(asked.root or "").absolute(), asked.task, asked.episodes, _base(asked))
    if asked.list:
        _list(chosen, recipe)
        return
    if asked.root is None:
        sys.exit("Give a folder for the runs: --root FOLDER.")
    if not asked.table:
        _measure(recipe, chosen, asked.seeds, asked.minutes)
    print(_table(recipe, {"base": changes["base"], **chosen}, asked.seeds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of all runs")
    parser.add_argument("--task", default="push_red", help="of the arm")
    parser.add_argument("--only", nargs="+", metavar="CHANGE", help="these changes only, in this order")
    parser.add_argument("--change", action="append", default=[], metavar="NAME:PART:OVERRIDE[;...]", help="one more")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training")
    parser.add_argument("--episodes", type=int, default=100, help="for each seed of the training")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after so many minutes")
    parser.add_argument("--list", action="store_true", help="say the changes and stop")
    parser.add_argument("--table", action="store_true", help="print what is there and stop")
    for part in PARTS:
        parser.add_argument(f"--{part}", nargs="+", default=[], metavar="OVERRIDE", help=f"of the base's {part}")
    return parser.parse_args()


def _base(asked: argparse.Namespace) -> dict[str, Overrides]:
    """The base with the overrides of the command line."""
    given = Change("base", **{part: tuple(getattr(asked, part)) for part in PARTS})
    return {part: given.overrides(part, BASE[part]) for part in PARTS}


def _given(text: str) -> tuple[str, Change]:
    """A change from the command line: "wide:train:model.embed_dim=128;model.mlp_dim=512:eval:chunk_size.steps=2"."""
    name, *rest = text.split(":")
    parts = dict(zip(rest[::2], rest[1::2], strict=False))
    if not name or len(rest) % 2 or not parts or not set(parts) <= set(PARTS):
        sys.exit(f"--change {text}: give NAME:PART:OVERRIDE[;OVERRIDE...], PART one of {', '.join(PARTS)}.")
    return name, Change("given", **{part: tuple(value.split(";")) for part, value in parts.items()})


def _augmentations() -> dict[str, Change]:
    """A change for each option of the group `augment` but none, where the group is there."""
    from xp.config.compose import conf_folder

    options = sorted(path.stem for path in (conf_folder() / "augment").glob("*.yaml"))
    return {f"augment_{name}": _train("augmentation", f"augment={name}") for name in options if name != "none"}


def _list(changes: Mapping[str, Change], recipe: Recipe) -> None:
    for name, change in changes.items():
        said = "; ".join(f"{part}: {' '.join(getattr(change, part))}" for part in PARTS if getattr(change, part))
        print(f"{change.about:15} {name:20} {said}")
    print("\nbase: " + "; ".join(" ".join(f"{k}={v}" for k, v in recipe.base[part].items()) for part in PARTS))


def _measure(recipe: Recipe, changes: Mapping[str, Change], seeds: Sequence[int], minutes: float) -> None:
    """Do what is not done: all changes with the first seed, then with the second."""
    until = time.monotonic() + 60 * minutes
    for seed in seeds:
        for name, change in changes.items():
            for part, (folder, overrides) in recipe.commands(name, change, seed).items():
                if _state(folder) is State.DONE:
                    continue
                if time.monotonic() > until:
                    return
                print(f"{name}, seed {seed}: {part}", flush=True)
                if not _run(folder, overrides):
                    print(f"{name}, seed {seed}: {part} failed, see {_beside(folder, OUTPUT)}", flush=True)
                    break


def _run(folder: Path, overrides: Sequence[str]) -> bool:
    """One attempt at a run; whether it is done then. Its CPU seconds are added to those of earlier attempts."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "xp", *overrides, f"hydra.run.dir={folder}"]
    with _beside(folder, OUTPUT).open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:  # the run hears it too, and writes a checkpoint
            _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    write_json(_beside(folder, SPENT), _spent(folder) + usage.ru_utime + usage.ru_stime)
    if code == 130:
        sys.exit(f"Interrupted; the same command goes on ({folder}).")
    return code == 0


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(folder.name + kind)


def _spent(folder: Path) -> float:
    path = _beside(folder, SPENT)
    return float(json.loads(path.read_text())) if path.exists() else 0.0


def _state(folder: Path) -> State:
    return load_run(folder).record().state if (folder / "record.json").exists() else State.PENDING


def _table(recipe: Recipe, changes: Mapping[str, Change], seeds: Sequence[int]) -> str:
    """The finished changes as a Markdown table, the base first."""
    head = ("change", "about", "success", "to the base", "p", "training, CPU min", "recording, CPU min", "L1 held out")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    outcomes: dict[str, dict[int, list[bool]]] = {}
    for name, change in changes.items():
        runs = {seed: recipe.commands(name, change, seed) for seed in seeds}
        done = {seed: found for seed, found in runs.items() if _state(found["eval"][0]) is State.DONE}
        if done:
            outcomes[name] = {seed: _successes(found["eval"][0]) for seed, found in done.items()}
            lines.append(
                _row(name, change, outcomes, [{p: f for p, (f, _) in found.items()} for found in done.values()])
            )
    return "\n".join(lines)


def _row(
    name: str, change: Change, outcomes: Mapping[str, Mapping[int, list[bool]]], runs: Sequence[Mapping[str, Path]]
) -> str:
    good = [success for found in outcomes[name].values() for success in found]
    low, high = wilson(sum(good), len(good))
    shared = outcomes.get("base", {}).keys() & outcomes[name].keys() if name != "base" else set()
    pairs = [pair for seed in shared for pair in zip(outcomes[name][seed], outcomes["base"][seed], strict=True)]
    better, worse = sum(ours > base for ours, base in pairs), sum(ours < base for ours, base in pairs)
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    compared = (f"{(better - worse) / len(pairs):+.2f}", f"{p:.3f}") if pairs else ("", "")
    minutes = [f"{_mean(_spent(run[part]) for run in runs) / 60:.1f}" for part in ("train", "collect")]
    success = f"{sum(good)} of {len(good)} [{low:.2f}, {high:.2f}]"
    cells = (name, change.about, success, *compared, *minutes, f"{_mean(_l1(run['train']) for run in runs):.3f}")
    return "| " + " | ".join(cells) + " |"


def _successes(folder: Path) -> list[bool]:
    return json.loads((folder / "metrics.json").read_text())["policies"]["policy"]["all"]["successes"]


def _l1(folder: Path) -> float:
    """Of the last validation."""
    last = load_run(folder).validation_log()[-1:]
    return float(last[0].get("l1_error") or "nan") if last else float("nan")


def _mean(numbers: Iterable[float]) -> float:
    found = list(numbers)
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
