"""What the files of one checkpoint say is brought together: incomplete and ambiguous ones are refused."""

import json
import shutil

import numpy as np
import pytest
from merging_made_up import made_arrays, read_arrays, tree_state, write_torch

from xp.errors import UserError
from xp.merging import merge

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"


def refused(paths, tmp_path, match, **options):
    before = tree_state(tmp_path)
    with pytest.raises(UserError, match=match) as caught:
        merge(paths, output=tmp_path / "out", **options)
    assert tree_state(tmp_path) == before
    return str(caught.value)


def sharded(folder, count=3, seed=0):
    arrays = made_arrays(seed)
    names = sorted(arrays)
    shard_map = {n: f"model-{i % count + 1:05}-of-{count:05}.safetensors" for i, n in enumerate(names)}
    return write_torch(folder, arrays, shard_map=shard_map)


@pytest.fixture
def pair(tmp_path):
    """Two checkpoints of three shards each."""
    return [sharded(tmp_path / f"c{k}", seed=k) for k in range(2)]


def change_index(folder, change):
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


def test_whole_sets_of_shards_are_merged_into_such_a_set(pair, tmp_path):
    merge(pair, output=tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*-of-00003.safetensors"))) == 3
    assert read_arrays(tmp_path / "out").keys() == made_arrays().keys()


def test_a_missing_shard_is_no_smaller_model(pair, tmp_path):
    (pair[1] / "model-00002-of-00003.safetensors").unlink()
    refused(pair, tmp_path, "model-00002-of-00003")
    for folder in pair:  # not even where the index, too, has forgotten it
        (folder / "model-00002-of-00003.safetensors").unlink(missing_ok=True)
        change_index(folder, lambda listed: [listed.pop(n) for n in list(listed) if "00002-of" in listed[n]])
    refused(pair, tmp_path, "c0 is incomplete: of 3 shards .* only 2 are there; number 2 is missing")


def test_a_tensor_that_index_and_shards_do_not_agree_on(pair, tmp_path):
    change_index(pair[0], lambda listed: listed.pop("action_out_proj/kernel"))
    refused(pair, tmp_path, "action_out_proj/kernel")
    change_index(pair[0], lambda listed: listed.update({"action_out_proj/kernel": "model-00003-of-00003.safetensors"}))
    refused(pair, tmp_path, "action_out_proj/kernel")
    change_index(pair[0], lambda listed: listed.update({"gone": "model-00003-of-00003.safetensors"}))
    refused(pair, tmp_path, "gone|action_out_proj/kernel")


def test_shards_without_an_index_or_beside_one_that_does_not_list_them(pair, tmp_path):
    extra = sharded(tmp_path / "old", count=2, seed=5)
    for file in extra.glob("model-*"):
        shutil.copy(file, pair[0] / file.name)
    refused(pair, tmp_path, "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors, and .* does not list")
    for file in pair[0].glob("*-of-00002.safetensors"):
        file.unlink()
    (pair[0] / INDEX).unlink()
    refused(pair, tmp_path, "model-0000")
    write_torch(tmp_path / "one", made_arrays(3))
    shutil.copy(tmp_path / "one/model.safetensors", pair[0])
    refused(pair, tmp_path, "beside model.safetensors, and there is no model.safetensors.index.json")


def test_one_file_and_an_index_that_lists_others(pair, tmp_path):
    write_torch(tmp_path / "one", made_arrays(3))
    shutil.copy(tmp_path / "one/model.safetensors", pair[0])
    refused(pair, tmp_path, "model.safetensors and model.safetensors.index.json")


def test_weights_of_another_format_beside_are_told_and_not_read(tmp_path):
    paths = [write_torch(tmp_path / f"c{k}", made_arrays(k)) for k in range(2)]
    (paths[1] / "pytorch_model.bin").write_bytes(b"whatever")
    record = merge(paths, output=tmp_path / "out").record
    assert [note for note in record["notes"] if "c1/pytorch_model.bin lies beside the weights and was not read" in note]
    assert not (tmp_path / "out/pytorch_model.bin").exists()


def language_model(folder, seed, *, tied, stored=True, same=True, architecture="LlamaForCausalLM", nested=False):
    draw = np.random.default_rng(seed)
    embedding = draw.standard_normal((11, 4)).astype(np.float32)
    arrays = {EMBEDDING: embedding, "model.norm.weight": draw.standard_normal(4).astype(np.float32)}
    if stored:
        arrays[HEAD] = embedding if same else embedding + 1
    write_torch(folder, arrays)
    flag = {} if tied is None else {"tie_word_embeddings": tied}
    config = {"architectures": [architecture], **({"text_config": flag} if nested else flag)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_tied_weights_stay_one_weight_whatever_the_method_draws(tmp_path, nested):
    paths = [language_model(tmp_path / f"c{k}", k, tied=True, nested=nested) for k in range(3)]
    for method in ("dare", "average"):
        merge(paths[1:], method, base=paths[0], output=tmp_path / method, weights=None)
        from safetensors import safe_open

        with safe_open(tmp_path / method / "model.safetensors", "np") as file:
            assert set(file.keys()) == {EMBEDDING, "model.norm.weight"}
            assert file.metadata()[HEAD] == EMBEDDING


def test_a_checkpoint_that_stores_the_tie_twice_meets_one_that_does_not(tmp_path):
    paths = [language_model(tmp_path / "a", 0, tied=True), language_model(tmp_path / "b", 1, tied=True, stored=False)]
    merge(paths, output=tmp_path / "out")
    assert HEAD not in read_arrays(tmp_path / "out")


def test_a_tie_that_the_file_does_not_keep_is_refused(tmp_path):
    paths = [language_model(tmp_path / f"c{k}", k, tied=True, same=k == 0) for k in range(2)]
    refused(paths, tmp_path, "c1 contradicts itself: its config.json ties lm_head.weight to model.embed_tokens.weight")


def test_an_output_layer_that_should_be_there_and_is_not(tmp_path):
    paths = [language_model(tmp_path / f"c{k}", k, tied=False, stored=False) for k in range(2)]
    refused(paths, tmp_path, "c0 is incomplete: .* no lm_head.weight is there")
    encoders = [
        language_model(tmp_path / f"e{k}", k, tied=False, stored=False, architecture="T5EncoderModel") for k in range(2)
    ]
    merge(encoders, output=tmp_path / "out")


def test_output_layers_that_are_not_tied_are_merged_as_they_are(tmp_path):
    for tied in (None, False):
        paths = [language_model(tmp_path / f"{tied}{k}", k, tied=tied, same=False) for k in range(2)]
        merge(paths, output=tmp_path / f"out_{tied}")
        assert HEAD in read_arrays(tmp_path / f"out_{tied}")


def test_equal_shapes_with_other_configurations_are_told(tmp_path):
    paths = [write_torch(tmp_path / f"c{k}", made_arrays(k)) for k in range(2)]
    (paths[0] / "config.json").write_text(json.dumps({"n_heads": 8, "torch_dtype": "float32"}))
    (paths[1] / "config.json").write_text(json.dumps({"n_heads": 4, "torch_dtype": "bfloat16"}))
    (note,) = merge(paths, output=tmp_path / "out").record["notes"]
    assert "c1 is not that of" in note
    assert "n_heads (4 instead of 8)" in note
    assert "torch_dtype" not in note
