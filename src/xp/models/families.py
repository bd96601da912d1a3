"""Model families by name, and saved policies by the shape of their folder. Light: families import what is heavy."""

from collections.abc import Iterable, Mapping
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from xp.checkpoints.reference import CheckpointRef
from xp.checkpoints.run_layout import candidate_policy_dirs
from xp.errors import UserError, did_you_mean, join_names
from xp.models.family import Family
from xp.models.policy import DataSpec, DataTransforms, Policy
from xp.models.trainable import Trainable

GROUP = "xp.families"


class FoundPolicy(NamedTuple):
    """A saved policy that was found and not loaded; `step` where its folder holds several and one was named."""

    family: Family
    folder: Path
    step: int | None


@cache
def installed() -> Mapping[str, Family]:
    """{name: family}: xp's own, those that lie beside this module, and those of the entry-point group `xp.families`.

    xp's own stand in that group too. They are found without it because code also runs from a snapshot or a PYTHONPATH
    whose metadata are missing or older than it is.
    """
    names = sorted(place.parent.name for place in Path(__file__).parent.glob("*/family.py"))
    own = [metadata.EntryPoint(name, f"{__package__}.{name}.family:FAMILY", GROUP) for name in names]
    found = {entry.name: entry for entry in (*own, *metadata.entry_points(group=GROUP))}
    return {name: entry.load() for name, entry in found.items()}


def family_named(name: str) -> Family:
    """The installed family of a name.

    Raises:
        UserError: there is none of that name.
    """
    families = installed()
    if name not in families:
        raise UserError(
            f"model.family={name}: allowed are {join_names(families)}{did_you_mean(name, families)}. Choose a model "
            f"that exists: {_models_of(families)}; packages add families through the entry-point group {GROUP}."
        )
    return families[name]


def build(
    model_cfg: Mapping[str, Any],
    *,
    data: DataSpec,
    statistics: Mapping[str, Any],
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
    pretrained = locate(pretrained_path) if pretrained_path else None
    _refuse_relative(family, transforms)
    family.check(model_cfg, transforms)
    build_one = family.build
    if family.wraps_transforms:
        from xp.models.transforms import build_transformed

        build_one = partial(build_transformed, family.build)
    return build_one(
        model_cfg,
        data=data,
        statistics=statistics,
        horizon=horizon,
        seed=seed,
        pretrained=pretrained,
        transforms=transforms,
    )


def import_family(model_cfg: Mapping[str, Any]) -> None:
    """Import what `build` will need for these options, the framework included, and make nothing."""
    family_named(str(model_cfg.get("family"))).prepare_imports(model_cfg)


def camera_sizes(
    model_cfg: Mapping[str, Any], cameras: Mapping[str, Any], pretrained_path: str | None = None
) -> dict[str, tuple[int, int]]:
    """Size (height, width) in pixels at which a model wants each dataset camera that it uses; imports nothing heavy."""
    family = family_named(str(model_cfg.get("family")))
    return family.camera_sizes(model_cfg, cameras, locate(pretrained_path)[0] if pretrained_path else None)


def load_policy(
    path: str | Path,
    device: str | None = None,
    camera_map: Mapping[str, str | None] | None = None,
    **options: Any,
) -> Policy:
    """The policy saved at `path`: a policy folder of any family, or an xp run folder.

    Of a run its final policy is taken, else its best, else its newest checkpoint; `FOLDER@STEP` chooses a step.

    Args:
        path: the folder.
        device: for a JAX policy a jax platform such as "cpu" or "gpu", for a torch policy a torch device; None takes
            the framework's default.
        camera_map: {the policy's camera (of an Octo: image slot): the camera that feeds it}, where the names differ.
            An Octo's slot may be fed by None: it is masked.
        options: what one family alone can be told (None: not given). `unnorm_key`: whose statistics an Octo uses, where
            its folder has those of several datasets. `mask`: of an act_smooth `training` or `original`, where the
            folder's configuration is not to decide: one without the field is of the published plugin, whose mask is
            `original`.

    Raises:
        UserError: nothing loadable there, a damaged or inconsistent folder, or an option that is not its family's.
    """
    found = find_policy(path)
    given = {name: value for name, value in options.items() if value is not None}
    policy = found.family.load(found.folder, step=found.step, device=device, camera_map=camera_map, options=given)
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
    reference = CheckpointRef.parse(path)
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


def _refuse_relative(family: Family, transforms: DataTransforms) -> None:
    def can(each: Family) -> bool:
        return each.takes_relative_actions or each.wraps_transforms

    if transforms.is_relative and not can(family):
        able = [name for name, each in installed().items() if can(each)]
        raise UserError(
            f"action_space=relative: models of the family {family.name} take actions as the dataset has them. Type "
            f"action_space=absolute, or take a model that can: {_models_of(able)}."
        )


def _models_of(families: Iterable[str]) -> str:
    """`model=NAME, NAME`: the options of conf/model that are of these families."""
    from xp.config.compose import conf_folder

    chosen, places = set(families), sorted((conf_folder() / "model").glob("*.yaml"))
    return "model=" + ", ".join(place.stem for place in places if _family_in(place) in chosen)


def _family_in(place: Path) -> str | None:
    """The family that a file of conf/model names, itself or through the first of its defaults."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.load(place)
    if "family" in content:
        return str(content["family"])
    defaults = content.get("defaults")
    return _family_in(place.with_name(f"{defaults[0]}.yaml")) if defaults else None


def _nothing(folder: Path, step: int | None) -> str:
    inside = join_names(sorted(entry.name for entry in folder.iterdir())[:12])
    layouts = ", for ".join(sorted(family.folder_layout for family in installed().values()))
    run = f"checkpoints/checkpoint-{step}" if step is not None else "final/, best/ or checkpoints/checkpoint-N/"
    return (
        f"No policy can be loaded from {folder}: looked for {layouts} and for {run} (an xp run folder); the folder has "
        f"{inside}. Give the folder of a saved policy, or of a run that has trained"
        + (", or leave out the @STEP." if step is not None else ".")
    )
