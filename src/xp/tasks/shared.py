"""What all jobs of a machine share under `paths.cache`: decoded frames and compiled programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from xp.data import Dataset, open_frames
from xp.runs import Run

if TYPE_CHECKING:
    import numpy as np

    from xp.models.policy import Policy


def shared_frames(run: Run, dataset: Dataset, sizes: Mapping[str, tuple[int, int]]) -> "dict[str, np.memmap]":
    """The frames of the cameras in `sizes` (height, width), decoded once for all jobs; see `xp.data.open_frames`."""
    config = run.config
    return open_frames(
        dataset,
        sizes,
        cache_dir=Path(config.paths.cache) / "frames",
        cache_gb=config.data.cache_gb,
        progress=run.progress,
        log=run.log,
    )


def use_framework(config: DictConfig, family: str) -> None:
    """Prepare the framework of a model family; JAX gets the shared cache of compiled programs."""
    if family == "octo":
        from xp.training.runtime import prepare_jax

        prepare_jax(Path(config.paths.cache) / "jax")


def load(config: DictConfig, path: str) -> "Policy":
    """The policy saved at `path`, its framework prepared."""
    from xp.models.registry import family_of, load_policy

    use_framework(config, family_of(path))
    return load_policy(path)
