"""The keys that a run's result depends on: those its task reads, without transient ones and new ones left unused."""

from collections.abc import Mapping
from functools import cache

from xp.config.mixture import without_weightless
from xp.json_types import JSON, JSONObject, section
from xp.nested import dotted

IDENTITY_KEYS_BY_TASK: dict[str, tuple[str, ...]] = {
    "train": (
        "seed",
        "pretrained_path",
        "model",
        "horizon.train",
        "lr",
        "obs_dropout",
        "augment",
        "action_space",
        "loop",
        "data",
        "trainer",
    ),
    "predict": ("seed", "predict", "horizon", "data"),
    "eval": ("seed", "eval", "env", "chunk_size"),
    "eval=expert": ("eval", "env"),
    "eval=offline_replay": ("seed", "eval", "chunk_size", "data"),
    "eval=returns": ("seed", "eval", "env"),
    "loop": ("seed", "pretrained_path", "loop", "env"),
    "collect": ("seed", "collect", "env", "data.root", "chunk_size"),
    "split": ("split", "data"),
    "dump": ("seed", "dump", "data", "model", "horizon.train"),
    "merge": ("seed", "merge", "merge_method", "env", "chunk_size", "eval.episodes"),
    "convert": ("convert",),
    "report": ("report",),
    "status": ("status",),
    "push": ("push",),
    "gc": ("gc",),
    "cancel": ("cancel",),
    "attach": ("attach",),
}
"""The keys that a task's result depends on. What another task reads is no part of its identity.

`TASK=NAME` is a task whose own section has that `name`."""

TRANSIENT: tuple[str, ...] = (
    "augment.name",
    "data.cache_gb",
    "data.decoder",
    "data.frames",
    "data.workers",
    "lr.extend",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.record_answers",
    "trainer.profile_steps",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.compile",
    "trainer.figures",
    "model.gradient_checkpointing",
    "trainer.sharding",
    "predict.batch_size",
    "collect.workers",
    "eval.parallel",
    "loop.threads",
    "loop.videos",
    "loop.video_seconds",
    "merge.overwrite",
    "convert.overwrite",
    "merge.memory",
    "eval.videos",
    "eval.workers",
    "eval.envs",
    "eval.silence_s",
    "eval.figures",
    "eval.batch_size",
)
"""Machine and logging keys, and labels, inside the sections above: they may change between a run and its resumption."""


NEUTRAL: dict[str, JSON] = {
    "augment": None,
    "augment.views": {},
    "collect.format": "lerobot",
    "data.repo_id": None,
    "data.revision": None,
    "collect.label": "executed",
    "model.stem.kernels": None,
    "eval.blind": False,
    "eval.hide_state": False,
    "env.action": "joints",
    "env.mjcf": None,
    "env.mjcf_joints": {},
    "collect.load_options": None,
    "dump.load_options": None,
    "eval.load_options": None,
    "merge.load_options": None,
    "predict.load_options": None,
    "collect.histories": None,
    "collect.anneal": True,
    "collect.span": 1.0,
    "collect.max_steps": None,
    "model.lora": None,
    "report.runs": [],
    "report.base": None,
    "report.output": None,
    "trainer.ema_warmup": True,
    "chunk_size.delay": 0,
    "model.max_delay": 0,
    "model.frozen_norms": "identity",
    "trainer.early_stopping_patience": None,
    "trainer.early_stopping_threshold": 0.0,
    "data.mix": None,
    "data.fps": None,
    "lr.extensions": [],
    "trainer.batch_size_max": 256,
    "data.read": None,
    "collect.camera_map": None,
    "dump.camera_map": None,
    "merge.camera_map": None,
    "collect.unnorm_key": None,
    "dump.unnorm_key": None,
    "merge.unnorm_key": None,
}
"""{a key: the value of it that means "as before there was this key"}.

Whoever adds a key to what a task reads writes it here, unless its default changes results. At that value the key is no
part of the identity, so runs that were finished before it came stay the runs of the same command. Keys are added and
never taken out or changed: an entry says what older runs did, whatever the default becomes later.
"""


def result_config(config: JSONObject) -> dict[str, JSON]:
    """The part of a resolved configuration that the run's result depends on, as flat dotted keys.

    Args:
        config: plain nested configuration with `task.name`.

    Returns:
        {dotted key: value}: `task.name` and the keys its task reads, without the transient ones and without those that
        stand at their neutral value (`NEUTRAL`).
    """
    task = str(section(config, "task").get("name"))
    flat: dict[str, JSON] = {"task.name": task}
    choice = f"{task}={_at(config, f'{task}.name')}"
    for wanted in IDENTITY_KEYS_BY_TASK.get(choice) or IDENTITY_KEYS_BY_TASK[task]:
        found = _at(config, wanted)
        if wanted == "data" and isinstance(found, Mapping) and found.get("mix"):
            found = {**found, "mix": without_weightless(found["mix"])}
        flat |= (
            dotted(found, f"{wanted}.", keep_empty=True) if isinstance(found, Mapping) and found else {wanted: found}
        )
    return {key: value for key, value in flat.items() if not (is_transient(key) or _is_neutral(key, value))}


@cache
def is_transient(key: str) -> bool:
    """Whether a dotted key, or the section it is in, is declared transient."""
    return any(key == entry or key.startswith(entry + ".") for entry in TRANSIENT)


def _is_neutral(key: str, value: JSON) -> bool:
    if key not in NEUTRAL:
        return False
    neutral = NEUTRAL[key]
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _at(config: JSONObject, dotted: str) -> JSON:
    node: JSON = config
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
