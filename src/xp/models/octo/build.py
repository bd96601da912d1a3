"""Octo for training (`build`) and for use (`load`)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xp.errors import UserError
from xp.models.octo.assembly import assemble
from xp.models.octo.cameras import resolve_slots
from xp.models.octo.initial import initial_weights
from xp.models.octo.io.folder import OctoFolder, open_folder
from xp.models.octo.io.matching_weights import fitting, verify
from xp.models.octo.io.sidecar import FREEZE_PRESETS, frozen_patterns, new_papers
from xp.models.octo.policy import OctoPolicy
from xp.models.policy import DataSpec
from xp.models.trainable import JaxTrainable, LoadReport
from xp.models.tree import unflatten


def build(
    model_cfg: Mapping[str, Any],
    *,
    data: DataSpec,
    statistics: Mapping[str, Any],
    horizon: int,
    seed: int,
    pretrained: tuple[Path, int | None] | None = None,
) -> JaxTrainable:
    """A new Octo for a dataset and a horizon, optionally on the trunk of a saved one.

    Args:
        model_cfg: options of conf/model with `family: octo`.
        data: what the dataset offers.
        statistics: of the training episodes, in the form of dataset_statistics.json; they travel with the model.
        horizon: actions in a chunk.
        seed: of the initial weights.
        pretrained: an Octo folder and a step (None: newest) to start from, by name and shape.

    Raises:
        UserError: options that do not fit each other, the dataset or the pretrained model.
    """
    source, checkpoint = open_folder(*pretrained) if pretrained else (None, None)
    model_cfg = _filled(model_cfg, source)
    slots = resolve_slots(model_cfg, data.cameras)
    papers = new_papers(model_cfg, data, slots, statistics, horizon, seed)
    assembly = assemble(papers, checkpoint.leaves if checkpoint else {}, remat=bool(model_cfg.get("remat")))
    shapes = assembly.network.shapes(assembly.example_inputs())
    taken, report = {}, LoadReport(initialised=tuple(shapes))
    if checkpoint and pretrained:
        report = fitting(shapes, checkpoint.leaves, str(pretrained[0]))
        taken = {path: array.astype(np.float32, copy=False) for path, array in checkpoint.read(report.loaded).items()}
    fresh = initial_weights({path: shapes[path] for path in report.initialised}, seed)
    return JaxTrainable(
        spec=assembly.spec,
        weights=unflatten({path: taken[path] if path in taken else fresh[path] for path in shapes}),
        loss=assembly.network.loss,
        prepare=assembly.prepare,
        policy=lambda weights: OctoPolicy(assembly, weights),
        frozen=frozen_patterns(papers.config["model"]),
        freeze_presets=FREEZE_PRESETS,
        load_report=report,
    )


def load(
    path: Path,
    step: int | None = None,
    device: str | None = None,
    camera_map: Mapping[str, str | None] | None = None,
    unnorm_key: str | None = None,
) -> OctoPolicy:
    """A saved Octo, every weight accounted for; the arguments are those of `xp.load_policy`."""
    papers, checkpoint = open_folder(path, step)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(checkpoint.read)  # beside the tracing that the check needs
        assembly = assemble(papers, checkpoint.leaves, camera_map=camera_map or {}, unnorm_key=unnorm_key)
        verify(assembly.network.shapes(assembly.example_inputs()), checkpoint.leaves, str(path))
        return OctoPolicy(assembly, unflatten(reading.result()), _device(device))


def _device(name: str | None) -> Any:
    if name is None:
        return None
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        raise UserError(
            f"device={name!r}: jax has no such device here ({error}). Allowed is for instance 'cpu'; type "
            "device=cpu, or leave it out."
        ) from error


def _filled(model_cfg: Mapping[str, Any], source: OctoFolder | None) -> dict[str, Any]:
    """Options left null follow the pretrained model: weights of Octo's first release need its attention mask."""
    filled = dict(model_cfg)
    for name in ("use_correct_attention", "repeat_task_tokens"):
        if filled.get(name) is None and source is not None:
            filled[name] = source.config["model"][name]
    return filled
