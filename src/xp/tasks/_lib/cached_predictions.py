"""A policy's predictions at every frame of held-out episodes, computed once and shared through the cache."""

import hashlib
import json
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from xp import atomic
from xp.data import Dataset, Windows, in_order
from xp.data.dataset import camera_fingerprint
from xp.data.locks import cannot_write
from xp.data.turns import POLL_S, Turn
from xp.models.families import locate
from xp.models.sensitivity import image_sensitivity
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked
from xp.runs.records.record import versions
from xp.tasks._lib.loading import fit_cameras, fit_dimensions, load, shared_frames
from xp.tasks._lib.outside import tokenizer_files

if TYPE_CHECKING:
    from xp.models.policy import Policy

VERSION = 3
_WHAT = "cache of predictions"
_NO_ANSWER = ("checkpoint", "data_root", "num_trajectories", "batch_size", "bootstrap", "validation")
"""Keys of `predict` that choose what is asked (counted by content) or how it is scored, not what is answered."""
LOOKED_AT = 32
"""Windows on which it is asked whether the images reach the actions: a batch size that is compiled anyway."""


@dataclass(frozen=True)
class FramePredictions:
    """Chunks [N, H, A] in dataset units at every frame of the episodes; means and factors [N, A, A] with a density."""

    chunks: np.ndarray
    means: np.ndarray
    scale_tril: np.ndarray | None
    image_sensitivity: dict[str, Any]
    """Largest change of an action on `black` and `noise` images, and whether it is `blind`."""

    @property
    def horizon(self) -> int:
        """The horizon the model was trained on."""
        return self.chunks.shape[1]


def predict_all_frames(run: Run, dataset: Dataset, episodes: tuple[int, ...]) -> FramePredictions:
    """Ask the policy of `predict.checkpoint` at every frame of `episodes`, or take the answers that are there.

    Several jobs may want the same pass at once: one computes, the others wait for it.
    """
    key = predictions_key(run.config, dataset, episodes)
    path = Path(run.config.paths.cache).expanduser() / "predictions" / f"{key}.npz"
    turn, said = Turn(path.with_suffix(""), _WHAT), False
    while (found := _kept(path)) is None:
        if not turn.take():
            if not said:
                run.log(f"predictions {key}: another process is computing them; waiting")
            said = True
            leave_if_asked(run)
            time.sleep(POLL_S)
            continue
        try:
            if _kept(path) is None:
                _keep(path, _ask(run, dataset, episodes))
                assert _kept(path) is not None, f"{path} was written and cannot be read"
        finally:
            turn.release()
    return found


def _kept(path: Path) -> FramePredictions | None:
    """The answers at `path`; None where there are none, or a copy cut them off: then they are computed again."""
    try:
        with np.load(path) as arrays:
            return FramePredictions(
                chunks=arrays["chunks"],
                means=arrays.get("means", arrays["chunks"]),
                scale_tril=arrays.get("scale_tril"),
                image_sensitivity=json.loads(str(arrays["image_sensitivity"])),
            )
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _keep(path: Path, answers: dict[str, Any]) -> None:
    try:
        with atomic.file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **answers)
    except OSError as error:
        raise cannot_write(path.parent, error, _WHAT) from error


def predictions_key(config: DictConfig, dataset: Dataset, episodes: tuple[int, ...]) -> str:
    """What the answers of `predict.checkpoint` depend on, as 32 hex digits.

    The policy's files; what they name outside (a tokenizer, or that there is none); the dataset's content, how its
    videos are decoded, and the episodes; the seed; everything in `predict` but what concerns the scoring or the speed
    alone, so a key that is added counts until it is named in `_NO_ANSWER`; the versions of the libraries.
    """
    asked = OmegaConf.to_container(config.predict, resolve=True)
    assert isinstance(asked, dict)
    folder, step = locate(config.predict.checkpoint)
    choices = {str(key): value for key, value in asked.items() if key not in _NO_ANSWER}
    content = [dataset.fingerprint, *filter(None, (camera_fingerprint(dataset, name) for name in dataset.cameras))]
    key = [VERSION, step, *content, dataset.decoder, list(episodes), config.seed, choices, dict(versions())]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        _hash_file(digest, file.relative_to(folder).as_posix(), file)
    for name, file in tokenizer_files(folder):
        _hash_file(digest, name, file)
    return digest.hexdigest()[:32]


def _hash_file(digest: "hashlib._Hash", name: str, file: Path) -> None:
    digest.update(name.encode())
    with file.open("rb") as stream:
        digest.update(hashlib.file_digest(stream, "sha256").digest())


def _ask(run: Run, dataset: Dataset, episodes: tuple[int, ...]) -> dict[str, Any]:
    config = run.config
    asked = config.predict
    policy = load(config, asked.checkpoint, asked)
    fit_dimensions(policy, dataset, f"predict.checkpoint={config.predict.checkpoint}", "predict.data_root")
    fit_cameras(policy, list(dataset.cameras), f"the dataset {dataset.root}", "predict.camera_map")
    sizes = {camera: (height, width) for camera, (height, width, _) in policy.spec.cameras.items()}
    frames = shared_frames(run, dataset, sizes)
    windows = Windows(dataset, frames, episodes, history=policy.spec.history, horizon=1)
    answers = _over(run, windows, policy, batch_size=config.predict.batch_size, seed=config.seed)
    return {**answers, "image_sensitivity": json.dumps(_sensitivity(run, windows, policy))}


def _sensitivity(run: Run, windows: Windows, policy: "Policy") -> dict[str, Any]:
    """Whether the images reach the actions; a blind policy is scored, with a warning."""
    rows = np.unique(np.linspace(0, len(windows) - 1, LOOKED_AT).round().astype(int))
    where = str(run.config.predict.checkpoint)
    found = image_sensitivity(policy, [windows.batch(rows)], where=where, allow_blind=True)
    if found["blind"]:
        run.log(
            f"Warning: {where} ignores its images: its actions are the same for real, black and noise images. Its "
            "errors say nothing about what it sees."
        )
    return found


def _over(run: Run, windows: Windows, policy: "Policy", *, batch_size: int, seed: int) -> dict[str, Any]:
    chunks, means, factors = [], [], []
    with run.progress(len(windows), "predicting", unit="window") as bar:
        for batch in in_order(windows, batch_size):
            chunks.append(policy.predict(batch, seed=seed))
            density = policy.predict_distribution(batch)
            if density is not None:
                means.append(density.mean)
                factors.append(density.scale_tril)
            bar.advance(len(chunks[-1]))
    answers: dict[str, Any] = {"chunks": np.concatenate(chunks)}
    if factors:
        answers |= {"means": np.concatenate(means), "scale_tril": np.concatenate(factors)}
    return answers
