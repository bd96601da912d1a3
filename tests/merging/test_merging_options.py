"""Options, weights and numbers that no merge should begin with, or end with."""

import json

import ml_dtypes
import numpy as np
import pytest
from merging_made_up import BF16, made_arrays, read_arrays, tree_state, write_torch

from xp.errors import UserError
from xp.merging import merge
from xp.merging.job import told_apart
from xp.merging.methods import METHODS

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A base and three checkpoints."""
    folder = tmp_path_factory.mktemp("four")
    return [write_torch(folder / f"c{k}", made_arrays(k)) for k in (9, 0, 1, 2)]


def refused(match, paths, method, tmp_path, **options):
    before = tree_state(tmp_path)
    with pytest.raises(UserError, match=match) as caught:
        merge(paths, method, output=tmp_path / "out", **options)
    assert tree_state(tmp_path) == before
    return str(caught.value)


BAD = [
    ("ties", {"scale": NAN}, "merge_method.scale=nan: expected a finite number"),
    ("ties", {"scale": "big"}, "merge_method.scale=big: expected a finite number"),
    ("ties", {"density": 0}, "merge_method.density=0: must be more than 0 and at most 1"),
    ("ties", {"density": 1.5}, "merge_method.density=1.5: must be more than 0 and at most 1"),
    ("ties", {"density": [0.5, 0.5]}, "2 values for 3 checkpoints"),
    ("ties", {"density": [0.5, 0.5, NAN]}, "merge_method.density=nan: expected a finite number"),
    ("ties", {"density": {"vision": 0.5}}, "expected a finite number, or a list"),
    ("ties", {"across": "layer"}, "merge_method.across=layer: allowed are tensor, model"),
    ("ties", {"normalize": "yes"}, "merge_method.normalize=yes: allowed are true, false"),
    ("ties", {"rescale": "probability"}, "merge_method.rescale=probability: allowed are l1, none"),
    ("dare", {"density": 0}, "merge_method.density=0: must be at least 0.001"),
    ("dare", {"density": 1e-9}, "merge_method.density=1e-09: must be at least 0.001"),
    ("dare_ties", {"density": [0.5, 0.5, 0]}, "must be at least 0.001"),
    ("breadcrumbs", {"gamma": -0.1}, "merge_method.gamma=-0.1: must be at least 0 and at most 0.5"),
    ("breadcrumbs_ties", {"density": 0}, "must be more than 0"),
    ("della", {"density": 0.1}, "which must lie between 0.001 and 1. Type for instance merge_method.epsilon=0.05"),
    ("della", {"epsilon": [0.1, 0.1, 0.5]}, "merge_method.epsilon=0.5"),
    ("sce", {"select_topk": 0}, "merge_method.select_topk=0: must be more than 0"),
    ("slerp", {"t": NAN}, "merge_method.t=nan: expected a finite number"),
    ("slerp", {"t": 1.5}, "merge_method.t=1.5: must be at least 0 and at most 1"),
    ("nuslerp", {"along": "rows"}, "allowed are tensor, last, first"),
    ("nuslerp", {"weights": [1.5, -0.5]}, "takes no negative weights"),
    ("karcher", {"weights": [1.5, 0.5, -0.5]}, "takes no negative weights"),
    ("interpolate", {"alpha": "half"}, "merge_method.alpha=half: expected a finite number"),
    ("interpolate", {"alpha": NAN}, "merge_method.alpha=nan: expected a finite number"),
    ("interpolate", {"alpha": {"*": INF}}, r"merge_method.alpha.\*=inf: expected a finite number"),
    ("gradient_descent", {"iterations": 2.5}, "merge_method.iterations=2.5: expected a whole number"),
    ("gradient_descent", {"learning_rate": INF}, "merge_method.learning_rate=inf: expected a finite number"),
    ("adaptive_gradient_descent", {"target": 0}, "merge_method.target=0: must be more than 0"),
    ("adaptive_gradient_descent", {"adaptive": "both"}, "merge_method.adaptive=both: allowed are gradient, step"),
    ("linear", {"weights": [0, 0, 0]}, "nothing of the checkpoints is left"),
    ("linear", {"weights": [1e-9, 0, 0]}, "nothing of the checkpoints is left"),
    ("linear", {"weights": {"action": [0, 0, 0], "*": [1, 1, 1]}}, "merge.weights.action"),
    ("linear", {"weights": [1, -1, 1e-5], "normalize": True}, "sum to 1e-05"),
    ("manual", {"weights": [1, -0.999, 0]}, "sum to 0.001.*by 2e.03"),
    ("manual", {"weights": [1e308, 1e308, 1e308]}, "finite"),
    ("karcher", {"weights": [0, 0, 0]}, "nothing of the checkpoints is left"),
    ("model_stock", {"weights": [1, -0.999, 0]}, "sum to 0.001"),
    ("task_arithmetic", {"weights": [0, 0, 0]}, "nothing of the checkpoints is left"),
    ("task_arithmetic", {"weights": [1, -1, 0], "normalize": True}, "merge_method.normalize=false"),
    ("ties", {"weights": [1, -0.999, 0]}, "sum to 0.001.*merge_method.normalize=false"),
    ("ties", {"weights": [0, 0, 0]}, "nothing of the checkpoints is left"),
    ("ties", {"weights": {"*": [0, 0, 0]}}, "nothing of the checkpoints is left"),
    ("ties", {"weights": [1, NAN, 1]}, "finite"),
    ("della", {"weights": [1, -1, 0]}, "sum to 0"),
    ("swa", {"weights": [0, 0, 0]}, "nothing of the checkpoints is left"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "given", "match"), BAD)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_written(four, method, given, match, tmp_path):
    count = METHODS[method].count or 3
    refused(match, four[1 : 1 + count], method, tmp_path, base=four[0], **given)


def test_a_number_without_bounds_that_is_no_number_is_refused_on_the_command_line(capsys):
    from xp.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(["task=merge", "merge_method=ties", "merge_method.scale=nan", "merge.checkpoints=[a,b]", "merge.base=c"])
    assert ended.value.code == 2
    assert "merge_method.scale=nan: must be finite" in capsys.readouterr().err


def test_a_negative_weight_turns_its_task_vector_around(tmp_path):
    """ties with weight -1 is ties of the mirrored checkpoint with weight 1."""
    base, one, two = (made_arrays(k) for k in (9, 0, 1))
    mirrored = {name: 2 * base[name] - array for name, array in two.items()}
    paths = [write_torch(tmp_path / f"c{k}", arrays) for k, arrays in enumerate((base, one, two, mirrored))]
    for method in ("ties", "della"):
        merge([paths[1], paths[2]], method, base=paths[0], weights=[1, -0.5], output=tmp_path / f"{method}_minus")
        merge([paths[1], paths[3]], method, base=paths[0], weights=[1, 0.5], output=tmp_path / f"{method}_plus")
        other = read_arrays(tmp_path / f"{method}_plus")
        for name, array in read_arrays(tmp_path / f"{method}_minus").items():
            np.testing.assert_allclose(array, other[name], atol=2e-6)


@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties", "breadcrumbs_ties", "della", "sce"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_value_that_is_not_finite_does_not_vanish_in_a_trim_or_an_election(method, value, tmp_path):
    arrays = [made_arrays(k) for k in range(3)]
    arrays[1]["action_out_proj/kernel"][3, 1] = value
    paths = [write_torch(tmp_path / f"c{k}", a) for k, a in enumerate(arrays)]
    text = refused("NaN or infinite", paths[1:], method, tmp_path, base=paths[0])
    assert "c1" in text
    assert "action_out_proj/kernel at (3, 1)" in text


@pytest.mark.parametrize(
    ("kind", "most"),
    [(np.float16, 65504.0), (ml_dtypes.float8_e4m3fn, 448.0), (ml_dtypes.float8_e5m2, 57344.0), (BF16, 3.3895e38)],
)
def test_a_value_must_be_finite_in_the_type_that_is_written(kind, most, tmp_path):
    """Sums that float32 holds and the written type does not are refused; its largest value is written."""
    arrays = [{"w": np.full((4, 3), 0.75 * most).astype(kind)} for _ in range(2)]
    paths = [write_torch(tmp_path / f"c{k}", a) for k, a in enumerate(arrays)]
    text = refused(np.dtype(kind).name, paths, "linear", tmp_path, weights=[1, 1])
    assert "w is" in text
    assert "at (0, 0)" in text
    assert ("merge.dtype=bfloat16" in text) == (kind is not BF16)
    largest = [write_torch(tmp_path / f"m{k}", {"w": np.full(3, most).astype(kind)}) for k in range(2)]
    merge(largest, "linear", weights=[1, 0], output=tmp_path / "most")
    assert np.isfinite(read_arrays(tmp_path / "most")["w"].astype(np.float64)).all()


def test_float32_weights_that_overflow_the_dtype_asked_for_are_refused(tmp_path):
    paths = [write_torch(tmp_path / f"c{k}", {"w": np.full(4, 1e5, np.float32)}) for k in range(2)]
    refused("100000 at .* float16.* holds at most 65504", paths, "average", tmp_path, dtype="float16")
    merge(paths, output=tmp_path / "wide", dtype="bfloat16")


def test_a_part_may_keep_its_base(four, tmp_path):
    weights = {"vision": [0, 0, 0], "*": [1, 1, 1]}
    merge(four[1:], "ties", base=four[0], weights=weights, output=tmp_path / "out")
    name = "PaliGemma/img/embedding/kernel"
    np.testing.assert_array_equal(read_arrays(tmp_path / "out")[name], made_arrays(9)[name])


def test_the_record_has_what_the_data_decided(four, tmp_path):
    def tensors(method, **options):
        merge(four[1:], method, base=four[0], output=tmp_path / method, seed=3, **options)
        record = json.loads((tmp_path / method / "merge.json").read_text())
        assert record["seed"] == 3
        return record["tensors"]

    stock = tensors("model_stock")
    assert set(stock) == {
        "PaliGemma/img/embedding/kernel", "action_out_proj/bias", "action_out_proj/kernel",
        *(f"PaliGemma/llm/layers/mlp/linear[{layer}]" for layer in range(4)),
    }  # fmt: skip
    for entry in stock.values():
        assert 0 <= entry["ratio"] <= 1
        assert entry["coefficients"][0] == pytest.approx(1 - entry["ratio"])
        assert np.shape(entry["cosines"]) == (3, 3)
    kept = tensors("ties", density=[0.25, 0.5, 1.0])["PaliGemma/llm/layers/mlp/linear[2]"]
    assert kept["kept"] == [0.25, 0.5, 1.0]
    assert kept["least_kept"][0] > kept["least_kept"][1] > kept["least_kept"][2] == 0
    shares = tensors("dare", density=0.5)["PaliGemma/llm/layers/mlp/linear[0]"]["kept"]
    assert len(shares) == 3
    assert all(0.2 < share < 0.8 for share in shares)
    assert sum(tensors("sce", select_topk=0.5)["action_out_proj/kernel"]["weights"]) == pytest.approx(1)
    crumbs = tensors("breadcrumbs", density=0.5, gamma=0.2)["action_out_proj/kernel"]
    assert all(low < high for low, high in zip(crumbs["least_kept"], crumbs["largest_kept"]))
    assert tensors("karcher")["action_out_proj/kernel"]["coefficients"]


def test_what_counts_twice_or_adds_nothing_is_told(four, tmp_path):
    twice = merge([four[1], four[2], four[1]], output=tmp_path / "twice").record["warnings"]
    assert any("so they count twice" in said for said in twice)
    based = merge([four[0], four[1]], "ties", base=four[0], scale=0, output=tmp_path / "based").record["warnings"]
    assert any("holds the same weights as merge.base" in said for said in based)
    assert any("the result is merge.base itself" in said for said in based)


def test_a_formula_that_is_worse_than_what_was_measured_beside_it_is_told(four, tmp_path):
    from merging_made_up import Bowl

    mean = {name: sum(made_arrays(k)[name] for k in range(3)) / 3 for name in made_arrays()}
    best = {name: 0.6 * array + 0.4 * made_arrays(0)[name] for name, array in mean.items()}
    target = {name: 2 * mean[name] - array for name, array in best.items()}  # inverse losses lean the other way
    record = merge(four[1:], "inverse_loss", objective=Bowl(target), output=tmp_path / "out").record
    losses = {entry["name"]: entry["loss"] for entry in record["chosen"]["candidates"]}
    told = [said for said in record["warnings"] if "merge_method=inverse_loss chose weights" in said]
    assert bool(told) == (min(losses.values()) < losses["inverse_loss"])


def test_the_weights_of_a_moving_average_are_said_by_step(tmp_path):
    from xp.merging import Hooks

    for k in range(2):
        write_torch(tmp_path / f"run/checkpoints/checkpoint-{10 * k + 10}", made_arrays(k))
    lines = []
    record = merge([tmp_path / "run"], "ema", output=tmp_path / "out", hooks=Hooks(log=lines.append)).record
    assert "weights: run@10 0.4737, run@20 0.5263" in lines
    np.testing.assert_allclose(record["weights"]["all"], [0.9 / 1.9, 1 / 1.9])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["a/run1", "a/run2"], ["run1", "run2"]),
        (["/c/run1/90000", "/c/run2/90000", "/c/run1/80000"], ["run1/90000", "run2/90000", "run1/80000"]),
        (["a/x/90000/params", "b/x/90000"], ["params", "90000"]),
        (["a/x", "b/x", "x"], ["a/x", "b/x", "x"]),
        (["a/x", "a/x"], ["x", "x"]),
        (["x", "x"], ["x", "x"]),
    ],
)
def test_checkpoints_are_told_apart_by_as_little_of_their_paths_as_does(given, told):
    assert told_apart(given) == told
