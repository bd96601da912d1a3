"""The keys that a run's result depends on: those its task reads, without transient ones and new ones left unused."""

from functools import cache
from typing import Any

IDENTITY_KEYS_BY_TASK: dict[str, tuple[str, ...]] = {
    "train": (
        "seed",
        "pretrained_path",
        "model",
        "horizon.train",
        "lr",
        "obs_dropout",
        "action_space",
        "loop",
        "data",
        "trainer",
    ),
    "predict": ("seed", "predict", "horizon", "data"),
    "eval": ("seed", "eval", "env", "chunk_size"),
    "eval=offline_replay": ("seed", "eval", "chunk_size", "data"),
    "collect": ("seed", "collect", "env", "data.root", "chunk_size"),
    "split": ("split", "data"),
    "dump": ("seed", "dump", "data", "model", "horizon.train"),
    "merge": ("seed", "merge", "merge_method", "env", "chunk_size", "eval.episodes"),
    "report": ("report",),
    "status": ("status",),
    "gc": ("gc",),
    "cancel": ("cancel",),
    "attach": ("attach",),
}
"""The keys that a task's result depends on. What another task reads is no part of its identity.

`TASK=NAME` is a task whose own section has that `name`."""

TRANSIENT: tuple[str, ...] = (
    "data.cache_gb",
    "data.decoder",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.profile_steps",
    "trainer.scale",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.compile",
    "trainer.sharding",
    "predict.batch_size",
    "collect.workers",
    "merge.overwrite",
    "merge.memory",
    "eval.videos",
    "eval.figures",
    "eval.batch_size",
)
"""Machine and logging keys inside the sections above: they may change between a run and its resumption."""


NEUTRAL: dict[str, Any] = {}
"""{a key: the value of it that means "as before there was this key"}.

Whoever adds a key to what a task reads writes it here, unless its default changes results. At that value the key is no
part of the identity, so runs that were finished before it came stay the runs of the same command. Keys are added and
never taken out or changed: an entry says what older runs did, whatever the default becomes later.
"""


def result_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that the run's result depends on, as flat dotted keys.

    Args:
        config: plain nested configuration with `task.name`.

    Returns:
        {dotted key: value}: `task.name` and the keys its task reads, without the transient ones and without those that
        stand at their neutral value (`NEUTRAL`).
    """
    task = config["task"]["name"]
    flat = {"task.name": task}
    choice = f"{task}={_at(config, f'{task}.name')}"
    for wanted in IDENTITY_KEYS_BY_TASK.get(choice) or IDENTITY_KEYS_BY_TASK[task]:
        flat.update(_flatten(_at(config, wanted), wanted))
    return {key: value for key, value in flat.items() if not (is_transient(key) or _is_neutral(key, value))}


@cache
def is_transient(key: str) -> bool:
    """Whether a dotted key, or the section it lies in, is declared transient."""
    return any(key == entry or key.startswith(entry + ".") for entry in TRANSIENT)


def _is_neutral(key: str, value: Any) -> bool:
    if key not in NEUTRAL:
        return False
    neutral = NEUTRAL[key]
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _at(config: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        config = config.get(part) if config is not None else None
    return config


def _flatten(node: Any, prefix: str) -> dict[str, Any]:
    if isinstance(node, dict) and node:
        return {k: v for name, child in node.items() for k, v in _flatten(child, f"{prefix}.{name}").items()}
    return {prefix: node}
