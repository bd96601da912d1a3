"""An adapter on a base in 4 or 8 bit: how near the base is, what is trained, and that its folder is the same policy."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from openvla_made_up import batch_for, made

from xp.errors import UserError
from xp.merging.api import merge
from xp.models import load_policy
from xp.models.openvla.model import HEADS
from xp.models.openvla.quantised import LAYERS, QuantisedLinear

L1 = {"chunk_mode": "oft", "head": "l1", "proprio": True}
NF4 = [
    -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
]  # fmt: skip
"""Appendix E of QLoRA's paper."""


def lora(kind, **changed):
    return {"r": 4, "alpha": 8, "base": kind, **changed}


@pytest.fixture(params=["nf4", "int8"])
def kind(request):
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    return request.param


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvla") / "base"
    made().policy(None).save(folder)
    return folder


def steps(trainable, count=3, optimiser=None):
    """Updates of whatever is trained; returns the losses and the optimiser."""
    inputs = trainable.prepare(batch_for(trainable.spec, 2))
    weights = [weight for weight in trainable.module.parameters() if weight.requires_grad]
    optimiser = optimiser or torch.optim.AdamW(weights, 1e-2)
    losses = []
    for _ in range(count):
        optimiser.zero_grad()
        loss, _ = trainable.loss(inputs)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(weight.grad is not None for weight in weights)
    return losses, optimiser


def test_a_weight_comes_back_as_near_as_its_numbers_allow(kind):
    torch.manual_seed(0)
    layer = torch.nn.Linear(96, 80).bfloat16()
    with torch.no_grad():
        layer.weight[3] = 0
    held = QuantisedLinear(layer, kind)
    weight, found = layer.weight.detach().float(), held.weight.float()
    if kind == "int8":
        scale = weight.abs().amax(1, keepdim=True)
        assert (weight - found).abs().div(scale.clamp(min=1e-9)).max() <= 0.5 / 127 + 2**-8
        assert held.codes.dtype == torch.int8 and not found[3].any()
    else:
        blocks, back = weight.reshape(-1, 64), found.reshape(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True)
        nearest = torch.tensor(NF4)[(blocks / scale.clamp(min=1e-9))[..., None].sub(torch.tensor(NF4)).abs().argmin(-1)]
        wide = scale.max() / 64  # of the scales in 8 bit, whose steps are finest near their mean
        assert (back - nearest * scale).abs().max() <= wide
        bits = 8 * sum(held.get_parameter(name).numel() for name in ("packed", "scales")) / weight.numel()
        assert bits == 4 + 8 / 64
    given = torch.randn(5, 96, requires_grad=True)
    made_of = torch.nn.functional.linear(given, found, layer.bias.detach().float())
    assert torch.equal(held(given), made_of)
    held(given).square().sum().backward()
    (wanted,) = torch.autograd.grad(made_of.square().sum(), given)
    assert torch.allclose(given.grad, wanted, rtol=1e-6)
    assert not any(parameter.requires_grad for parameter in held.parameters() if parameter is not held.bias)
    again = copy.deepcopy(held)
    assert torch.equal(again.weight, held.weight)


def test_gradients_reach_the_adapter_alone_and_the_base_is_small(base, kind):
    plain = made(pretrained=base, lora=lora("bfloat16"), **L1)
    trainable = made(pretrained=base, lora=lora(kind), **L1)
    layers = [name for name, layer in trainable.module.named_modules() if isinstance(layer, QuantisedLinear)]
    assert len(layers) == 2 * 7 and all(name.startswith(LAYERS) for name in layers)
    inputs = trainable.prepare(batch_for(trainable.spec, 2))
    with torch.no_grad():
        one, two = (found.module.eval().answer(inputs) for found in (plain, trainable))
        for name in layers:
            plain.module.get_submodule(name).weight.copy_(trainable.module.get_submodule(name).weight)
        assert torch.equal(plain.module.answer(inputs), two)  # all of the difference is the rounding of these weights
    trainable.module.train()
    assert (one - two).abs().max() > 0
    before = {name: tensor.clone() for name, tensor in trainable.module.state_dict().items()}
    losses, _ = steps(trainable, 4)
    assert losses[-1] < losses[0]
    for name, tensor in trainable.module.state_dict().items():
        is_trained = ".lora_" in name or name.startswith(HEADS)
        assert torch.equal(tensor, before[name]) != is_trained, name


def test_a_training_goes_on_exactly(base, kind):
    whole = made(pretrained=base, lora=lora(kind, dora=True), **L1)
    losses, _ = steps(whole, 4)
    first = made(pretrained=base, lora=lora(kind, dora=True), **L1)
    before, optimiser = steps(first, 2)
    second = made(pretrained=base, lora=lora(kind, dora=True), seed=9, **L1)
    second.module.load_state_dict(first.module.state_dict())
    fresh = torch.optim.AdamW([weight for weight in second.module.parameters() if weight.requires_grad], 1e-2)
    fresh.load_state_dict(optimiser.state_dict())
    after, _ = steps(second, 2, fresh)
    assert before + after == losses
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name]), name


def test_a_saved_adapter_is_loaded_on_the_base_as_it_was_held(base, kind, tmp_path):
    trainable = made(pretrained=base, lora=lora(kind), **L1)
    steps(trainable, 2)
    trainable.policy(None).save(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter/quantised_base.json").read_text()) == {"base": kind}
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["peft_type"] == "LORA"
    policy = load_policy(tmp_path / "adapter", device="cpu", base=str(base))
    found, compared = policy.module.state_dict(), 0
    for name, layer in trainable.module.named_modules():
        if isinstance(getattr(layer, "base_layer", None), QuantisedLinear):
            update = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            wanted = layer.base_layer.weight.float() + update.detach()
            assert torch.allclose(found[f"{name}.weight"], wanted, atol=1e-6), name
            compared += 1
    assert compared == 14
    seen = {name: value for name, value in batch_for(trainable.spec).items() if not name.startswith("action")}
    near = trainable.policy(None).predict(seen)
    np.testing.assert_allclose(policy.predict(seen), near, atol=0.05)  # one of them computes in bfloat16
    with pytest.raises(UserError, match="base held in 4 or 8 bit.*load_policy.*save.OTHER"):
        merge([tmp_path / "adapter"], "average", output=tmp_path / "merged", base=base)
    policy.save(tmp_path / "whole")
    whole = load_policy(tmp_path / "whole", device="cpu")
    assert np.array_equal(whole.predict(seen), policy.predict(seen))
    (tmp_path / "adapter/quantised_base.json").write_text('{"base": "int3"}')
    with pytest.raises(UserError, match="quantised_base.json.*int3"):
        load_policy(tmp_path / "adapter", device="cpu", base=str(base))


def test_without_the_package_the_command_to_install_it_is_said(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="uv sync --extra bitsandbytes.*model.lora.base=int8"):
        made(pretrained=base, lora=lora("nf4"))


def test_a_package_that_does_not_work_here_is_said(base, monkeypatch):
    broken = type(sys)("bitsandbytes")
    monkeypatch.setitem(sys.modules, "bitsandbytes", broken)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", broken)
    with pytest.raises(UserError, match="no working functions for 'cpu'.*ImportError"):
        made(pretrained=base, lora=lora("nf4"))
