"""What cannot be merged: a clear error, nothing executed, nothing written."""

import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from merging_made_up import STATS, WRITERS, copy_of, made_arrays, read_arrays, tree_state, write_jax, write_torch

from xp.errors import UserError
from xp.merging import Hooks, merge


@pytest.fixture(params=list(WRITERS))
def three(request, tmp_path):
    """Three checkpoints of one format."""
    return [WRITERS[request.param](tmp_path / "three" / f"c{k}", made_arrays(k)) for k in range(3)]


def refused(match, *arguments, **options):
    """Merging raises a UserError and changes no file around the inputs."""
    folder = options["output"].parent
    before = tree_state(folder)
    with pytest.raises(UserError, match=match) as caught:
        merge(*arguments, **options)
    assert tree_state(folder) == before
    return str(caught.value)


def _weights_files(folder):
    return [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith((".json", "METADATA", ".ocdbt"))]


def test_a_truncated_checkpoint(three, tmp_path):
    for file in _weights_files(three[1]):
        file.write_bytes(file.read_bytes()[:-40])
    refused("damaged", three, output=tmp_path / "out")


def test_an_empty_weights_file(three, tmp_path):
    for file in _weights_files(three[2]):
        file.write_bytes(b"")
    refused("damaged", three, output=tmp_path / "out")


def test_nan_in_an_input_names_checkpoint_weight_and_place(tmp_path):
    for kind, write in WRITERS.items():
        bad = made_arrays(1)
        bad["action_out_proj/kernel"][2, 1] = np.nan
        paths = [write(tmp_path / kind / "good", made_arrays(0)), write(tmp_path / kind / "bad", bad)]
        text = refused("NaN or infinite", paths, output=tmp_path / kind / "out")
        assert "bad" in text
        assert "action_out_proj/kernel at (2, 1)" in text
        more = {"output": tmp_path / kind / "out", "base": paths[0]}
        assert text == refused("NaN or infinite", paths, "karcher", output=tmp_path / kind / "out")
        assert text == refused("NaN or infinite", paths, "model_stock", **more)


def test_all_differences_are_told_at_once(tmp_path):
    one, other = made_arrays(0), made_arrays(1)
    other["extra"] = other.pop("action_out_proj/bias")
    other["action_out_proj/kernel"] = np.zeros((8, 4), np.float32)
    other["PaliGemma/img/embedding/kernel"] = other["PaliGemma/img/embedding/kernel"].astype(np.float16)
    for kind, write in WRITERS.items():
        paths = [write(tmp_path / kind / "a", one), write(tmp_path / kind / "b", other)]
        text = refused("4 differences", paths, output=tmp_path / kind / "out")
        for part in (
            "missing action_out_proj/bias",
            "extra extra",
            "[8, 4] instead of [8, 3]",
            "float16 instead of float32",
        ):
            assert part in text


def test_a_difference_may_be_left_out_or_taken_from_the_first(tmp_path):
    one, other = made_arrays(0), made_arrays(1)
    del other["action_out_proj/bias"]
    other["action_out_proj/kernel"] = np.zeros((8, 4), np.float32)
    paths = [write_torch(tmp_path / "a", one), write_torch(tmp_path / "b", other)]
    merge(paths, mismatch="intersect", output=tmp_path / "shared")
    assert set(read_arrays(tmp_path / "shared")) == {
        "PaliGemma/img/embedding/kernel",
        "PaliGemma/llm/layers/mlp/linear",
    }
    record = merge(paths, mismatch="base", output=tmp_path / "based").record
    merged = read_arrays(tmp_path / "based")
    np.testing.assert_array_equal(merged["action_out_proj/kernel"], one["action_out_proj/kernel"])
    np.testing.assert_array_equal(merged["action_out_proj/bias"], one["action_out_proj/bias"])
    assert len(record["mismatch"]["differences"]) == 2


def test_tied_weights_that_one_file_stores_twice_are_a_difference_of_their_own(tmp_path):
    one, other = made_arrays(0), made_arrays(1)
    one["lm_head"] = one["PaliGemma/img/embedding/kernel"]
    ties = {"lm_head": "PaliGemma/img/embedding/kernel"}
    paths = [write_torch(tmp_path / "a", one), write_torch(tmp_path / "b", other, ties=ties)]
    refused("tie lm_head: tied to PaliGemma/img/embedding/kernel", paths, output=tmp_path / "out")
    merge(paths, mismatch="base", output=tmp_path / "out")
    merged = read_arrays(tmp_path / "out")
    np.testing.assert_array_equal(merged["lm_head"], merged["PaliGemma/img/embedding/kernel"])


def test_weights_that_do_not_fit(three, tmp_path):
    out = {"output": tmp_path / "out"}
    refused("sum to 0", three, "manual", weights=[1, -1, 0], **out)
    refused("2 weights for 3 checkpoints", three, "manual", weights=[0.5, 0.5], **out)
    refused("finite", three, "manual", weights=[0.5, float("nan"), 0.5], **out)
    refused("weights are numbers", three, "manual", weights=["a", "b", "c"], **out)
    refused("needs one weight a checkpoint", three, "manual", **out)
    refused("finds its weights itself", three, "average", weights=[1, 1, 1], **out)
    refused(
        "says nothing about 'other'|says nothing about 'action'", three, "manual", weights={"vision": [1, 1, 1]}, **out
    )


def test_what_a_method_needs(three, tmp_path):
    out = {"output": tmp_path / "out"}
    refused("did you mean 'average'", three, "avrage", **out)
    refused("merge.base=FOLDER", three, "ties", **out)
    refused("takes 2 checkpoints", three, "slerp", **out)
    refused("no option 'scal'.*did you mean 'scale'", three, "ties", base=three[0], scal=1.0, **out)
    refused("merge.validation", three, "greedy", **out)
    refused("give two or more", three[:1], "average", **out)
    refused("matches none", three, groups={"hands": ["*hand*"]}, **out)


def test_the_output_is_never_an_input_or_around_one(three, tmp_path):
    refused("would destroy", three, output=three[0], overwrite=True)
    refused("would destroy", three, output=three[0] / "inside", overwrite=True)
    refused("would destroy", three, output=tmp_path / "three", overwrite=True)


def test_an_existing_output_is_kept_unless_asked(three, tmp_path):
    merge(three, output=tmp_path / "out")
    refused("exists already", three, "manual", weights=[1, 0, 0], output=tmp_path / "out")
    merge(three, "manual", weights=[1, 0, 0], overwrite=True, output=tmp_path / "out")
    np.testing.assert_array_equal(
        read_arrays(tmp_path / "out")["action_out_proj/kernel"], made_arrays(0)["action_out_proj/kernel"]
    )


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (self.file, "w"))


def test_a_pickle_is_never_opened(tmp_path):
    good = write_torch(tmp_path / "good", made_arrays(0))
    for name in ("pytorch_model.bin", "model.pth", "weights.pkl", "model.safetensors"):
        bad = tmp_path / name.replace(".", "_")
        bad.mkdir()
        (bad / name).write_bytes(pickle.dumps(Trap(str(tmp_path / "executed"))))
        refused("pickle|damaged", [good, bad], output=tmp_path / "out")
    assert not (tmp_path / "executed").exists()


def test_different_formats_and_missing_folders(tmp_path):
    jax, torch = write_jax(tmp_path / "jax", made_arrays(0)), write_torch(tmp_path / "torch", made_arrays(1))
    refused("different formats", [jax, torch], output=tmp_path / "out")
    refused("There is no checkpoint", [jax, tmp_path / "nowhere"], output=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    refused("can be merged: looked for", [jax, tmp_path / "empty"], output=tmp_path / "out")


def test_a_missing_orbax_chunk_is_no_zero(tmp_path):
    paths = [write_jax(tmp_path / f"c{k}", made_arrays(k)) for k in range(2)]
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{paths[0]}/params/"}).result()
    store.write(b"params.action_out_proj.kernel.value/0.0", None).result()
    refused("action_out_proj/kernel has 0 of 1 chunks", paths, output=tmp_path / "out")


def test_a_killed_merge_leaves_no_output_and_the_next_one_succeeds(tmp_path):
    arrays = [{"w": np.random.default_rng(k).standard_normal(2_000_000).astype(np.float32)} for k in range(2)]
    paths = [str(write_torch(tmp_path / f"c{k}", a)) for k, a in enumerate(arrays)]
    code = (
        "import sys, time; from xp.merging import merge, engine; from xp.merging.merge_rules import Linear\n"
        "old = Linear.apply\n"
        "def slow(self, *a):\n    old(self, *a); print('working', flush=True); time.sleep(60)\n"
        "Linear.apply = slow\n"
        f"merge({paths!r}, output={str(tmp_path / 'out')!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "working"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.tmp-*"))
    merge(paths, output=tmp_path / "out")
    assert not list(tmp_path.glob(".out.tmp-*"))
    np.testing.assert_allclose(read_arrays(tmp_path / "out")["w"], (arrays[0]["w"] + arrays[1]["w"]) / 2)


def test_a_stopped_merge_leaves_nothing(three, tmp_path):
    class Stop(Exception):  # noqa: N818
        pass

    def stop():
        raise Stop

    with pytest.raises(Stop):
        merge(three, output=tmp_path / "out", hooks=Hooks(stop=stop))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["three"]
    assert sorted(p.name for p in (tmp_path / "three").iterdir()) == ["c0", "c1", "c2"]


def test_statistics_that_differ_are_pooled_with_a_warning_or_refused(tmp_path):
    other = {"mean": [2.0, 1.0], "std": [1.0, 2.0], "q01": [0.0, -3.5], "q99": [4.0, 4.0]}
    paths = [write_jax(tmp_path / f"c{k}", made_arrays(k), stats=stats) for k, stats in enumerate((STATS, other))]
    refused("different statistics", paths, statistics="refuse", output=tmp_path / "out")
    record = merge(paths, output=tmp_path / "out").record
    assert "measure the merged policy" in record["warnings"][0]
    pooled = json.loads((tmp_path / "out/norm_stats.json").read_text())["norm_stats"]["state"]
    np.testing.assert_allclose(pooled["mean"], [1.0, 1.0])
    np.testing.assert_allclose(pooled["std"], [np.sqrt(2.0), 2.0])  # 1 + the spread of the means; not 1
    assert (pooled["q01"], pooled["q99"]) == ([-2.0, -3.5], [4.0, 5.0])


def test_pooling_gives_the_statistics_of_the_joined_data():
    from xp.merging.statistics import pool

    rng = np.random.default_rng(0)
    parts = [rng.normal(-1, 0.2, (300, 2)), rng.normal(1, 0.2, (100, 2))]
    entries = [{"mean": p.mean(0), "std": p.std(0), "min": p.min(0), "max": p.max(0)} for p in parts]
    joined, pooled = np.concatenate(parts), pool(entries, [300, 100])
    for key, value in {
        "mean": joined.mean(0),
        "std": joined.std(0),
        "min": joined.min(0),
        "max": joined.max(0),
    }.items():
        np.testing.assert_allclose(pooled[key], value, err_msg=key)


def test_reading_what_the_owner_made_read_only(tmp_path):
    source = write_torch(tmp_path / "c0", made_arrays(0))
    other = copy_of(source, tmp_path / "c1")
    for path in (source, other):
        (path / "model.safetensors").chmod(0o444)
    merge([source, other], output=tmp_path / "out")
    assert read_arrays(tmp_path / "out").keys() == made_arrays(0).keys()
