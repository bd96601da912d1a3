"""Checkpoints of a run: `checkpoints/checkpoint-N/`, each a deployable policy beside the exact state of training.

A checkpoint folder is a policy folder (what `load_policy` reads) with `training_state/` in it: `state.safetensors` (raw
weights, optimiser, moving average, running loss) and `state.json` (step, seed, what must agree, sizes, checksum).
It appears by one rename, so a folder with the final name is whole unless something damaged it later.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xp import atomic
from xp.checkpoints.arrays import AnyArray, Array, CorruptFileError
from xp.checkpoints.run_layout import checkpoint_steps
from xp.checkpoints.safetensors import Stored, read_arrays, write_arrays
from xp.errors import UserError
from xp.foreign.json_file import read_fields
from xp.foreign.paths import RefusedError
from xp.foreign.text import shown
from xp.json_types import JSONObject
from xp.models import recorded_answer
from xp.models.policy import Policy
from xp.training.disk import bytes_of, room_for

FORMAT = 1


@dataclass(frozen=True)
class Restored:
    """A checkpoint as read back: `arrays` by name, `meta` as it was given to `save`."""

    step: int
    arrays: dict[str, AnyArray]
    meta: JSONObject


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run_folder: Path, keep: int, record_answers: bool = False):
        """`keep` newest checkpoints stay; older ones go once a newer one is complete.

        `record_answers`: ask each policy that is saved, and write its answer beside it (`xp.models.recorded_answer`).
        """
        self._record_answers = record_answers
        self._run_folder = Path(run_folder)
        self._folder = self._run_folder / "checkpoints"
        self._keep = keep

    def steps(self) -> list[int]:
        """Steps of the checkpoint folders, ascending."""
        return list(checkpoint_steps(self._run_folder))

    def path(self, step: int) -> Path:
        """Folder of the checkpoint at `step`."""
        return self._folder / f"checkpoint-{step}"

    def latest_name(self) -> str | None:
        """The newest checkpoint relative to the run folder, for messages."""
        steps = self.steps()
        return str(self.path(steps[-1]).relative_to(self._run_folder)) if steps else None

    def save(
        self,
        step: int,
        policy: Policy,
        arrays: Mapping[str, Array],
        meta: JSONObject,
        *,
        policy_bytes: int = 0,
        best_step: int | None = None,
    ) -> Path:
        """Write the checkpoint of `step` atomically, then remove those that retention no longer wants.

        Args:
            step: number of finished updates.
            policy: the deployed policy.
            arrays: the state of training by name.
            meta: JSON-able facts that come back with it.
            policy_bytes: about how much the policy takes on disk.
            best_step: the checkpoint of this step also stays.

        Raises:
            UserError: the disk is full; checkpoints written before are untouched.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        target, last = self.path(step), self.latest_name()
        keeps = f"{last} is complete" if last else "no earlier checkpoint existed"
        with room_for(target, bytes_of(arrays) + policy_bytes, keeps), atomic.folder(target) as folder:
            _write(policy, folder, self._record_answers)
            inner = folder / "training_state"
            inner.mkdir()
            stored = write_arrays(inner / "state.safetensors", arrays)
            files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
            facts = {"format": FORMAT, "step": step, "meta": dict(meta), "state": vars(stored), "files": files}
            (inner / "state.json").write_text(json.dumps(facts, indent=2))
        self.retain(step, best_step)
        return target

    def restore(self, log: Callable[[str], None]) -> Restored | None:
        """The newest whole checkpoint, or None. A damaged newer one is set aside, with a line in the log."""
        self._sweep()
        for step in reversed(self.steps()):
            try:
                return read_checkpoint(self.path(step))
            except CorruptFileError as error:
                aside = _free_name(self.path(step).with_name(f"checkpoint-{step}.damaged"))
                self.path(step).rename(aside)
                log(f"checkpoint-{step} is damaged ({error}): set aside as {aside.name}, using the one before it")
        return None

    def _sweep(self) -> None:
        """Remove the half-written folders that a killed process left; a run's folder has one writer at a time."""
        for folder in (self._run_folder, self._folder):
            for found in folder.glob(".*") if folder.is_dir() else ():
                if found.is_dir() and (".tmp-" in found.name or found.name.endswith(".removing")):
                    shutil.rmtree(found, ignore_errors=True)

    def retain(self, *wanted: int | None) -> None:
        """Remove what is neither of these steps nor among the newest."""
        steps = self.steps()
        keep = set(steps[-self._keep :]) | set(wanted)
        for step in steps:
            if step not in keep:
                doomed = self.path(step).with_name(f".checkpoint-{step}.removing")
                shutil.rmtree(doomed, ignore_errors=True)
                self.path(step).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)


def read_checkpoint(folder: Path) -> Restored:
    """Read the checkpoint in `folder`, named `checkpoint-STEP`.

    Raises:
        CorruptFileError: it is not whole.
        UserError: it has the format of another version of xp.
    """
    try:
        facts = read_fields(folder / "training_state" / "state.json", "the state of a training")
        state, files, found = facts.object("state"), facts.object("files"), facts.integer("step", low=0)
        stored = Stored(state.integer("bytes", low=0), state.text("sha256"))
        sizes = {name: files.integer(name, low=0) for name in files.content}
        meta = dict(facts.object("meta").content)
    except RefusedError as error:
        raise CorruptFileError(f"training_state/state.json: {error}") from error
    if facts.content.get("format") != FORMAT:
        raise UserError(
            f"{folder} was written in checkpoint format {shown(facts.content.get('format'))}, this version of xp reads "
            f"{FORMAT}. Continue it with the version that wrote it, or start in a new folder."
        )
    for name, size in sizes.items():
        actual = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if actual != size:
            raise CorruptFileError(f"{name} has {actual:,} of {size:,} bytes")
    if folder.name != f"checkpoint-{found}":
        raise CorruptFileError(f"it holds step {found}")
    arrays = read_arrays(folder / "training_state" / "state.safetensors", stored, "the state of a training")
    return Restored(found, arrays, meta)


def save_policy(policy: Policy, folder: Path, policy_bytes: int, keeps: str, record_answer: bool = False) -> None:
    """Write `best/` or `final/` atomically, replacing what was there; see `Checkpoints` for `record_answer`.

    Raises:
        UserError: the disk is full; what was there before is untouched.
    """
    with room_for(folder, policy_bytes, keeps), atomic.folder(folder) as temporary:
        _write(policy, temporary, record_answer)


def _write(policy: Policy, folder: Path, record_answer: bool) -> None:
    policy.save(folder)
    if record_answer:
        recorded_answer.write(folder, recorded_answer.recorded(policy))


def _free_name(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
