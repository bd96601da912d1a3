"""What tasks share: decoded frames and compiled programs under `paths.cache`, and the check of a policy's cameras."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from xp.data import Dataset, open_frames
from xp.errors import UserError, listing
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


def fit_cameras(policy: "Policy", cameras: list[str], key: str) -> None:
    """Refuse a policy that needs a camera which is not there."""
    missing = [name for name in policy.spec.cameras if name not in cameras]
    if missing:
        raise UserError(
            f"The policy needs the cameras {listing(policy.spec.cameras)}; {key} has {listing(cameras)}. "
            f"Add {listing(missing)}, or take a policy trained on these cameras."
        )
