"""What the original code computes, from its own folder: each layer, the objective, five updates, rollouts."""

import json

import numpy as np
import pytest
import torch
from vintix_models import CONTEXT, original, padded, reference, reference_batch

from xp.models.vintix.attention import alibi_slopes, causal_biases
from xp.models.vintix.build import decayed
from xp.models.vintix.policy import objective
from xp.models.vintix.rollout import Rollout

TOLERANCE = 1e-5
TASKS = ("arm_a", "leg")


@pytest.fixture(scope="module")
def io():
    return np.load(reference("dunno/io.npz"))


def _inputs(policy, io):
    return policy.prepare(reference_batch(io))


def test_slopes(io):
    for heads in (4, 6, 8, 16):
        np.testing.assert_allclose(alibi_slopes(heads), io[f"alibi_slopes_{heads}"], rtol=1e-12)


def test_tokens_and_each_layer(io):
    policy = original()
    inputs, module = _inputs(policy, io), policy.module
    names = ("observation", "prev_action", "prev_reward", "step", "task_number")
    with torch.no_grad():
        tokens = module.tokens(*(inputs[name] for name in names))
        np.testing.assert_allclose(tokens, io["tokens"], atol=TOLERANCE)
        x, biases = tokens, causal_biases(module.transformer.slopes, CONTEXT, torch.float32)
        first = module.transformer.blocks[0]
        np.testing.assert_allclose(first.attention(first.norm1(x), biases), io["layers/attn0"], atol=TOLERANCE)
        for number, block in enumerate(module.transformer.blocks):
            x = block(x, biases)
            np.testing.assert_allclose(x, io[f"layers/block{number}"], atol=TOLERANCE)
        np.testing.assert_allclose(module.transformer(tokens), io["layers/ln_f"], atol=TOLERANCE)
        actions = module(inputs)
    for number in range(4):
        expected = io[f"pred/{number}"]
        np.testing.assert_allclose(actions[number, :, : expected.shape[1]], expected, atol=TOLERANCE)
        assert not actions[number, :, expected.shape[1] :].any()


def test_predict_is_the_action_of_the_last_step_and_reads_no_target(io):
    policy, batch = original(), reference_batch(io)
    chunk = policy.predict(batch)
    assert chunk.shape == (4, 1, 4)
    for number in range(4):
        expected = io[f"pred/{number}"][-1]
        np.testing.assert_allclose(chunk[number, 0, : len(expected)], expected, atol=TOLERANCE)
    batch["action"][:, -1], batch["reward"][:, -1] = 1e6, 1e6
    np.testing.assert_array_equal(policy.predict(batch), chunk)


@pytest.mark.parametrize(("origin", "folder"), [("upstream", "dunno"), ("fork", "fork")])
def test_the_objective_of_each_origin(origin, folder, io):
    policy = original(origin, folder=folder)
    with torch.no_grad():
        total, _ = objective(policy.module, _inputs(policy, io), sums=True)
    expected = json.loads(reference(f"{folder}/index.json").read_text())["loss"]
    assert float(total) == pytest.approx(expected, abs=TOLERANCE)
    with torch.no_grad():
        mean, _ = objective(policy.module, _inputs(policy, io), sums=False)
    assert float(mean) == pytest.approx(expected / 4, abs=TOLERANCE)


def test_the_wrong_origin_loads_and_computes_something_else(io):
    policy = original("fork", folder="dunno")
    with torch.no_grad():
        total, _ = objective(policy.module, _inputs(policy, io), sums=True)
    assert abs(float(total) - io["loss/sum"]) > 1e-3


def test_five_updates(io):
    policy = original()
    module, inputs = policy.module.train(), _inputs(policy, io)
    named = dict(module.named_parameters())
    matrices = decayed(module)
    groups = json.loads(reference("dunno/optimizer_groups.json").read_text())
    assert sorted(matrices) == groups["groups"][0] and sorted(set(named) - set(matrices)) == groups["groups"][1]
    described = [
        {"params": [named[name] for name in names], "weight_decay": decay}
        for names, decay in zip(groups["groups"], groups["weight_decay"], strict=True)
    ]
    optimiser = torch.optim.AdamW(described, lr=0.0, betas=(0.9, 0.99))
    for number, rate in enumerate(io["train5/lr"]):
        loss, _ = objective(module, inputs, sums=True)
        assert float(loss) == pytest.approx(io["train5/losses"][number], abs=TOLERANCE)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = float(rate)
        optimiser.step()
        optimiser.zero_grad()
    for name, weight in named.items():
        # A bias on all keys alike changes no attention: its gradient is rounding, which Adam blows up to its step size.
        room = float(io["train5/lr"].sum()) if name.endswith("k_norm.bias") else TOLERANCE
        np.testing.assert_allclose(weight.detach(), io[f"train5/param/{name}"], rtol=0, atol=room, err_msg=name)


def _rolled(rollout, io, task, rows, steps, reward_of):
    found = []
    for t in range(steps):
        observation = np.repeat(io[f"rollout/{task}/obs"][t][None], rows, 0)
        reward = np.full(rows, reward_of(t), np.float32)
        found.append(rollout.act(observation, reward, np.full(rows, bool(io[f"rollout/{task}/is_reset"][t]))))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("mode", "key"), [("exact", "recompute"), ("sliding", "sliding_cache")])
def test_eighty_steps_of_each_mode_in_a_batch(mode, key, task, io):
    rewards = io[f"rollout/{task}/reward"]  # of the action of the same step
    rollout = Rollout(original(), [task] * 2, mode=mode)
    found = _rolled(rollout, io, task, 2, 80, lambda t: rewards[t - 1] if t else 0.0)
    expected = io[f"rollout/{task}/{key}"]
    assert expected.shape[0] == 80 == 2.5 * CONTEXT
    for row in found:
        np.testing.assert_allclose(row[:, : expected.shape[1]], expected, atol=TOLERANCE)
    other = io[f"rollout/{task}/{'recompute' if mode == 'sliding' else 'sliding_cache'}"]
    np.testing.assert_allclose(found[0, :CONTEXT, : other.shape[1]], other[:CONTEXT], atol=TOLERANCE)
    assert np.abs(found[0, :, : other.shape[1]] - other)[CONTEXT:].max() > 1e-3, "beyond the context they differ"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("prompt", "mode", "key"),
    [("prompt20", "exact", "recompute"), ("prompt20", "sliding", "sliding_cache"), ("prompt50", "exact", "recompute")],
)
def test_a_prompt_is_taken_in_before_the_first_step(prompt, mode, key, task, io):
    """The arrays do not hold the rewards of later steps; the first action depends on every step of the prompt."""
    given = {name: io[f"{prompt}/{task}/{name}"][None] for name in ("obs", "act", "rew", "step")}
    expected = io[f"{prompt}/{task}/{key}"][0]
    rollout = Rollout(original(), [task], mode=mode)
    rollout.prompt(given["obs"], given["act"], given["rew"], given["step"])
    found = _rolled(rollout, io, task, 1, 1, lambda t: 0.0)[0, 0]
    np.testing.assert_allclose(found[: len(expected)], expected, atol=TOLERANCE)


@pytest.mark.parametrize("task", TASKS)
def test_tokens_of_the_teacher_forced_stream(task):
    stream = np.load(reference("dunno/stream80.npz"))
    io, policy = np.load(reference("dunno/io.npz")), original()
    module = policy.module
    arrays = (
        padded(io[f"rollout/{task}/obs"], module.state_dim), padded(stream[f"{task}/prev_action"], module.action_dim),
        stream[f"{task}/prev_reward"], stream[f"{task}/step_num"],
    )  # fmt: skip
    given = [torch.from_numpy(np.asarray(array))[None] for array in arrays]
    with torch.no_grad():
        tokens = module.tokens(*given, torch.tensor([policy.inputs.tasks.number(task)]))
        np.testing.assert_allclose(tokens[0], stream[f"{task}/tokens"], atol=TOLERANCE)
        last = [module.transformer(tokens[:, max(t - CONTEXT + 1, 0) : t + 1])[:, -1:] for t in range(80)]
        actions = module.decoded(torch.cat(last, dim=1), torch.tensor([policy.inputs.tasks.number(task)]))
    expected = stream[f"{task}/recompute"]
    np.testing.assert_allclose(actions[0, :, : expected.shape[1]], expected, atol=TOLERANCE)


def _best_reward(rollout, observation, begins, expected):
    """Act for one step with the reward by which the action comes nearest to the expected one; how near it comes."""
    rows = len(begins)
    before = rollout._seen, rollout._step.copy(), rollout._action.copy()

    def errors(rewards):
        rollout._seen, rollout._step, rollout._action = before[0], before[1].copy(), before[2].copy()
        found = rollout.act(observation, rewards.astype(np.float32), begins)
        return np.abs(found[:, : len(expected)] - expected).max(1)

    middle, half = 0.0, 5.0
    for _ in range(4):
        rewards = np.linspace(middle - half, middle + half, rows)
        found = errors(rewards)
        middle, half = rewards[int(found.argmin())], 3 * half / rows
    return float(errors(np.full(rows, middle)).min())


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("prompt", "mode", "key"),
    [("prompt20", "exact", "recompute"), ("prompt20", "sliding", "sliding_cache"), ("prompt50", "exact", "recompute")],
)
def test_actions_after_a_prompt_are_those_of_some_rewards(prompt, mode, key, task, io):
    """The arrays do not hold the rewards of later steps: one number for all dimensions of each action is left open."""
    rows = 61
    given = {name: np.repeat(io[f"{prompt}/{task}/{name}"][None], rows, 0) for name in ("obs", "act", "rew", "step")}
    expected = io[f"{prompt}/{task}/{key}"]
    rollout = Rollout(original(), [task] * rows, mode=mode)
    rollout.prompt(given["obs"], given["act"], given["rew"], given["step"])
    worst = []
    for t, action in enumerate(expected):
        observation = np.repeat(io[f"rollout/{task}/obs"][t][None], rows, 0)
        begins = np.full(rows, bool(io[f"rollout/{task}/is_reset"][t]))
        worst.append(_best_reward(rollout, observation, begins, action))
    assert max(worst) < 2 * TOLERANCE, np.round(worst, 6).tolist()
