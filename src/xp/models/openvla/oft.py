"""Folders of OpenVLA-OFT: an OpenVLA's, whose action head and state projector lie beside it, each in a file of torch.

Kim et al., "Fine-Tuning Vision-Language-Action Models: Optimizing Speed and Success", 2025; the files are those that
its `vla-scripts/finetune.py` writes and `experiments/robot/openvla_utils.py` reads:

- the merged model (config.json, safetensors), or `lora_adapter/` alone, which has its base elsewhere;
- `action_head--STEP_checkpoint.pt`, `proprio_projector--STEP_checkpoint.pt`, whose names may begin with "module.";
- dataset_statistics.json.

Chunk length, number of pictures and normalisation stand in no file: there they are constants by the robot, which its
code finds by the word in the name of the dataset (`prismatic/vla/constants.py`), or words of the command line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xp.errors import UserError, did_you_mean, join_names, some
from xp.foreign.text import printable
from xp.models.openvla.bounds import ENDS
from xp.models.openvla.chunks import ChunkPlan
from xp.models.openvla.config_file import COMPONENT
from xp.models.openvla.load_options import OFT
from xp.models.openvla.sidecar import STATISTICS, Notes, Sidecar
from xp.models.openvla.sizes import Shapes

PARTS = {"action_head": "action_head.", "proprio_projector": "proprio_projector."}
"""{a part's name in files: how the names of its weights begin here}."""
_REFUSED = {
    "noisy_action_projector": "a diffusion head (use_diffusion=True)",
    "vision_backbone": "FiLM (use_film=True), by which the words change what the vision towers give",
}
CROP = 0.9
"""The share of a picture's area that evaluations of OpenVLA-OFT show, since it is trained on crops of that area."""


@dataclass(frozen=True)
class Robot:
    """Constants of OpenVLA-OFT for one robot, and how many cameras its published models see."""

    chunk: int
    action_dim: int
    state_dim: int
    ends: str
    images: int | None
    gripper: str = "as_trained"
    """How evaluations of its policies execute the gripper; see `Notes`."""


ROBOTS = {
    "libero": Robot(8, 7, 8, "bounds_q99", 2, "turned"),
    "aloha": Robot(25, 14, 14, "bounds", 3),
    "bridge": Robot(5, 7, 7, "bounds_q99", None),
}
"""By the word in the name of the dataset."""


def component_files(folder: Path) -> dict[str, str]:
    """{part: its file} of a folder; empty where it is no OpenVLA-OFT's.

    Raises:
        UserError: files of a part that is not read here (by its name), of several steps, or of an unknown part.
    """
    named: dict[str, list[str]] = {}
    steps: set[str] = set()
    for name in sorted(entry.name for entry in folder.iterdir()):
        found = COMPONENT.fullmatch(name)
        if found is not None:
            named.setdefault(found["part"], []).append(name)
            steps.add(found["step"])
    for part, files in named.items():
        if part in _REFUSED:
            raise UserError(
                f"{folder} holds {files[0]}: it was trained with {_REFUSED[part]}, which xp's OpenVLA does not have. "
                "Give one with the L1 head or with tokens: use_diffusion=False, use_film=False."
            )
        if part not in PARTS:
            raise UserError(
                f"{folder} holds {printable(some(files, 4), 400)}, which no OpenVLA-OFT has: its parts are "
                f"{join_names(PARTS)}. Give the folder as vla-scripts/finetune.py wrote it."
            )
    several = [files for files in named.values() if len(files) > 1]
    if several or len(steps) > 1:
        files = several[0] if several else [name for found in named.values() for name in found]
        raise UserError(
            f"{folder} holds parts of several steps ({printable(some(files, 4), 400)}), and which of them belong to "
            "its weights is not said. Keep those of one step."
        )
    return {part: files[0] for part, files in named.items()}


def oft_notes(
    folder: Path, sidecar: Sidecar, files: Mapping[str, str], shapes: Shapes, options: Mapping[str, str]
) -> Notes:
    """What a policy of an OpenVLA-OFT folder is: xp's notes, of what its files and a user say.

    Args:
        folder: for messages.
        sidecar: of the folder.
        files: its parts, see `component_files`.
        shapes: of the parts' weights, by their names here.
        options: those of `load_options.OFT` that were given.

    Raises:
        UserError: a part is missing and is not said to be, or what no file says is not given, or is no such value.
    """
    has_state = _is_used(folder, files, "proprio_projector", "use_proprio", options)
    has_head = _is_used(folder, files, "action_head", "use_l1_regression", options)
    action_dim, state_dim = sidecar.notes.plan.action_dim, state_width(shapes)
    if has_state:
        _refuse_other_states(folder, sidecar, state_dim)
    robot = _robot(sidecar.statistics, action_dim, state_dim)
    chunk = _count("chunk_length", options, robot.chunk if robot else None)
    images = _count("num_images_in_input", options, robot.images if robot else None)
    for name, value, how in (("chunk_length", chunk, "8"), ("num_images_in_input", images, "2")):
        if value is None:
            raise UserError(_unsaid(folder, sidecar, name, how))
    assert chunk is not None and images is not None
    ends = options.get("normalization") or (robot.ends if robot else "bounds_q99")
    if ends not in ENDS:
        raise UserError(
            f"normalization={ends}: allowed are {join_names(ENDS)}{did_you_mean(ends, list(ENDS))}. Type "
            "normalization=bounds_q99"
        )
    plan = ChunkPlan(mode="oft", head="l1" if has_head else "token", horizon=chunk, action_dim=action_dim)
    return Notes(
        cameras={name: name for name in _cameras(images)},
        fps=None,
        heads=sidecar.notes.heads,
        plan=plan,
        proprio=has_state,
        crop=CROP if _flag("center_crop", options, True) else None,
        ends=ends,
        gripper=robot.gripper if robot else "as_trained",
    )


def refuse_oft_options(folder: Path, options: Mapping[str, str]) -> None:
    """Refuse `load_options.OFT` for a folder that is no OpenVLA-OFT's.

    Raises:
        UserError: the first that was given.
    """
    for name in OFT:
        if name in options:
            raise UserError(
                f"{name}={options[name]}: {folder} holds no part of an OpenVLA-OFT (such as "
                "action_head--150000_checkpoint.pt), so that nothing is left to say. Leave it out; of an OpenVLA-OFT "
                "that says its actions as tokens, without any part, say use_l1_regression=false use_proprio=false."
            )


def says_tokens(options: Mapping[str, str]) -> bool:
    """Whether a user says that a folder is an OpenVLA-OFT's that tells actions as tokens: no file of it shows that."""
    return "use_l1_regression" in options and not _flag("use_l1_regression", options, True)


def state_width(shapes: Shapes) -> int:
    """Numbers of the state that the projector among some weights reads; 0 where there is none."""
    shape = shapes.get("proprio_projector.fc1.weight", ())
    return shape[1] if len(shape) == 2 else 0


def _is_used(folder: Path, files: Mapping[str, str], part: str, option: str, options: Mapping[str, str]) -> bool:
    """Whether a policy has a part: what its files and the user say has to be the same."""
    said = _flag(option, options, True)
    if said and part not in files:
        raise UserError(
            f"{folder} holds {join_names(files.values()) if files else 'no part of an OpenVLA-OFT'}, and no "
            f"{part}--STEP_checkpoint.pt. Copy it too; where the policy was trained without it, say {option}=false "
            f"(predict.load_options.{option}=false, eval.load_options.{option}=false)"
        )
    if not said and part in files:
        raise UserError(f"{option}=false: {folder} holds {files[part]}, so it was trained with it. Leave {option} out.")
    return said


def _refuse_other_states(folder: Path, sidecar: Sidecar, state_dim: int) -> None:
    for name in sidecar.statistics:
        entry = sidecar.entry(name)[1]
        width = len(entry.object("proprio").numbers("mean", most=1 << 16)) if "proprio" in entry else 0
        if width != state_dim:
            raise UserError(
                f"The state's projector of {folder} reads {state_dim} numbers, and {STATISTICS} has statistics of "
                f"{width} ({name}: proprio). Give the {STATISTICS} that was saved with it."
            )


def _robot(statistics: Mapping[str, object], action_dim: int, state_dim: int) -> Robot | None:
    """Whose constants apply: the one robot's whose word stands in the datasets' names, where the widths are its own."""
    named = [robot for word, robot in ROBOTS.items() if any(word in name.lower() for name in statistics)]
    fits = len(named) == 1 and named[0].action_dim == action_dim and state_dim in (0, named[0].state_dim)
    return named[0] if fits else None


def _unsaid(folder: Path, sidecar: Sidecar, name: str, how: str) -> str:
    return (
        f"No file of {folder} says its {name} ({OFT[name].partition(': ')[2]}), and its dataset "
        f"({printable(some(list(sidecar.statistics), 4), 400)}) is none of a robot whose constants OpenVLA-OFT has "
        f"({join_names(ROBOTS)}, by the word in its name and the widths of actions and states). Say it: {name}={how} "
        f"(predict.load_options.{name}={how}, eval.load_options.{name}={how})"
    )


def _count(name: str, options: Mapping[str, str], default: int | None) -> int | None:
    given = options.get(name)
    if given is None:
        return default
    if not given.isdecimal() or not 1 <= int(given[:6]) <= 1000 or len(given) > 6:
        raise UserError(f"{name}={given}: expected a number, 1 to 1000. Type {name}=8")
    return int(given)


def _flag(name: str, options: Mapping[str, str], default: bool) -> bool:
    given = options.get(name)
    if given is None:
        return default
    if given.lower() not in ("true", "false"):
        raise UserError(f"{name}={given}: allowed are true and false. Type {name}={str(default).lower()}")
    return given.lower() == "true"


def _cameras(count: int) -> Sequence[str]:
    """Names of as many cameras: the one that sees the scene, then those on the hands, in the order of OpenVLA-OFT."""
    known = {1: ["image"], 2: ["image", "wrist"], 3: ["image", "left_wrist", "right_wrist"]}
    return known.get(count) or ["image", *(f"wrist_{number}" for number in range(1, count))]
