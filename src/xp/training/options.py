"""The section `trainer` of a configuration, checked, as the training loops read it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from xp.config.devices import check_devices
from xp.config.words import ACCELERATORS, PRECISIONS, SHARDINGS, STRATEGIES
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSONObject

TORCH_ONLY = {"accelerator": "auto", "devices": 1, "strategy": "auto", "compile": False}
"""Options that models in torch alone have, and the values that leave them unused."""


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long to train, what to write when, and how weights are updated. See conf/trainer/default.yaml for units."""

    steps: int
    val_every: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    log_every: int = 50
    ema_decay: float | None = None
    ema_warmup: bool = True
    accumulate: int = 1
    clip_norm: float | None = None
    weight_decay: float = 1e-4
    weight_decay_params: Sequence[str] | None = None
    freeze: Sequence[str] = ()
    precision: str = "float32"
    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    compile: bool = False
    sharding: str = "none"
    overfit_batches: int | None = None
    profile_steps: int | None = None
    best_metric: str = "val_loss"
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    record_answers: bool = False

    @classmethod
    def read(cls, section: JSONObject) -> "TrainerOptions":
        """Take this class's keys from a `trainer` section; keys that other parts read (batch_size, ...) are left alone.

        Raises:
            UserError: a value out of bounds, with the bounds and what to type.
        """
        given: dict[str, Any] = {f.name: section[f.name] for f in fields(cls) if f.name in section}
        if "steps" not in given:
            raise UserError("trainer.steps is missing: the number of updates to train for, e.g. trainer.steps=1000.")
        options = cls(**given)
        options._check_counts()
        options._check_words()
        check_devices(options.devices, options.strategy, options.compile)
        return options

    def _check_counts(self) -> None:
        for name in ("steps", "keep_checkpoints", "log_every", "accumulate"):
            value = getattr(self, name)
            if value is None or int(value) != value or value < 1:
                raise UserError(f"trainer.{name}={value} must be a whole number of at least 1, e.g. trainer.{name}=1.")
        optional = ("val_every", "checkpoint_every", "overfit_batches", "profile_steps", "early_stopping_patience")
        for name in optional:
            value = getattr(self, name)
            if value is not None and (int(value) != value or value < 1):
                raise UserError(
                    f"trainer.{name}={value} must be a whole number of at least 1, or null for never. "
                    f"Type trainer.{name}=null to turn it off."
                )

    def refuse_patience_without(self, held_out: bool) -> None:
        """Refuse early stopping where nothing is validated; `held_out` is whether there are held-out windows.

        Raises:
            UserError: what to type.
        """
        if self.early_stopping_patience is None or (held_out and self.val_every is not None):
            return
        why = "trainer.val_every=null" if self.val_every is None else "there are no held-out episodes"
        raise UserError(
            f"trainer.early_stopping_patience={self.early_stopping_patience}: nothing is validated ({why}), so nothing "
            "says when to stop. Type trainer.val_every=200 and a data.val_fraction above 0, or "
            "trainer.early_stopping_patience=null"
        )

    def refuse_torch_only(self) -> None:
        """For a model in JAX: refuse the options that mean nothing to it; it has `sharding` for several devices.

        Raises:
            UserError: one of `TORCH_ONLY` is set.
        """
        for name, unused in TORCH_ONLY.items():
            if getattr(self, name) != unused:
                raise UserError(
                    f"trainer.{name}={getattr(self, name)} is for models in torch; this model is in JAX, which "
                    "compiles every step and runs on JAX's default device, or on all it sees with "
                    f"trainer.sharding=data or fsdp. Type trainer.{name}={str(unused).lower()}"
                )

    def refuse_jax_only(self) -> None:
        """For a model in torch: refuse the option that means nothing to it.

        Raises:
            UserError: `sharding` is set.
        """
        if self.sharding != "none":
            raise UserError(
                f"trainer.sharding={self.sharding} is for models in JAX; this model is in torch, which shares its "
                "work by trainer.devices and trainer.strategy. Type trainer.sharding=none trainer.devices=auto "
                f"trainer.strategy={'fsdp' if self.sharding == 'fsdp' else 'ddp'}"
            )

    def _check_words(self) -> None:
        words = {"precision": PRECISIONS, "accelerator": ACCELERATORS, "sharding": SHARDINGS, "strategy": STRATEGIES}
        for name, allowed in words.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UserError(
                    f"trainer.{name}={value} is not known{did_you_mean(str(value), allowed)}. Choose "
                    f"{join_names(allowed)}."
                )
        if self.ema_decay is not None and not 0.0 <= self.ema_decay < 1.0:
            raise UserError(
                f"trainer.ema_decay={self.ema_decay} must be in [0, 1), or null for no average; e.g. 0.999."
            )
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise UserError(f"trainer.clip_norm={self.clip_norm} must be above 0, or null for no clipping; e.g. 1.0.")
        if not (math.isfinite(self.early_stopping_threshold) and self.early_stopping_threshold >= 0.0):
            raise UserError(
                f"trainer.early_stopping_threshold={self.early_stopping_threshold} must be a number of at least 0, in "
                f"units of trainer.best_metric={self.best_metric}; e.g. 0 (any improvement counts)."
            )
        if not self.weight_decay >= 0.0:
            raise UserError(f"trainer.weight_decay={self.weight_decay} must not be negative; e.g. 1e-4, or 0 for none.")
