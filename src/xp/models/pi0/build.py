"""Builds a pi0 for training (`build`), and loads a saved one (`load`)."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from xp.checkpoints.arrays import AnyDType
from xp.errors import UserError, did_you_mean, join_names
from xp.models.family import BuildRequest, LoadRequest
from xp.models.jax_device import jax_device
from xp.models.pi0.assembly import Assembly, assemble, check_weights
from xp.models.pi0.freezing import FREEZE_PRESETS, frozen_patterns
from xp.models.pi0.initial import initial_weights
from xp.models.pi0.interface import new_interface, saved_interface
from xp.models.pi0.io.folder import StepFolder, open_step
from xp.models.pi0.network.sizes import Sizes, sizes_from_shapes
from xp.models.pi0.options import DTYPES, Pi0Options
from xp.models.pi0.policy import Pi0Policy
from xp.models.trainable import JaxTrainable, LoadReport
from xp.models.tree import unflatten


def build(request: BuildRequest) -> JaxTrainable:
    """A new pi0, optionally from the weights of a saved one, whose sizes are taken too; see `Family.build`.

    Raises:
        UserError: options that do not fit each other, the dataset or the pretrained model.
    """
    options, pretrained = Pi0Options.from_config(request.model_cfg), request.pretrained
    source = open_step(*pretrained, fold=True) if pretrained else None
    sizes = options.sizes() if source is None else _sizes_of(source, options)
    interface = new_interface(
        options,
        sizes,
        source,
        data=request.data,
        statistics=request.statistics,
        horizon=request.horizon,
        transforms=request.transforms,
    )
    assembly = assemble(sizes, interface, remat=options.remat)
    flat, report = _initial(assembly, source, request.seed)
    return JaxTrainable(
        spec=assembly.spec,
        weights=unflatten(flat),
        loss=assembly.network.loss,
        prepare=assembly.prepare,
        policy=lambda weights: Pi0Policy(assembly, weights),
        frozen=frozen_patterns(sizes),
        freeze_presets=FREEZE_PRESETS,
        betas=(0.9, 0.95),
        load_report=report,
    )


def _initial(assembly: Assembly, source: StepFolder | None, seed: int) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Every weight that training begins with: those of `source`, and drawn ones."""
    shapes = assembly.network.shapes()
    if source is None:
        return initial_weights(shapes, seed), LoadReport(initialised=tuple(shapes))
    fresh = {path: leaf for path, leaf in shapes.items() if "lora_" in path}
    taken = [path for path in shapes if path not in fresh]
    given = {**source.shapes, **{path: tuple(leaf.shape) for path, leaf in fresh.items()}}
    check_weights(assembly.network, given, str(source.path))
    flat = {path: source.read(path, np.dtype(np.float32)) for path in taken} | initial_weights(fresh, seed)
    report = LoadReport(source=str(source.path), loaded=tuple(taken), initialised=tuple(fresh))
    return {path: flat[path] for path in shapes}, report


def load(request: LoadRequest) -> Pi0Policy:
    """A saved pi0, every weight accounted for; see `Family.load`."""
    source = open_step(request.folder, request.step)
    assembly = opened(source, request.camera_map, request.options)
    cast = _dtype(request.options.get("dtype"))
    weights = {name: source.read(name, cast) for name in source.leaves}
    return Pi0Policy(assembly, unflatten(weights), jax_device(request.device))


def opened(source: StepFolder, camera_map: Mapping[str, str | None], options: Mapping[str, str]) -> Assembly:
    """All of a saved pi0 but its weights, which are compared with the network first.

    Raises:
        UserError: weights that are none of a pi0, missing statistics, or options that do not fit.
    """
    where = str(source.path)
    sizes = sizes_from_shapes(source.shapes, where)
    assembly = assemble(sizes, saved_interface(source, sizes, camera_map, options))
    check_weights(assembly.network, source.shapes, where)
    return assembly


def _sizes_of(source: StepFolder, options: Pi0Options) -> Sizes:
    """The sizes of the pretrained weights, which must be of the model that is asked for."""
    sizes = sizes_from_shapes(source.shapes, str(source.path))
    if sizes.is_pi05 != options.is_pi05:
        asked = "pi05" if options.is_pi05 else "pi0"
        raise UserError(
            f"pretrained_path={source.path}: its weights are of {sizes.name}, and the model asked for is {asked}. Type "
            f"model={sizes.name}, or give weights of {asked}."
        )
    return options.with_updates(sizes)


def _dtype(text: str | None) -> AnyDType | None:
    if text is None:
        return None
    if text not in DTYPES:
        raise UserError(f"dtype={text}: allowed are {join_names(DTYPES)}{did_you_mean(text, DTYPES)}. Leave it out.")
    return np.dtype(ml_dtypes.bfloat16) if text == "bfloat16" else np.dtype(np.float32)
