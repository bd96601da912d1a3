"""The searches do what their formulas say, and find a known optimum where the public scripts' choice misses it."""

import numpy as np
import pytest
from merging_made_up import Bowl, made_arrays, write_torch

from xp.errors import UserError
from xp.merging import merge, search
from xp.merging.groups import Units

RUNS, ITERATIONS, RATE = 300, 50, 0.05
CURVATURE, FLOOR, SPREAD = 0.015, 0.02, 0.004
"""The worked toy: loss 0.02 + 0.015 |w - w*|^2 on 3 checkpoints, batches that differ by N(0, 0.004)."""


class OnSimplex:
    """Stands for an evaluator whose checkpoints are the unit vectors: the mix is the weights."""

    count, units = 3, Units(("all",), {})

    def __init__(self, best, offsets=None):
        self.best, self.offsets, self.calls = best, offsets, 0

    def loss(self, weights):
        return FLOOR + CURVATURE * float(((weights[0] - self.best) ** 2).sum())

    def loss_and_slopes(self, weights):
        gradient = 2 * CURVATURE * (weights[0] - self.best)
        offset = 0.0 if self.offsets is None else self.offsets[self.calls % len(self.offsets)]
        self.calls += 1
        return self.loss(weights) + offset, (gradient - weights[0] @ gradient)[None]


def test_the_known_optimum_of_a_quadratic_is_found_and_the_public_choice_misses_it():
    ours, public, uniform = [], [], []
    for seed in range(RUNS):
        draw = np.random.default_rng(seed)
        best, offsets = draw.dirichlet([1, 1, 1]), draw.normal(0, SPREAD, ITERATIONS)
        evaluator = OnSimplex(best)
        found = search.gradient_descent(
            evaluator, search.Candidates(evaluator), iterations=ITERATIONS, learning_rate=RATE
        )
        ours.append(((found.weights[0] - best) ** 2).sum())
        public.append(((_lowest_batch_loss(best, offsets) - best) ** 2).sum())
        uniform.append(((1 / 3 - best) ** 2).sum())
    assert np.mean(uniform) == pytest.approx(0.162, abs=0.001)
    assert np.mean(ours) < 0.004
    assert np.mean(public) == pytest.approx(0.0113, abs=0.0005)


def _lowest_batch_loss(best, offsets):
    """The public scripts' choice: the iterate whose single batch had the lowest loss; each step has another batch."""
    evaluator, logits, adam, chosen = OnSimplex(best, offsets), np.zeros((1, 3)), search.Adam((1, 3)), (np.inf, None)
    for step in range(ITERATIONS):
        weights = search.softmax(logits)
        loss, slopes = evaluator.loss_and_slopes(weights)
        chosen = min(chosen, (loss, weights[0].tolist()))
        logits -= search.cosine(RATE, step, ITERATIONS) * adam.update(weights * slopes)
    return np.array(chosen[1])


def test_adam_with_the_cosine_is_that_of_optax():
    import optax

    gradients = np.random.default_rng(0).normal(size=(20, 4))
    ours, adam = np.zeros(4), search.Adam((4,))
    theirs = np.zeros(4, np.float32)
    rule = optax.adam(optax.cosine_decay_schedule(0.05, 20, alpha=0.01))
    state = rule.init(theirs)
    for step, gradient in enumerate(gradients):
        ours -= search.cosine(0.05, step, 20) * adam.update(gradient)
        update, state = rule.update(gradient.astype(np.float32), state)
        theirs = theirs + update
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_inverse_loss_weights_are_inverse_squares():
    evaluator = OnSimplex(np.array([0.7, 0.2, 0.1]))
    found = search.inverse_loss(evaluator, search.Candidates(evaluator))
    raw = np.array([(1 / (evaluator.loss(np.eye(3)[k : k + 1]) + 1e-8)) ** 2 for k in range(3)])
    np.testing.assert_allclose(found.weights[0], raw / raw.sum(), rtol=1e-12)


def test_inverse_losses_below_zero_are_refused():
    class Likelihood(OnSimplex):
        def loss(self, weights):
            return super().loss(weights) - 0.025

    evaluator = Likelihood(np.array([0.7, 0.2, 0.1]))
    with pytest.raises(UserError, match=r"checkpoint 0 is -0\.002\d+.*merge_method=greedy"):
        search.inverse_loss(evaluator, search.Candidates(evaluator))


def test_greedy_adds_what_helps_and_stops():
    best = np.array([0.5, 0.5, 0.0])
    evaluator = OnSimplex(best)
    found = search.greedy(evaluator, search.Candidates(evaluator))
    np.testing.assert_allclose(found.weights[0], best)
    names = [entry["name"] for entry in found.candidates]
    assert names[:3] == ["checkpoint 0", "checkpoint 1", "checkpoint 2"]
    assert "mix [0, 1]" in names
    assert "mix [0, 1, 2]" in names


def test_greedy_keeps_the_uniform_mix_where_it_measured_that_to_be_better():
    """Two mixes that are each worse than the best checkpoint, and a uniform mix that is better than all."""

    class Valley(OnSimplex):
        def loss(self, weights):
            used = int((weights[0] > 0).sum())
            return {1: 0.5 + 0.1 * float(weights[0] @ [0, 1, 2]), 2: 0.6, 3: 0.1}[used]

    evaluator = Valley(None)
    found = search.greedy(evaluator, search.Candidates(evaluator))
    assert found.chosen == "uniform"
    np.testing.assert_allclose(found.weights[0], [1 / 3] * 3)
    assert found.loss == min(entry["loss"] for entry in found.candidates)


def test_a_search_is_never_worse_than_the_uniform_mix_and_every_checkpoint():
    for seed in range(20):
        evaluator = OnSimplex(np.random.default_rng(seed).dirichlet([0.2, 0.2, 0.2]))
        for adaptive in ("greedy", None, "gradient", "step"):
            tried = search.Candidates(evaluator)
            if adaptive == "greedy":
                found = search.greedy(evaluator, tried)
            else:
                found = search.gradient_descent(evaluator, tried, iterations=5, learning_rate=2.0, adaptive=adaptive)
            reference = [
                evaluator.loss(np.full((1, 3), 1 / 3)),
                *(evaluator.loss(np.eye(3)[k : k + 1]) for k in range(3)),
            ]
            assert found.loss <= min(reference) + 1e-12
            assert evaluator.loss(found.weights) == found.loss


def test_adam_cancels_the_seeds_scaling_and_not_ours():
    best = np.array([0.8, 0.1, 0.1])

    def after(adaptive, target):
        evaluator = OnSimplex(best)
        tried = search.Candidates(evaluator)
        search.gradient_descent(evaluator, tried, iterations=3, learning_rate=0.05, adaptive=adaptive, target=target)
        return np.array(tried.tried[-1]["weights"])

    plain = after(None, None)
    np.testing.assert_allclose(after("gradient", 0.01), after("gradient", 1.0), atol=1e-3)
    np.testing.assert_allclose(after("gradient", 0.05), plain, atol=2e-3)
    assert np.abs(after("step", 0.01) - plain).max() > 0.01


def test_slopes_are_those_of_finite_differences(tmp_path):
    from xp.checkpoints.open import open_checkpoint
    from xp.merging.candidate_evaluator import CandidateEvaluator
    from xp.merging.groups import make_units, with_builtin

    paths = [write_torch(tmp_path / f"c{k}", made_arrays(k, np.float64)) for k in range(3)]
    readers = [open_checkpoint(path).reader for path in paths]
    units = make_units(readers[0].leaves, "group", with_builtin(None))
    evaluator = CandidateEvaluator(readers, readers[0].leaves, units, Bowl(made_arrays(5, np.float64)))
    logits = np.random.default_rng(0).normal(size=(units.count, 3))
    weights = search.softmax(logits)
    _, slopes = evaluator.loss_and_slopes(weights)
    step = 1e-5
    for unit, k in [(0, 0), (1, 2), (2, 1)]:
        moved = [logits.copy(), logits.copy()]
        moved[0][unit, k] += step
        moved[1][unit, k] -= step
        numeric = (evaluator.loss(search.softmax(moved[0])) - evaluator.loss(search.softmax(moved[1]))) / (2 * step)
        assert weights[unit, k] * slopes[unit, k] == pytest.approx(numeric, rel=1e-3)


def test_a_loss_that_is_no_number_is_named(tmp_path):
    class Broken(Bowl):
        def loss(self, weights):
            return float("nan")

    paths = [write_torch(tmp_path / f"c{k}", made_arrays(k)) for k in range(2)]
    with pytest.raises(UserError, match="checkpoint 0 is nan"):
        merge(paths, "greedy", objective=Broken({}), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_record_has_every_candidate_and_the_midpoints(tmp_path):
    paths = [write_torch(tmp_path / f"c{k}", made_arrays(k)) for k in range(3)]
    bowl = Bowl(made_arrays(0), floor=1.0)
    record = merge(paths, "gradient_descent", objective=bowl, iterations=4, output=tmp_path / "out").record
    chosen = record["chosen"]
    assert [e["name"] for e in chosen["candidates"]] == [
        "checkpoint 0", "checkpoint 1", "checkpoint 2", "uniform",
        "iteration 1", "iteration 2", "iteration 3", "iteration 4",
    ]  # fmt: skip
    assert chosen["loss"] == min(e["loss"] for e in chosen["candidates"])
    assert [entry["pair"] for entry in record["barriers"]] == [[0, 1], [0, 2], [1, 2]]
    assert record["barriers"][0]["barrier"] < 0  # a bowl has no barrier
