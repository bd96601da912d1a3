"""Builds a pi0 in torch for training (`build`), and loads a saved one (`load`)."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import torch

from xp.errors import UserError, did_you_mean, join_names
from xp.models.family import BuildRequest, LoadRequest
from xp.models.pi0.freezing import frozen_patterns
from xp.models.pi0.initial import initial_weights
from xp.models.pi0.interface import Interface, new_interface, saved_interface, whole_number
from xp.models.pi0.io.key_map import UNUSED, leaf_shapes, parts
from xp.models.pi0.io.torch_folder import TorchFolder, open_torch
from xp.models.pi0.network.sizes import Sizes, weight_shapes
from xp.models.pi0.options import DTYPES, Pi0Options
from xp.models.pi0_torch.network import Model, loss, make_model, take
from xp.models.pi0_torch.options import torch_options
from xp.models.pi0_torch.policy import Pi0TorchPolicy, host, placed
from xp.models.torch_arrays import as_tensor
from xp.models.torch_device import torch_device
from xp.models.trainable import LoadReport, TorchTrainable

DECAYED = ("*kernel*",)
"""Leaves that decay where `trainer.weight_decay_params` does not say it: those that decay in JAX."""


def build(request: BuildRequest) -> TorchTrainable:
    """A new pi0 for a dataset and a horizon, optionally from the weights of a saved one; see `Family.build`.

    Raises:
        UserError: options that do not fit each other, the dataset or the pretrained model.
    """
    options, pretrained, horizon = torch_options(request.model_cfg), request.pretrained, request.horizon
    source = open_torch(pretrained[0], fold=True) if pretrained else None
    sizes = options.sizes() if source is None else _sizes_of(source, options)
    interface = new_interface(
        options,
        sizes,
        source,
        data=request.data,
        statistics=request.statistics,
        horizon=horizon,
        transforms=request.transforms,
    )
    interface = replace(interface, notes=replace(interface.notes, vision_heads=sizes.vision.heads))
    model = make_model(sizes, horizon, options.sample_steps, remat=options.remat)
    given = {} if source is None else _read(source, torch.float32)
    fresh = drawn(model, sizes, request.seed, beside=given)
    take(model, {**given, **fresh})
    for name in tensors_of(sizes, frozen_patterns(sizes)):
        model.get_parameter(name).requires_grad_(False)
    report = LoadReport(initialised=tuple(fresh))
    if source is not None:
        report = replace(report, source=str(source.path), loaded=tuple(source.leaves))
    return _trainable(interface, sizes, model, report)


def _sizes_of(source: TorchFolder, options: Pi0Options) -> Sizes:
    """The sizes of the pretrained weights, which must be of the model that is asked for."""
    if source.sizes.is_pi05 != options.is_pi05:
        asked = "pi05" if options.is_pi05 else "pi0"
        raise UserError(
            f"pretrained_path={source.path}: its weights are of {source.sizes.name}, and the model asked for is "
            f"{asked}. Type model.variant={source.sizes.name}, or give weights of {asked}."
        )
    return options.with_updates(source.sizes)


def tensors_of(sizes: Sizes, patterns: Sequence[str]) -> list[str]:
    """The tensors of those leaves of a model whose path one of the patterns (fnmatch) matches."""
    return [
        name
        for part in parts(weight_shapes(sizes))
        if any(fnmatchcase(part.leaf, pattern) for pattern in patterns)
        for name in part.tensors
    ]


def drawn(model: Model, sizes: Sizes, seed: int, beside: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Initial weights: the very numbers that the family in JAX begins with for this seed.

    `beside` are the names of weights that there are already, which are left out.
    """
    tensors = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = leaf_shapes(tensors, sizes.vision.heads, "the model")
    wanted = {part.leaf for part in parts(shapes) if part.tensors[0] not in beside}
    shapes = {leaf: shape for leaf, shape in shapes.items() if leaf in wanted}
    shaped = {leaf: np.broadcast_to(np.float32(0), shape) for leaf, shape in shapes.items()}  # of no memory
    leaves = initial_weights(shaped, seed)
    found = {} if UNUSED in beside else {UNUSED: torch.zeros(tensors[UNUSED])}
    for part in parts(shapes):
        layer = leaves[part.leaf] if part.layer is None else leaves[part.leaf][part.layer]
        for name, values in zip(part.tensors, part.way.split(layer)):
            found[name] = torch.from_numpy(np.ascontiguousarray(values))
    return found


def _read(source: TorchFolder, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Every weight of a folder, in its own type or cast; zeros for the unused one where the file leaves it out."""
    found = {name: as_tensor(source.tensor(name)) for name in source.leaves}
    if UNUSED not in found:
        found[UNUSED] = torch.zeros(source.sizes.vocabulary, source.sizes.action.width)
    return {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in found.items()}


def load(request: LoadRequest) -> Pi0TorchPolicy:
    """A saved pi0 in torch, every weight accounted for; see `Family.load`."""
    options = request.options
    dtype = _dtype(options.get("dtype"))
    heads = whole_number("vision_heads", options["vision_heads"], 16) if "vision_heads" in options else None
    source = open_torch(request.folder, heads)
    sizes = source.sizes
    given = dict(options)
    if source.notes is None and "action_horizon" in source.config:
        given.setdefault("horizon", str(source.config.integer("action_horizon", low=1, high=4096)))
    interface = saved_interface(source, sizes, request.camera_map, given)
    interface = replace(interface, notes=replace(interface.notes, vision_heads=sizes.vision.heads))
    model = make_model(sizes, interface.notes.horizon, interface.notes.sample_steps)
    take(model, _read(source, None if dtype == torch.bfloat16 else dtype))
    if dtype == torch.bfloat16:
        model.paligemma_with_expert.to_bfloat16_for_selected_params("bfloat16")
    return Pi0TorchPolicy(interface, sizes, model.to(torch_device(request.device)))


def _dtype(text: str | None) -> torch.dtype | None:
    if text is None:
        return None
    if text not in DTYPES:
        raise UserError(f"dtype={text}: allowed are {join_names(DTYPES)}{did_you_mean(text, DTYPES)}. Leave it out.")
    return torch.bfloat16 if text == "bfloat16" else torch.float32


def _trainable(interface: Interface, sizes: Sizes, model: Model, report: LoadReport) -> TorchTrainable:
    copies: list[Model] = []

    def policy(weights: Mapping[str, torch.Tensor] | None) -> Pi0TorchPolicy:
        if weights is None:
            return Pi0TorchPolicy(interface, sizes, model)
        if not copies:
            copies.append(copy.deepcopy(model))
        copies[0].load_state_dict(weights)
        return Pi0TorchPolicy(interface, sizes, copies[0])

    def objective(inputs: dict[str, torch.Tensor | list[str]]) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        device = model.action_in_proj.weight.device
        return loss(model, placed(inputs, device), interface.counted_dims), {}

    return TorchTrainable(
        spec=interface.spec,
        module=model,
        loss=objective,
        prepare=lambda batch: host(interface.prepare(batch)),
        policy=policy,
        decay=tensors_of(sizes, DECAYED),
        betas=(0.9, 0.95),
        load_report=report,
    )
