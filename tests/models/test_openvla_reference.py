"""xp's OpenVLA gives what OpenVLA's own code gave, and has a place for every weight of the real one."""

import json

import numpy as np
import pytest
import torch
from openvla_reference import HEADS, ROOT, TINY, arrays, needs_reference, real_tree

from xp.models import load_policy
from xp.models.openvla.assembly import resize_bicubic
from xp.models.openvla.chunks import ChunkPlan
from xp.models.openvla.decoding import generate
from xp.models.openvla.model import Marks, OpenVLAModel
from xp.models.openvla.network import OpenVLANetwork, normalised
from xp.models.openvla.sizes import DINO, SIGLIP, LanguageSizes, NetworkSizes, tower_of

pytestmark = needs_reference


@pytest.fixture(scope="module")
def policy():
    return load_policy(TINY, device="cpu", tower_heads=HEADS)


@pytest.fixture(scope="module")
def given():
    return {name: torch.from_numpy(value) if value.ndim else value for name, value in arrays().items()}


def prompt_of(network, given, pixels):
    """The prompt of the reference, with its last token: a lone space."""
    words = given["full_ids"][:, 1 : 1 + given["input_ids"].shape[1]]
    images = network.projector(network.vision_backbone(pixels))
    return network.sequence(images, words, torch.ones_like(words, dtype=torch.bool), 1)


def test_pictures_are_prepared_as_the_original_does(given):
    pictures = torch.from_numpy(resize_bicubic(given["image"].numpy()[None], 224, 224))
    assert np.abs(normalised(pictures).numpy() - given["pixel_values"].numpy()).max() <= 1e-6


def test_vision_and_projector_give_the_same_features(policy, given):
    with torch.no_grad():
        features = policy.module.vision_backbone(given["pixel_values"])
        tokens = policy.module.projector(features)
    assert np.abs(features.numpy() - given["vision"].numpy()).max() <= 1e-5
    assert np.abs(tokens.numpy() - given["projector"].numpy()).max() <= 1e-5


def test_logits_and_loss_are_the_same(policy, given):
    with torch.no_grad():
        words = given["full_ids"][:, 1:]
        images = policy.module.projector(policy.module.vision_backbone(given["pixel_values"]))
        whole = policy.module.sequence(images, words, torch.ones_like(words, dtype=torch.bool), 1)
        logits = policy.module.logits(policy.module.hidden(whole, last=8))
        inputs = {
            "pictures": torch.from_numpy(resize_bicubic(given["image"].numpy()[None, None], 224, 224)),
            "words": given["full_ids"][:, 1:22],
            "is_word": torch.ones(1, 21, dtype=torch.bool),
            "tokens": given["full_ids"][:, 22:29],
            "is_pad": torch.zeros(1, 1, dtype=torch.bool),
        }
        loss, _ = policy.module.loss(inputs)
    assert np.abs(logits.numpy() - given["logits_last8"].numpy()).max() <= 1e-4
    assert abs(float(loss) - float(given["loss"])) <= 1e-5


@pytest.mark.parametrize("is_cached", [True, False])
def test_generation_gives_the_same_ids_and_actions(policy, given, is_cached):
    with torch.no_grad():
        prompt = prompt_of(policy.module, given, given["pixel_values"])
        ids = generate(policy.module, prompt, 7, is_cached=is_cached)
    assert np.array_equal(ids.numpy(), given["gen_img"].numpy()[:, -7:])
    actions = policy.assembly.actions(ids, "bridge_orig")
    assert np.abs(actions[0, 0] - given["act_img"].numpy()).max() <= 1e-6


def test_the_vision_towers_are_asked_and_pictures_change_the_logits(policy, given):
    called = []
    hooks = [
        tower.register_forward_hook(lambda *_: called.append(1))
        for tower in (policy.module.vision_backbone.featurizer, policy.module.vision_backbone.fused_featurizer)
    ]
    found = {}
    with torch.no_grad():
        for name in ("real", "black", "white"):
            grey = 0 if name == "black" else 255
            picture = given["image"].numpy() if name == "real" else np.full((224, 224, 3), grey, np.uint8)
            pixels = normalised(torch.from_numpy(resize_bicubic(picture[None], 224, 224)))
            hidden = policy.module.hidden(prompt_of(policy.module, given, pixels), last=1)
            found[name] = policy.module.logits(hidden).numpy()
    for hook in hooks:
        hook.remove()
    assert len(called) == 6
    for one, other in (("real", "black"), ("real", "white"), ("black", "white")):
        assert np.abs(found[one] - found[other]).max() > 1e-3


def test_all_weights_of_the_real_tree_have_a_place():
    tree = real_tree()
    sizes = NetworkSizes(
        image=(224, 224), patch=14, dino=tower_of(tree, DINO, 16), siglip=tower_of(tree, SIGLIP, 16),
        language=LanguageSizes(),
    )  # fmt: skip
    with torch.device("meta"):
        network = OpenVLANetwork(sizes)
        whole = OpenVLAModel(sizes, ChunkPlan(horizon=4), marks=Marks(bos=1, eos=2))
    assert len(tree) == 982
    for made in (network, whole):
        assert {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()} == tree
    assert sum(weight.numel() for weight in network.parameters()) == 7_541_237_184
    assert network.language_model.config.rms_norm_eps == 1e-6


def test_what_is_saved_has_the_layout_of_the_original(policy, tmp_path):
    from xp.checkpoints.safetensors import open_folder

    policy.save(tmp_path)
    before, after = open_folder(TINY), open_folder(tmp_path)
    assert after.leaves == before.leaves
    assert {name: after.file_of(name).name for name in after.leaves} == {
        name: before.file_of(name).name for name in before.leaves
    }
    for name, array in before.load().items():
        assert np.array_equal(after.load([name])[name], array), name
    for name in sorted(entry.name for entry in TINY.iterdir() if entry.suffix == ".json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((TINY / name).read_text()), name
    assert {entry.name for entry in tmp_path.iterdir()} - {entry.name for entry in TINY.iterdir()} == {"xp.json"}
    again = load_policy(tmp_path, device="cpu")  # xp's notes say the heads
    assert again.assembly.sidecar == policy.assembly.sidecar


def test_a_published_tree_with_sizes_of_its_own_asks_for_the_heads():
    from xp.errors import UserError

    with pytest.raises(UserError, match="tower_heads=4,4"):
        load_policy(TINY)


def test_the_configuration_of_the_published_folder_is_read(tmp_path):
    from xp.models.openvla.sidecar import read_sidecar

    (tmp_path / "config.json").write_text((ROOT / "openvla-7b.config_like.json").read_text())
    sidecar = read_sidecar(tmp_path, real_tree())
    assert sidecar.sizes.language == LanguageSizes()
    assert (sidecar.sizes.dino.heads, sidecar.sizes.siglip.heads, sidecar.vocabulary) == (16, 16, 32000)
