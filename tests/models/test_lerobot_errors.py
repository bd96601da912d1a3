"""What is refused, and in which words."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from lerobot_made_up import ACT, CAMERAS, DATA, DIFFUSION, batch_for, made

from xp.errors import UserError
from xp.models import camera_sizes, load_policy
from xp.models.lerobot import catalog


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "policy"
    made(ACT).policy(None).save(folder)
    return folder


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ACT | {"type": "actt"}, r"model.type=actt: there is no such policy type.*did you mean 'act'"),
        (ACT | {"type": None}, r"model.type is not given.*model=act"),
        (
            ACT | {"dim_modle": 3},
            r"model.dim_modle: the policy type 'act' has no such option.*did you mean 'dim_model'",
        ),
        (ACT | {"chunk_size": 9}, r"model.chunk_size=9.*Type horizon.train=9"),
        (ACT | {"dim_model": "wide"}, r"options of model.type=act do not fit"),
        (ACT | {"vision_backbone": "vgg"}, r"`vision_backbone` must be one of the ResNet"),
        (ACT | {"cameras": ["top"]}, r"the dataset has no camera 'top'.*front, wrist"),
        (ACT | {"image_size": [4, 4]}, r"model.image_size=\[4, 4\]: give \[height, width\]"),
        ({"family": "lerobot", "type": "tdmpc"}, r"model.type=tdmpc is trained on rewards"),
    ],
)
def test_options_that_do_not_fit(model, message):
    with pytest.raises(UserError, match=message):
        made(model)


def test_a_type_whose_package_is_missing_says_which_extra_brings_it(monkeypatch):
    from lerobot.utils import import_utils

    monkeypatch.setattr(import_utils, "is_package_available", lambda *names, **options: False)
    monkeypatch.setattr(import_utils, "_require_package_cache", {})
    with pytest.raises(UserError, match=r"needs a package that is not installed.*lerobot\[eo1\]==0.6.1"):
        made({"family": "lerobot", "type": "eo1"})


def test_diffusion_has_the_asked_chunk_whatever_its_unet_halves():
    trainable = made(DIFFUSION, horizon=5)
    assert (trainable.spec.horizon, trainable.spec.history, trainable.spec.window) == (5, 2, (1, 7))
    assert trainable.policy(None).predict(batch_for(trainable.spec)).shape == (3, 5, 3)


def test_weights_that_do_not_fit_are_never_passed_over(saved, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.extra"] = weights.pop("model.action_head.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks model.action_head.bias; has no place for model.extra"):
        load_policy(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        load_policy(folder)


def test_a_policy_without_processors_is_refused(saved, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(saved, folder)
    (folder / "policy_preprocessor.json").unlink()
    with pytest.raises(UserError, match=r"has no policy_preprocessor.json.*migrate_policy_normalization"):
        load_policy(folder)


def test_another_step_rate_is_refused_unless_it_is_meant(saved):
    other = type(DATA)(cameras=CAMERAS, action_dim=3, state_dim=3, fps=30.0)
    with pytest.raises(UserError, match=r"10 steps per second, the dataset has 30.*\+model.allow_fps_change=true"):
        made(ACT, data=other, pretrained=saved)
    made(ACT | {"allow_fps_change": True}, data=other, pretrained=saved)


def test_cameras_that_do_not_match_are_said_with_the_map(saved):
    other = type(DATA)(cameras={"top": (32, 32, 3), "wrist": (32, 32, 3)}, action_dim=3, state_dim=3, fps=10.0)
    generic = {"family": "lerobot", "type": None}
    with pytest.raises(UserError) as caught:
        made(generic, data=other, pretrained=saved)
    assert "The policy's cameras are front, wrist; here are top, wrist." in str(caught.value)
    assert "'model.cameras={front: top, wrist: wrist}'" in str(caught.value)
    trainable = made(generic | {"cameras": {"front": "top", "wrist": "wrist"}}, data=other, pretrained=saved)
    assert list(trainable.spec.cameras) == ["top", "wrist"]
    assert camera_sizes(generic, CAMERAS, str(saved)) == {"front": (32, 32), "wrist": (32, 32)}
    renamed = load_policy(saved, camera_map={"front": "top"})
    batch = batch_for(renamed.spec, cameras={"top": (64, 64, 3), "wrist": (32, 32, 3)})
    assert renamed.predict(batch).shape == (3, 4, 3)
    with pytest.raises(UserError, match=r"no camera 'top', which the policy needs; it has front, wrist"):
        renamed.predict(batch_for(renamed.spec))


def test_a_pretrained_policy_lends_its_weights_and_says_what_it_could_not(saved):
    generic = {"family": "lerobot", "type": None}
    same = made(generic, pretrained=saved, seed=5)
    assert not same.load_report.initialised and not same.load_report.dropped
    before = load_policy(saved).weights()
    assert all(np.array_equal(before[name], array) for name, array in same.policy(None).weights().items())
    longer = made(generic, horizon=6, pretrained=saved)
    assert set(longer.load_report.initialised) == {"model.decoder_pos_embed.weight", "model.vae_encoder_pos_enc"}
    with pytest.raises(UserError, match=r"has another shape than this model.*dim_model.*Type model=lerobot"):
        made(ACT | {"dim_model": 64}, pretrained=saved)
    with pytest.raises(UserError, match=r"holds a policy of type 'act'"):
        made(DIFFUSION, pretrained=saved)


def test_a_plugin_that_fails_to_import_is_named_with_its_error(tmp_path, monkeypatch):
    for name, body in (
        ("lerobot_policy_broken", "raise RuntimeError('its weights are missing')"),
        ("lerobot-policy-odd", ""),
    ):
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog._registry.cache_clear()
    try:
        with pytest.raises(UserError) as caught:
            catalog.config_class("broken")
        assert "lerobot_policy_broken (RuntimeError: its weights are missing)" in str(caught.value)
        assert "lerobot-policy-odd (LeRobot looks for distributions named lerobot_policy_" in str(caught.value)
        assert catalog.config_class("act").__name__ == "ACTConfig"
    finally:
        catalog._registry.cache_clear()
        sys.modules.pop("lerobot_policy_broken", None)


def test_every_type_that_lerobot_knows_is_offered():
    with pytest.raises(UserError) as caught:
        catalog.config_class("nothing")
    for name in ("act", "diffusion", "smolvla", "pi0", "pi05", "pi0_fast", "groot", "vqbet", "xvla", "act_smooth"):
        assert re.search(rf"[ ]{name}[,.]", str(caught.value))


def test_a_type_needs_nothing_that_another_type_needs(saved):
    """An act policy loads where neither transformers nor peft is installed."""
    script = """
import importlib.machinery, importlib.metadata, sys
hidden = {"transformers", "peft", "tokenizers"}
find = importlib.machinery.PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else find(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find_others)
import xp
policy = xp.load_policy(sys.argv[1], device="cpu")
assert not hidden & sys.modules.keys() and policy.spec.action_dim
"""
    assert json.loads((saved / "config.json").read_text())["type"] == "act"
    done = subprocess.run([sys.executable, "-c", script, str(saved)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_saved_statistics_that_cannot_be_right_are_refused_by_feature(saved, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "negative"
    shutil.copytree(saved, folder)
    (path,) = folder.glob("policy_preprocessor*normalizer*.safetensors")
    stats = load_file(path)
    stats["action.std"] = -stats["action.std"]
    save_file(stats, path)
    with pytest.raises(UserError, match=r"'action' in .*negative std in dimension 0"):
        load_policy(folder)
