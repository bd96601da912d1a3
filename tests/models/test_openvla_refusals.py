"""What an OpenVLA's folder or configuration may hold that it should not: refused by name, never tried, never run."""

import json
import shutil
import warnings

import numpy as np
import pytest
from openvla_made_up import DATA, MODEL, batch_for, made
from safetensors.numpy import load_file, save_file

from xp.errors import UserError
from xp.models import camera_sizes, load_policy
from xp.models.families import find_policy
from xp.models.openvla.family import FAMILY
from xp.models.policy import DataTransforms

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvla") / "policy"
    made().policy(None).save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "policy")
    return tmp_path / "policy"


def change(folder, file="config.json", **values):
    content = json.loads((folder / file).read_text())
    for name, value in values.items():
        place, _, last = name.rpartition("__")
        inner = content[place] if place else content
        inner[last] = value
    (folder / file).write_text(json.dumps(content))


def refused(folder, **options) -> str:
    with pytest.raises(UserError) as error:
        load_policy(folder, device="cpu", **options)
    return str(error.value)


def observation():
    return {name: value for name, value in batch_for(made().spec, 1).items() if not name.startswith("action")}


def test_several_datasets_and_no_key_are_refused_before_the_network_is_asked(folder):
    entry = json.loads((folder / "dataset_statistics.json").read_text())["toy"]
    change(folder, "dataset_statistics.json", other=entry)
    change(folder, "xp.json", unnorm_key=None)
    policy = load_policy(folder, device="cpu")
    with pytest.raises(UserError, match="2 datasets.*There are toy, other.*unnorm_key=toy"):
        policy.predict(observation())
    with pytest.raises(UserError, match="unnorm_key=othr.*did you mean 'other'"):
        policy.predict(observation(), unnorm_key="othr")
    assert "did you mean 'other'" in refused(folder, unnorm_key="othr")
    chosen = load_policy(folder, device="cpu", unnorm_key="other")
    assert np.array_equal(chosen.predict(observation()), policy.predict(observation(), unnorm_key="toy"))
    chosen.save(folder.parent / "chosen")
    assert json.loads((folder.parent / "chosen/xp.json").read_text())["unnorm_key"] == "other"


def test_statistics_beside_the_weights_are_used_not_those_of_the_base(folder):
    change(folder, norm_stats={"base": {"action": {}}})
    assert list(load_policy(folder, device="cpu").assembly.sidecar.statistics) == ["toy"]
    (folder / "dataset_statistics.json").unlink()
    change(folder, "config.json", norm_stats={})
    assert "has no statistics" in refused(folder)


def test_a_policy_without_a_tokeniser_loads_and_says_what_is_missing_when_it_is_asked(folder):
    (folder / "tokenizer.json").unlink()
    policy = load_policy(folder, device="cpu")
    with pytest.raises(UserError, match="no tokeniser.*cannot read 'push the red cube to the left'"):
        policy.predict(observation())
    with pytest.raises(UserError, match="no tokeniser.*model.tokenizer=FOLDER"):
        made(pretrained=folder)
    with pytest.raises(UserError, match="model.tokenizer=/nowhere"):
        made(tokenizer="/nowhere")


def test_code_in_a_folder_is_never_run_and_it_is_said(folder):
    sentinel = folder / "ran"
    (folder / "modeling_prismatic.py").write_text(f"open({str(sentinel)!r}, 'w')")
    change(folder, auto_map={"AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction"})
    with pytest.warns(UserWarning, match="code of its own .modeling_prismatic.py.. It is not run"):
        policy = load_policy(folder, device="cpu")
    policy.predict(observation())
    policy.save(folder.parent / "again")
    assert not sentinel.exists()
    assert not list((folder.parent / "again").glob("*.py"))
    assert "auto_map" not in json.loads((folder.parent / "again/config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_policy(folder.parent / "again", device="cpu")


def test_weights_that_are_cut_short_missing_or_of_another_shape_are_refused(folder):
    file = folder / "model.safetensors"
    whole, weights = file.read_bytes(), load_file(file)
    file.write_bytes(whole[:-100])
    assert "ends 100 bytes too early" in refused(folder)
    name = "projector.fc1.weight"
    save_file({key: value for key, value in weights.items() if key != name}, file)
    assert f"they lack {name}" in refused(folder)
    save_file({**weights, name: weights[name][:, 1:]}, file)
    assert f"have another shape of {name}" in refused(folder)
    save_file({**weights, "extra.weight": weights[name]}, file)
    assert "have no place for extra.weight" in refused(folder)
    save_file({**weights, name: weights[name].astype(np.int8)}, file)
    assert "quantised" in refused(folder)
    save_file({**weights, "vision_backbone.featurizer.blocks.99999999.norm1.weight": weights[name]}, file)
    assert "100000000 layers" in refused(folder)


def test_a_shard_that_is_cut_short_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(weights)
    parts = {"model-00001-of-00002.safetensors": names[:50], "model-00002-of-00002.safetensors": names[50:]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file)
    listed = {name: file for file, held in parts.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    policy = load_policy(folder, device="cpu")
    policy.save(folder.parent / "again")  # in the same shards
    assert json.loads((folder.parent / "again" / INDEX).read_text())["weight_map"] == dict(sorted(listed.items()))
    last = folder / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-8])
    assert "model-00002-of-00002.safetensors announces" in refused(folder)
    last.unlink()
    assert "There is no file" in refused(folder)


def test_pickles_are_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin.*can run code.*they are not opened"):
        find_policy(folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"arch_specifier": "linear"}, "arch_specifier is 'linear'"),
        ({"use_fused_vision_backbone": False}, "use_fused_vision_backbone"),
        ({"n_action_bins": 128}, "n_action_bins is 128"),
        ({"image_resize_strategy": "letterbox"}, "image_resize_strategy"),
        ({"a_new_field": 3}, "a_new_field is 3"),
        ({"text_config__rope_scaling": {"factor": 2.0}}, "text_config.rope_scaling"),
        ({"text_config__tie_word_embeddings": True}, "text_config.tie_word_embeddings"),
        ({"text_config__hidden_act": "gelu"}, "text_config.hidden_act"),
        ({"text_config__num_hidden_layers": 3}, "text_config.num_hidden_layers is 3"),
        ({"text_config__hidden_size": 16}, "have another shape"),
        ({"image_sizes": [42, 28]}, "have another shape of vision_backbone.featurizer.pos_embed"),
        ({"image_sizes": [28, 27]}, "not made of patches of 14"),
    ],
)
def test_a_configuration_that_is_not_honoured_is_refused_by_its_field(folder, changed, said):
    change(folder, **changed)
    assert said in refused(folder)


def test_the_norm_of_the_language_model_is_the_configurations(folder):
    assert load_policy(folder, device="cpu").module.language_model.config.rms_norm_eps == 1e-6
    change(folder, text_config__rms_norm_eps=1e-5)
    policy = load_policy(folder, device="cpu")
    assert policy.module.language_model.config.rms_norm_eps == 1e-5
    again = made(pretrained=folder).policy(None)
    assert again.module.language_model.config.rms_norm_eps == 1e-5
    assert again.assembly.sidecar.config["text_config"]["rms_norm_eps"] == 1e-5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"chunk_mod": "parallel"}, "model.chunk_mod.*did you mean 'chunk_mode'"),
        ({"image_size": [30, 28]}, "30 x 28 pixels are not made of patches of 14"),
        ({"image_size": 28}, "model.image_size=28"),
        ({"dino": {**MODEL["dino"], "heads": 3}}, "model.dino: a width of 16 cannot be shared by 3 heads"),
        ({"dino": {**MODEL["dino"], "layers": 1}}, "Type model.dino.layers=2"),
        ({"dino": {**MODEL["dino"], "depth": 1}}, "model.dino.depth.*There are width, layers, heads, mlp"),
        ({"language": {**MODEL["language"], "vocabulary": 300}}, "model.language.vocabulary=300"),
        ({"cameras": ["side"]}, "the dataset has no camera 'side'.*It has front, wrist"),
        ({"cameras": ["front", "front"]}, "each once"),
        ({"rotation_unit": 0}, "model.rotation_unit=0"),
        ({"head": "l1"}, "Type model.chunk_mode=parallel"),
    ],
)
def test_options_that_no_model_has_are_refused(changed, said):
    with pytest.raises(UserError, match=said):
        made(**changed)


def test_hidden_states_need_a_model_that_reads_them():
    with pytest.raises(UserError, match="model.proprio=true"):
        FAMILY.check(MODEL, DataTransforms(obs_dropout=0.3))
    FAMILY.check({**MODEL, "proprio": True}, DataTransforms(obs_dropout=0.3))


def test_a_pretrained_policy_of_other_sizes_is_refused_with_what_to_type(saved):
    with pytest.raises(UserError, match="Type model.language.mlp=48, or choose"):
        made(pretrained=saved, language={**MODEL["language"], "mlp": 64})
    with pytest.raises(UserError, match=r"Type model.image_size=\[28,28\]"):
        made(pretrained=saved, image_size=[42, 28])


def test_cameras_are_mapped_and_a_wrong_map_is_refused(saved):
    policy = load_policy(saved, device="cpu", camera_map={"front": "wrist"})
    assert list(policy.spec.cameras) == ["wrist"] and policy.camera_slots == {"front": "wrist"}
    assert "is no camera of the policy" in refused(saved, camera_map={"side": "wrist"})
    assert "cannot go without a camera" in refused(saved, camera_map={"front": None})
    with pytest.raises(UserError, match="lacks 'observation.images.front'"):
        load_policy(saved, device="cpu").predict(
            {"observation.images.side": np.zeros((8, 8, 3), np.uint8), "task": "x"}
        )
    assert camera_sizes({**MODEL, "cameras": ["wrist"]}, DATA.cameras) == {"wrist": (28, 28)}


def test_options_of_loading_that_mean_nothing_are_refused(saved):
    assert "tower_heads=two" in refused(saved, tower_heads="two")
    assert "which has no such option" in refused(saved, mask="original")
    policy = load_policy(saved, device="cpu")
    with pytest.raises(UserError, match="predict has no option 'temperature'"):
        policy.predict(observation(), temperature=1.0)
    with pytest.raises(UserError, match="needs a batch with actions"):
        policy.loss(observation())


def test_other_folders_are_not_taken_for_an_openvla(saved, tmp_path):
    (tmp_path / "config.json").write_text('{"type": "act"}')
    assert not FAMILY.owns(tmp_path) and FAMILY.owns(saved)
    (tmp_path / "config.json").write_text("{")
    assert not FAMILY.owns(tmp_path)
