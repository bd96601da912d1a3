"""Builds an Octo for training (`build`), and loads a saved one (`load`)."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from xp.models.family import BuildRequest, LoadRequest
from xp.models.jax_device import jax_device
from xp.models.octo.assembly import assemble
from xp.models.octo.cameras import resolve_slots
from xp.models.octo.initial import initial_weights
from xp.models.octo.io.folder import OctoSidecar, open_folder
from xp.models.octo.io.matching_weights import match_weights, verify
from xp.models.octo.io.sidecar import FREEZE_PRESETS, frozen_patterns, new_sidecar
from xp.models.octo.options import OctoOptions
from xp.models.octo.policy import OctoPolicy
from xp.models.trainable import JaxTrainable, LoadReport
from xp.models.tree import unflatten


def build(request: BuildRequest) -> JaxTrainable:
    """A new Octo, optionally on the trunk of a saved one, taken by name and shape; see `Family.build`.

    Raises:
        UserError: options that do not fit each other, the dataset or the pretrained model.
    """
    pretrained, data, seed = request.pretrained, request.data, request.seed
    source, checkpoint = open_folder(*pretrained) if pretrained else (None, None)
    options = _as_pretrained(OctoOptions.from_config(request.model_cfg), source)
    slots = resolve_slots(options.slots, data.cameras)
    sidecar = new_sidecar(options, data, slots, request.statistics, request.horizon, seed)
    assembly = assemble(sidecar, checkpoint.leaves if checkpoint else {}, remat=options.remat)
    shapes = assembly.network.shapes(assembly.example_inputs())
    taken, report = {}, LoadReport(initialised=tuple(shapes))
    if checkpoint and pretrained:
        report = match_weights(shapes, checkpoint.leaves, str(pretrained[0]))
        taken = {path: array.astype(np.float32, copy=False) for path, array in checkpoint.read(report.loaded).items()}
    fresh = initial_weights({path: shapes[path] for path in report.initialised}, seed)
    return JaxTrainable(
        spec=assembly.spec,
        weights=unflatten({path: taken[path] if path in taken else fresh[path] for path in shapes}),
        loss=assembly.network.loss,
        prepare=assembly.prepare,
        policy=lambda weights: OctoPolicy(assembly, weights),
        frozen=frozen_patterns(sidecar.config["model"]),
        freeze_presets=FREEZE_PRESETS,
        load_report=report,
    )


def load(request: LoadRequest) -> OctoPolicy:
    """A saved Octo, every weight accounted for; see `Family.load`."""
    sidecar, checkpoint = open_folder(request.folder, request.step)
    key = request.options.get("unnorm_key")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(checkpoint.read)  # beside the tracing that the check needs
        assembly = assemble(sidecar, checkpoint.leaves, camera_map=request.camera_map, unnorm_key=key)
        verify(assembly.network.shapes(assembly.example_inputs()), checkpoint.leaves, str(request.folder))
        return OctoPolicy(assembly, unflatten(reading.result()), jax_device(request.device))


def _as_pretrained(options: OctoOptions, source: OctoSidecar | None) -> OctoOptions:
    """Options left null follow the pretrained model: weights of Octo's first release need its attention mask."""
    if source is None:
        return options
    model = source.config["model"]
    correct, repeat = options.use_correct_attention, options.repeat_task_tokens
    return replace(
        options,
        use_correct_attention=model["use_correct_attention"] if correct is None else correct,
        repeat_task_tokens=model["repeat_task_tokens"] if repeat is None else repeat,
    )
