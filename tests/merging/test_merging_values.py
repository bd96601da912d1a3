"""The methods' values against float64 on whole arrays, in float32 and bfloat16, in ranges of every size and order."""

from itertools import combinations

import merging_reference as reference
import ml_dtypes
import numpy as np
import pytest
from merging_made_up import BF16, WRITERS, Bowl, made_arrays, read_arrays, write_jax, write_torch

from xp.merging import engine, merge, rules
from xp.merging.histogram import MagnitudeHistogram
from xp.merging.methods import METHODS

CASES = {
    "task_arithmetic": [{}, {"weights": [0.7, -0.2, 0.4], "scale": 1.3}, {"weights": [2, 1, 1], "normalize": True}],
    "ties": [
        {}, {"density": [0.1, 0.5, 1.0]}, {"weights": [1, -0.5, 0.3], "density": 0.37}, {"rescale": "l1"},
        {"normalize": False, "weights": [0.5, 0.4, -0.3]},
    ],
    "breadcrumbs": [{}, {"density": [0.3, 0.9, 1.0], "gamma": [0.05, 0.2, 0.1]}, {"rescale": "l1", "density": 0.2}],
    "breadcrumbs_ties": [{}, {"density": 0.4, "gamma": 0.1, "normalize": True}],
    "dare": [{}, {"density": [0.2, 0.6, 1.0], "weights": [1, 0.5, -0.5]}, {"rescale": "l1"}, {"rescale": "none"}],
    "dare_ties": [{}, {"density": [0.3, 0.9, 1.0], "normalize": True}, {"rescale": "l1"}],
    "della": [{}, {"density": [0.3, 0.5, 0.7], "epsilon": [0.1, 0.2, 0.05], "weights": [3, 1, 1]}, {"rescale": "l1"}],
    "sce": [{}, {"select_topk": 0.1}],
    "model_stock": [{}, {"weights": [3, 1, 1]}],
    "karcher": [{}, {"weights": [3, 1, 1]}],
    "nuslerp": [{}, {"weights": [3, 1]}, {"along": "last"}, {"along": "first", "weights": [1, 2]}],
    "slerp": [{"t": 0.3}],
    "interpolate": [{"alpha": 0.3}],
}  # fmt: skip
ALL = [(method, case) for method, cases in CASES.items() for case in cases]


def tuned_arrays(seed, dtype, base=None):
    """A matrix longer than a block, a stacked leaf, a vector, a convolution and a scalar."""
    draw = np.random.default_rng(seed)
    shapes = {"a/matrix": (700, 211), "b/layers/w": (3, 40, 17), "c/bias": (97,), "d/conv": (6, 5, 3, 3), "e/gain": ()}
    made = {n: draw.standard_normal(s).astype(np.float32) * (0.2 if base else 1.0) for n, s in shapes.items()}
    if base:
        made = {n: np.asarray(base[n], np.float32) + array for n, array in made.items()}
    return {n: np.asarray(array).astype(dtype) for n, array in made.items()}


@pytest.fixture(scope="module", params=[np.dtype(np.float32), BF16], ids=["float32", "bfloat16"])
def family(request, tmp_path_factory):
    """A base and three checkpoints fine-tuned from it: the arrays, and their folders."""
    folder = tmp_path_factory.mktemp(request.param.name)
    base = tuned_arrays(99, request.param)
    arrays = [base, *(tuned_arrays(k, request.param, base) for k in range(3))]
    return arrays, [write_torch(folder / f"c{k}", a) for k, a in enumerate(arrays)]


@pytest.mark.parametrize(("method", "case"), ALL)
def test_a_method_gives_what_its_formula_gives_in_float64(family, method, case, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "BLOCK", 1 << 15)
    arrays, paths = family
    count = METHODS[method].count or 3
    options = {**case, "base": paths[0]} if METHODS[method].base or METHODS[method].base_too else case
    merge(paths[1 : 1 + count], method, output=tmp_path / "out", seed=5, **options)
    found = read_arrays(tmp_path / "out")
    for name in found:
        expected = reference.merged(
            method, arrays[0][name], [a[name] for a in arrays[1 : 1 + count]],
            name=name, stacked="layers" in name, seed=5, **case,
        )  # fmt: skip
        assert_as_good_as_its_type(found[name], expected)


def assert_as_good_as_its_type(found, expected):
    """1e-6 in float32; in bfloat16 the nearest value, but for what lies half-way between two (0.501 units)."""
    if found.dtype == np.float32:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        return
    exponent = np.floor(np.log2(np.maximum(np.abs(expected), float(ml_dtypes.finfo(BF16).tiny))))
    unit = np.exp2(exponent - 7)
    assert (np.abs(found.astype(np.float64) - expected) / unit).max() <= 0.501


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_the_largest_of_the_whole_model_are_kept_where_that_is_asked(method, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "BLOCK", 1 << 12)
    base = tuned_arrays(99, np.float32)
    arrays = [base, *(tuned_arrays(k, np.float32, base) for k in range(2))]
    arrays[1]["c/bias"] = base["c/bias"] + 7.0  # larger than all others: nothing else is kept of that leaf's vector
    paths = [write_jax(tmp_path / f"c{k}", a) for k, a in enumerate(arrays)]
    record = merge(paths[1:], method, base=paths[0], density=[0.1, 0.4], across="model", output=tmp_path / "out").record
    found, names = read_arrays(tmp_path / "out"), sorted(base)
    flat = [np.concatenate([a[n].reshape(-1) for n in names]) for a in arrays]
    expected = reference.merged(method, flat[0], flat[1:], density=[0.1, 0.4])
    np.testing.assert_allclose(np.concatenate([found[n].reshape(-1) for n in names]), expected, rtol=1e-6, atol=1e-6)
    if method == "ties":
        assert record["tensors"]["c/bias"]["kept"][0] == 1.0
        assert record["tensors"]["a/matrix"]["kept"][0] < 0.11
        total = sum(entry["kept"][0] * reference_size(arrays[0], label) for label, entry in record["tensors"].items())
        assert round(total, 6) == int(0.1 * len(flat[0]))


def reference_size(arrays, label):
    name = label.partition("[")[0]
    return arrays[name].size / (len(arrays[name]) if "[" in label else 1)


def test_nuslerp_without_a_base_is_slerp_with_weights(tmp_path):
    paths = [write_torch(tmp_path / f"c{k}", made_arrays(k)) for k in range(2)]
    merge(paths, "slerp", t=0.25, output=tmp_path / "slerp")
    merge(paths, "nuslerp", weights=[3, 1], output=tmp_path / "nuslerp")
    other = read_arrays(tmp_path / "nuslerp")
    for name, array in read_arrays(tmp_path / "slerp").items():
        np.testing.assert_array_equal(other[name], array)


def test_no_two_methods_give_the_same_by_their_defaults(tmp_path):
    """But for what is one by definition: manual and linear have no defaults; swa is the average over a run's steps; a
    search may choose what another one does, if that is best.
    """
    base = WRITERS["octo"](tmp_path / "base", made_arrays(9))
    for k in range(3):
        WRITERS["octo"](tmp_path / f"run/checkpoints/checkpoint-{k + 1}", made_arrays(k))
    run = tmp_path / "run"
    best = {name: 0.6 * array + 0.4 * made_arrays(1)[name] for name, array in made_arrays(0).items()}
    for count in (1, 2, 3):
        steps = [f"{run}@{k + 1}" for k in range(count)]
        results = {}
        for name, method in METHODS.items():
            if (
                method.weights == "must"
                or name in SEARCHES
                or (method.count or count) != count
                or (count == 1 and not method.base)
            ):
                continue
            objective = Bowl(best, floor=0.05) if METHODS[name].search else None
            out = tmp_path / f"{name}_{count}"
            merge(steps, name, base=base, objective=objective, output=out)
            results[name] = np.concatenate([a.reshape(-1) for a in read_arrays(out).values()])
        same = {
            frozenset(pair) for pair in combinations(results, 2)
            if np.allclose(results[pair[0]], results[pair[1]], rtol=1e-5, atol=1e-6)
        }  # fmt: skip
        assert same - BY_DEFINITION.get(count, set()) == set()


SEARCHES = {name for name, method in METHODS.items() if method.search} - {"inverse_loss"}
ALONE = [("sce", "model_stock"), ("dare", "dare_ties"), ("breadcrumbs", "breadcrumbs_ties")]
"""One checkpoint has nobody to disagree with, and is its own average."""
BY_DEFINITION = {1: set(map(frozenset, ALONE)), 2: {frozenset(("average", "swa"))}, 3: {frozenset(("average", "swa"))}}


def test_the_threshold_of_a_stream_is_the_kth_largest_magnitude():
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.standard_normal(5000), np.zeros(50), -draw.random(200) * 1e-30]).astype(np.float32)
    for keep in (1, 7, 1000, 5200):
        known = MagnitudeHistogram(keep, 3)
        for pass_index in (0, 1):
            for start in range(0, len(values), 777):
                known.observe(pass_index, values[start : start + 777])
        assert known.threshold() == np.sort(np.abs(values))[-keep]
        assert known.threshold(1) == np.sort(np.abs(values))[-3]
        assert known.nonzero == 5200
    assert MagnitudeHistogram(0).threshold() == np.inf


def test_draws_keep_the_share_that_was_asked_for_and_the_mean_they_had():
    base, tuned = np.zeros(200_000, np.float32), np.ones(200_000, np.float32)
    for odds in (0.1, 0.5, 0.9):
        found = rules.dare(base, [tuned], [1.0], 1.0, 1 - odds, [rules.uniform_draws(3, 0, len(base))])
        assert abs((found != 0).mean() - odds) < 0.005
        assert abs(found.mean() - 1) < 0.02
