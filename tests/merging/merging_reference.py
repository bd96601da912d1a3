"""Every method on whole arrays in float64, written for the tests alone: sorts, loops and the papers' formulas."""

from zlib import crc32

import numpy as np

from xp.merging.rules import uniform_draws


def merged(method, base, tuned, *, name="w", stacked=False, seed=0, **options):
    """The merged tensor: float64. `base` and each of `tuned` are arrays of one shape; `stacked`: layer by layer."""
    layers = range(len(base)) if stacked else [...]
    out = np.empty(base.shape)
    for layer in layers:
        first = 0 if layer is ... else layer * base[layer].size
        b, xs = np.asarray(base[layer], np.float64), [np.asarray(t[layer], np.float64) for t in tuned]
        out[layer] = RULES[method](b, xs, draws=Draws(name, seed, first), **options)
    return out


class Draws:
    """The uniform draws of a tensor: those of checkpoint k belong to its elements."""

    def __init__(self, name, seed, first):
        self.name, self.seed, self.first = name, seed, first

    def __call__(self, k, shape):
        key = self.seed << 64 | crc32(self.name.encode()) << 32 | k
        return uniform_draws(key, self.first, int(np.prod(shape))).reshape(shape)


def each(value, count):
    return list(value) if isinstance(value, list) else [value] * count


def added(b, xs, kept, weights, *, scale, normalize=False, elect=False):
    """base + scale * sum (or mean) of weighted entries; with `elect` of those alone whose sign is that of their sum."""
    terms = np.stack([w * v for w, v in zip(weights, kept)])
    sizes = np.stack([np.full(b.shape, abs(w) if elect else w) for w in weights])
    agrees = elected(terms) if elect else np.ones(terms.shape, bool)
    total, size = np.where(agrees, terms, 0).sum(0), np.where(agrees, sizes, 0).sum(0)
    if normalize:
        total = np.divide(total, size, out=np.zeros_like(total), where=size != 0)
    return b + scale * total


def elected(terms):
    """Where a term has the sign of their sum; nowhere where they cancel out."""
    total = terms.sum(0)
    total = np.where(np.abs(total) <= 1e-12 * np.abs(terms).sum(0), 0, total)
    return (np.sign(terms) == np.sign(total)) & (terms != 0)


def stretched(vector, kept, rescale):
    return kept * (np.abs(vector).sum() / np.abs(kept).sum()) if rescale == "l1" else kept


def largest(vector, density, gamma=None):
    """The largest entries, without the outliers; sorted by float32 magnitudes, equal ones stay together."""
    flat = np.abs(vector).astype(np.float32).reshape(-1)
    if density >= 1:
        return vector
    keep = max(1, int(density * flat.size))
    top = min(int((gamma or 0) * flat.size), flat.size - keep)
    ordered = np.sort(flat)[::-1]
    chosen = (flat >= ordered[top + keep - 1]) & (flat <= ordered[top])
    return np.where(chosen.reshape(vector.shape), vector, 0)


def task_arithmetic(b, xs, draws, weights=None, scale=0.4, normalize=False):
    return added(b, xs, [x - b for x in xs], weights or [1] * len(xs), scale=scale, normalize=normalize)


def trimmed(elect, normalize, density, gamma=None):
    def rule(b, xs, draws, weights=None, scale=1.0, density=density, gamma=gamma, normalize=normalize, rescale="none"):
        n, vectors = len(xs), [x - b for x in xs]
        kept = [largest(v, d, g) for v, d, g in zip(vectors, each(density, n), each(gamma, n))]
        kept = [stretched(v, k, rescale) for v, k in zip(vectors, kept)]
        return added(b, xs, kept, weights or [1 / n] * n, scale=scale, normalize=normalize, elect=elect)

    return rule


def drawn(elect, normalize, odds):
    def rule(b, xs, draws, weights=None, scale=1.0, normalize=normalize, rescale="probability", **options):
        n, vectors, kept = len(xs), [x - b for x in xs], []
        for k, vector in enumerate(vectors):
            p = odds(vector, k, n, **options)
            left = np.where(draws(k, b.shape) >= 1 - p, vector, 0)
            kept.append(left / p if rescale == "probability" else stretched(vector, left, rescale))
        return added(b, xs, kept, weights or [1 / n] * n, scale=scale, normalize=normalize, elect=elect)

    return rule


def alike(vector, k, n, density=0.5):
    return np.full(vector.shape, each(density, n)[k])


def by_rank(vector, k, n, density=0.5, epsilon=0.15):
    """Odds by the rank within the last axis (of more than two axes: within all but the first)."""
    density, epsilon = each(density, n)[k], each(epsilon, n)[k]
    rows = np.abs(vector).reshape(len(vector), -1) if vector.ndim > 2 else np.atleast_2d(np.abs(vector))
    out = np.empty(rows.shape)
    for row, odds in zip(rows, out):
        ranks = {int(i): r for r, i in enumerate(sorted(range(len(row)), key=lambda i: (row[i], i)))}
        for i in range(len(row)):
            share = ranks[i] / (len(row) - 1) if len(row) > 1 else 0.5
            odds[i] = density - epsilon + 2 * epsilon * share
    return out.reshape(vector.shape)


def sce(b, xs, draws, select_topk=1.0):
    vectors = np.stack([x - b for x in xs])
    if select_topk < 1:
        variance = np.var(vectors, axis=0).astype(np.float32)
        ordered = np.sort(variance[variance > 0])[::-1]
        vectors = vectors * (variance >= ordered[max(1, int(len(ordered) * select_topk)) - 1])
    squares = np.array([np.square(v).mean() for v in vectors])
    weights = squares / squares.sum()
    agrees = elected(vectors)
    size = sum(w * a for w, a in zip(weights, agrees))
    total = sum(w * a * v for w, a, v in zip(weights, agrees, vectors))
    return b + np.divide(total, size, out=np.zeros_like(b), where=np.asarray(size) != 0)


def arc(a, b, t):
    """From a to b along the great circle, for vectors in their last axis."""
    lengths = np.linalg.norm(a, axis=-1, keepdims=True), np.linalg.norm(b, axis=-1, keepdims=True)
    scale = lengths[0] * lengths[1]
    cosine = np.where(scale > 0, (a * b).sum(-1, keepdims=True) / np.where(scale > 0, scale, 1), 1.0)
    straight = np.abs(cosine) >= 1 - 1e-12
    angle = np.arccos(np.where(straight, 0, np.clip(cosine, -1, 1)))
    bent = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return np.where(straight, (1 - t) * a + t * b, bent)


def nuslerp(b, xs, draws, weights=(0.5, 0.5), along="tensor", relative=True):
    t = weights[1] / sum(weights)
    origin = b if relative else np.zeros_like(b)
    v, w = (x - origin for x in xs)
    if along == "tensor" or b.ndim < 2:
        return origin + arc(v.reshape(1, -1), w.reshape(1, -1), t).reshape(b.shape)
    if along == "last":
        return origin + arc(v, w, t)
    return origin + np.moveaxis(arc(np.moveaxis(v, 0, -1), np.moveaxis(w, 0, -1), t), -1, 0)


def slerp(b, xs, draws, t=0.5):
    flat = [x.reshape(1, -1) for x in xs]
    norms = [np.linalg.norm(f) for f in flat]
    if abs((flat[0] * flat[1]).sum()) > 0.9995 * norms[0] * norms[1]:
        return (1 - t) * xs[0] + t * xs[1]
    return arc(*flat, t).reshape(b.shape)


def model_stock(b, xs, draws, weights=None):
    n, vectors = len(xs), [(x - b).reshape(-1) for x in xs]
    units = [v / np.linalg.norm(v) for v in vectors]
    cosine = np.mean([units[i] @ units[j] for i in range(n) for j in range(n) if i != j])
    ratio = 0.0 if cosine <= 0 else n * cosine / (1 + (n - 1) * cosine)
    share = np.array(weights or [1] * n) / sum(weights or [1] * n)
    return ratio * sum(w * x for w, x in zip(share, xs)) + (1 - ratio) * b


def karcher(b, xs, draws, weights=None):
    """Fixed-point iteration on the sphere itself."""
    share = np.array(weights or [1] * len(xs)) / sum(weights or [1] * len(xs))
    points = np.stack([x.reshape(-1) for x in xs])
    lengths = np.linalg.norm(points, axis=1)
    points = points / lengths[:, None]
    mean = share @ points
    mean /= np.linalg.norm(mean)
    for _ in range(200):
        tangent = np.zeros_like(mean)
        for w, point in zip(share, points):
            angle = np.arccos(np.clip(point @ mean, -1, 1))
            away = point - (point @ mean) * mean
            size = np.linalg.norm(away)
            tangent += w * (angle * away / size if size > 1e-12 else 0)
        step = np.linalg.norm(tangent)
        if step < 1e-12:
            break
        mean = np.cos(step) * mean + np.sin(step) * tangent / step
    return (mean * (share @ lengths)).reshape(b.shape)


def weighted(b, xs, draws, weights):
    return sum(w * x for w, x in zip(weights, xs))


RULES = {
    "task_arithmetic": task_arithmetic,
    "ties": trimmed(elect=True, normalize=True, density=0.2),
    "breadcrumbs": trimmed(elect=False, normalize=False, density=0.9, gamma=0.01),
    "breadcrumbs_ties": trimmed(elect=True, normalize=False, density=0.9, gamma=0.01),
    "dare": drawn(elect=False, normalize=False, odds=alike),
    "dare_ties": drawn(elect=True, normalize=False, odds=alike),
    "della": drawn(elect=True, normalize=True, odds=by_rank),
    "sce": sce,
    "nuslerp": nuslerp,
    "slerp": slerp,
    "model_stock": model_stock,
    "karcher": karcher,
    "interpolate": lambda b, xs, draws, alpha=0.5: (1 - alpha) * b + alpha * xs[0],
}
"""What is not here is a weighted sum whose weights stand in the record."""
