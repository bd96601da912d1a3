"""LoRA and DoRA on an OpenVLA: what is trained, what is saved, and that folding it into the base changes no answer."""

import json
import shutil

import numpy as np
import pytest
import torch
from openvla_made_up import batch_for, made
from safetensors import safe_open

from xp.errors import UserError
from xp.merging.api import merge
from xp.models import load_policy
from xp.models.families import find_policy
from xp.models.openvla.model import HEADS

LORA = {"r": 4, "alpha": 8, "base": "float32"}
PARALLEL = {"chunk_mode": "parallel", "head": "l1", "proprio": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvla") / "base"
    made().policy(None).save(folder)
    return folder


def trained(base, steps=3, *, lora=LORA, **changed):
    """A model with an adapter whose every number has moved."""
    trainable = made(pretrained=base, lora=lora, **changed)
    inputs = trainable.prepare(batch_for(trainable.spec, 2))
    weights = [weight for weight in trainable.module.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, 1e-2)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss, _ = trainable.loss(inputs)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert steps == 0 or losses[-1] < losses[0]
    assert steps == 0 or all(weight.grad is not None for weight in weights)
    return trainable


def seen(trainable):
    return {name: value for name, value in batch_for(trainable.spec).items() if not name.startswith("action")}


def answers(policy, trainable) -> np.ndarray:
    """What decides an answer: scores of the answer's numbers, or the L1 head's numbers."""
    inputs = {name: value for name, value in policy.prepare(batch_for(trainable.spec)).items()}
    module = policy.module.eval()
    with torch.no_grad():
        if module.plan.head == "l1":
            return module.answer(inputs).numpy()
        prompt = module.prompt(inputs).extended(module.embed(inputs["tokens"]))
        return module.logits(module.hidden(prompt, last=1 + module.plan.tokens)).numpy()


@pytest.mark.parametrize(
    ("lora", "changed"),
    [
        (LORA, {}),
        ({**LORA, "dora": True, "init": "kaiming", "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}, {}),
        (LORA, PARALLEL),
    ],
    ids=["lora", "dora", "l1"],
)
def test_merged_and_loaded_adapters_answer_as_the_one_that_was_trained(base, tmp_path, lora, changed):
    trainable = trained(base, lora=lora, **changed)
    policy = trainable.policy(None)
    policy.save(tmp_path / "adapter")
    merge([tmp_path / "adapter"], "average", output=tmp_path / "merged", base=base)
    wanted = answers(policy, trainable)
    for again in (
        load_policy(tmp_path / "adapter", device="cpu", base=str(base)),
        load_policy(tmp_path / "merged", device="cpu"),
    ):
        np.testing.assert_allclose(answers(again, trainable), wanted, atol=1e-5)
        assert again.assembly.sidecar.notes == policy.assembly.sidecar.notes
        assert again.assembly.sidecar.statistics == policy.assembly.sidecar.statistics
        assert np.allclose(again.predict(seen(trainable)), policy.predict(seen(trainable)), atol=1e-5)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_an_adapter_is_small_and_says_its_base_and_what_its_actions_mean(base, tmp_path):
    trainable = trained(base, steps=0)
    trainable.policy(None).save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.resolve())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert "toy" in json.loads((tmp_path / "adapter/dataset_statistics.json").read_text())
    assert json.loads((tmp_path / "adapter/xp.json").read_text())["horizon"] == 4
    assert not (tmp_path / "adapter/model.safetensors").exists()
    with safe_open(tmp_path / "adapter/adapter_model.safetensors", "np") as file:
        assert all(name.startswith("base_model.model.") for name in file.keys())  # noqa: SIM118 - no mapping
        moved = [name for name in file.keys() if ".lora_B." in name and file.get_tensor(name).any()]  # noqa: SIM118
    assert moved == []  # before any update the adapter changes nothing
    assert find_policy(tmp_path / "adapter").family.name == "openvla"


def test_the_base_stands_still_and_what_nothing_reads_gets_no_adapter(base):
    module = made(pretrained=base, lora={**LORA, "base": "bfloat16"}, **PARALLEL).module
    types = {".lora_" in name or name.startswith(HEADS): set() for name, _ in module.named_parameters()}
    for name, weight in module.named_parameters():
        is_trained = ".lora_" in name or name.startswith(HEADS)
        assert weight.requires_grad == is_trained, name
        types[is_trained].add(weight.dtype)
    assert types == {True: {torch.float32}, False: {torch.bfloat16}}
    adapted = {name.split(".lora_")[0] for name, _ in module.named_parameters() if ".lora_" in name}
    assert "vision_backbone.featurizer.blocks.1.attn.qkv" in adapted and "projector.fc3" in adapted
    assert not any("blocks.2" in name or "lm_head" in name or "attn_pool" in name for name in adapted)


def test_a_base_in_half_precision_is_trained_and_asked(base):
    trainable = trained(base, lora={**LORA, "base": "bfloat16"}, **PARALLEL)
    assert np.isfinite(trainable.policy(None).predict(seen(trainable))).all()


def test_equal_seeds_draw_equal_adapters_and_the_generator_is_left_as_it_was(base):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (made(pretrained=base, lora=LORA, seed=seed).module.state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_computing_again_in_the_backward_pass_gives_the_same_gradients(base):
    found = []
    for flag in (False, True):
        trainable = made(gradient_checkpointing=flag)
        loss, _ = trainable.module.train()(trainable.prepare(batch_for(trainable.spec, 2)))
        loss.backward()
        found.append({name: weight.grad for name, weight in trainable.module.named_parameters()})
    assert all(w is None or torch.equal(w, found[1][name]) for name, w in found[0].items())


def test_adapters_without_their_base_or_with_another_are_refused(base, tmp_path):
    trained(base, steps=0).policy(None).save(tmp_path / "adapter")
    with pytest.raises(UserError, match="does not lie beside it.*base=BASE.*merge.base=BASE"):
        load_policy(tmp_path / "adapter", device="cpu")
    with pytest.raises(UserError, match="needs? no base"):
        load_policy(base, device="cpu", base=str(base))
    other = tmp_path / "other"
    model = {"language": {"vocabulary": 576, "width": 64, "layers": 2, "heads": 4, "kv_heads": None, "mlp": 48}}
    made(**model).policy(None).save(other)
    with pytest.raises(UserError, match="cannot be folded into the base|do not fit"):
        load_policy(tmp_path / "adapter", device="cpu", base=str(other))
    shutil.copytree(base, tmp_path / "base")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "../base"}))
    assert load_policy(tmp_path / "adapter", device="cpu")  # the base lies beside it
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({**config, "use_bdlora": True}))
    with pytest.raises(UserError, match="use_bdlora"):
        load_policy(tmp_path / "adapter", device="cpu", base=str(base))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"r": 0}, "model.lora.r=0"),
        ({"rank": 4}, "model.lora.rank.*There are r,"),
        ({"targets": ["q_prj"]}, "q_prj.*did you mean 'q_proj'"),
        ({"targets": []}, "model.lora.targets"),
        ({"base": "nf5"}, "model.lora.base=nf5.*bfloat16"),
        ({"init": "gausian"}, "did you mean 'gaussian'"),
        ({"dropout": 1.0}, "model.lora.dropout"),
    ],
)
def test_what_no_adapter_has_is_refused(base, changed, words):
    with pytest.raises(UserError, match=words):
        made(pretrained=base, lora={**LORA, **changed})


def test_an_adapter_needs_a_base_and_takes_nothing_away_from_it(base, tmp_path):
    with pytest.raises(UserError, match="pretrained_path names none.*model.lora=null"):
        made(lora=LORA)
    made(**PARALLEL).policy(None).save(tmp_path / "parallel")
    with pytest.raises(UserError, match="no place.*model.lora=null"):
        made(pretrained=tmp_path / "parallel", lora=LORA)
