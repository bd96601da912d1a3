"""A model small enough to train in a test, its data, and a run to train it in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from omegaconf import OmegaConf
from safetensors.numpy import load_file, save_file

from xp.models.policy import Policy, PolicySpec
from xp.models.trainable import JaxTrainable
from xp.models.tree import flatten
from xp.runs import Record, Run

STATE, ACTION, HORIZON = 5, 3, 2
SPEC = PolicySpec(horizon=HORIZON, action_dim=ACTION, state_dim=STATE, cameras={})
LR = {"schedule": "constant", "peak": 1e-2, "warmup_steps": 0, "end_factor": 1.0}


class MlpPolicy(Policy):
    spec = SPEC

    def __init__(self, weights: Any):
        self._weights = weights

    def predict(self, observation, *, seed: int = 0, **options) -> np.ndarray:
        return np.asarray(forward(self._weights, jnp.asarray(observation["observation.state"][:, -1])))

    def predict_distribution(self, observation):
        return None

    def loss(self, batch, *, seed: int = 0) -> dict[str, float]:
        value, parts = mlp_loss(self._weights, prepare(batch), jax.random.key(seed), False)
        return {"loss": float(value), **{name: float(part) for name, part in parts.items()}}

    def weights(self) -> dict[str, np.ndarray]:
        return {path: np.asarray(array) for path, array in flatten(self._weights).items()}

    def save(self, folder: Path) -> None:
        save_file(self.weights(), Path(folder) / "policy.safetensors")


def forward(weights: Any, state: Any, key: Any = None) -> Any:
    hidden = jnp.tanh(state @ weights["trunk"]["dense"]["kernel"] + weights["trunk"]["dense"]["bias"])
    if key is not None:
        hidden = hidden * jax.random.bernoulli(key, 0.8, hidden.shape).astype(hidden.dtype)
    out = hidden @ weights["head"]["kernel"] + weights["head"]["bias"]
    return out.reshape(-1, HORIZON, ACTION)


def mlp_loss(weights: Any, inputs: Any, key: Any, train: bool) -> tuple[Any, dict[str, Any]]:
    dtype = weights["head"]["kernel"].dtype
    out = forward(weights, inputs["state"].astype(dtype), key if train else None)
    mse = jnp.mean((out - inputs["action"]) ** 2)
    return mse, {"mse": mse}


def plain_loss(weights: Any, inputs: Any, key: Any, train: bool) -> tuple[Any, dict[str, Any]]:
    return mlp_loss(weights, inputs, key, False)


def prepare(batch) -> dict[str, np.ndarray]:
    return {"state": batch["observation.state"][:, -1], "action": batch["action"]}


def initial_weights(seed: int = 0, width: int = 8) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def kernel(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    return {
        "trunk": {"dense": {"kernel": kernel(STATE, width), "bias": np.zeros(width, np.float32)}},
        "head": {"kernel": kernel(width, HORIZON * ACTION), "bias": np.zeros(HORIZON * ACTION, np.float32)},
    }


def tiny_trainable(loss: Callable[..., Any] = mlp_loss, frozen: tuple[str, ...] = (), width: int = 8) -> JaxTrainable:
    return JaxTrainable(
        spec=SPEC, weights=initial_weights(width=width), loss=loss, prepare=prepare, policy=MlpPolicy, frozen=frozen
    )


class TinyBatches:
    """Windows of a linear system; a pure function of (seed, step). `poison` is a step whose actions are infinite."""

    steps_per_epoch = 10

    def __init__(self, batch_size: int = 8, seed: int = 0, poison: int | None = None):
        self._size, self._seed, self._poison = batch_size, seed, poison

    def at(self, step: int) -> dict[str, Any]:
        rng = np.random.default_rng([self._seed, step])
        state = rng.normal(size=(self._size, 1, STATE)).astype(np.float32)
        system = np.random.default_rng(99).normal(size=(STATE, HORIZON * ACTION)).astype(np.float32)
        action = (state[:, 0] @ system).reshape(self._size, HORIZON, ACTION)
        if step == self._poison:
            action[0, 0, 0] = np.inf
        return {
            "observation.state": state,
            "observation_is_pad": np.zeros((self._size, 1), bool),
            "action": action,
            "action_is_pad": np.zeros((self._size, HORIZON), bool),
            "task": ["move"] * self._size,
            "episode_index": np.arange(self._size, dtype=np.int64) + 100 * step,
            "frame_index": np.zeros(self._size, np.int64),
        }

    def epoch(self, step: int) -> float:
        return step / self.steps_per_epoch


def run_in(folder: Path, *, stop_after: int | None = None, config: dict[str, Any] | None = None) -> Run:
    """A run in `folder`; `stop_after` asks it to stop after so many questions (one per step)."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and asked >= stop_after

    settings = OmegaConf.create(config or {})
    return Run(folder, settings, Record(folder / "record.json", {}), should_stop=should_stop, echo=False)


def trainer(**options: Any) -> dict[str, Any]:
    return {"steps": 12, "log_every": 4, "checkpoint_every": 5, "keep_checkpoints": 2, "clip_norm": 1.0, **options}


def final_weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "final" / "policy.safetensors")


def same_bytes(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def rows_without_time(path: Path) -> list[list[str]]:
    """Lines of a CSV log, without the timestamp (its last column)."""
    return [line.split(",")[:-1] for line in path.read_text().splitlines()]
