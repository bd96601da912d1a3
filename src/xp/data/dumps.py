"""A fixed validation set in one file: windows with uint8 images and fixed random draws, as safetensors or npz.

Every set of weights is measured on the same windows with the same noise, so a difference between two of them is not the
difference between two draws (common random numbers). Arrays, all with N windows as the first axis, named as in
`xp.models.policy.Batch`:

- `observation.images.<camera>` [N, T, h, w, 3] uint8, `observation.state` [N, T, S] and `action` [N, T-1+H, A] float32
  in dataset units, `observation_is_pad` [N, T] and `action_is_pad` [N, T-1+H] bool, `episode_index`, `frame_index` and
  `task_index` [N] int64 (the texts are in the header);
- where the dataset has one, `observation.environment_state` [N, T, E] float32, and the optional columns and
  `group_index` of a batch;
- `noise` [N, D, T, H, A] float32, standard normal, and `time` [N, D, T] float32, uniform in [0, 1): D draws for every
  observed step. A model with a distribution of times of its own takes `time` as the quantile.

No pickle is ever read: a pickle can execute code.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from xp import atomic
from xp.data.windows import Batch
from xp.errors import UserError, join_names
from xp.foreign.parquet import allowance
from xp.foreign.paths import MissingError, regular_file
from xp.foreign.text import printable
from xp.json_types import JSON, JSONObject

SUFFIXES = (".safetensors", ".npz")
VERSION = 1
_IMAGES = "observation.images."
_HEADER = "xp_dump"
_AXES = {
    "observation.state": (3, "f"), "observation.environment_state": (3, "f"), "action": (3, "f"), "noise": (5, "f"),
    "time": (3, "f"), "observation_is_pad": (2, "b"), "action_is_pad": (2, "b"),
    "reward": (2, "f"), "done": (2, "b"), "step": (2, "iu"), "group_index": (1, "iu"),
    "episode_index": (1, "iu"), "frame_index": (1, "iu"), "task_index": (1, "iu"),
}  # fmt: skip
"""Number of axes and kinds of numbers."""
_ALONG_ACTIONS = ("action", "action_is_pad", "reward", "done", "step")
"""Arrays whose second axis is the steps of the actions; the last three where the dataset has them."""
_NEEDED = (
    "observation.state", "observation_is_pad", "action", "action_is_pad",
    "episode_index", "frame_index", "task_index", "noise", "time",
)  # fmt: skip


@runtime_checkable
class WindowSpec(Protocol):
    """What a policy needs of windows: the part of its `PolicySpec` that is compared with a dump."""

    @property
    def horizon(self) -> int:
        """H, the actions that it gives."""
        ...

    @property
    def history(self) -> int:
        """T, the observed steps that it takes."""
        ...

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    @property
    def state_dim(self) -> int:
        """S; 0 where it reads no state."""
        ...

    @property
    def environment_dim(self) -> int:
        """E; 0 where it reads no environment state."""
        ...

    @property
    def cameras(self) -> Mapping[str, tuple[int, int, int]]:
        """Camera name to (height, width, channels)."""
        ...


@dataclass(frozen=True, eq=False)
class Dump:
    """An opened dump. `about` says where it came from: dataset, fingerprint, part, episodes, seed."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    tasks: tuple[str, ...]
    about: JSONObject

    def __len__(self) -> int:
        return len(self.arrays["action"])

    @property
    def episodes(self) -> tuple[int, ...]:
        """The episodes of the dataset that its windows are from."""
        listed = self.about["episodes"]
        return tuple(number for number in listed if isinstance(number, int)) if isinstance(listed, list) else ()

    @property
    def seed(self) -> int:
        """The seed of its draws; 0 where it is not known."""
        seed = self.about.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def history(self) -> int:
        """T, observed steps in a window."""
        return self.arrays["observation_is_pad"].shape[1]

    @property
    def horizon(self) -> int:
        """H, actions from the last observed step on."""
        return self.arrays["noise"].shape[3]

    @property
    def draws(self) -> int:
        """D, draws of noise and time for each window."""
        return self.arrays["noise"].shape[1]

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Camera name to (height, width, 3)."""
        found: dict[str, tuple[int, int, int]] = {}
        for name, array in self.arrays.items():
            if name.startswith(_IMAGES):
                height, width, channels = array.shape[2:]
                found[name.removeprefix(_IMAGES)] = (height, width, channels)
        return found

    def batch(
        self,
        indices: Int[np.ndarray, " batch"] | Sequence[int],
        *,
        history: int | None = None,
        horizon: int | None = None,
    ) -> Batch:
        """Windows `indices` [B] as one batch, with `noise` and `time`; the last T and first H of its steps."""
        history, horizon = history or self.history, horizon or self.horizon
        chosen = {name: array[indices] for name, array in self.arrays.items()}
        task = [self.tasks[number] for number in chosen.pop("task_index")]
        first = self.history - history
        for name in chosen:
            if name.startswith("observation"):
                chosen[name] = chosen[name][:, first:]
        for name in chosen.keys() & _ALONG_ACTIONS:
            chosen[name] = chosen[name][:, first : first + history - 1 + horizon]
        chosen["noise"] = chosen["noise"][:, :, first:, :horizon]
        chosen["time"] = chosen["time"][:, :, first:]
        return {**chosen, "task": task}

    def batches(self, size: int, **shape: int) -> Iterator[Batch]:
        """All windows in order, `size` at a time; the last batch holds what is left."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))), **shape)

    def refuse_unfit(self, spec: WindowSpec, policy: str) -> None:
        """Refuse a policy (its `PolicySpec`) that needs other windows than these.

        Raises:
            UserError: naming every dimension that does not fit, and how to make a dump that does.
        """
        states, actions = self.arrays["observation.state"].shape[2], self.arrays["action"].shape[2]
        wrong = []
        if actions != spec.action_dim:
            wrong.append(f"actions of {actions} dimensions (the policy has {spec.action_dim})")
        if spec.state_dim and states != spec.state_dim:
            wrong.append(f"states of {states} dimensions (the policy reads {spec.state_dim})")
        around = self.arrays.get("observation.environment_state", np.zeros((0, 0, 0))).shape[2]
        if spec.environment_dim and around != spec.environment_dim:
            wrong.append(f"{around or 'no'} numbers of environment state (the policy reads {spec.environment_dim})")
        if self.horizon < spec.horizon:
            wrong.append(f"{self.horizon} future actions (the policy gives {spec.horizon})")
        if self.history < spec.history:
            wrong.append(f"{self.history} observed steps (the policy takes {spec.history})")
        missing = [name for name in spec.cameras if name not in self.cameras]
        if missing:
            wrong.append(
                f"the cameras {join_names(self.cameras)} (the policy also looks through {join_names(missing)})"
            )
        if wrong:
            raise UserError(
                f"The validation set {self.path} does not fit the policy {policy}: it has {'; '.join(wrong)}. Make one "
                f"for this policy: xp task=dump dump.checkpoint={policy}"
            )


def save_dump(path: str | Path, arrays: Mapping[str, np.ndarray], tasks: tuple[str, ...], about: JSONObject) -> None:
    """Write a dump, whole or not at all; the suffix names the format.

    Raises:
        UserError: another suffix than .safetensors and .npz.
    """
    path = Path(path)
    refuse_suffix(path)
    missing = [name for name in _NEEDED if name not in arrays]
    assert not missing, f"a dump needs {missing}"
    header = json.dumps(atomic.plain({"version": VERSION, "tasks": list(tasks), **about}))
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic.file(path) as temporary, temporary.open("wb") as stream:
        if path.suffix == ".npz":
            whole[_HEADER] = np.frombuffer(header.encode(), np.uint8)
            np.savez(stream, allow_pickle=False, **whole)
        else:
            from safetensors.numpy import save

            stream.write(save(whole, metadata={_HEADER: header}))


def open_dump(path: str | Path) -> Dump:
    """Open a dump that `save_dump` wrote.

    Raises:
        UserError: no such file, a pickle (which is not read), a damaged file, or one that is no dump.
    """
    path = Path(path)
    refuse_foreign_file(path)
    try:
        arrays, header = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
        about = json.loads(header)
        tasks = tuple(about.pop("tasks"))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - two readers with many error types: all of them mean a damaged file
        raise UserError(
            f"{path} cannot be read as a validation set ({type(error).__name__}: {printable(error)}). Make it again: "
            f"xp task=dump dump.output={path}"
        ) from error
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise UserError(
            f"{path} is no validation set of xp: it lacks {join_names(missing)}. Make one: xp "
            f"task=dump dump.output={path}"
        )
    wrong = _contradiction(arrays, tasks)
    if wrong:
        raise UserError(f"The validation set {path} contradicts itself: {wrong}. Make it again: xp task=dump")
    return Dump(path, arrays, tasks, about)


def _contradiction(arrays: Mapping[str, np.ndarray], tasks: tuple[JSON, ...]) -> str | None:
    """What is wrong with the arrays of a dump; None where they fit each other."""
    count = len(arrays["action"]) if arrays["action"].ndim else 0
    if not count:
        return "it has no windows"
    for name, array in arrays.items():
        axes, kinds = _AXES.get(name, (5, "u") if name.startswith(_IMAGES) else (array.ndim, array.dtype.kind))
        if array.ndim != axes or array.dtype.kind not in kinds or len(array) != count:
            return f"'{printable(name)}' has shape {array.shape} and type {array.dtype} beside {count} windows"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"'{printable(name)}' holds NaN or infinity"
    steps, states = arrays["action_is_pad"].shape[1], arrays["observation_is_pad"].shape[1]
    along = (arrays[name].shape[1] for name in arrays.keys() & _ALONG_ACTIONS)
    if any(length != steps for length in along) or arrays["observation.state"].shape[1] != states or steps < states:
        return "its actions, states and paddings have different numbers of steps"
    if arrays["noise"].shape[1:3] != arrays["time"].shape[1:3] or arrays["time"].shape[2] != states:
        return "its draws do not fit its windows"
    index = arrays["task_index"]
    if not all(isinstance(task, str) for task in tasks) or index.min() < 0 or index.max() >= len(tasks):
        return f"its windows use tasks up to number {index.max()}, and it lists {len(tasks)} texts"
    return None


def draws(
    seed: int, windows: int, count: int, history: int, horizon: int, action_dim: int
) -> dict[str, Float32[np.ndarray, "windows draws history ..."]]:
    """The fixed `noise` [N, D, T, H, A] and `time` [N, D, T] of a dump."""
    generator = np.random.default_rng([seed, VERSION])
    noise = generator.standard_normal((windows, count, history, horizon, action_dim), np.float32)
    return {"noise": noise, "time": generator.random((windows, count, history), np.float32)}


def refuse_suffix(path: Path) -> None:
    """Refuse a file name whose suffix names no format of dumps."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a validation set is a file ending in {join_names(SUFFIXES)}. Give such a name.")


def refuse_foreign_file(path: Path) -> None:
    """Refuse what cannot be a dump by its name and first bytes, before anything else is opened for it.

    Raises:
        UserError: no such file, a pickle, or another suffix than a dump's.
    """
    try:
        regular_file(path, "a validation set")
    except MissingError as error:
        raise UserError(
            f"There is no validation set {path}. Make one: xp task=dump dump.checkpoint=RUN dump.output={path}"
        ) from error
    _refuse_pickle(path)
    refuse_suffix(path)


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(9)
    # A safetensors file begins with the length of its JSON, whose bytes can be those that a pickle begins with.
    is_safetensors = head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
    begins_so = head[:1] == b"\x80" and 2 <= head[1] <= 5 and not is_safetensors
    if path.suffix in (".pkl", ".pickle") or begins_so:
        raise UserError(
            f"{path} is a pickle. Reading one can execute any code, so xp reads none; and the batches that "
            "dump_data.py pickled are training batches, augmented and already normalised. Make a held-out set instead: "
            f"xp task=dump data.root=DATASET dump.output={path.with_suffix('.safetensors')}"
        )


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with zipfile.ZipFile(path) as stored:
        unpacked, most = sum(entry.file_size for entry in stored.infolist()), allowance(path.stat().st_size)
    if unpacked > most:
        raise UserError(
            f"{path} unpacks to {unpacked:,} bytes, which its size does not explain: xp reads at most {most:,}. Make "
            f"the validation set again: xp task=dump dump.output={path}"
        )
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if _HEADER not in arrays:
        raise _foreign(path)
    return arrays, arrays.pop(_HEADER).tobytes().decode()


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as stored:
        header = (stored.metadata() or {}).get(_HEADER)
        if header is None:
            raise _foreign(path)
        return {name: stored.get_tensor(name) for name in stored.keys()}, header  # noqa: SIM118 - not a mapping


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} is no validation set of xp. Make one: xp task=dump dump.output={path}")
