"""The processors that stand around a policy: made for the training statistics, saved and loaded with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xp.errors import UserError
from xp.models.lerobot.papers import POSTPROCESSOR, PREPROCESSOR, Papers

QUANTILES = {"p01": "q01", "p99": "q99"}
"""Names of quantiles in xp's statistics and in LeRobot's."""


def lerobot_statistics(statistics: Mapping[str, Any], images: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Xp's statistics of the training episodes under LeRobot's names.

    A dimension that never changes gets a deviation of 1: LeRobot would divide it by 1e-8. Images get ImageNet's mean
    and deviation, as LeRobot's own training gives them (`dataset.use_imagenet_stats`).
    """
    from lerobot.utils.constants import IMAGENET_STATS

    found = {}
    for ours, theirs in (("proprio", "observation.state"), ("action", "action")):
        entry = statistics[ours]
        if not len(entry["mean"]):
            continue
        varies = np.asarray(entry.get("mask", np.ones(len(entry["mean"]), bool)))
        values = {QUANTILES.get(name, name): np.asarray(value) for name, value in entry.items() if name != "mask"}
        values["std"] = np.where(varies, values["std"], 1.0)
        found[theirs] = {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}
    for key in images:
        found[key] = {name: torch.tensor(value, dtype=torch.float32) for name, value in IMAGENET_STATS.items()}
    return found


def new_processors(config: Any, statistics: Mapping[str, Any], images: list[str], papers: Papers | None) -> Any:
    """(preprocessor, postprocessor) for training: those of a pretrained policy with new statistics, or new ones."""
    from lerobot.policies.factory import make_pre_post_processors

    stats = lerobot_statistics(statistics, images)
    if papers is None or not (papers.folder / PREPROCESSOR).is_file():
        return make_pre_post_processors(config, dataset_stats=stats)  # type: ignore[arg-type]
    features = {**config.input_features, **config.output_features}
    norm_map = config.normalization_mapping
    return make_pre_post_processors(
        config,
        pretrained_path=str(papers.folder),
        preprocessor_overrides={
            "device_processor": {"device": config.device},
            "normalizer_processor": {"features": features, "norm_map": norm_map, "stats": stats},
        },
        postprocessor_overrides={
            "unnormalizer_processor": {"features": config.output_features, "norm_map": norm_map, "stats": stats}
        },
    )


def saved_processors(config: Any, folder: Path) -> Any:
    """(preprocessor, postprocessor) as saved in a `pretrained_model` folder.

    Raises:
        UserError: the folder has none (it is older than LeRobot 0.4), so how to normalise is unknown.
    """
    from lerobot.policies.factory import make_pre_post_processors

    for name in (PREPROCESSOR, POSTPROCESSOR):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}, so how its observations and actions are normalised is unknown. It was "
                "written by LeRobot before 0.4: convert it with `python -m "
                f"lerobot.processor.migrate_policy_normalization --pretrained-path={folder}`."
            )
    return make_pre_post_processors(
        config,
        pretrained_path=str(folder),
        preprocessor_overrides={"device_processor": {"device": config.device}},
    )


def place(processors: tuple[Any, Any], device: str) -> None:
    """Let the preprocessor move its tensors to `device`; the postprocessor's device stays the CPU."""
    from lerobot.processor import DeviceProcessorStep

    for step in processors[0].steps:
        if isinstance(step, DeviceProcessorStep):
            step.device = device
            step.__post_init__()


def takes_language(preprocessor: Any) -> bool:
    """Whether a preprocessor reads the task's words: it has a step that tokenises."""
    return any("token" in type(step).__name__.lower() for step in preprocessor.steps)
