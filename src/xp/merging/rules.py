"""The arithmetic of merging: pure functions on 1-D arrays of equal length, one implementation each.

`arrays` are the N checkpoints' values (any float dtype), `base` those of the model they were fine-tuned from, and a
task vector is a checkpoint minus the base. Rules that need norms or angles of a whole tensor work from its Gram matrix
[N, N] of inner products, so that a tensor of any size is streamed: once for the products, once to combine.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64

from xp.merging.shapes import Entries, Numbers, Products, Shares, Values

TILE = 1 << 16
"""Elements worked on at once, so that all operands stay in a core's cache."""
PARALLEL = 0.9995
"""Cosine above which slerp interpolates linearly (mergekit's DOT_THRESHOLD): the sine in its denominator vanishes."""
CANCELLED = 1e-12
"""A sum that is so small a share of its terms' magnitudes is 0, but for the order in which they were added.
Task vectors of low precision have few values, and cancel often."""
NEARLY_ONE = 1.0 - 1e-12
"""The same for nuslerp, which follows the great circle as long as float64 can tell the directions apart."""


def linear(arrays: Iterable[Values], weights: Numbers, out: Values) -> Values:
    """sum_k weights[k] * arrays[k], in the order given, into `out` (float32 or float64); `arrays` are taken one by one.

    Weights of 0 are left out, so (1, 0, 0) gives the first array bit for bit. Equal weights that sum to 1 are a sum
    divided by N: the average as anyone would compute it. Any other weights are summed in float64: where terms cancel,
    sums in float32 are off by more than a bfloat16 is wide.
    """
    used = [float(weight) for weight in weights if weight != 0]
    share = len(used) if used and all(weight == used[0] for weight in used) and _is_share(used) else 0
    total = out if share or out.dtype == np.float64 else np.empty(len(out))
    scratch = np.empty(min(TILE, len(out)), total.dtype)
    first = True
    for array, weight in zip(arrays, weights, strict=True):
        if weight != 0:
            _add(array, 1.0 if share else float(weight), total, scratch, first=first)
            first = False
    if first:
        total[:] = 0
    elif share > 1:
        np.divide(total, total.dtype.type(share), out=total)
    if total is not out:
        with np.errstate(over="ignore"):  # what overflows is found and named where it is written
            np.copyto(out, total, casting="unsafe")
    return out


def _is_share(weights: Numbers) -> bool:
    return math.isclose(weights[0] * len(weights), 1.0, rel_tol=1e-12)


def _add(array: Values, weight: float, out: Values, scratch: np.ndarray, *, first: bool) -> None:
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


def combine(
    base: Values,
    vectors: Sequence[Entries],
    weights: Numbers,
    *,
    scale: float = 1.0,
    normalize: bool = False,
    elect: bool = False,
    weigh_votes: bool = True,
) -> Entries:
    """Base + scale * the weighted sum of task vectors, float64: what all methods relative to a base have in common.

    Args:
        base: [n] the values that the vectors start from.
        vectors: [N] arrays [n] float64: what each checkpoint adds, trimmed or not. NaN and infinity come through.
        weights: [N]. A negative weight turns its vector around, sign and all.
        scale: factor on the sum.
        normalize: divide the sum by the sum of the weights in it; with `elect` by the sum of their magnitudes, since
            there a weight's sign is part of the vector. Where nothing is summed the base stays.
        elect: sum only entries that have the elected sign, that of the sum of all weighted entries (TIES, Yadav et
            al., arXiv 2306.01708, section 4). Entries that cancel out (`CANCELLED`) elect nothing: the base stays.
        weigh_votes: whether the election, too, is by weights.
    """
    start = base.astype(np.float64)
    total, share = np.zeros_like(start), np.zeros_like(start)
    with np.errstate(invalid="ignore", over="ignore"):
        elected = _elected(vectors, weights if weigh_votes else np.ones(len(vectors))) if elect else None
        for vector, weight in zip(vectors, weights, strict=True):
            term = float(weight) * vector
            if elected is not None:
                agrees = (term if weigh_votes else vector) * elected > 0
                term *= agrees  # not chosen but multiplied: what is NaN or infinite must not vanish
                share += abs(float(weight)) * agrees
            total += term
        if normalize:
            whole = share if elected is not None else np.full_like(start, float(np.sum(weights)))
            whole += whole == 0  # where nothing was summed
            total /= whole
        total *= scale
        return np.add(start, total, out=total)


def _elected(vectors: Sequence[Entries], weights: Numbers) -> Entries:
    """The sum whose sign is elected [n]; 0 where it is nothing but what rounding left of terms that cancel out."""
    total, magnitudes = np.zeros(len(vectors[0])), np.zeros(len(vectors[0]))
    for vector, weight in zip(vectors, weights, strict=True):
        term = float(weight) * vector
        total += term
        magnitudes += np.abs(term)
    total *= np.abs(total) >= CANCELLED * magnitudes
    return total


def task_vector(base: Values, array: Values) -> Entries:
    """What fine-tuning added: array - base [n], float64."""
    return array.astype(np.float64) - base.astype(np.float64)


def task_arithmetic(base: Values, arrays: Sequence[Values], weights: Numbers, scale: float) -> Entries:
    """Base + scale * sum_k weights[k] * (arrays[k] - base). Ilharco et al., arXiv 2212.04089."""
    return combine(base, [task_vector(base, array) for array in arrays], weights, scale=scale)


def ties(
    base: Values,
    arrays: Sequence[Values],
    weights: Numbers,
    scale: float,
    thresholds: Numbers,
) -> Entries:
    """Trim, elect sign, disjoint merge. Yadav et al., arXiv 2306.01708, with weights (all 1 in the paper).

    Of each task vector the entries below its threshold in magnitude are dropped (`trims.Largest` finds thresholds);
    the sign of an entry is that of the weighted sum of what is left; the result is base + scale * weighted mean of the
    entries that have the elected sign.
    """
    vectors = [task_vector(base, array) for array in arrays]
    kept = [vector * (np.abs(vector) >= threshold) for vector, threshold in zip(vectors, thresholds, strict=True)]
    return combine(base, kept, weights, scale=scale, normalize=True, elect=True)


def dare(
    base: Values,
    arrays: Sequence[Values],
    weights: Numbers,
    scale: float,
    drop: float,
    draws: Sequence[Entries],
) -> Entries:
    """Drop and rescale: task vectors lose entries at random, the rest is divided by 1 - drop. Yu et al., 2311.03099.

    `draws[k]` are uniform in [0, 1), one an element; an entry stays where its draw is at least `drop`.
    """
    vectors = [task_vector(base, array) for array in arrays]
    kept = [vector * (draw >= drop) / (1.0 - drop) for vector, draw in zip(vectors, draws, strict=True)]
    return combine(base, kept, weights, scale=scale)


def uniform_draws(key: int, start: int, count: int) -> Float64[np.ndarray, " {count}"]:
    """Draws [count] in [0, 1) for the elements from `start` on: a function of (key, element), whatever the blocks.

    Philox is counter-based (Salmon et al., SC 2011): one 64-bit word an element, four words a counter step.
    """
    front = start % 4
    source = np.random.Philox(key=key, counter=start // 4)
    return (source.random_raw(front + count)[front:] >> np.uint64(11)) * 2.0**-53


def gram(arrays: Sequence[Values], base: Values | None = None) -> Products:
    """Inner products [N, N] float64 of the arrays, or of their task vectors."""
    total = np.zeros((len(arrays), len(arrays)))
    for start in range(0, len(arrays[0]), TILE):
        rows = np.stack([array[start : start + TILE].astype(np.float64) for array in arrays])
        if base is not None:
            rows -= base[start : start + TILE].astype(np.float64)
        total += rows @ rows.T
    return total


def slerp_weights(products: Products, t: float, parallel: float = PARALLEL) -> Float64[np.ndarray, "2"]:
    """Weights [2] of spherical interpolation from the first array to the second. Shoemake, SIGGRAPH 1985.

    The angle is that between the arrays; nearly parallel ones (cosines beyond `parallel`) and arrays of zeros are
    interpolated linearly.
    """
    upper = np.array([[products[0, 0]], [products[0, 1]], [products[1, 1]]])
    return line_weights(upper, np.array([t]), parallel)[:, 0]


def line_weights(
    products: Float64[np.ndarray, "3 lines"], t: Float64[np.ndarray, " lines"], parallel: float = NEARLY_ONE
) -> Float64[np.ndarray, "2 lines"]:
    """Weights [2, L] of spherical interpolation of L pairs at once, by t [L]; see `slerp_weights`.

    `products` [3, L]: inner products of the first with itself, of both, and of the second with itself.
    """
    with np.errstate(invalid="ignore"):  # what is not finite comes out as such
        length = np.sqrt(products[0]) * np.sqrt(products[2])
        cosine = np.divide(products[1], length, out=np.ones_like(length), where=length != 0)
        straight = np.abs(cosine) > parallel
        angle = np.arccos(np.where(straight, 0.0, np.clip(cosine, -1.0, 1.0)))
        bent = np.stack([np.sin((1.0 - t) * angle), np.sin(t * angle)]) / np.sin(angle)
    return np.where(straight, np.stack([1.0 - t, t]), bent)


def karcher_weights(products: Products, weights: Numbers, iterations: int = 30, tolerance: float = 1e-9) -> Shares:
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


def model_stock_ratio(products: Products) -> float:
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


def ema_weights(count: int, decay: float) -> Float64[np.ndarray, " {count}"]:
    """Weights [count] of checkpoints in order of their steps: proportional to decay^age, the newest has age 0.

    This is the moving average e = decay * e + (1 - decay) * next from e = 0, divided by the sum of its weights
    (the bias correction of Kingma & Ba, arXiv 1412.6980, section 3): started from the first checkpoint instead, that
    one, the least trained, would keep decay^(count - 1) of all weight. decay = 1 weighs all alike, 0 takes the last.
    """
    weights = decay ** np.arange(count - 1, -1, -1, dtype=np.float64)
    return weights / weights.sum()


def inverse_loss_weights(losses: Numbers) -> Shares:
    """Weights proportional to (1 / (loss + 1e-8))^2, normalised to a sum of 1."""
    raw = (1.0 / (np.asarray(losses, np.float64) + 1e-8)) ** 2
    return raw / raw.sum()
