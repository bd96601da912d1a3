"""Every method in every format gives what its formula gives on whole arrays."""

import json
import sys

import merging_reference as reference
import numpy as np
import pytest
from merging_made_up import STATS, WRITERS, Blind, Bowl, made_arrays, read_arrays, write_torch

from xp.errors import UserError
from xp.merging import merge, rules
from xp.merging.methods import METHODS

OPTIONS = {
    "manual": {"weights": [0.5, 0.3, 0.2]},
    "linear": {"weights": [1.0, -0.5, 0.25]},
    "gradient_descent": {"iterations": 3},
    "adaptive_gradient_descent": {"iterations": 3},
    "interpolate": {"alpha": 0.25},
    "slerp": {"t": 0.3},
}


def checkpoints(kind, folder, count):
    return [WRITERS[kind](folder / f"c{k}", made_arrays(k)) for k in range(count)]


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("ema", "swa")])
def test_every_method_writes_the_format_it_read(kind, method, tmp_path):
    count = METHODS[method].count or 3
    found = merge(
        checkpoints(kind, tmp_path, count),
        method,
        output=tmp_path / "out",
        base=WRITERS[kind](tmp_path / "base", made_arrays(9)) if METHODS[method].base else None,
        objective=Bowl(made_arrays(0)) if METHODS[method].search else None,
        **OPTIONS.get(method, {}),
    )
    merged = read_arrays(tmp_path / "out")
    assert {name: array.shape for name, array in merged.items()} == {n: a.shape for n, a in made_arrays().items()}
    assert all(np.isfinite(array).all() for array in merged.values())
    assert json.loads((tmp_path / "out/merge.json").read_text())["method"] == method
    assert len(found.record["checkpoints"]) == count
    for name, expected in _by_formula(method, count, found.record).items():
        np.testing.assert_allclose(merged[name], expected, rtol=2e-5, atol=2e-6, err_msg=name)


def _by_formula(method, count, record):
    """The merged arrays computed on whole arrays, layer by layer, in double precision."""
    base, *tuned = [made_arrays(9), *(made_arrays(k) for k in range(count))]
    options = dict(OPTIONS.get(method, {}))
    if method not in reference.RULES:
        (weights,) = record["weights"].values()
        return {name: reference.weighted(base[name], [t[name] for t in tuned], None, weights) for name in base}
    if method == "nuslerp":
        options["relative"] = False
    return {
        name: reference.merged(
            method, base[name], [t[name] for t in tuned], name=name, stacked="layers" in name, **options
        )
        for name in base
    }


def test_merging_imports_neither_torch_nor_jax(tmp_path):
    import subprocess

    paths = [str(p) for p in checkpoints("jax", tmp_path, 2)]
    code = (
        f"import xp, sys; xp.merge({paths!r}, 'average', output={str(tmp_path / 'out')!r}); "
        "print([m for m in ('torch', 'jax', 'orbax', 'lerobot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_weight_of_one_gives_that_checkpoint_bit_for_bit(tmp_path):
    import ml_dtypes

    made = [made_arrays(k, ml_dtypes.bfloat16) for k in range(3)]
    made[1]["action_out_proj/kernel"][0, 0] = -0.0
    paths = [write_torch(tmp_path / f"c{k}", arrays) for k, arrays in enumerate(made)]
    merge(paths, "manual", weights=[0, 3, 0], output=tmp_path / "out")
    merged = read_arrays(tmp_path / "out")
    assert all(merged[name].tobytes() == array.tobytes() for name, array in made[1].items())


def test_the_order_of_checkpoints_changes_nothing_but_rounding(tmp_path):
    paths = checkpoints("torch", tmp_path, 3)
    one = merge(paths, "average", output=tmp_path / "one")
    other = merge(paths[::-1], "average", output=tmp_path / "other")
    for name, array in read_arrays(one.path).items():
        np.testing.assert_allclose(array, read_arrays(other.path)[name], atol=2e-7)


def test_weights_by_group_and_by_layer(tmp_path):
    paths = checkpoints("jax", tmp_path, 2)
    weights = {"vision": [1, 0], "language.0": [1, 0], "language.*": [0, 1], "*": [1, 1]}
    merge(paths, "manual", weights=weights, per="layer", output=tmp_path / "out")
    merged, (a, b) = read_arrays(tmp_path / "out"), [made_arrays(k) for k in range(2)]
    np.testing.assert_array_equal(merged["PaliGemma/img/embedding/kernel"], a["PaliGemma/img/embedding/kernel"])
    layers = "PaliGemma/llm/layers/mlp/linear"
    np.testing.assert_array_equal(merged[layers][0], a[layers][0])
    np.testing.assert_array_equal(merged[layers][1:], b[layers][1:])
    mean = (a["action_out_proj/kernel"] + b["action_out_proj/kernel"]) / 2
    np.testing.assert_allclose(merged["action_out_proj/kernel"], mean, rtol=1e-6)


def test_interpolation_by_group_keeps_vision_and_action_as_fine_tuned(tmp_path):
    base, (tuned,) = WRITERS["jax"](tmp_path / "base", made_arrays(9)), checkpoints("jax", tmp_path, 1)
    alpha = {"language": 0.5, "*": 1.0}
    merge([tuned], "interpolate", base=base, alpha=alpha, output=tmp_path / "out")
    merged, before, after = read_arrays(tmp_path / "out"), made_arrays(9), made_arrays(0)
    for name, array in merged.items():
        expected = (before[name] + after[name]) / 2 if "llm" in name else after[name]
        np.testing.assert_allclose(array, expected, rtol=1e-6, err_msg=name)


def test_the_gradient_methods_learn_weights_by_layer(tmp_path):
    paths = checkpoints("jax", tmp_path, 2)
    best = {name: array.copy() for name, array in made_arrays(0).items()}
    layers = "PaliGemma/llm/layers/mlp/linear"
    best[layers][1:] = made_arrays(1)[layers][1:]
    found = merge(
        paths,
        "gradient_descent",
        per="layer",
        objective=Bowl(best),
        iterations=60,
        learning_rate=0.3,
        output=tmp_path / "out",
    )
    weights = found.record["weights"]
    assert weights["language.0"][0] > 0.95
    assert all(weights[f"language.{layer}"][1] > 0.95 for layer in (1, 2, 3))


@pytest.mark.parametrize("memory", ["ram", "stream"])
def test_memory_modes_give_the_same_bytes(tmp_path, memory):
    paths = checkpoints("torch", tmp_path, 3)
    found = merge(
        paths, "gradient_descent", objective=Bowl(made_arrays(1)), iterations=4, memory=memory, output=tmp_path / "out"
    )
    again = merge(paths, "gradient_descent", objective=Bowl(made_arrays(1)), iterations=4, output=tmp_path / "again")
    assert found.record["output"] == again.record["output"]
    assert found.record["chosen"] == again.record["chosen"]


def test_a_loss_without_gradient_says_which_methods_work(tmp_path):
    with pytest.raises(UserError, match="inverse_loss, greedy"):
        merge(checkpoints("torch", tmp_path, 2), "gradient_descent", objective=Blind(), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ema_and_swa_average_the_steps_of_one_run(tmp_path):
    for k in range(3):
        WRITERS["octo"](tmp_path / f"run/checkpoints/checkpoint-{10 * k + 10}", made_arrays(k))
    merge([tmp_path / "run"], "ema", decay=0.5, output=tmp_path / "ema")
    merge([tmp_path / "run"], "swa", output=tmp_path / "swa")
    steps = [made_arrays(k) for k in range(3)]
    for name in steps[0]:
        moving = np.zeros_like(steps[0][name])
        for step in steps:
            moving = 0.5 * moving + 0.5 * step[name]
        np.testing.assert_allclose(read_arrays(tmp_path / "ema")[name], moving / 0.875, rtol=1e-5, atol=1e-6)
        mean = sum(step[name] for step in steps) / 3
        np.testing.assert_allclose(read_arrays(tmp_path / "swa")[name], mean, rtol=1e-5, atol=1e-7)


def test_the_merged_checkpoint_can_be_merged_again(tmp_path):
    for kind in WRITERS:
        paths = checkpoints(kind, tmp_path / kind, 2)
        first = merge(paths, output=tmp_path / kind / "first")
        merge([first.path, *paths], output=tmp_path / kind / "second")
        assert (tmp_path / kind / "second/merge.json").is_file()


def test_ties_of_one_checkpoint_at_full_density_is_that_checkpoint(tmp_path):
    base = made_arrays(9)["action_out_proj/kernel"].reshape(-1)
    tuned = made_arrays(0)["action_out_proj/kernel"].reshape(-1)
    np.testing.assert_allclose(rules.ties(base, [tuned], [1.0], 1.0, [0.0]), tuned, rtol=1e-6)


def test_statistics_travel_to_where_the_consumers_look(tmp_path):
    jax = [WRITERS["jax"](tmp_path / f"j{k}", made_arrays(k), stats=STATS) for k in range(2)]
    torch = [write_torch(tmp_path / f"t{k}", made_arrays(k), stats=STATS) for k in range(2)]
    merge(jax, output=tmp_path / "jax")
    merge(torch, output=tmp_path / "torch")
    for place in ("jax/0/assets/lab/arm", "jax", "torch/assets/lab/arm", "torch"):
        assert json.loads((tmp_path / place / "norm_stats.json").read_text())["norm_stats"]["state"] == STATS
    assert (tmp_path / "torch/config.json").is_file()


def test_directions_that_cancel_out_are_averaged_linearly():
    opposite = np.array([[1.0, -2.0], [-2.0, 4.0]])
    np.testing.assert_allclose(rules.karcher_weights(opposite, [1, 1]), [0.5, 0.5])
    three = np.outer([1.0, 2.0, -3.0], [1.0, 2.0, -3.0])
    assert np.isfinite(rules.karcher_weights(three, [1, 1, 1])).all()


def test_slerp_begins_and_ends_at_its_arrays():
    products = rules.gram([np.array([3.0, 0.0]), np.array([1.0, 2.0])])
    np.testing.assert_array_equal(rules.slerp_weights(products, 0.0), [1.0, 0.0])
    np.testing.assert_array_equal(rules.slerp_weights(products, 1.0), [0.0, 1.0])


def test_draws_do_not_depend_on_how_a_tensor_is_cut():
    whole = rules.uniform_draws(7, 0, 1000)
    cut = np.concatenate([rules.uniform_draws(7, start, 1000 - start)[:137] for start in range(0, 1000, 137)])
    np.testing.assert_array_equal(whole, cut)
    assert abs(whole.mean() - 0.5) < 0.03


def test_dare_keeps_entries_or_drops_them_and_scales_the_rest():
    base, tuned = np.zeros(1000, np.float32), np.ones(1000, np.float32)
    found = rules.dare(base, [tuned], [1.0], 1.0, 0.75, [rules.uniform_draws(3, 0, 1000)])
    assert set(found.tolist()) == {0.0, 4.0}
    assert abs(found.mean() - 1.0) < 0.2
