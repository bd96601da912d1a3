"""An Octo with weights, ready to be asked: `xp.models.policy.Policy` for the octo family."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from xp.errors import UserError, did_you_mean, join_names
from xp.models.observation import as_windows
from xp.models.octo.assembly import Assembly
from xp.models.octo.heads import ActionHead
from xp.models.octo.io.folder import write_folder
from xp.models.octo.io.statistics import Normal
from xp.models.policy import Batch, Distribution, Framework
from xp.models.tree import flatten, unflatten

ROWS = (1, 8, 32)
"""Batch sizes that are compiled; a batch is cut into the largest and its rest padded to the next."""
OPTIONS = ("argmax", "temperature", "sample_shape", "rng", "unnorm_key", "embodiment_action_dim", "normalized")


class OctoPolicy:
    """Observations in, action chunks in dataset units out. See `predict` for its options.

    Weights given as jax arrays are not copied: a training loop that donates them must make the policy from what it
    keeps.
    """

    framework: ClassVar[Framework] = "jax"

    def __init__(self, assembly: Assembly, weights: Any, device: Any = None) -> None:
        """`weights` are nested; they are put on `device`, or where jax puts things."""
        self.assembly = assembly
        self.spec = assembly.spec
        self._weights = jax.device_put(weights, device)

    @property
    def camera_slots(self) -> dict[str, str]:
        """See `Policy.camera_slots`."""
        slots = self.assembly.prepare.slots
        return {name: slot.camera for name, slot in slots.items() if slot.camera is not None}

    def predict(self, observation: Batch, *, seed: int = 0, **options: Any) -> np.ndarray:
        """Actions [*sample_shape, B, H, A] float32 in dataset units; A is that of the dataset's statistics.

        Axes may be left out, see `xp.models.observation`; a camera, the state and the task too: they are masked.

        Options:
            argmax: the mode instead of a draw. Default: the gaussian head gives its mean, other heads draw.
            temperature: factor on the deviation of a draw (default 1); giving it asks for a draw.
            sample_shape: draws for each row, as an int or a tuple; one pass through the transformer for all of them.
            rng: "legacy" draws what the original code drew for PRNGKey(seed); needs the batch in one piece.
            unnorm_key: whose statistics bring the actions to dataset units, where the folder has several.
            embodiment_action_dim: action dimensions in use, for the diffusion heads; default: those of the statistics.
            normalized: True leaves the actions in normalised units, with every dimension of the head.
        """
        _check_options(options)
        inputs = _seen(self.assembly.prepare(self._windows(observation)))
        normal = None if options.get("normalized") else self.assembly.action_normal(options.get("unnorm_key"))
        shape = options.get("sample_shape", ())
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        wants_draw = options.get("temperature") is not None or bool(shape)
        static = {
            "sample_shape": shape,
            "argmax": options.get("argmax", False if wants_draw else None),
            "embodiment_action_dim": options.get("embodiment_action_dim", self._used_dim(normal)),
        }
        temperature = np.float32(1.0 if options.get("temperature") is None else options["temperature"])
        run = self._legacy if options.get("rng") == "legacy" else self._by_rows
        actions = run(inputs, seed, temperature, static)
        return actions if normal is None else normal.unnormalize(actions[..., : len(normal.mean)])

    def _windows(self, observation: Batch) -> dict[str, Any]:
        """The observation as windows [B, T, ...] without targets; one in Octo's own form as it is."""
        seen = _without_targets(observation)
        if "observation" in seen:
            return seen
        return as_windows(seen, self.spec, [f"goal.images.{camera}" for camera in self.spec.cameras])

    def _used_dim(self, normal: Normal | None) -> int | None:
        """Action dimensions of the dataset where the head has more: those it was trained to fill with noise."""
        size = self.spec.action_dim if normal is None else len(normal.mean)
        return size if size < self.assembly.prepare.action_dim else None

    def _legacy(self, inputs: dict[str, np.ndarray], seed: int, temperature: Any, static: dict) -> np.ndarray:
        with jax.threefry_partitionable(False):
            key = jax.random.PRNGKey(seed)
            return np.asarray(self.assembly.network.predict_batch(self._weights, inputs, key, temperature, **static))

    def _by_rows(self, inputs: dict[str, np.ndarray], seed: int, temperature: Any, static: dict) -> np.ndarray:
        key = jax.random.key(seed)
        done = 0
        parts = []
        for piece, size in _pieces(inputs):
            rows = len(piece["observation/timestep_pad_mask"])
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(np.arange(done, done + rows))
            out = self.assembly.network.predict_rows(self._weights, piece, keys, temperature, **static)
            parts.append(np.asarray(out)[..., :size, :, :])
            done += size
        return np.concatenate(parts, axis=-3)

    def predict_distribution(self, observation: Batch, *, unnorm_key: str | None = None) -> Distribution | None:
        """Mean and shared covariance factor in dataset units; None for a head without a density."""
        if type(self.assembly.network.module.heads["action"]).density is ActionHead.density:
            return None
        normal = self.assembly.action_normal(unnorm_key)
        used = len(normal.mean)
        means, factors = [], []
        for piece, size in _pieces(_seen(self.assembly.prepare(self._windows(observation)))):
            density = self.assembly.network.density(self._weights, piece)
            means.append(np.asarray(density.mean)[:size, -1, :, :used])
            factors.append(np.asarray(density.scale_tril)[:size, -1, :used, :used])
        return Distribution(
            mean=normal.unnormalize(np.concatenate(means)),
            scale_tril=normal.unnormalize_factor(np.concatenate(factors)),
        )

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective (`loss`) and its parts on one batch, in evaluation mode (no dropout)."""
        if "action" not in batch:
            raise UserError(
                f"A loss needs a batch with actions; this one has {join_names(batch)}. Add 'action' [B, H, A]."
            )
        inputs = self.prepare(batch)
        value, parts = self.assembly.network.evaluate(self._weights, _padded_for_loss(inputs), jax.random.key(seed))
        return {"loss": float(value), **{name: float(part) for name, part in parts.items()}}

    def prepare(self, batch: Batch) -> dict[str, np.ndarray]:
        """A batch as the network's inputs by path: normalised, tokenised, on the host."""
        return self.assembly.prepare(batch)

    def loss_inputs(self, batch: Batch, rows: int) -> tuple[dict[str, np.ndarray], int]:
        """See `JaxPolicy.loss_inputs`."""
        filled = _grown_for_loss(self.prepare(batch), rows)
        real = filled["observation/timestep_pad_mask"][:, :, None, None]
        return filled, int((filled["action_pad_mask"] & real).sum())

    def loss_function(self) -> Callable[[Mapping[str, Any], Mapping[str, Any]], jax.Array]:
        """See `JaxPolicy.loss_function`; heads that draw noise take the draws among the inputs."""

        def loss(weights: Mapping[str, Any], inputs: Mapping[str, Any]) -> jax.Array:
            value, _ = self.assembly.network.loss(unflatten(weights), inputs, jax.random.key(0), False)
            return value

        return loss

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "OctoPolicy":
        """The same policy with other weights, which are copied."""
        return OctoPolicy(self.assembly, unflatten({path: np.array(array) for path, array in weights.items()}))

    def weights(self) -> Mapping[str, np.ndarray]:
        """Every weight by its path in Octo's parameter tree, joined by '/'."""
        return flatten(jax.device_get(self._weights))

    def save(self, folder: Path, *, step: int | None = None) -> None:
        """Write Octo's folder layout, whole or not at all; `load_policy(folder)` gives this policy back exactly."""
        papers = self.assembly.folder
        papers = papers if step is None else dataclasses.replace(papers, step=step)
        write_folder(Path(folder), papers, self.weights())


def _check_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in OPTIONS:
            raise UserError(
                f"predict has no option '{name}'; allowed are "
                f"{join_names(OPTIONS)}{did_you_mean(name, OPTIONS)}. Leave it out."
            )
    if options.get("rng", "default") not in ("default", "legacy"):
        raise UserError(f"rng={options['rng']!r}: allowed are 'default' and 'legacy'. Type rng='legacy'.")


def _without_targets(observation: Batch) -> dict[str, Any]:
    return {name: value for name, value in observation.items() if not name.startswith("action")}


def _seen(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {path: leaf for path, leaf in inputs.items() if path.startswith(("observation/", "task/"))}


def _pieces(inputs: dict[str, np.ndarray]) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Cut into batches of compiled sizes: (padded piece, rows that are real)."""
    total = len(inputs["observation/timestep_pad_mask"])
    for start in range(0, total, ROWS[-1]):
        size = min(ROWS[-1], total - start)
        padding = next(rows for rows in ROWS if rows >= size) - size
        yield grown({path: leaf[start : start + size] for path, leaf in inputs.items()}, padding), size


def _padded_for_loss(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows up to the next compiled size (above the largest: its multiple) that count in no mean."""
    total = len(inputs["observation/timestep_pad_mask"])
    sizes = (*ROWS, -(-total // ROWS[-1]) * ROWS[-1])
    return _grown_for_loss(inputs, next(rows for rows in sizes if rows >= total))


def _grown_for_loss(inputs: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Up to `rows` rows, of which those that are filled in count in no mean."""
    total = len(inputs["observation/timestep_pad_mask"])
    filled = grown(inputs, rows - total)
    filled["observation/timestep_pad_mask"] = filled["observation/timestep_pad_mask"].copy()
    filled["observation/timestep_pad_mask"][total:] = False
    return filled


def grown(inputs: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Append `rows` copies of the last row."""
    if not rows:
        return dict(inputs)
    return {path: np.concatenate([leaf, np.repeat(leaf[-1:], rows, axis=0)]) for path, leaf in inputs.items()}
