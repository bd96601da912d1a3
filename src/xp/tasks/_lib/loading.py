"""What tasks share: decoded frames and compiled programs under `paths.cache`, and the check of a policy's cameras."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from xp.data import Dataset
from xp.data.frames import frames_of
from xp.errors import UserError, join_names
from xp.models.camera_maps import mismatch
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked
from xp.tasks._lib.pools import workers_of

if TYPE_CHECKING:
    from xp.data.frame_source import CameraFrames
    from xp.models.family import Family
    from xp.models.policy import Policy


def shared_frames(run: Run, dataset: Dataset, sizes: Mapping[str, tuple[int, int]]) -> "CameraFrames":
    """The frames of the cameras in `sizes` (height, width), as `data.frames` says; see `xp.data.frames.frames_of`."""
    config, data = run.config, run.config.data

    def check() -> None:
        leave_if_asked(run)

    return frames_of(
        dataset,
        sizes,
        mode=data.get("frames", "auto"),
        workers=workers_of(data.get("workers")),
        cache_dir=Path(config.paths.cache) / "frames",
        cache_gb=data.cache_gb,
        progress=run.progress,
        log=run.log,
        check=check,
    )


def use_framework(config: DictConfig, family: "Family") -> None:
    """Prepare the framework of a model family, with what the jobs of `paths.cache` share."""
    from xp.training.frameworks import prepare_framework

    prepare_framework(family.framework, Path(config.paths.cache))


def load(config: DictConfig, path: str, told: Mapping[str, Any] | None = None) -> "Policy":
    """The policy saved at `path`, its framework prepared.

    Args:
        config: the job's.
        path: a run's folder or a policy's.
        told: a section with the keys of `xp.config.task_sections.Loading`, those that there are: `camera_map` and
            `unnorm_key` as in `xp.load_policy`, and `load_options`, further options of the policy's family
            (`Family.load_options`), by name.
    """
    from xp.models.families import find_policy, load_policy

    told = told or {}
    use_framework(config, find_policy(path).family)
    given = told.get("load_options") or {}
    options = {str(name): str(value) for name, value in given.items() if value is not None}
    return load_policy(path, camera_map=told.get("camera_map"), **{"unnorm_key": told.get("unnorm_key"), **options})


def fit_cameras(policy: "Policy", cameras: list[str], where: str, key: str | None = None) -> None:
    """Refuse a policy that needs a camera which is not there.

    Args:
        policy: the policy, its cameras already mapped.
        cameras: those that there are.
        where: who has them, for the message.
        key: the configuration key that maps the policy's cameras to others, where there is one.

    Raises:
        UserError: both sets of cameras, and the override that maps them.
    """
    missing = [name for name in policy.spec.cameras if name not in cameras]
    if not missing:
        return
    if key is not None:
        raise UserError(mismatch(key, policy.camera_slots, cameras, where))
    raise UserError(
        f"The policy needs the cameras {join_names(policy.spec.cameras)}; {where} has {join_names(cameras)}. "
        f"Add {join_names(missing)}, or take a policy trained on these cameras."
    )


def fit_dimensions(policy: "Policy", dataset: Dataset, given: str, key: str) -> None:
    """Refuse a policy that gives other actions or reads another state than a dataset has, before any window is read.

    Args:
        policy: the policy.
        dataset: what it is asked about.
        given: the key and value that named the policy, for the message.
        key: the key that names the dataset.

    Raises:
        UserError: both widths, and the dataset's names of the dimensions.
    """
    spec, wrong = policy.spec, []
    if spec.action_dim != dataset.action_dim:
        wrong.append(
            f"gives actions of {spec.action_dim} dimensions where the dataset has {_named(dataset.action_names)}"
        )
    if spec.state_dim and spec.state_dim != dataset.state_dim:
        wrong.append(
            f"reads a state of {spec.state_dim} dimensions where the dataset has {_named(dataset.state_names)}"
        )
    if spec.environment_dim and spec.environment_dim != dataset.environment_dim:
        wrong.append(
            f"reads an environment state of {spec.environment_dim} dimensions where the dataset has "
            f"{_named(dataset.environment_state_names)}"
        )
    if wrong:
        raise UserError(
            f"{given} does not fit the dataset {dataset.root}: the policy {' and '.join(wrong)}. Give the dataset that "
            f"it was trained on ({key}=FOLDER), or a policy trained on this one."
        )


def _named(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({join_names(names[:12])}{', ...' if len(names) > 12 else ''})" if names else "none"
