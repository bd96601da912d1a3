# pyright: strict
"""`merge`: several checkpoints of one model become one; the output appears whole or not at all."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from xp.checkpoints.arrays import CorruptFileError
from xp.checkpoints.open import step_paths
from xp.errors import UserError
from xp.merging import disk
from xp.merging.hooks import Hooks
from xp.merging.job import GivenObjective, Merged, MergeJob, Options
from xp.merging.method import method_named, validate_method


def merge(
    checkpoints: Sequence[str | Path],
    method: str = "average",
    *,
    output: str | Path,
    objective: GivenObjective = None,
    hooks: Hooks | None = None,
    weights: object = None,
    base: str | Path | None = None,
    overwrite: bool = False,
    mismatch: str = "error",
    statistics: str = "pool",
    memory: str = "ram",
    per: str = "checkpoint",
    groups: Mapping[str, Sequence[str]] | None = None,
    dtype: str | None = None,
    lora_scale: float = 1.0,
    midpoints: bool = True,
    seed: int = 0,
    **options: object,
) -> Merged:
    """Merge checkpoints of one model into `output`, in their own format, with merge.json beside the weights.

    Args:
        checkpoints: N folders (or one run, for ema and swa): Orbax, Flax msgpack, safetensors, LoRA adapters, xp runs.
        method: the name of an installed method (`xp.merging.method`); `options` are the method's own.
        output: a folder that appears when everything in it is written and read back.
        objective: for methods that choose weights.
        hooks: progress, log lines, stopping.
        weights: one number a checkpoint, or {pattern of a group: numbers}.
        base: the model the checkpoints were fine-tuned from, for methods relative to it.
        overwrite: replace an existing output.
        mismatch: error, intersect or base: see `xp.merging.preflight.agree`.
        statistics: pool or refuse different normalisation statistics.
        memory: ram or stream: where a search keeps the checkpoints.
        per: checkpoint, group or layer: what has mixing weights of its own.
        groups: {name: patterns} that decide before the built-in groups.
        dtype: of the float weights written; None keeps the first checkpoint's.
        lora_scale: alpha / rank of LoRA weights that stand in a checkpoint beside the weights they adapt.
        midpoints: a search also measures the loss half-way between each pair.
        seed: of random methods.
        options: of the method.

    Raises:
        UserError: anything that does not fit; nothing is written then.
    """
    how = Options(
        base=base, overwrite=overwrite, mismatch=mismatch, statistics=statistics, memory=memory, per=per, groups=groups,
        dtype=dtype, lora_scale=lora_scale, midpoints=midpoints, seed=seed,
    )  # fmt: skip
    with _file_errors_as_user_errors(Path(output)):
        chosen, paths = method_named(method), [str(path) for path in checkpoints]
        paths = step_paths(paths[0]) if chosen.run and len(paths) == 1 else paths
        config = validate_method(chosen, len(paths), has_base=base is not None, weights=weights, options=options)
        return MergeJob.open(paths, Path(output), config, how, hooks or Hooks()).run(objective)


@contextmanager
def _file_errors_as_user_errors(output: Path) -> Generator[None]:
    try:
        yield
    except CorruptFileError as error:
        raise UserError(f"A checkpoint is damaged: {error}. Nothing was written. Copy it again.") from error
    except (OSError, ValueError) as error:
        known = disk.as_user_error(error, output)
        if known is None:
            raise
        raise known from error
