# pyright: strict
"""Finds a family by its name, and that of a saved policy by the files in its folder. Imports no framework."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xp import collector
from xp.checkpoints.reference import CheckpointRef
from xp.checkpoints.run_layout import candidate_policy_dirs
from xp.config.hub_keys import local_path
from xp.config.model_families import GROUP, models_of, refuse_mixture, refuse_relative, refuse_unknown_family
from xp.errors import UserError, did_you_mean, join_names
from xp.hub.address import is_address
from xp.json_types import JSONObject
from xp.models.family import BuildRequest, Family, LoadRequest
from xp.models.policy import DataSpec, DataTransforms, Policy, Statistics
from xp.models.trainable import Trainable
from xp.plugins import load_all, load_plugin


class FoundPolicy(NamedTuple):
    """A saved policy that was found and not loaded; `step` where its folder holds several and one was named."""

    family: Family
    folder: Path
    step: int | None


def installed() -> Mapping[str, Family]:
    """{name: family}: xp's own and those that packages offer through the entry-point group `xp.families`.

    Raises:
        UserError: two packages offer one name, or what one offers is no `Family`.
    """
    return load_all(GROUP, Family)


def family_named(name: str) -> Family:
    """The installed family of a name.

    Raises:
        UserError: there is none of that name, two packages offer it, or what one offers is no `Family`.
    """
    refuse_unknown_family(name)
    return load_plugin(GROUP, name, "model.family", Family)


def build(
    model_cfg: JSONObject,
    *,
    data: DataSpec,
    statistics: Statistics,
    horizon: int,
    seed: int,
    pretrained_path: str | None = None,
    transforms: DataTransforms | None = None,
) -> Trainable:
    """A trainable model of the family that `model_cfg` names, for a dataset and a horizon.

    Raises:
        UserError: an unknown family, options that do not fit, or a `pretrained_path` that is no saved policy.
    """
    family, transforms = family_named(str(model_cfg.get("family"))), transforms or DataTransforms()
    pretrained = _start(family, pretrained_path) if pretrained_path else None
    if transforms.is_relative:
        refuse_relative(family)
    if data.members:
        refuse_mixture(family)
    request = BuildRequest(
        model_cfg,
        data=data,
        statistics=statistics,
        horizon=horizon,
        seed=seed,
        pretrained=pretrained,
        transforms=transforms,
    )
    with collector.paused():
        family.check(model_cfg, transforms)
        if not family.wraps_transforms:
            return family.build(request)
        from xp.models.transforms import build_transformed

        return build_transformed(family, request)


def import_family(model_cfg: JSONObject) -> None:
    """Import what `build` will need for these options, the framework included, and make nothing."""
    with collector.paused():
        family_named(str(model_cfg.get("family"))).prepare_imports(model_cfg)


def camera_sizes(
    model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained_path: str | None = None
) -> dict[str, tuple[int, int]]:
    """Size (height, width) in pixels at which a model wants each dataset camera that it uses; imports nothing heavy."""
    family = family_named(str(model_cfg.get("family")))
    return family.camera_sizes(model_cfg, cameras, _start(family, pretrained_path)[0] if pretrained_path else None)


def load_policy(
    path: str | Path,
    device: str | None = None,
    camera_map: Mapping[str, str | None] | None = None,
    **options: str | None,
) -> Policy:
    """The policy saved at `path`: a policy folder of any family, or an xp run folder.

    Of a run its final policy is taken, else its best, else its newest checkpoint; `FOLDER@STEP` chooses a step.

    Args:
        path: the folder; or the id of one on the hub, `hf://ORG/NAME@REVISION`, which is downloaded.
        device: for a JAX policy a jax platform such as "cpu" or "gpu", for a torch policy a torch device; None takes
            the framework's default.
        camera_map: {the policy's camera: the camera that feeds it}, where the names differ; None feeds a camera
            nothing, where the family can mask it.
        options: what the policy's family alone can be told (None: not given), by the names of its `load_options`.

    Raises:
        UserError: nothing loadable there, a damaged or inconsistent folder, or an option that is not its family's.
    """
    found = find_policy(path)
    given = {name: value for name, value in options.items() if value is not None}
    found.family.refuse_options(found.folder, given)
    with collector.paused():
        policy = found.family.load(LoadRequest(found.folder, found.step, device, camera_map or {}, given))
    if not found.family.wraps_transforms:
        return policy
    from xp.models.transforms import saved_relative, with_relative

    relative = saved_relative(found.folder)
    return policy if relative is None else with_relative(policy, relative)


def find_policy(path: str | Path) -> FoundPolicy:
    """Family, folder and step of the policy that `path` means, without loading it.

    Raises:
        UserError: no policy there, one that two families take for theirs, or one that cannot be loaded as it is.
    """
    reference = CheckpointRef.parse(local_path(str(path), "checkpoint") if is_address(str(path)) else path)
    folder, step = reference.path, reference.step
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Give the folder of a saved policy or of a finished run.")
    family = _owner(folder)
    if family is not None:
        return FoundPolicy(family, folder, step if family.has_steps else None)
    for candidate in candidate_policy_dirs(folder, step):
        family = _owner(candidate) if candidate.is_dir() else None
        if family is not None:
            return FoundPolicy(family, candidate, None)
    _refuse_adapter(folder, step)
    raise UserError(_nothing(folder, step))


def locate(path: str | Path) -> tuple[Path, int | None]:
    """The policy folder and step that `path` means, without loading it."""
    found = find_policy(path)
    return found.folder, found.step


def family_of(path: str | Path) -> str:
    """The name of the family of the policy saved at `path`, without loading it."""
    return find_policy(path).family.name


def trained_fps(path: str | Path) -> float | None:
    """Steps per second that the policy saved at `path` was trained at; None where its folder does not say."""
    found = find_policy(path)
    return found.family.trained_fps(found.folder)


def _owner(folder: Path) -> Family | None:
    """The family whose policy a folder is; all are asked, so that two that claim it are noticed."""
    owners = [family for family in installed().values() if family.owns(folder)]
    if len(owners) > 1:
        layouts = "; ".join(f"{family.name}: {family.folder_layout}" for family in owners)
        raise UserError(
            f"{folder} is a policy of the families {join_names(family.name for family in owners)} at once ({layouts}), "
            "and nothing says which of them is meant. Move the files of one of them into a folder of its own."
        )
    return owners[0] if owners else None


def _start(family: Family, pretrained_path: str) -> tuple[Path, int | None]:
    """The folder and step of a policy to start from, which must be of the model's own family."""
    found = find_policy(pretrained_path)
    if found.family.name != family.name:
        raise UserError(
            f"pretrained_path={pretrained_path}: a policy of the family {found.family.name}, while model.family="
            f"{family.name}. Give a policy of the family {family.name}, {family.folder_layout}, or choose a model that "
            f"starts from this one: {models_of([found.family.name])}."
        )
    return found.folder, found.step


def _refuse_adapter(folder: Path, step: int | None) -> None:
    """Refuse a PEFT adapter that no family takes as it is: its weights are its base's, changed."""
    from xp.checkpoints.peft_adapter import is_adapter

    for place in (folder, folder / "pretrained_model", *candidate_policy_dirs(folder, step)):
        if is_adapter(place):
            raise UserError(
                f"{place} holds a PEFT adapter, which works only with the base that it was trained on. Merge it "
                "into that base, and give the result: xp task=merge merge_method=interpolate merge_method.alpha=1 "
                f"merge.checkpoints=[{place}] merge.base=BASE merge.output=FOLDER"
            )


def _nothing(folder: Path, step: int | None) -> str:
    from xp.models.network_family.folder import family_in

    places = (folder, *candidate_policy_dirs(folder, step))
    for name in filter(None, (family_in(place) for place in places if place.is_dir())):
        return (
            f"The policy in {folder} is of the family {name}, which no installed package brings"
            f"{did_you_mean(name, installed())}; installed are {join_names(installed())}. Install the package that it "
            "was trained with."
        )
    inside = join_names(sorted(entry.name for entry in folder.iterdir())[:12])
    layouts = ", for ".join(sorted(family.folder_layout for family in installed().values()))
    run = f"checkpoints/checkpoint-{step}" if step is not None else "final/, best/ or checkpoints/checkpoint-N/"
    return (
        f"No policy can be loaded from {folder}: looked for {layouts} and for {run} (an xp run folder); the folder has "
        f"{inside}. Give the folder of a saved policy, or of a run that has trained"
        + (", or leave out the @STEP." if step is not None else ".")
    )
