"""Model families by name, and saved policies by the shape of their folder. Light: families are imported when asked."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xp.checkpoints.reference import CheckpointRef
from xp.checkpoints.run_layout import candidate_policy_dirs
from xp.errors import UserError, did_you_mean, join_names
from xp.models.lerobot.sidecar import is_lerobot, refuse_adapter
from xp.models.policy import DataSpec, DataTransforms, Policy, Trainable

FAMILIES = ("octo", "lerobot")


def build(
    model_cfg: Mapping[str, Any],
    *,
    data: DataSpec,
    statistics: Mapping[str, Any],
    horizon: int,
    seed: int,
    pretrained_path: str | None = None,
    treatment: DataTransforms | None = None,
) -> Trainable:
    """A trainable model of the family that `model_cfg` names, for a dataset and a horizon.

    Raises:
        UserError: an unknown family, options that do not fit, or a `pretrained_path` that is no saved policy.
    """
    family, treatment = _family(model_cfg), treatment or DataTransforms()
    pretrained = locate(pretrained_path) if pretrained_path else None
    package = importlib.import_module(f"xp.models.{family}.build")
    options: dict[str, Any] = {"data": data, "statistics": statistics, "horizon": horizon, "seed": seed}
    if family == "octo":
        _refuse_relative(treatment)
    else:
        options["treatment"] = treatment
    return package.build(model_cfg, **options, pretrained=pretrained)


def import_family(model_cfg: Mapping[str, Any]) -> None:
    """Import what `build` will need for these options, the framework included, and make nothing."""
    family = _family(model_cfg)
    importlib.import_module(f"xp.models.{family}.build")
    if family == "lerobot" and model_cfg.get("type"):
        from xp.models.lerobot.catalog import policy_class

        policy_class(str(model_cfg["type"]))


def camera_sizes(
    model_cfg: Mapping[str, Any], cameras: Mapping[str, Any], pretrained_path: str | None = None
) -> dict[str, tuple[int, int]]:
    """Size (height, width) in pixels at which a model wants each dataset camera that it uses; imports nothing heavy."""
    family = _family(model_cfg)
    package = importlib.import_module(f"xp.models.{family}.cameras")
    if family == "octo" or not pretrained_path:
        return package.camera_sizes(model_cfg, cameras)
    return package.camera_sizes(model_cfg, cameras, locate(pretrained_path)[0])


def load_policy(
    path: str | Path,
    device: str | None = None,
    cameras: Mapping[str, str | None] | None = None,
    dataset: str | None = None,
    mask: str | None = None,
) -> Policy:
    """The policy saved at `path`: an Octo folder, a LeRobot `pretrained_model` folder, or an xp run folder.

    Of a run its final policy is taken, else its best, else its newest checkpoint; `FOLDER@STEP` chooses a step.

    Args:
        path: the folder.
        device: for an Octo a jax platform such as "cpu" or "gpu", for a LeRobot policy a torch device; None takes the
            framework's default.
        cameras: {the policy's camera (of an Octo: image slot): the camera that feeds it}, where the names differ. An
            Octo's slot may be fed by None: it is masked.
        dataset: whose statistics an Octo uses, where its folder has those of several datasets.
        mask: of an act_smooth `training` or `original`, where the folder's configuration is not to decide: one without
            the field is of the published plugin, whose mask is `original`.

    Raises:
        UserError: nothing loadable there, or a damaged or inconsistent folder.
    """
    folder, step = locate(path)
    if is_lerobot(folder):
        if dataset is not None:
            raise UserError(
                f"dataset={dataset}: {folder} holds a LeRobot policy, whose statistics are those of its one training. "
                "Only an Octo's folder can have those of several datasets. Leave dataset out (predict.dataset=null, "
                "eval.dataset=null)."
            )
        from xp.models.lerobot.build import load as load_lerobot

        return load_lerobot(folder, device, cameras, mask)
    if mask is not None:
        raise UserError(f"mask={mask}: the policy in {folder} is an Octo, and only act_smooth has a choice of masks.")
    from xp.models.octo.build import load

    return load(folder, step, device, cameras, dataset)


def family_of(path: str | Path) -> str:
    """The family of the policy saved at `path`, without loading it."""
    return "lerobot" if is_lerobot(locate(path)[0]) else "octo"


def locate(path: str | Path) -> tuple[Path, int | None]:
    """The policy folder and step that `path` means, without loading it."""
    reference = CheckpointRef.parse(path)
    folder, step = reference.path, reference.step
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Give the folder of a saved policy or of a finished run.")
    refuse_adapter(folder)
    if is_lerobot(folder):
        return folder, None
    if _is_octo(folder):
        return folder, step
    for candidate in candidate_policy_dirs(folder, step):
        refuse_adapter(candidate)
        if candidate.is_dir() and (_is_octo(candidate) or is_lerobot(candidate)):
            return candidate, None
    raise UserError(_nothing(folder, step))


def _refuse_relative(treatment: DataTransforms) -> None:
    if treatment.is_relative:
        raise UserError(
            "action_space=relative: Octo's models take actions as the dataset has them. Type action_space=absolute, or "
            "take a model that can: model=act_smooth, model=act."
        )


def _family(model_cfg: Mapping[str, Any]) -> str:
    family = str(model_cfg.get("family"))
    if family not in FAMILIES:
        raise UserError(
            f"model.family={family}: allowed are "
            f"{join_names(FAMILIES)}{did_you_mean(family, FAMILIES)}. Choose a model that "
            "exists: model=octo_tiny, octo_small, octo_base, act, act_tiny, diffusion, diffusion_tiny, or "
            "model=lerobot model.type=TYPE."
        )
    return family


def _is_octo(folder: Path) -> bool:
    steps = (entry for entry in folder.iterdir() if re.fullmatch(r"[0-9]{1,18}", entry.name))
    return any((entry / "default" / "checkpoint").exists() for entry in steps)


def _nothing(folder: Path, step: int | None) -> str:
    inside = join_names(sorted(entry.name for entry in folder.iterdir())[:12])
    wanted = "STEP/default/checkpoint (an Octo folder)"
    run = f"checkpoints/checkpoint-{step}" if step is not None else "final/, best/ or checkpoints/checkpoint-N/"
    return (
        f"No policy can be loaded from {folder}: looked for {wanted}, for config.json with a policy type beside "
        f"model.safetensors (a LeRobot pretrained_model) and for {run} (an xp run folder); the folder has {inside}. "
        "Give the folder of a saved policy, or of a run that has trained"
        + (", or leave out the @STEP." if step is not None else ".")
    )
