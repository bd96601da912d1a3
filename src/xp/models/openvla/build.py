"""Builds an OpenVLA for training (`build`), and loads a saved one (`load`)."""

import copy
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped

from xp.checkpoints.arrays import AnyArray, Reader
from xp.errors import UserError, join_names
from xp.foreign.statistics import GroupStatistics
from xp.json_types import JSONObject
from xp.models.camera_maps import check_map
from xp.models.family import BuildRequest, LoadRequest
from xp.models.openvla.action_tokens import BINS
from xp.models.openvla.adapters import BASE_TYPES, adapt
from xp.models.openvla.assembly import MISSING, Assembly, feeding
from xp.models.openvla.bounds import grippers, norm_stats
from xp.models.openvla.chunks import ChunkPlan
from xp.models.openvla.config_file import new_config, own_code, warn_text
from xp.models.openvla.folder import Around, around, check_fit, load_arrays, open_weights
from xp.models.openvla.load_options import GRIPPERS
from xp.models.openvla.mixture import of_dataset, of_mixture
from xp.models.openvla.model import HEADS, OpenVLAModel
from xp.models.openvla.oft import component_files, oft_notes, refuse_oft_options, says_tokens, state_width
from xp.models.openvla.oft_parts import check_parts, read_parts
from xp.models.openvla.options import PADDING, Adaptation, OpenVLAOptions, cameras_of
from xp.models.openvla.policy import OpenVLAPolicy, as_inputs
from xp.models.openvla.sidecar import NOTES, STATISTICS, Notes, Sidecar, read_sidecar, statistics_json
from xp.models.openvla.sizes import NetworkSizes
from xp.models.openvla.text import TOKENIZER, Words, read_words, small_words
from xp.models.policy import DataSpec, Statistics
from xp.models.torch_arrays import as_array
from xp.models.torch_device import torch_device
from xp.models.trainable import LoadReport, TorchTrainable


@dataclass(frozen=True)
class Source:
    """An opened folder: its weights, whose data is not read yet, and all else."""

    folder: Path
    reader: Reader
    sidecar: Sidecar
    words: Words | None
    around: Around
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of an OpenVLA-OFT {part: its file}."""
    parts: Mapping[str, AnyArray] = field(default_factory=dict[str, AnyArray], repr=False)
    """The weights in these files."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{weight: shape}."""
        return {name: leaf.shape for name, leaf in self.reader.leaves.items()} | self.part_shapes

    @property
    def part_shapes(self) -> dict[str, tuple[int, ...]]:
        """{weight of a part: shape}."""
        return {name: array.shape for name, array in self.parts.items()}

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, AnyArray]:
        """Whole arrays, by default all."""
        wanted = list(self.shapes if names is None else names)
        found = load_arrays(self.reader, [name for name in wanted if name not in self.parts])
        return found | {name: self.parts[name] for name in wanted if name in self.parts}


def open_source(folder: Path, heads: tuple[int, int] | None = None, base: str | None = None) -> Source:
    """A folder's headers and small files.

    Args:
        folder: the folder of a model, or of an adapter.
        heads: attention heads of the towers, where nothing else says them.
        base: of an adapter: the folder of the weights that it was trained on, where it does not lie beside it.

    Raises:
        UserError: a file is missing, damaged, or says what is not honoured here.
    """
    code = own_code(folder)
    if code:
        warnings.warn(warn_text(folder, code), stacklevel=4)
    files = component_files(folder)
    for name, wrong in ((NOTES, True), (STATISTICS, False)):
        if files and os.path.lexists(folder / name) == wrong:
            raise UserError(
                f"{folder} holds {join_names(files.values())}, parts of an OpenVLA-OFT, and "
                f"{f'{name} of xp' if wrong else f'no {name}'}. Give the folder as vla-scripts/finetune.py wrote it."
            )
    reader, described_in = open_weights(folder, base)
    parts = read_parts(folder, files)
    both = [name for name in parts if name in reader.leaves]
    if both:
        raise UserError(f"{folder} holds {join_names(both[:4])} twice, among its weights and in a part's file.")
    sidecar = read_sidecar(
        folder, {name: leaf.shape for name, leaf in reader.leaves.items()}, heads, config_of=described_in
    )
    words = read_words(folder, sidecar.sizes.language.vocabulary)
    return Source(folder, reader, sidecar, words, around(folder, reader), files, parts)


def build(request: BuildRequest) -> TorchTrainable:
    """A new OpenVLA for a dataset and a horizon, optionally on the weights of a saved one; see `Family.build`.

    Raises:
        UserError: options that do not fit each other, the dataset or the pretrained model.
    """
    options, data, pretrained = OpenVLAOptions.from_config(request.model_cfg), request.data, request.pretrained
    sizes = options.sizes
    if options.lora is not None and pretrained is None:
        raise UserError(
            "model.lora adapts a model that is there, and pretrained_path names none. Type pretrained_path=FOLDER, or "
            "train all weights: model.lora=null"
        )
    source = open_source(pretrained[0], (sizes.dino.heads, sizes.siglip.heads)) if pretrained else None
    if source is not None:
        _refuse_other_sizes(source, sizes)
        sizes = source.sidecar.sizes
    plan = ChunkPlan(
        mode=options.chunk_mode,
        head=options.head,
        horizon=request.horizon,
        action_dim=data.action_dim,
        rotation_unit=options.rotation_unit,
    )
    notes = Notes(
        cameras={name: name for name in cameras_of(request.model_cfg, data.cameras)},
        fps=data.fps,
        heads=(sizes.dino.heads, sizes.siglip.heads),
        plan=plan,
        proprio=options.proprio,
        unnorm_key=None if data.members else options.unnorm_key,
        members=of_mixture(data, cameras_of(request.model_cfg, data.cameras), proprio=options.proprio),
        name=options.name,
    )
    sidecar = Sidecar(
        config={**(source.sidecar.config if source else {}), **new_config(sizes, dtype="float32")},
        sizes=sizes,
        statistics=_entries(request, options.unnorm_key),
        notes=notes,
    )
    words, files = _words(options, source, data, sizes)
    kept = Around(files, source.around.shard_map if source else {})
    assembly = Assembly(sidecar, words, kept, data.state_dim if options.proprio else 0)
    module, report = _new_module(assembly, source, request.seed, options.lora)
    if options.checkpoints_gradients:
        module.checkpoint_gradients()
    return _trainable(assembly, module, report)


def load(request: LoadRequest) -> OpenVLAPolicy:
    """A saved OpenVLA, every weight accounted for; see `Family.load`.

    Of a folder that xp did not write the camera is called "image". Options: `unnorm_key` (whose statistics the actions
    are brought to, where the folder has several), `tower_heads` (attention heads of both towers, "16,16", where nothing
    in the folder says them), `base` (of an adapter: the folder of the weights that it was trained on, where it does
    not lie beside it), `gripper` (see `Notes`), and those of `load_options.OFT`.

    Raises:
        UserError: a damaged folder, weights that do not fit, an unknown device, camera or dataset.
    """
    folder, camera_map, options = request.folder, request.camera_map, request.options
    heads, unnorm_key = options.get("tower_heads"), options.get("unnorm_key")
    source = open_source(folder, None if heads is None else _two(heads), options.get("base"))
    notes = _notes(source, options)
    check_map(camera_map, list(notes.cameras), f"camera of the policy in {folder}")
    notes = replace(notes, cameras=feeding(notes.cameras, camera_map))
    if unnorm_key is not None:
        notes = of_dataset(notes, source.sidecar.entry(unnorm_key)[0], camera_map)
    state_dim = state_width(source.shapes) if notes.proprio else 0
    assembly = Assembly(replace(source.sidecar, notes=notes), source.words, source.around, state_dim)
    with torch.device("meta"):
        module = _module(assembly)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_parts(folder, source.files, source.part_shapes, wanted)
    check_fit(folder, source.shapes, wanted)
    module.take(source.arrays())
    return OpenVLAPolicy(assembly, module.to(torch_device(request.device)))


def _entries(request: BuildRequest, name: str) -> dict[str, JSONObject]:
    """{dataset: its entry of norm_stats}: of a mixture each one's, else the one under the name that was given."""
    several, names = request.statistics.get("members"), tuple(request.transforms.action_names)
    each: Mapping[str, Statistics | GroupStatistics] = several or {name: request.statistics}
    return {key: statistics_json(norm_stats(own, grippers(names, own["action"]))) for key, own in each.items()}


def _notes(source: Source, options: Mapping[str, str]) -> Notes:
    """What the policy is: as xp noted it, as an OpenVLA-OFT's files and the user say, or an original OpenVLA."""
    notes, gripper = source.sidecar.notes, options.get("gripper")
    if source.files or (says_tokens(options) and not os.path.lexists(source.folder / NOTES)):
        notes = oft_notes(source.folder, source.sidecar, source.files, source.part_shapes, options)
    else:
        refuse_oft_options(source.folder, options)
    if gripper is None:
        return notes
    if gripper not in GRIPPERS:
        raise UserError(f"gripper={gripper}: allowed are {join_names(GRIPPERS)}. Type gripper={GRIPPERS[0]}")
    return replace(notes, gripper=gripper)


def _module(assembly: Assembly) -> OpenVLAModel:
    sidecar = assembly.sidecar
    return OpenVLAModel(sidecar.sizes, sidecar.notes.plan, marks=assembly.marks, state_dim=assembly.state_dim)


def _new_module(
    assembly: Assembly, source: Source | None, seed: int, lora: Adaptation | None
) -> tuple[OpenVLAModel, LoadReport]:
    """A model: freshly drawn, on the weights of a saved one, or these with an adapter.

    What is trained is float32. Torch's generator is left as it was.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        if source is None:
            return _module(assembly), LoadReport()
        with torch.device("meta"):
            module = _module(assembly)
        module.draw_heads()
        dtype = np.dtype(np.float32) if lora is None else BASE_TYPES[lora.base]
        report = _fill(module, source, dtype)
        if lora is not None:
            if report.dropped:
                raise UserError(
                    f"{source.folder} has {join_names(report.dropped[:4])} ({len(report.dropped)} weights), for which "
                    "this model has no place, and an adapter takes nothing away from its base. Type the chunk_mode, "
                    "head and horizon of the base, or train all weights: model.lora=null"
                )
            adapt(module, lora, source.folder, HEADS)
    return module, report


def _fill(module: OpenVLAModel, source: Source, dtype: np.dtype) -> LoadReport:
    """Give a network that has no memory yet the weights of a folder, in a type of numbers; heads stay float32."""
    state = module.state_dict()
    own = {name for name in state if name.startswith(HEADS)}
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    shapes = source.shapes
    check_fit(
        source.folder,
        {name: shape for name, shape in shapes.items() if not name.startswith(HEADS)},
        {name: shape for name, shape in wanted.items() if name not in own},
    )
    fits = [name for name in wanted if shapes.get(name) == wanted[name]]
    arrays: dict[str, Shaped[np.ndarray, ...]] = {name: as_array(state[name]) for name in own - set(fits)}
    for name, array in source.arrays(fits).items():
        arrays[name] = array.astype(np.float32 if name in own else dtype, copy=False)
    module.take(arrays)
    return LoadReport(
        source=str(source.folder),
        loaded=tuple(fits),
        initialised=tuple(sorted(own - set(fits))),
        dropped=tuple(name for name in shapes if name not in fits),
    )


def _trainable(assembly: Assembly, module: OpenVLAModel, report: LoadReport) -> TorchTrainable:
    copies: list[OpenVLAModel] = []

    def policy(weights: Mapping[str, torch.Tensor] | None) -> OpenVLAPolicy:
        if weights is None:
            return OpenVLAPolicy(assembly, module)
        if not copies:
            copies.append(copy.deepcopy(module))
        copies[0].load_state_dict(weights)
        return OpenVLAPolicy(assembly, copies[0])

    return TorchTrainable(
        spec=assembly.spec,
        module=module,
        loss=lambda inputs: module(as_inputs(inputs, module.device)),
        prepare=assembly.prepare,
        policy=policy,
        load_report=report,
    )


def _words(
    options: OpenVLAOptions, source: Source | None, data: DataSpec, sizes: NetworkSizes
) -> tuple[Words, Mapping[str, bytes]]:
    """The tokeniser and its files: the given one, the pretrained model's, or a small one of the instructions."""
    vocabulary = sizes.language.vocabulary
    if options.tokenizer is not None:
        folder = Path(options.tokenizer)
        words = read_words(folder, vocabulary) if folder.is_dir() else None
        if words is None:
            raise UserError(
                f"model.tokenizer={folder}: there is no {TOKENIZER} in it. Give the folder that holds the tokeniser's "
                "files, for instance a downloaded openvla/openvla-7b."
            )
        return words, {TOKENIZER: words.content}
    if source is not None:
        if source.words is None:
            raise UserError(MISSING.format(text="the instructions") + " Or type model.tokenizer=FOLDER.")
        return source.words, source.around.tokenizer
    words = small_words(data.tasks, words=vocabulary - PADDING - BINS, vocabulary=vocabulary)
    return words, {TOKENIZER: words.content}


def _refuse_other_sizes(source: Source, wanted: NetworkSizes) -> None:
    """A model started from a saved one has its sizes."""
    found = asdict(source.sidecar.sizes)
    language = {key: found["language"][key] for key in ("norm_eps", "rope_theta", "positions")}
    own = asdict(replace(wanted, language=replace(wanted.language, **language)))
    if found == own:
        return
    differing = []
    for key, value in found.items():
        if value != own[key]:
            parts = value.items() if isinstance(value, dict) else [("", value)]
            differing += [
                f"model.{'image_size' if key == 'image' else key}{'.' * bool(part)}{part}={_typed(number)}"
                for part, number in parts
                if number != (own[key][part] if part else own[key])
            ]
    raise UserError(
        f"The pretrained policy in {source.folder} has other sizes than this model. Type {' '.join(differing)}, or "
        "choose the model that it was trained as."
    )


def _typed(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple | list) else str(value)


def _two(given: str) -> tuple[int, int]:
    parts = given.replace(" ", "").strip("[]").split(",")
    if len(parts) != 2 or not all(part.isdecimal() and 1 <= int(part) <= 1024 for part in parts):
        raise UserError(f"tower_heads={given}: expected the attention heads of both towers. Type tower_heads=16,16")
    return int(parts[0]), int(parts[1])
