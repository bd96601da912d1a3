"""What stands in for the names of the pages when their commands are checked or run, in one place.

FOLDERS: words that mean a folder or file of the reader's. OUTPUTS: what a command writes, in a folder of the test.
FEWER and NUMBERS: what makes it short. ONLY_COMPOSED: commands that need a GPU, rented hosts, released weights or
hours: their configuration is composed and checked, their plan is made, they are not run. PROGRAMS: other programs, and
what runs them. PRELUDES: what the Python blocks of a page take as given.
"""

import re
import string
from pathlib import Path

FOLDERS = {
    "DATASET": "{dataset}",
    "TRAJECTORIES": "{trajectories}",
    "HISTORIES": "{trajectories}",
    "PRETRAINED": "{run}",
    "hf://lerobot/pusht": "{dataset}",
    "D": "{dataset}",
    "RUN": "{run}",
    "POLICY": "{run}",
    "P": "{run}",
    "A": "{run}",
    "B": "{other}",
    "C": "{third}",
    "RUN2": "{other}",
    "RUN3": "{third}",
    "BASE": "{other}",
    "OPENVLA": "{run}",
    "T1": "{run}",
    "T2": "{other}",
    "T3": "{third}",
    "OUT": "{work}/out",
    "FOLDER": "{work}/folder",
    "FOLDER/horizon_4": "{run}",
    "MODEL": "{run}",
    "val.safetensors": "{dump}",
    "octo-small-1.5": "{run}",
    "multirun/multi_horizon/horizon_4": "{run}",
    "multirun/multi_horizon": "{experiment}",
    "OUT/checkpoints/last/pretrained_model": "{lerobot}",
}
"""A whole value, or an entry of a list, that is one of these; RUN/best and RUN@STEP too."""

OUTPUTS = {
    "data.root": "task=collect",
    "split.export": "task=split",
    "dump.output": "task=dump",
    "merge.output": "task=merge",
    "convert.output": "task=convert",
    "hydra.run.dir": "task=",
}
"""Key: the task that writes there. A later command that names the same thing reads what was written."""

PLACES = ("dataset", "trajectories", "run", "other", "third", "dump", "experiment", "lerobot")
"""Names of what FOLDERS puts in their place."""

STEPS = {"STEP": "4", "NAME": "name", "N": "7"}
"""Numbers and names that a page leaves open."""

FEWER = ["debug=fast"]
"""Added to trainings, evaluations and experiments that are run: a few steps on a few episodes."""

NUMBERS = {"collect.episodes": "7", "trainer.steps": "4", "eval.episodes": "2"}
"""Numbers of debug=fast in place of those that a page gives, in commands that are run."""

ONLY_COMPOSED = {
    r"hydra/launcher=(slurm|ssh)": "a cluster or rented hosts",
    r"task=gc": "hosts",
    r"task=push push.run=RUN push.repo=ORG/NAME push.private=true": "a hub: tests/hub/test_push.py",
    r"push.dataset=": "a hub: tests/hub/test_push.py",
    r"model=octo_(small|base)": "the tokenizer of T5, and hours",
    r"octo-small-1\.5": "released weights",
    r"OPENVLA|model=openvla_7b": "released weights: tests/models/test_openvla_adapters.py adapts small ones",
    r"experiment=chunked_vla": "half an hour: tests/tasks/test_openvla_tasks.py runs it small",
    r"report\.(runs|base)=": "runs of one policy before and after: tests/report/test_compare_runs.py",
    r"model=vintix(_fork)?( |$)": "hours, or a GPU",
    r"model=pi0(5)?(_torch)?( |$)": "weights of the real size, and PaliGemma's tokenizer",
    r"load_options=|task=convert": "a checkpoint of openpi's: tests/models/pi0/test_pi0_convert.py",
    r"model=(act|diffusion|lerobot|act_smooth)( |$)": "LeRobot's sizes: a GPU, and weights of a backbone",
    r"trainer\.devices=(auto|8)": "several GPUs",
    r"env=(go1|go2|a1|minicheetah)": "minutes of simulation: tests/envs/test_quadruped.py, tests/tasks/test_loop.py",
    r"experiment=self_improve": "half an hour",
    r"env=libero": "minutes of simulation: tests/envs/test_libero_env.py",
    r"pretrained_model": "a policy that lerobot-train made",
}
"""Pattern of a command: what it would need. Such commands are composed, checked and planned only."""

PROGRAMS = {
    "hf": "not run: it needs a network",
    "lerobot-eval": "tests/tasks/test_lerobot_commands.py",
    "lerobot-train": "tests/tasks/test_lerobot_commands.py",
    "lerobot-rollout": "tests/tasks/test_lerobot_commands.py",
    "uv": "tests/cli/test_wheel.py builds xp's wheel, without uv",
    "pip": "tests/cli/test_wheel.py runs what the wheel installs",
    "make": "not run: its targets run these tests, and the demo is an experiment of the pages",
}
"""Another program: the test that runs what the pages tell it, or why none does."""


def substituted(words: list[str], work: Path, made: dict[str, str] | None = None, **places: object) -> list[str]:
    """The words of a command, FOLDERS in place of the reader's names: `places`, or folders of that name in `work`.

    With `made` ({the reader's name: path}: what earlier commands wrote) the command is to be run: what it writes gets
    a place of its own in `work`, which is added to `made`, and NUMBERS are those of a short run.
    """
    found = {name: work / name for name in PLACES}
    found.update({"work": work}, **places)  # type: ignore[arg-type]
    paths = {name: str(path) for name, path in found.items()}
    if made is None:
        return [_word(word, paths) for word in words]
    outputs = {key: f"{work}/{name}" for key, name in written(words).items()}
    given = [_made(word, NUMBERS | outputs, made) or _word(word, paths) for word in words]
    made |= {name: outputs[key] for key, name in written(words).items()}
    return given


def _made(word: str, values: dict[str, str], made: dict[str, str]) -> str | None:
    """The word with the value that its key has in `values`, or with what was made under its name; None: neither."""
    key, _, name = word.partition("=")
    value = values.get(key, made.get(name))
    return value and f"{key}={value}"


def written(words: list[str]) -> dict[str, str]:
    """What a command writes under a name that the page gives: {key: name}."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    return {
        key: given[key]
        for key, task in OUTPUTS.items()
        if key in given and any(word.startswith(task) for word in words)
    }


def named(words: list[str]) -> set[str]:
    """What a command reads, as far as it is a whole value."""
    return {word.partition("=")[2] for word in words if word.partition("=")[0] not in written(words)}


def only_composed(words: list[str]) -> str | None:
    """What a command would need that a test has not, or None."""
    line = " ".join(words)
    return next((need for pattern, need in ONLY_COMPOSED.items() if re.search(pattern, line)), None)


def fields(prelude: str) -> set[str]:
    """The places that a prelude takes."""
    return {name for _, name, _, _ in string.Formatter().parse(prelude) if name}


def _word(word: str, places: dict[str, str]) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return word
    listed = re.fullmatch(r"\[(.*)\]", value)
    if listed and "{" not in value:
        return f"{key}=[{','.join(_place(item, places) for item in listed[1].split(','))}]"
    return f"{key}={_place(value, places)}"


def _place(value: str, places: dict[str, str]) -> str:
    if value in STEPS:
        return STEPS[value]
    name, at, step = value.partition("@")
    if name in FOLDERS:
        return FOLDERS[name].format(**places) + at + STEPS.get(step, step)
    head, slash, rest = name.partition("/")
    if slash and head in FOLDERS:
        return FOLDERS[head].format(**places) + slash + rest
    return value


PRELUDES = {
    "README.md": """
        import numpy as np
        import xp
        spec = xp.load_policy({run!r}).spec
        cameras = {{f"observation.images.{{name}}": size for name, size in spec.cameras.items()}}
        observation: dict = {{name: np.zeros(size, np.uint8) for name, size in cameras.items()}}
        observation |= {{"observation.state": np.zeros(spec.state_dim, np.float32), "task": "push the red cube"}}
    """,
}
PRELUDES["docs/python.md"] = PRELUDES["docs/octo.md"] = PRELUDES["README.md"]
PRELUDES["docs/act_smooth.md"] = """
        import lerobot_policy_act_smooth_xp
        import torch
        import xp
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import make_pre_post_processors
        folder, data = {smooth!r} + "/final", xp.open_dataset({dataset!r})
        spec = xp.load_policy(folder).spec
        cameras = {{f"observation.images.{{name}}": size for name, size in spec.cameras.items()}}
        observation = {{name: torch.zeros(1, size[2], size[0], size[1]) for name, size in cameras.items()}}
        observation |= {{"observation.state": torch.zeros(1, spec.state_dim), "task": ["push"]}}
        d, chunk, training = 1, spec.horizon, [0, 1]
        committed = past = torch.zeros(1, 1, spec.action_dim)
        rows = torch.zeros(3, spec.action_dim)
        actions, states, episode_index = data.action, data.state, data.episode_index
        preprocessor, postprocessor = make_pre_post_processors(PreTrainedConfig.from_pretrained(folder), folder)
    """
PRELUDES["docs/evaluation.md"] = """
        from types import SimpleNamespace
        from typing import Any
        import numpy as np
        from xp.models.policy import PolicySpec
        spec = PolicySpec(horizon=4, action_dim=6, state_dim=6, cameras={{}})
        still = lambda seen, seed: np.repeat(seen["observation.state"][:, -1:], 4, axis=1)
        policy: Any = SimpleNamespace(spec=spec, predict=still)
    """
PRELUDES["docs/extending.md"] = ""
"""Page: what its Python blocks take as given. For `{run}` alone any policy will do: the fast tests run such a block."""
