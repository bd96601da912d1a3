"""Reading LIBERO's demonstrations as its package writes them (Liu et al., "LIBERO: Benchmarking Knowledge Transfer for
Lifelong Robot Learning", 2023): `TASK_demo.hdf5` with a group `data/demo_N` for each demonstration.

Numbers are given as `env=libero` gives and takes them, so that what is trained acts there:

- the state is `obs/ee_states` (place, rotation as axis times angle) and `obs/gripper_states`;
- actions stand as recorded, those of the controller: three moves, three turns, the gripper (-1 opens, 1 closes);
- pictures are turned by 180 degrees, as in the published fine-tunings and in the suite;
- steps that do nothing are left out, by the published rule (OpenVLA's regenerate_libero_dataset.py): no move and no
  turn (together below 1e-4), and the gripper as in the step before that was kept.

The instruction is the file's own (`problem_info` of the group `data`), not its name.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xp.data.array_dataset import ArrayDataset
from xp.data.libero.folder import WHAT, task_files
from xp.errors import UserError
from xp.foreign.hdf5 import read_groups, read_text
from xp.foreign.text import printable

FPS = 20
"""Control steps a second of all of LIBERO's demonstrations."""
CAMERAS = {"agentview": "obs/agentview_rgb", "robot0_eye_in_hand": "obs/eye_in_hand_rgb"}
"""The suite's name of a camera -> where its pictures lie in a demonstration."""
STATE_NAMES = (
    "eef.x", "eef.y", "eef.z", "eef.rotation.x", "eef.rotation.y", "eef.rotation.z", "gripper.left", "gripper.right",
)  # fmt: skip
ACTION_NAMES = ("move.x", "move.y", "move.z", "turn.x", "turn.y", "turn.z", "gripper")
STILL = 1e-4
"""A motion (Euclidean norm of its six numbers) below this is none."""
_DATA, _ARM, _HAND = "data", "obs/ee_states", "obs/gripper_states"
_WIDTHS = {"actions": 7, _ARM: 6, _HAND: 2}
_AGAIN = "Copy the file again from where it came from."


@dataclass(frozen=True, eq=False)
class Demonstration:
    """Where one lies, and the numbers of the steps that are kept: `action` [n, 7], `state` [n, 8] float32."""

    file: Path
    name: str
    kept: np.ndarray
    """[n] int64: which of the recorded steps."""
    recorded: int
    action: np.ndarray
    state: np.ndarray


def open_folder(root: Path, *, decoder: str = "auto") -> ArrayDataset:
    """All demonstrations of a folder's files, each an episode; pictures are read when they are asked for.

    Raises:
        UserError: a damaged file, one without demonstrations or without an instruction, arrays that contradict each
            other, pictures of different sizes, or NaN or infinity.
    """
    files = task_files(root)
    if not files:
        raise UserError(
            f"{root} holds no demonstrations of LIBERO (*.hdf5). Give the folder that does: data.root=FOLDER"
        )
    texts = [_instruction(file) for file in files]
    tasks = list(dict.fromkeys(texts))
    found = [
        (tasks.index(text), each) for file, text in zip(files, texts, strict=True) for each in _demonstrations(file)
    ]
    demonstrations = [each for _, each in found]
    sizes = {name: _size([_first_of(demonstrations, file) for file in files], key) for name, key in CAMERAS.items()}

    def frames(camera: str, episode: int) -> np.ndarray:
        return _pictures(demonstrations[episode], CAMERAS[camera])

    return ArrayDataset(
        root=root,
        fps=FPS,
        tasks=tasks,
        lengths=np.array([len(each.kept) for each in demonstrations], np.int64),
        episode_tasks=np.array([task for task, _ in found], np.int64),
        action=np.concatenate([each.action for each in demonstrations]),
        state=np.concatenate([each.state for each in demonstrations]),
        files=files,
        cameras={name: size for name, size in sizes.items() if size is not None},
        frames=frames,
        action_names=ACTION_NAMES,
        state_names=STATE_NAMES,
        decoder=decoder,
    )


def moving_steps(actions: np.ndarray) -> np.ndarray:
    """The steps [n] of actions [T, 7] that do something, by the published rule.

    The first step counts as one that does nothing if it has no motion, whatever its gripper.
    """
    still = np.linalg.norm(actions[:, :-1], axis=1) < STILL
    kept: list[int] = []
    for step in range(len(actions)):
        held = not kept or actions[step, -1] == actions[kept[-1], -1]
        if not (still[step] and held):
            kept.append(step)
    return np.array(kept, np.int64)


def _instruction(file: Path) -> str:
    text = read_text(file, WHAT, _DATA, "problem_info")
    try:
        said = json.loads(text) if text is not None else {}
    except ValueError:
        said = {}
    words = said.get("language_instruction") if isinstance(said, dict) else None
    whole = "".join(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else words
    if not isinstance(whole, str) or not whole.strip():
        raise UserError(
            f"{printable(file)} says no instruction: expected an attribute `problem_info` of its group `data`, JSON "
            f'with a text "language_instruction", as LIBERO writes it. {_AGAIN}'
        )
    return whole.strip().strip('"').strip()


def _demonstrations(file: Path) -> list[Demonstration]:
    found = read_groups(file, WHAT, within=_DATA, is_wanted=_is_demonstration, arrays=tuple(_WIDTHS))
    if not found:
        raise UserError(f"{printable(file)} holds no demonstrations: expected groups data/demo_0, .. {_AGAIN}")
    return [_demonstration(file, name, found[name]) for name in sorted(found, key=_number)]


def _is_demonstration(name: str) -> bool:
    return re.fullmatch(r"demo_\d{1,9}", name) is not None


def _number(name: str) -> int:
    return int(name.removeprefix("demo_"))


def _demonstration(file: Path, name: str, arrays: dict[str, np.ndarray]) -> Demonstration:
    place = f"{printable(file)}: data/{name}"
    for key, width in _WIDTHS.items():
        if key not in arrays:
            raise UserError(f"{place} has no `{key}`: expected an array [steps, {width}]. {_AGAIN}")
        shape, wanted = arrays[key].shape, (len(arrays["actions"]) if arrays["actions"].ndim else 0, width)
        if shape != wanted or not shape[0]:
            raise UserError(
                f"{place}/{key} has the shape {list(shape)}: expected {list(wanted)}, at least 1 step. {_AGAIN}"
            )
    actions = arrays["actions"]
    kept = moving_steps(actions)
    if not len(kept):
        raise UserError(f"{place} does nothing: none of its {len(actions)} steps moves the robot. Leave that file out.")
    state = np.concatenate([arrays[_ARM], arrays[_HAND]], 1)[kept]
    return Demonstration(file, name, kept, len(actions), actions[kept].astype(np.float32), state.astype(np.float32))


def _first_of(demonstrations: Sequence[Demonstration], file: Path) -> Demonstration:
    return next(each for each in demonstrations if each.file == file)


def _size(looked_at: Sequence[Demonstration], key: str) -> tuple[int, int, int] | None:
    """Height, width and 3 of a camera's pictures, the same in each file; None where no file has any."""
    found: dict[tuple[int, int, int] | None, Path] = {}
    for each in looked_at:
        pictures = _recorded(each, key)
        found.setdefault(None if pictures is None else pictures.shape[1:], each.file)  # pyright: ignore[reportArgumentType]
    if len(found) > 1:
        (one, here), (other, there) = list(found.items())[:2]
        raise UserError(
            f"Pictures of `{key}` are {_shown(one)} in {printable(here)} and {_shown(other)} in {printable(there)}: "
            "expected one size. Put the files into folders of their own."
        )
    return next(iter(found))


def _shown(size: tuple[int, int, int] | None) -> str:
    return "missing" if size is None else f"{size[0]} x {size[1]} pixels"


def _recorded(each: Demonstration, key: str) -> np.ndarray | None:
    """The pictures [T, h, w, 3] of all recorded steps as stored; None where there are none."""
    arrays = read_groups(each.file, WHAT, within=_DATA, is_wanted=lambda name: name == each.name, arrays=(key,))
    pictures = arrays[each.name].get(key)
    if pictures is not None and (
        pictures.dtype != np.uint8 or pictures.ndim != 4 or len(pictures) != each.recorded or pictures.shape[3] != 3
    ):
        raise UserError(
            f"{printable(each.file)}: data/{each.name}/{key} holds {pictures.dtype} of shape {list(pictures.shape)}: "
            f"expected uint8 [{each.recorded}, height, width, 3]. {_AGAIN}"
        )
    return pictures


def _pictures(each: Demonstration, key: str) -> np.ndarray:
    """The pictures [n, h, w, 3] of the steps that are kept, turned by 180 degrees."""
    pictures = _recorded(each, key)
    if pictures is None:
        raise UserError(f"{printable(each.file)}: data/{each.name} has no `{key}`, which others have. {_AGAIN}")
    return np.ascontiguousarray(pictures[each.kept][:, ::-1, ::-1])
