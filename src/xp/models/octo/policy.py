"""An Octo with its weights: the `Policy` of the octo family."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float32

from xp.errors import UserError, did_you_mean, join_names
from xp.models.jax_keys import row_keys
from xp.models.members import member_asked_for
from xp.models.normal import Normal
from xp.models.observation import as_windows, refuse_without_actions
from xp.models.octo.assembly import Assembly
from xp.models.octo.heads import ActionHead
from xp.models.octo.heads.base import DrawOptions
from xp.models.octo.io.folder import write_folder
from xp.models.octo.network.network import Weights
from xp.models.policy import Batch, Distribution, Framework, Seed
from xp.models.tree import flatten, unflatten

ROWS = (1, 8, 32)
"""Batch sizes that are compiled; a batch is cut into the largest and its rest padded to the next."""
OPTIONS = ("argmax", "temperature", "sample_shape", "rng", "unnorm_key", "embodiment_action_dim", "normalized")

type Inputs = dict[str, np.ndarray]
"""What `Prepare` makes: arrays by path, the first axis of each the batch."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of `OctoPolicy.predict`."""

    argmax: bool | None = None
    temperature: float | None = None
    sample_shape: tuple[int, ...] = ()
    is_legacy: bool = False
    unnorm_key: str | None = None
    embodiment_action_dim: int | None = None
    normalized: bool = False

    @classmethod
    def from_given(cls, given: Mapping[str, object]) -> "PredictOptions":
        """Read what was given to `predict`.

        Raises:
            UserError: an option that there is not, or one of another type.
        """
        for name in given:
            if name not in OPTIONS:
                raise UserError(
                    f"predict has no option '{name}'; allowed are "
                    f"{join_names(OPTIONS)}{did_you_mean(name, OPTIONS)}. Leave it out."
                )
        if given.get("rng", "default") not in ("default", "legacy"):
            raise UserError(f"rng={given['rng']!r}: allowed are 'default' and 'legacy'. Type rng='legacy'.")
        temperature, key = given.get("temperature"), given.get("unnorm_key")
        shape, size = given.get("sample_shape", ()), given.get("embodiment_action_dim")
        return cls(
            argmax=bool(given["argmax"]) if given.get("argmax") is not None else None,
            temperature=None if temperature is None else float(np.asarray(temperature)),
            sample_shape=_shape(shape),
            is_legacy=given.get("rng") == "legacy",
            unnorm_key=None if key is None else str(key),
            embodiment_action_dim=None if size is None else int(np.asarray(size)),
            normalized=bool(given.get("normalized")),
        )


class OctoPolicy:
    """Observations in, action chunks in dataset units out. See `predict` for its options.

    Weights given as jax arrays are not copied: a training loop that donates them must make the policy from what it
    keeps.
    """

    framework: ClassVar[Framework] = "jax"

    def __init__(self, assembly: Assembly, weights: Weights, device: jax.sharding.Sharding | None = None) -> None:
        """`weights` are put on `device`, or where jax puts things."""
        self.assembly = assembly
        self.spec = assembly.spec
        self._weights: Weights = jax.device_put(weights, device)

    @property
    def camera_slots(self) -> dict[str, str]:
        """See `Policy.camera_slots`."""
        slots = self.assembly.prepare.slots
        return {name: slot.camera for name, slot in slots.items() if slot.camera is not None}

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of a mixture, by `member_index`, of which none is chosen; empty for a policy of one."""
        members = self.assembly.prepare.members
        return () if members is None else members.names

    def predict(
        self, observation: Batch, *, seed: Seed = 0, **options: object
    ) -> Float32[np.ndarray, "*draws batch horizon action"]:
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
        asked = PredictOptions.from_given(options)
        if asked.unnorm_key is None and self.assembly.prepare.members is not None:
            asked = replace(asked, unnorm_key=member_asked_for(observation, self.assembly.prepare.members.names))
        inputs = _seen(self.assembly.prepare(self._windows(observation)))
        normal = None if asked.normalized else self.assembly.action_normal(asked.unnorm_key)
        wants_draw = asked.temperature is not None or bool(asked.sample_shape)
        size = asked.embodiment_action_dim
        static: DrawOptions = {
            "sample_shape": asked.sample_shape,
            "argmax": False if asked.argmax is None and wants_draw else asked.argmax,
            "embodiment_action_dim": self._used_dim(normal) if size is None else size,
        }
        temperature = np.float32(1.0 if asked.temperature is None else asked.temperature)
        run = self._legacy if asked.is_legacy else self._by_rows
        actions = run(inputs, seed, temperature, static)
        return actions if normal is None else normal.unnormalize(actions[..., : len(normal.mean)])

    def _windows(self, observation: Batch) -> Batch:
        """The observation as windows [B, T, ...] without targets; one in Octo's own form as it is."""
        seen = _without_targets(observation)
        if "observation" in seen:
            return seen
        return as_windows(seen, self.spec, [f"goal.images.{camera}" for camera in self.spec.cameras])

    def _used_dim(self, normal: Normal | None) -> int | None:
        """Action dimensions of the dataset where the head has more: those it was trained to fill with noise."""
        size = self.spec.action_dim if normal is None else len(normal.mean)
        return size if size < self.assembly.prepare.action_dim else None

    def _legacy(self, inputs: Inputs, seed: Seed, temperature: np.float32, static: DrawOptions) -> np.ndarray:
        if isinstance(seed, np.ndarray):
            raise UserError(
                "rng='legacy' draws for the whole batch from one number. Give seed=NUMBER, or leave rng out."
            )
        with jax.threefry_partitionable(False):
            key = jax.random.PRNGKey(seed)
            return np.asarray(self.assembly.network.predict_batch(self._weights, inputs, key, temperature, **static))

    def _by_rows(self, inputs: Inputs, seed: Seed, temperature: np.float32, static: DrawOptions) -> np.ndarray:
        done = 0
        parts = []
        for piece, size in _pieces(inputs):
            rows = len(piece["observation/timestep_pad_mask"])
            keys = row_keys(seed, done, rows)
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
            assert density is not None
            means.append(np.asarray(density.mean)[:size, -1, :, :used])
            factors.append(np.asarray(density.scale_tril)[:size, -1, :used, :used])
        return Distribution(
            mean=normal.unnormalize(np.concatenate(means)),
            scale_tril=normal.unnormalize_factor(np.concatenate(factors)),
        )

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective (`loss`) and its parts on one batch, in evaluation mode (no dropout)."""
        refuse_without_actions(batch)
        inputs = self.prepare(batch)
        value, parts = self.assembly.network.evaluate(self._weights, _pad_for_loss(inputs), jax.random.key(seed))
        return {"loss": float(value), **{name: float(part) for name, part in parts.items()}}

    def prepare(self, batch: Batch) -> Inputs:
        """A batch as the network's inputs by path: normalised, tokenised, on the host."""
        return self.assembly.prepare(batch)

    def loss_inputs(self, batch: Batch, rows: int) -> tuple[Inputs, int]:
        """See `JaxPolicy.loss_inputs`."""
        filled = _pad_for_loss_to(self.prepare(batch), rows)
        real = filled["observation/timestep_pad_mask"][:, :, None, None]
        return filled, int((filled["action_pad_mask"] & real).sum())

    def loss_function(self) -> Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], jax.Array]:
        """See `JaxPolicy.loss_function`; heads that draw noise take the draws among the inputs."""

        def loss(weights: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array]) -> jax.Array:
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
        sidecar = self.assembly.sidecar
        sidecar = sidecar if step is None else dataclasses.replace(sidecar, step=step)
        write_folder(Path(folder), sidecar, self.weights())


def _shape(given: object) -> tuple[int, ...]:
    """An int or a tuple of them, as a tuple."""
    return tuple(int(length) for length in np.atleast_1d(np.asarray(given, int)))


def _without_targets(observation: Batch) -> Batch:
    return {name: value for name, value in observation.items() if not name.startswith("action")}


def _seen(inputs: Inputs) -> Inputs:
    return {path: leaf for path, leaf in inputs.items() if path.startswith(("observation/", "task/"))}


def _pieces(inputs: Inputs) -> Iterator[tuple[Inputs, int]]:
    """Cut into batches of compiled sizes: (padded piece, rows that are real)."""
    total = len(inputs["observation/timestep_pad_mask"])
    for start in range(0, total, ROWS[-1]):
        size = min(ROWS[-1], total - start)
        padding = next(rows for rows in ROWS if rows >= size) - size
        yield pad_batch({path: leaf[start : start + size] for path, leaf in inputs.items()}, padding), size


def _pad_for_loss(inputs: Inputs) -> Inputs:
    """Rows up to the next compiled size (above the largest: its multiple) that count in no mean."""
    total = len(inputs["observation/timestep_pad_mask"])
    sizes = (*ROWS, -(-total // ROWS[-1]) * ROWS[-1])
    return _pad_for_loss_to(inputs, next(rows for rows in sizes if rows >= total))


def _pad_for_loss_to(inputs: Inputs, rows: int) -> Inputs:
    """Up to `rows` rows, of which those that are filled in count in no mean."""
    total = len(inputs["observation/timestep_pad_mask"])
    filled = pad_batch(inputs, rows - total)
    filled["observation/timestep_pad_mask"] = filled["observation/timestep_pad_mask"].copy()
    filled["observation/timestep_pad_mask"][total:] = False
    return filled


def pad_batch(inputs: Inputs, rows: int) -> Inputs:
    """Append `rows` copies of the last row."""
    if not rows:
        return dict(inputs)
    return {path: np.concatenate([leaf, np.repeat(leaf[-1:], rows, axis=0)]) for path, leaf in inputs.items()}
