"""The frozen normalisations of a backbone drawn at random are filled from the first batch, kept, and LeRobot's too."""

import numpy as np
import pytest
import torch
from lerobot_made_up import ACT, DIFFUSION, batch_for, made, use_narrow_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from xp.errors import UserError
from xp.models import load_policy


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    use_narrow_backbone(monkeypatch)


def act(choice="first_batch", **options):
    return made({**ACT, "vision_backbone": "resnet_narrow", "frozen_norms": choice}, **options)


def norms(trainable):
    return [each for each in trainable.module.modules() if isinstance(each, FrozenBatchNorm2d)]


def what_leaves_them(trainable, inputs):
    """What each normalisation gives in one forward pass, [B, C, H, W], for each camera."""
    seen = []
    hooks = [
        norm.register_forward_hook(lambda module, _, output: seen.append(output.clone())) for norm in norms(trainable)
    ]
    with torch.no_grad():
        trainable.loss(inputs)
    for hook in hooks:
        hook.remove()
    return seen


def test_filled_they_normalise_what_reaches_them():
    trainable = act()
    inputs = trainable.prepare(batch_for(trainable.spec, size=8, cameras={"front": (32, 32, 3), "wrist": (32, 32, 3)}))
    before = torch.random.get_rng_state()
    said = trainable.initialise(inputs)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert said.startswith(f"{len(norms(trainable))} frozen normalisations")
    seen = what_leaves_them(trainable, inputs)
    front, wrist = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(front) == len(wrist) == len(norms(trainable))
    variance, mean = torch.var_mean(torch.cat([front[0], wrist[0]]), (0, 2, 3), correction=0)
    assert mean.abs().max() < 1e-3 and (variance - 1).abs().max() < 1e-3  # exact: no normalisation is before it
    for outputs in zip(front, wrist):
        assert is_of_unit_size(torch.cat(outputs))
    unfilled = act("identity")
    assert not all(is_of_unit_size(each) for each in what_leaves_them(unfilled, inputs))


def is_of_unit_size(output):
    variance, mean = torch.var_mean(output, (0, 2, 3), correction=0)
    return mean.abs().mean() < 0.3 and 0.5 < variance.mean() < 2


def test_the_same_windows_fill_them_alike_and_nothing_else_changes():
    one, two, untouched = act(), act(), act("identity")
    assert untouched.initialise is None and untouched.filled_buffers == ()
    batch = batch_for(one.spec, size=4)
    for trainable in (one, two):
        trainable.initialise(trainable.prepare(batch))
    states = [each.module.state_dict() for each in (one, two, untouched)]
    differing = {name for name in states[0] if not torch.equal(states[0][name], states[2][name])}
    assert differing == set(one.filled_buffers)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_saved_policy_keeps_them_for_lerobot_too(tmp_path):
    from lerobot.policies.act.modeling_act import ACTPolicy

    trainable = act()
    batch = batch_for(trainable.spec)
    trainable.initialise(trainable.prepare(batch))
    policy = trainable.policy(None)
    policy.save(tmp_path / "policy")
    assert np.array_equal(load_policy(tmp_path / "policy").predict(batch), policy.predict(batch))
    theirs = ACTPolicy.from_pretrained(tmp_path / "policy", strict=True).state_dict()
    ours = trainable.module.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in trainable.filled_buffers)


def test_a_start_from_saved_weights_keeps_theirs(tmp_path):
    first = act()
    first.initialise(first.prepare(batch_for(first.spec)))
    first.policy(None).save(tmp_path / "policy")
    assert act(pretrained=tmp_path / "policy").initialise is None


def test_a_backbone_without_frozen_normalisations_has_nothing_to_fill():
    options = {**DIFFUSION, "vision_backbone": "resnet_narrow", "frozen_norms": "first_batch"}
    assert made(options).initialise is None


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="model.frozen_norms=batch: expected one of identity, first_batch"):
        act("batch")
