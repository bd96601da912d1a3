"""Vintix models for training (`build`) and for use (`load`)."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from xp.errors import UserError
from xp.models.family import BuildRequest, LoadRequest
from xp.models.network_family.folder import check_fit
from xp.models.network_family.torch_policy import fill, new_module, shapes
from xp.models.policy import DataSpec, GroupSpec, Statistics
from xp.models.torch_device import torch_device
from xp.models.trainable import LoadReport, TorchTrainable
from xp.models.vintix.folder import CONFIG, METADATA, WEIGHTS, Description, read_description
from xp.models.vintix.network import VintixNetwork
from xp.models.vintix.options import ORIGINS, UPSTREAM, ModelSection, read_section
from xp.models.vintix.policy import VintixPolicy, objective, spec_of
from xp.models.vintix.tasks import UNNAMED, Tasks
from xp.models.vintix.weights import read_state_dict

_BETAS = (0.9, 0.99)
"""Of AdamW, as the original trains."""
_FREE = ("context_len", "attn_dropout", "residual_dropout")
"""Options that say nothing of the weights: a model may go on from others' weights with its own."""


def build(request: BuildRequest) -> TorchTrainable:
    """A model for the tasks of a dataset, new or from a pretrained one's weights; see `Family.build`.

    From a pretrained model its options, its tasks with their statistics and all of its weights are taken; tasks of the
    dataset that it does not know are added, with encoders and decoders of their own where it lacks their group.

    Raises:
        UserError: options that do not fit, a horizon above 1, cameras, or widths that are not the model's.
    """
    section, data, seed, horizon = read_section(request.model_cfg), request.data, request.seed, request.horizon
    pretrained = request.pretrained[0] if request.pretrained else None
    if horizon != 1:
        raise UserError(
            f"horizon.train={horizon}: Vintix learns the action of each step of a trajectory, one a query. Type "
            "horizon=h1"
        )
    described = _described(section, data, request.statistics, pretrained)
    module = new_module(lambda: VintixNetwork(described.options, described.tasks, described.origin), seed)
    report = _started(module, pretrained) if pretrained else LoadReport()
    names = tuple(group.name for group in _groups(data))

    def around(network: VintixNetwork) -> VintixPolicy:
        return VintixPolicy(described, network, group_names=names, sums_losses=section.sums_losses)

    deployed, copies = around(module), list[VintixNetwork]()

    def policy(weights: Mapping[str, torch.Tensor] | None) -> VintixPolicy:
        if weights is None:
            return deployed
        if not copies:
            copies.append(copy.deepcopy(module))
        copies[0].load_state_dict(weights)
        return around(copies[0])

    return TorchTrainable(
        spec=spec_of(described),
        prepare=lambda batch: {**deployed.prepare(batch)},
        policy=policy,
        load_report=report,
        module=module,
        loss=lambda given: objective(
            module,
            {name: value for name, value in given.items() if isinstance(value, torch.Tensor)},
            sums=section.sums_losses,
        ),
        decay=decayed(module),
        betas=_BETAS,
    )


def load(request: LoadRequest) -> VintixPolicy:
    """A saved model, every weight accounted for; see `Family.load`.

    Raises:
        UserError: a damaged folder, one that does not say its origin, an unknown device, or a map of cameras.
    """
    folder, origin = request.folder, request.options.get("origin")
    if request.camera_map:
        raise UserError(f"The Vintix model in {folder} looks through no cameras. Leave the map of cameras out.")
    if origin is not None and origin not in ORIGINS:
        raise UserError(f"origin={origin}: expected upstream or fork. Type origin=upstream or origin=fork")
    described = read_description(folder, origin)

    def make() -> VintixNetwork:
        return VintixNetwork(described.options, described.tasks, described.origin)

    with torch.device("meta"):  # no memory is taken for weights that the file does not hold
        wanted = shapes(make())
    weights = read_state_dict(folder)
    check_fit(
        folder,
        {name: tuple(tensor.shape) for name, tensor in weights.items()},
        wanted,
        described=f"{CONFIG} and {METADATA}",
        weights=WEIGHTS,
    )
    module = new_module(make, 0)
    module.load_state_dict(weights)
    return VintixPolicy(described, module.to(torch_device(request.device)))


def decayed(module: torch.nn.Module) -> list[str]:
    """Names of the weights that decay: the matrices of linear layers, as the original divides them."""
    return [f"{name}.weight" for name, inner in module.named_modules() if isinstance(inner, torch.nn.Linear)]


def _described(section: ModelSection, data: DataSpec, statistics: Statistics, pretrained: Path | None) -> Description:
    groups = _groups(data)
    if pretrained is None:
        tasks = Tasks(()).with_data(groups, statistics)
        options, origin, config = section.options, section.origin or UPSTREAM, {}
    else:
        found = read_description(pretrained, section.pretrained_origin)
        if section.origin not in (None, found.origin):
            raise UserError(
                f"model.origin={section.origin}: {pretrained} is of {found.origin}, whose tokens are put together in "
                f"another order, and its weights mean nothing in this one. Type model.origin={found.origin}"
            )
        _refuse_other_options(section, found, pretrained)
        tasks = found.tasks.with_data(groups, statistics)
        origin, config = found.origin, found.config
        chosen = {key: getattr(section.options, key) for key in _FREE if key in section.given}
        options = replace(found.options, **chosen)
    return Description(
        options=options,
        tasks=tasks,
        origin=origin,
        fps=data.fps,
        state_dim=data.state_dim,
        action_dim=data.action_dim,
        config=config,
    )


def _refuse_other_options(section: ModelSection, found: Description, pretrained: Path) -> None:
    """Refuse what is not as in the pretrained model and has to be."""
    own, theirs = section.options.config(), found.options.config()
    for key in sorted(section.given.difference(_FREE)):
        if own[key] != theirs[key]:
            raise UserError(
                f"model.{key}={own[key]}: {pretrained} has {theirs[key]}, and a model that starts from its weights is "
                f"as it is. Type model.{key}={theirs[key]}, or model.{key}=null for each key to be as in the folder"
            )


def _groups(data: DataSpec) -> tuple[GroupSpec, ...]:
    """The dataset's groups; one for all of it where it has none."""
    if data.groups:
        return tuple(data.groups)
    name = data.tasks[0] if len(data.tasks) == 1 else UNNAMED
    return (GroupSpec(name=name, action_dim=data.action_dim, state_dim=data.state_dim, parameter_group=UNNAMED),)


def _started(module: VintixNetwork, folder: Path) -> LoadReport:
    """Start from the weights of a folder that fit by name and shape; what became of each."""
    found, wanted = read_state_dict(folder), shapes(module)
    fits = {name: tensor for name, tensor in found.items() if wanted.get(name) == tuple(tensor.shape)}
    fill(module, {name: tensor.to(torch.float32).numpy() for name, tensor in fits.items()})
    return LoadReport(
        source=str(folder),
        loaded=tuple(fits),
        initialised=tuple(name for name in wanted if name not in fits),
        dropped=tuple(name for name in found if name not in fits),
    )
