"""An OpenVLA of xp's own: what its chunk modes compute, and what a saved one is."""

import numpy as np
import pytest
import torch
from openvla_made_up import MODEL, MODES, TASKS, batch_for, made

from xp.models import load_policy
from xp.models.families import find_policy
from xp.models.openvla.decoding import generate, hidden_at_once
from xp.models.openvla.model import IGNORED
from xp.models.openvla.policy import as_inputs

CPU = torch.device("cpu")


def asked(trainable, size=3, **changed):
    batch = {**batch_for(trainable.spec, size), **changed}
    return batch, as_inputs(trainable.prepare(batch), CPU)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_is_trained_and_its_chunk_has_the_horizon(mode):
    trainable = made(**mode)
    batch, inputs = asked(trainable)
    loss, _ = trainable.loss(trainable.prepare(batch))
    loss.backward()
    unread = [
        name for name, weight in trainable.module.named_parameters() if weight.requires_grad and weight.grad is None
    ]
    assert unread == []
    policy = trainable.policy(None)
    chunk = policy.predict({name: value for name, value in batch.items() if not name.startswith("action")})
    assert chunk.shape == (3, 4, 7) and chunk.dtype == np.float32
    assert np.all(np.abs(chunk) <= 1) and policy.loss(batch)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_few_steps_lower_the_loss_of_one_batch(mode):
    trainable = made(**mode, horizon=2)
    inputs = trainable.prepare(batch_for(trainable.spec, 2))
    optimiser = torch.optim.AdamW([w for w in trainable.module.parameters() if w.requires_grad], 1e-2)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss, _ = trainable.loss(inputs)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_cached_generation_gives_what_reading_everything_again_gives():
    trainable = made()
    _, inputs = asked(trainable)
    module = trainable.module.eval()
    with torch.no_grad():
        prompt = module.prompt(inputs)
        cached = generate(module, prompt, 28)
        assert torch.equal(cached, generate(module, prompt, 28, is_cached=False))
        told = module.hidden(prompt.extended(module.embed(cached[:, :-1])), last=28)
        assert torch.equal(module.logits(told).argmax(-1), cached)  # as teacher forcing says it


def test_parallel_with_one_place_is_a_plain_forward():
    module = made().module.eval()
    _, inputs = asked(made())
    with torch.no_grad():
        prompt = module.prompt(inputs)
        assert torch.equal(hidden_at_once(module, prompt, None), module.hidden(prompt, last=1))


def test_in_one_pass_places_see_each_other_and_the_prompt_does_not_see_them():
    trainable = made(chunk_mode="parallel")
    _, inputs = asked(trainable)
    module = trainable.module.eval()
    with torch.no_grad():
        prompt = module.prompt(inputs)
        before = hidden_at_once(module, prompt, module.places.weight)
        other = module.places.weight.clone()
        other[-1] += 1
        after = hidden_at_once(module, prompt, other)
        changed = (before - after).abs().amax(-1)
        assert (changed > 0).all()  # the last place is seen by all
        grown = prompt.extended(other.expand(3, -1, -1))
        count = len(other) + 1
        assert torch.allclose(
            module.hidden(grown, slots=count)[:, :-count], module.hidden(prompt)[:, :-1], atol=1e-5
        )  # fmt: skip


def test_padding_of_prompts_changes_nothing():
    trainable = made()
    batch = batch_for(trainable.spec, 2)
    policy = trainable.policy(None)
    assert len(TASKS[0]) != len(TASKS[1])
    both = policy.predict({k: v for k, v in batch.items() if not k.startswith("action")})
    for row in range(2):
        one = {k: v[row : row + 1] for k, v in batch.items() if not k.startswith("action")}
        assert np.array_equal(policy.predict(one)[0], both[row])


def test_the_prompt_holds_nothing_of_the_answer():
    trainable = made()
    batch = batch_for(trainable.spec)
    other = {**batch, "action": -batch["action"]}
    one, two = trainable.prepare(batch), trainable.prepare(other)
    assert not torch.equal(one["tokens"], two["tokens"])
    for name in ("words", "is_word", "pictures"):
        assert torch.equal(one[name], two[name])


def test_padded_steps_count_in_no_loss():
    for mode in MODES[:3]:
        trainable = made(**mode)
        batch = batch_for(trainable.spec)
        changed = batch["action"].copy()
        changed[-1, -1] = 0.1
        one = trainable.policy(None).loss(batch)["loss"]
        assert one == trainable.policy(None).loss({**batch, "action": changed})["loss"]
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED


def test_pictures_and_words_and_the_state_change_the_answer_of_the_l1_head():
    trainable = made(**MODES[2])
    batch = {k: v for k, v in batch_for(trainable.spec).items() if not k.startswith("action")}
    policy = trainable.policy(None)
    before = policy.predict(batch)
    images = "observation.images.wrist"
    for changed in (
        {images: 255 - batch[images]},
        {"task": ["other"] * 3},
        {"observation.state": batch["observation.state"] + 1},
    ):
        assert np.abs(policy.predict({**batch, **changed}) - before).max() > 0
    hidden = {**batch, "observation_is_dropped": np.ones(3, bool)}
    dropped = policy.prepare(hidden)
    assert not dropped["proprio"].any()


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_policy_is_the_same_policy(mode, tmp_path):
    policy = made(**mode).policy(None)
    policy.save(tmp_path / "policy")
    found = find_policy(tmp_path / "policy")
    assert found.family.name == "openvla" and found.family.trained_fps(found.folder) == 20
    again = load_policy(tmp_path / "policy", device="cpu")
    assert again.assembly.sidecar == policy.assembly.sidecar and again.spec == policy.spec
    for name, array in policy.weights().items():
        assert np.array_equal(again.weights()[name], array), name
    batch = batch_for(policy.spec)
    assert again.loss(batch) == policy.loss(batch)
    again.save(tmp_path / "again")
    for file in (tmp_path / "policy").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_a_policy_with_other_weights_is_another():
    policy = made().policy(None)
    weights = {name: array + 0.01 for name, array in policy.weights().items()}
    other = policy.with_weights(weights)
    batch = batch_for(policy.spec)
    assert other.loss(batch)["loss"] != policy.loss(batch)["loss"]
    assert all(np.allclose(other.weights()[name], weights[name]) for name in weights)


def test_a_model_starts_from_a_saved_one_with_other_chunks(tmp_path):
    first = made(seed=1).policy(None)
    first.save(tmp_path / "first")
    trainable = made(pretrained=tmp_path / "first", **MODES[2])
    report = trainable.load_report
    assert set(report.loaded) == set(first.weights()) and not report.dropped
    assert {name.split(".")[0] for name in report.initialised} == {"places", "action_head", "proprio_projector"}
    state = trainable.policy(None).weights()
    assert all(np.array_equal(state[name], array) for name, array in first.weights().items())
    unread = {name for name, weight in trainable.module.named_parameters() if not weight.requires_grad}
    assert unread == {name for name, weight in made(**MODES[2]).module.named_parameters() if not weight.requires_grad}


def test_a_seed_gives_the_same_model_and_leaves_the_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, three = made(seed=3), made(seed=3), made(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    state = one.module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in two.module.state_dict().items())
    assert any(not torch.equal(state[name], value) for name, value in three.module.state_dict().items())


def test_weights_of_half_precision_stay_so(tmp_path):
    policy = made().policy(None)
    policy.module.to(torch.bfloat16)
    policy.save(tmp_path)
    again = load_policy(tmp_path, device="cpu")
    assert {weight.dtype for weight in again.module.parameters()} == {torch.bfloat16}
    batch = {k: v for k, v in batch_for(policy.spec).items() if not k.startswith("action")}
    assert np.array_equal(again.predict(batch), policy.predict(batch))
    assert made(pretrained=tmp_path).module.dtype == torch.float32
    assert MODEL["head"] == "token"
