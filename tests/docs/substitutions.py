"""What stands in for the names of the pages when their commands are checked or run, in one place.

FOLDERS: words that mean a folder or file of the reader's. ONLY_COMPOSED: commands that need a GPU, rented hosts,
released weights or hours: their configuration is composed and checked, their plan is made, they are not run.
"""

import re
from pathlib import Path

FOLDERS = {
    "DATASET": "{dataset}",
    "pusht": "{dataset}",
    "push": "{work}/push",
    "D": "{dataset}",
    "RUN": "{run}",
    "POLICY": "{run}",
    "P": "{run}",
    "A": "{run}",
    "B": "{other}",
    "C": "{third}",
    "T1": "{run}",
    "T2": "{other}",
    "T3": "{third}",
    "OUT": "{work}/out",
    "FOLDER": "{work}/folder",
    "MODEL": "{run}",
    "val.safetensors": "{dump}",
    "octo-small-1.5": "{run}",
    "act_push": "{run}",
    "multirun/multi_horizon/horizon_4": "{run}",
    "multirun/multi_horizon": "{experiment}",
    "OUT/checkpoints/last/pretrained_model": "{lerobot}",
}
"""A whole value, or an entry of a list, that is one of these; RUN/best and RUN@STEP too."""

STEPS = {"STEP": "4", "NAME": "name", "N": "7"}
"""Numbers and names that a page leaves open."""

FEWER = ["debug=fast"]
"""Added to trainings, evaluations and experiments that are run: a few steps on a few episodes."""

ONLY_COMPOSED = {
    r"hydra/launcher=(slurm|ssh)": "a cluster or rented hosts",
    r"task=gc": "hosts",
    r"model=octo_(small|base)": "the tokenizer of T5, and hours",
    r"octo-small-1\.5": "released weights",
    r"model=(act|diffusion|lerobot|act_smooth)( |$)": "LeRobot's sizes: a GPU, and weights of a backbone",
    r"trainer\.devices=(auto|8)": "several GPUs",
    r"pretrained_model": "a policy that lerobot-train made",
}
"""Pattern of a command: what it would need. Such commands are composed, checked and planned only."""


def substituted(words: list[str], work: Path, **places: object) -> list[str]:
    """The words of a command, FOLDERS in place of the reader's names: `places`, or folders of that name in `work`."""
    found = {name: work / name for name in ("dataset", "run", "other", "third", "dump", "experiment", "lerobot")}
    found.update({"work": work}, **places)  # type: ignore[arg-type]
    return [_word(word, {name: str(path) for name, path in found.items()}) for word in words]


def only_composed(words: list[str]) -> str | None:
    """What a command would need that a test has not, or None."""
    line = " ".join(words)
    return next((need for pattern, need in ONLY_COMPOSED.items() if re.search(pattern, line)), None)


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
"""Page: what its Python blocks take as given."""
