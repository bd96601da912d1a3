"""The merging rules: pure functions on equally long 1-D arrays, one implementation each, float32 accumulation.

`arrays` are the N checkpoints' values (any float dtype), `base` those of the model they were fine-tuned from, and a
task vector is a checkpoint minus the base. Rules that need norms or angles of a whole tensor work from its Gram matrix
[N, N] of inner products, so that a tensor of any size is streamed: once for the products, once to combine.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

TILE = 1 << 16
"""Elements worked on at once, so that all operands stay in a core's cache."""
Numbers = Sequence[float] | np.ndarray
PARALLEL = 0.9995
"""Cosine above which slerp interpolates linearly (mergekit's DOT_THRESHOLD): the sine in its denominator vanishes."""


def linear(arrays: Iterable[np.ndarray], weights: Numbers, out: np.ndarray) -> np.ndarray:
    """sum_k weights[k] * arrays[k], in the order given, into `out` (float32 or float64); `arrays` are taken one by one.

    Weights of 0 are left out, so (1, 0, 0) gives the first array bit for bit. Equal weights that sum to 1 are a sum
    divided by N: the average as anyone would compute it.
    """
    used = [float(weight) for weight in weights if weight != 0]
    share = len(used) if used and all(weight == used[0] for weight in used) and _is_share(used) else 0
    scratch = np.empty(min(TILE, len(out)), out.dtype)
    first = True
    for array, weight in zip(arrays, weights, strict=True):
        if weight != 0:
            _add(array, 1.0 if share else float(weight), out, scratch, first=first)
            first = False
    if first:
        out[:] = 0
    elif share > 1:
        np.divide(out, out.dtype.type(share), out=out)
    return out


def _is_share(weights: Numbers) -> bool:
    return math.isclose(weights[0] * len(weights), 1.0, rel_tol=1e-12)


def _add(array: np.ndarray, weight: float, out: np.ndarray, scratch: np.ndarray, *, first: bool) -> None:
    """Out += weight * array, tile by tile; the first one overwrites `out`."""
    factor = out.dtype.type(weight)
    for start in range(0, len(out), TILE):
        total = out[start : start + TILE]
        term = total if first else scratch[: len(total)]
        np.copyto(term, array[start : start + TILE], casting="unsafe")
        if weight != 1.0:
            np.multiply(term, factor, out=term)
        if not first:
            np.add(total, term, out=total)


def task_arithmetic(base: np.ndarray, arrays: Sequence[np.ndarray], weights: Numbers, scale: float) -> np.ndarray:
    """Base + scale * sum_k weights[k] * (arrays[k] - base). Ilharco et al., arXiv 2212.04089."""
    start = _float(base)
    total = np.zeros_like(start)
    for array, weight in zip(arrays, weights, strict=True):
        total += start.dtype.type(weight) * (_float(array) - start)
    return start + start.dtype.type(scale) * total


def ties(
    base: np.ndarray,
    arrays: Sequence[np.ndarray],
    weights: Numbers,
    scale: float,
    thresholds: Numbers,
) -> np.ndarray:
    """Trim, elect sign, disjoint merge. Yadav et al., arXiv 2306.01708, with weights (all 1 in the paper).

    Of each task vector the entries below its threshold in magnitude are dropped (see `magnitude_threshold`); the sign
    of an entry is that of the weighted sum of what is left; the result is base + scale * weighted mean of the entries
    that have the elected sign.
    """
    start = _float(base)
    elected = np.zeros_like(start)
    vectors = []
    for array, weight, threshold in zip(arrays, weights, thresholds, strict=True):
        vector = _float(array) - start
        vector[np.abs(vector) < threshold] = 0
        elected += start.dtype.type(weight) * vector
        vectors.append(vector)
    total, share = np.zeros_like(start), np.zeros_like(start)
    for vector, weight in zip(vectors, weights, strict=True):
        agrees = vector * elected > 0
        total += np.where(agrees, start.dtype.type(weight) * vector, 0)
        share += np.where(agrees, start.dtype.type(weight), 0)
    mean = np.divide(total, share, out=np.zeros_like(start), where=share != 0)
    return start + start.dtype.type(scale) * mean


def dare(
    base: np.ndarray,
    arrays: Sequence[np.ndarray],
    weights: Numbers,
    scale: float,
    drop: float,
    draws: Sequence[np.ndarray],
) -> np.ndarray:
    """Drop and rescale: task vectors lose entries at random, the rest is divided by 1 - drop. Yu et al., 2311.03099.

    `draws[k]` are uniform in [0, 1), one an element; an entry stays where its draw is at least `drop`.
    """
    start = _float(base)
    kept = [np.where(draw >= drop, _float(array) - start, 0) for array, draw in zip(arrays, draws, strict=True)]
    total = np.zeros_like(start)
    for vector, weight in zip(kept, weights, strict=True):
        total += start.dtype.type(weight) * vector
    return start + start.dtype.type(scale / (1.0 - drop)) * total


def uniform_draws(key: int, start: int, count: int) -> np.ndarray:
    """Draws [count] in [0, 1) for the elements from `start` on: a function of (key, element), whatever the blocks.

    Philox is counter-based (Salmon et al., SC 2011): one 64-bit word an element, four words a counter step.
    """
    front = start % 4
    source = np.random.Philox(key=key, counter=start // 4)
    return (source.random_raw(front + count)[front:] >> np.uint64(11)) * 2.0**-53


def gram(arrays: Sequence[np.ndarray], base: np.ndarray | None = None) -> np.ndarray:
    """Inner products [N, N] float64 of the arrays, or of their task vectors."""
    total = np.zeros((len(arrays), len(arrays)))
    for start in range(0, len(arrays[0]), TILE):
        rows = np.stack([_float(array[start : start + TILE]) for array in arrays]).astype(np.float64)
        if base is not None:
            rows -= _float(base[start : start + TILE])
        total += rows @ rows.T
    return total


def slerp_weights(products: np.ndarray, t: float) -> np.ndarray:
    """Weights [2] of spherical interpolation from the first array to the second. Shoemake, SIGGRAPH 1985.

    The angle is that between the arrays; nearly parallel ones (`PARALLEL`) and arrays of zeros are interpolated
    linearly.
    """
    norms = np.sqrt(np.diag(products))
    cosine = products[0, 1] / norms.prod() if norms.all() else 1.0
    if abs(cosine) > PARALLEL:
        return np.array([1.0 - t, t])
    angle = math.acos(cosine)
    return np.array([math.sin((1.0 - t) * angle), math.sin(t * angle)]) / math.sin(angle)


def karcher_weights(
    products: np.ndarray, weights: Numbers, iterations: int = 30, tolerance: float = 1e-9
) -> np.ndarray:
    """Weights [N] that give the Karcher (Riemannian) mean of the arrays' directions, at their weighted mean length.

    The mean on the sphere lies in the span of its points, so each step of the fixed-point iteration (Krakowski et al.,
    2007: average in the tangent space, walk along the geodesic) is done on coefficients, with the Gram matrix for
    inner products. Directions that cancel out (a number and its negative) have no mean: they are averaged linearly.
    """
    norms = np.sqrt(np.diag(products))
    share = np.asarray(weights, np.float64) / np.sum(weights)
    if not norms.all():
        return share
    cosines = products / np.outer(norms, norms)
    square = float(share @ cosines @ share)
    if square < 1e-9:
        return share
    mean = share / math.sqrt(square)
    for _ in range(iterations):
        along = np.clip(cosines @ mean, -1.0, 1.0)
        angle = np.arccos(along)
        bent = (angle > 1e-8) & (angle < math.pi - 1e-6)
        stretch = np.where(bent, angle / np.where(bent, np.sin(angle), 1.0), np.where(angle > 1.0, 0.0, 1.0))
        tangent = share * stretch - (share * stretch) @ along * mean
        length = math.sqrt(max(tangent @ cosines @ tangent, 0.0))
        if length < tolerance:
            break
        mean = math.cos(length) * mean + math.sin(length) / length * tangent
    return mean / norms * (share @ norms)


def model_stock_ratio(products: np.ndarray) -> float:
    """How far to go from the base to the average of N fine-tuned models. Jang et al., arXiv 2403.19522, eq. 5.

    `products` are those of the task vectors; t = N cos / (1 + (N - 1) cos) with their mean pairwise cosine, kept in
    [0, 1]: vectors that point apart (cos <= 0) give the base.
    """
    count = len(products)
    norms = np.sqrt(np.diag(products))
    if count < 2 or not norms.all():
        return 1.0 if norms.all() else 0.0
    cosines = products / np.outer(norms, norms)
    cosine = (cosines.sum() - count) / (count * (count - 1))
    return 0.0 if cosine <= 0 else min(count * cosine / (1.0 + (count - 1) * cosine), 1.0)


def ema_weights(count: int, decay: float) -> np.ndarray:
    """Weights [count] of checkpoints in order of their steps: e = decay * e + (1 - decay) * next, from the first on."""
    weights = (1.0 - decay) * decay ** np.arange(count - 1, -1, -1, dtype=np.float64)
    weights[0] = decay ** (count - 1)
    return weights


def inverse_loss_weights(losses: Numbers) -> np.ndarray:
    """Weights proportional to (1 / (loss + 1e-8))^2, normalised: the seed's `inverse_loss`."""
    raw = (1.0 / (np.asarray(losses, np.float64) + 1e-8)) ** 2
    return raw / raw.sum()


class MagnitudeHistogram:
    """The k-th largest magnitude of a stream, exactly, in two passes and 256 KiB.

    A float32 without its sign orders as its bits do: the first pass counts the upper 16 bits, the second the lower ones
    of the values that share the upper bits of the answer.
    """

    def __init__(self, keep: int) -> None:
        """`keep` of the values seen are to be at or above the threshold (ties may add to them)."""
        self._keep = keep
        self._high = np.zeros(1 << 16, np.int64)
        self._low = np.zeros(1 << 16, np.int64)

    def look(self, turn: int, values: np.ndarray) -> None:
        """See values [n] float32: all of them in turn 0, and all of them again in turn 1."""
        bits = np.abs(values).view(np.uint32)
        high = bits >> np.uint32(16)
        if turn == 0:
            self._high += np.bincount(high, minlength=1 << 16)
        else:
            inside = bits[high == self._bin()] & np.uint32(0xFFFF)
            self._low += np.bincount(inside, minlength=1 << 16)

    def threshold(self) -> float:
        """The magnitude that `keep` values reach; infinity for none."""
        if self._keep <= 0:
            return math.inf
        upper = self._bin()
        missing = self._keep - int(self._high[upper + 1 :].sum())
        lower = _from_above(self._low, missing)
        return float(np.array([upper << 16 | lower], np.uint32).view(np.float32)[0])

    def _bin(self) -> int:
        return _from_above(self._high, self._keep) if self._keep > 0 else 1 << 16


def _from_above(counts: np.ndarray, wanted: int) -> int:
    """The highest index from which on the counts add up to `wanted`."""
    reached = np.cumsum(counts[::-1]) >= wanted
    return len(counts) - 1 - int(np.argmax(reached))


def _float(array: np.ndarray) -> np.ndarray:
    """As float32, or float64 where that is what it is."""
    return array if array.dtype == np.float64 else array.astype(np.float32)
