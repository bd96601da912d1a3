"""Laws of the methods relative to a base, on any arrays, cut in any way: what holds whatever the checkpoints are."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xp.checkpoints.arrays import Leaf
from xp.checkpoints.ranges import cut, rounded_up
from xp.merging.groups import make_units
from xp.merging.method import MergeInputs, validate_method
from xp.merging.methods import METHODS

quick = settings(max_examples=12, deadline=None)
TRIMMED = ("ties", "breadcrumbs", "breadcrumbs_ties")
DRAWN = ("dare", "dare_ties", "della")
RELATIVE = ("task_arithmetic", *TRIMMED, *DRAWN, "sce", "nuslerp", "model_stock")
AVERAGING = ("ties", "della", "sce", "nuslerp", "model_stock", "breadcrumbs", "breadcrumbs_ties", "dare", "dare_ties")
"""Methods that give back a checkpoint of which all inputs are copies, as long as nothing is dropped."""
KEEP_ALL = {"ties": {"density": 1}, "della": {"density": 1}, "dare": {"density": 1}, "dare_ties": {"density": 1},
            "breadcrumbs": {"density": 1}, "breadcrumbs_ties": {"density": 1}}  # fmt: skip


def merged(method, base, tuned, block=1 << 20, seed=3, **options):
    """The merged array, read in ranges of about `block` elements."""
    leaf = Leaf("w", base.shape, base.dtype)
    leaves = {"w": leaf}
    config = validate_method(
        METHODS[method], len(tuned), has_base=True, weights=options.pop("weights", None), options=options
    )
    inputs = MergeInputs(
        units=make_units(leaves, "checkpoint", {}), count=len(tuned), leaves=leaves, has_base=True, seed=seed
    )
    rule = METHODS[method].rule(config, inputs)
    flat = [array.reshape(-1) for array in (base, *tuned)]
    ranges = list(cut(0, base.size, rounded_up(block, rule.alignment(leaf))))
    for pass_index in range(rule.model_passes):
        for start, stop in ranges[::-1]:
            rule.observe_model(pass_index, leaf, start, [array[start:stop] for array in flat])
    for pass_index in range(rule.leaf_passes):
        for start, stop in ranges:
            rule.observe(pass_index, leaf, start, [array[start:stop] for array in flat])
    out = np.empty(base.size)
    for start, stop in ranges:
        rule.apply(leaf, start, iter([array[start:stop] for array in flat]), out[start:stop])
    return out.reshape(base.shape)


@st.composite
def families(draw, count=None):
    """(base, task vectors [N, ...]) of one matrix; float64, so that laws hold to rounding. Entries are apart from 0."""
    count = count or draw(st.integers(2, 4))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(2, 7)))
    numbers = st.integers(-1000, 1000).map(lambda k: k / 64)
    base = draw(arrays(np.float64, shape, elements=numbers))
    vectors = draw(arrays(np.float64, (count, *shape), elements=numbers.filter(bool)))
    return base, vectors


def limited(method, vectors):
    """As many checkpoints as the method takes."""
    return vectors[:2] if method == "nuslerp" else vectors


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", RELATIVE)
@quick
@given(family=families(), block=st.integers(7, 50))
def test_how_the_work_is_cut_changes_nothing(method, family, block):
    base, vectors = family
    tuned = list(base + limited(method, vectors))
    close(merged(method, base, tuned, block), merged(method, base, tuned))


@pytest.mark.parametrize("along", ["last", "first"])
@quick
@given(family=families(2), block=st.integers(7, 50))
def test_lines_are_the_same_however_they_are_cut(along, family, block):
    base, vectors = family
    tuned = list(base + vectors)
    whole = merged("nuslerp", base, tuned, along=along)
    close(merged("nuslerp", base, tuned, block, along=along), whole)
    transposed = merged(
        "nuslerp", base.T.copy(), [t.T.copy() for t in tuned], along={"last": "first"}.get(along, "last")
    )
    close(transposed.T, whole)


@pytest.mark.parametrize("across", ["tensor", "model"])
@quick
@given(family=families(), data=st.data())
def test_the_order_of_the_checkpoints_does_not_matter(across, family, data):
    base, vectors = family
    order = data.draw(st.permutations(range(len(vectors))))
    weights = data.draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=len(vectors), max_size=len(vectors)))
    density = data.draw(st.lists(st.sampled_from([0.3, 0.6, 1.0]), min_size=len(vectors), max_size=len(vectors)))
    tuned = base + vectors
    turned = {"weights": [weights[k] for k in order], "density": [density[k] for k in order]}
    for method in TRIMMED:
        one = merged(method, base, list(tuned), weights=weights, density=density, across=across)
        close(merged(method, base, list(tuned[order]), across=across, **turned), one)
    for method in ("sce", "model_stock", "task_arithmetic"):
        close(merged(method, base, list(tuned[order])), merged(method, base, list(tuned)))


@pytest.mark.parametrize("method", RELATIVE)
@quick
@given(family=families(), scale=st.sampled_from([0.25, 2.0, -1.0, -8.0]))
def test_what_is_added_grows_and_turns_around_with_the_task_vectors(method, family, scale):
    """Draws, thresholds, angles and elections depend on the directions of the task vectors alone."""
    base, vectors = family
    vectors = limited(method, vectors)
    added = merged(method, base, list(base + vectors)) - base
    close(merged(method, base, list(base + scale * vectors)) - base, scale * added)


@pytest.mark.parametrize("method", RELATIVE)
@quick
@given(family=families(), shift=st.integers(-64, 64))
def test_moving_the_base_moves_the_result(method, family, shift):
    base, vectors = family
    vectors = limited(method, vectors)
    one = merged(method, base, list(base + vectors))
    close(merged(method, base + shift / 8, list(base + shift / 8 + vectors)), one + shift / 8)


@pytest.mark.parametrize("method", AVERAGING)
@quick
@given(family=families(1), count=st.integers(2, 4))
def test_copies_of_one_checkpoint_merge_to_it_where_nothing_is_dropped(method, family, count):
    base, (vector,) = family
    copies = [base + vector] * (2 if method == "nuslerp" else count)
    close(merged(method, base, copies, **KEEP_ALL.get(method, {})), base + vector)


@quick
@given(family=families(), scale=st.sampled_from([0.5, 1.0, 1.5]))
def test_a_density_of_one_trims_nothing(family, scale):
    base, vectors = family
    tuned = list(base + vectors)
    plain = merged("task_arithmetic", base, tuned, scale=scale, weights=[0.5] * len(tuned))
    for method in ("dare", "breadcrumbs"):
        close(merged(method, base, tuned, scale=scale, weights=[0.5] * len(tuned), density=1), plain)
    elected = merged("ties", base, tuned, scale=scale, density=1)
    for method in ("dare_ties", "breadcrumbs_ties", "della"):
        close(merged(method, base, tuned, scale=scale, density=1, normalize=True), elected)


@quick
@given(family=families(), density=st.floats(0.05, 1), gamma=st.floats(0, 0.5))
def test_a_trim_keeps_the_share_it_was_asked_for_and_no_larger_ones_than_it_may(family, density, gamma):
    base, vectors = family
    size = base.size
    magnitudes = np.abs(vectors).reshape(len(vectors), -1)
    assume(all(len(set(row)) == size for row in magnitudes.tolist()))  # equal ones stay or go together
    for k in range(len(vectors)):
        kept = merged("breadcrumbs", base, [base + vectors[k]], density=density, gamma=gamma) != base
        number, outliers = max(1, int(density * size)), int(gamma * size)
        assert kept.sum() == (number if density < 1 else size)
        largest = np.sort(magnitudes[k])[::-1]
        first = min(outliers, size - number)
        assert np.abs(vectors[k])[kept].max() == largest[first]


@quick
@given(family=families(2), weights=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_nuslerp_ends_at_its_checkpoints_and_keeps_equal_lengths(family, weights):
    base, vectors = family
    lengths = np.sqrt((vectors**2).sum((1, 2)))
    vectors = vectors / lengths[:, None, None]
    assume(abs((vectors[0] * vectors[1]).sum()) < 0.99)
    close(merged("nuslerp", base, list(base + vectors), weights=[1, 0]), base + vectors[0])
    close(merged("nuslerp", base, list(base + vectors), weights=[0, 1]), base + vectors[1])
    away = merged("nuslerp", base, list(base + vectors), weights=list(weights)) - base
    assert np.sqrt((away**2).sum()) == pytest.approx(1, rel=1e-6)


@quick
@given(family=families(), seed=st.integers(0, 2**32))
def test_what_is_elected_lies_between_the_entries_of_its_sign(family, seed):
    base, vectors = family
    for method in ("ties", "della", "sce"):
        options = {"density": 1} if method != "sce" else {}
        away = merged(method, base, list(base + vectors), seed=seed, **options) - base
        assert np.all(away <= np.maximum(vectors, 0).max(0) + 1e-9)
        assert np.all(away >= np.minimum(vectors, 0).min(0) - 1e-9)
