"""HDF5 files from a stranger, as histories of Vintix trajectories."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from hostile_folders import BASES, DEEP, _many, edit, link, pipe, put

FILE, DESCRIPTION = "trajectories_env_0.h5", "walk.json"
ROWS = 5


def trajectories(root: Path) -> None:
    root.mkdir()
    content = {"task_name": "walk", "observation_shape": {"proprio": [2]}, "action_dim": 1, "action_type": "continuous"}
    (root / DESCRIPTION).write_text(json.dumps(content))
    with h5py.File(root / FILE, "w") as file:
        group = file.create_group(f"0-{ROWS - 1}")
        group["proprio_observation"] = np.ones((ROWS, 2), np.float32)
        group["action"] = np.ones((ROWS, 1), np.float32)
        group["reward"] = np.ones(ROWS, np.float32)
        group["step_num"] = np.arange(ROWS, dtype=np.int32)


BASES["trajectories"] = trajectories
GROUP = f"0-{ROWS - 1}"


def inside(change: Callable[[h5py.File, Path], object]) -> Callable[[Path], None]:
    """A change by h5py."""

    def apply(folder: Path) -> None:
        with h5py.File(folder / FILE, "r+") as file:
            change(file, folder)

    return apply


def instead(key: str, make: Callable[[h5py.Group, Path], object]) -> Callable[[Path], None]:
    """Something else in the place of an array."""

    def change(file: h5py.File, folder: Path) -> None:
        del file[GROUP][key]
        make(file[GROUP], folder)

    return inside(change)


def _outside(folder: Path, key: str = "action") -> Path:
    """Another HDF5 file beside the folder."""
    other = folder.parent / "second" / "other.h5"
    with h5py.File(other, "w") as file:
        file[key] = np.ones((ROWS, 1), np.float32)
    return other


def _virtual(group: h5py.Group, folder: Path) -> None:
    layout = h5py.VirtualLayout((ROWS, 1), "<f4")
    layout[:] = h5py.VirtualSource(_outside(folder), "action", (ROWS, 1))
    group.create_virtual_dataset("action", layout)


def _external(group: h5py.Group, folder: Path) -> None:
    group.create_dataset("action", (ROWS, 1), "<f4", external=[("/etc/passwd", 0, 4 * ROWS)])


def _external_group(file: h5py.File, folder: Path) -> None:
    del file[GROUP]
    file[GROUP] = h5py.ExternalLink(str(_outside(folder)), "/")


def _many_hard_links(file: h5py.File, folder: Path) -> None:
    """One array of two million bytes under two thousand groups."""
    file["0-499999"] = h5py.SoftLink("/none")
    del file["0-499999"], file[GROUP]
    big = np.zeros(1_000_000, np.int16)
    for number in range(2_000):
        group = file.create_group(f"{number * 1_000_000}-{(number + 1) * 1_000_000 - 1}")
        if number:
            group["step_num"] = file["0-999999/step_num"]
        else:
            group["step_num"] = big


_many(
    "hdf5",
    "trajectories",
    "dataset",
    {
        "not_hdf5": (put(FILE, b"\0" * 4096), "cannot be read as a history of Vintix trajectories"),
        "empty": (put(FILE, b""), "cannot be read as a history"),
        "pickle": (put(FILE, b"cos\nsystem\n(S'touch canary'\ntR."), "cannot be read as a history"),
        "pipe": (pipe(FILE), "is a named pipe"),
        "linked_file": (link(FILE, "/etc/passwd"), "a link that leads out of"),
        "external_link": (
            instead("action", lambda g, f: g.__setitem__("action", h5py.ExternalLink(str(_outside(f)), "/action"))),
            "0-4/action is a link to something else",
        ),
        "external_group": (inside(_external_group), "0-4 is a link to something else"),
        "soft_link": (
            instead("action", lambda g, f: g.__setitem__("action", h5py.SoftLink("/0-4/reward"))),
            "0-4/action is a link to something else",
        ),
        "virtual": (instead("action", _virtual), "0-4/action lies in other files"),
        "external_storage": (instead("action", _external), "0-4/action lies in other files"),
        "compressed": (
            instead("action", lambda g, f: g.create_dataset("action", (ROWS, 1), "<f4", compression="gzip")),
            "0-4/action is stored through 1 filter",
        ),
        "compressed_bomb": (
            instead("reward", lambda g, f: g.create_dataset("reward", (1 << 26,), "<f8", compression="gzip")),
            "0-4/reward is stored through 1 filter",
        ),
        "checksummed": (
            instead("reward", lambda g, f: g.create_dataset("reward", (ROWS,), "<f8", fletcher32=True)),
            "0-4/reward is stored through 1 filter",
        ),
        "not_stored": (
            instead("reward", lambda g, f: g.create_dataset("reward", (10**12,), "<f8")),
            "announces 8,000,000,000,000 bytes and stores 0",
        ),
        "not_stored_in_chunks": (
            instead("reward", lambda g, f: g.create_dataset("reward", (10**12,), "<f8", chunks=(10**6,))),
            "announces 8,000,000,000,000 bytes and stores 0",
        ),
        "one_array_many_times": (inside(_many_hard_links), "brings the file to [0-9,]+ bytes"),
        "texts": (
            instead("action", lambda g, f: g.create_dataset("action", (ROWS, 1), h5py.string_dtype())),
            "0-4/action holds object",
        ),
        "records": (
            instead("action", lambda g, f: g.create_dataset("action", (ROWS, 1), [("a", "<f4"), ("b", "<f4")])),
            "expected numbers or truth values",
        ),
        "references": (
            instead("action", lambda g, f: g.create_dataset("action", (ROWS, 1), h5py.ref_dtype)),
            "0-4/action holds object",
        ),
        "group_for_array": (instead("action", lambda g, f: g.create_group("action")), "0-4/action is no array"),
        "type_for_array": (
            instead("action", lambda g, f: g.__setitem__("action", np.dtype("<f4"))),
            "0-4/action is no array",
        ),
        "array_for_group": (
            inside(lambda file, f: (file.__delitem__(GROUP), file.__setitem__(GROUP, np.ones(3)))),
            "0-4 is no group",
        ),
        "no_shape": (
            instead("action", lambda g, f: g.create_dataset("action", data=h5py.Empty("<f4"))),
            "0-4/action",
        ),
        "escape_in_a_name": (inside(lambda file, f: file.create_group("\x1b[2J")), "expected groups named FIRST-LAST"),
        "huge_name": (inside(lambda file, f: file.create_group("0-" + "9" * 5000)), "expected groups named FIRST-LAST"),
        "deep_description": (put(DESCRIPTION, DEEP), "nested deeper"),
        "huge_width": (edit(DESCRIPTION, lambda it: it.update(action_dim=10**12)), "action_dim"),
        "name_that_moves_the_cursor": (
            edit(DESCRIPTION, lambda it: it.update(task_name="\x1b[2J", action_dim=2)),
            "action",
        ),
        "infinite_scale": (edit(DESCRIPTION, lambda it: it.update(reward_scale=1e308)), "reward_scale"),
    },
)
