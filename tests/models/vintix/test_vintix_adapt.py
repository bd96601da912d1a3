"""A new task as a copy of one that a model knows: the copy does what the reference does, turned joints or not."""

import numpy as np
import pytest
from vintix_models import moved, new

from xp.errors import UserError
from xp.improve.refine import Refinement, refine
from xp.models import load_policy
from xp.models.policy import InContextPolicy
from xp.models.vintix.adapt import known_task

SIGNS = ([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0], [1.0, -1.0, -1.0])


@pytest.fixture
def policy():
    trainable = new(groups=("arm", "leg"), widths=(7, 3))
    moved(trainable.module)
    return trainable.policy(None)


def acts(policy, task, signs=None, steps=12):
    """What a policy does in two envs of a task, whose joints may point the other way."""
    states, actions = (np.ones(7), np.ones(3)) if signs is None else map(np.array, signs)
    actor, draws = policy.acting_in([task, task]), np.random.default_rng(0)
    found, begins = [], np.ones(2, bool)
    for _ in range(steps):
        state = draws.normal(size=(2, 7)).astype(np.float32)
        action = actor.act(state * states, draws.normal(size=2).astype(np.float32), begins)[:, :3]
        found.append(action * actions)
        begins = np.array([False, draws.random() < 0.3])
    return np.stack(found)


def test_a_copy_does_what_its_reference_does(policy):
    assert isinstance(policy, InContextPolicy)
    copy = policy.with_task("new", reference="arm", key="reference")
    assert np.array_equal(acts(policy, "arm"), acts(copy, "new"))
    assert np.array_equal(acts(policy, "arm"), acts(copy, "arm")) and "new" not in policy.described.tasks.names


def test_turned_joints_are_turned_in_observations_and_actions(policy):
    copy = policy.with_task("new", reference="arm", key="reference", signs=SIGNS)
    np.testing.assert_allclose(acts(policy, "arm"), acts(copy, "new", SIGNS), atol=1e-6)
    assert np.abs(acts(policy, "arm") - acts(copy, "new")).max() > 1e-3, "a robot that is not turned is another"


def test_own_statistics_normalise_the_new_task_alone(policy):
    seen = np.random.default_rng(1).normal(3.0, 2.0, (500, 7)).astype(np.float32)
    copy = policy.with_task("new", reference="arm", key="reference", observed=seen)
    moments = copy.described.tasks.all[-1].observation
    np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.std, seen.std(0, ddof=1), rtol=1e-5)
    assert np.abs(acts(copy, "new") - acts(copy, "arm")).max() > 1e-3


def test_a_copy_is_saved_and_loads_again(policy, tmp_path):
    copy = policy.with_task("new", reference="arm", key="reference", signs=SIGNS)
    copy.save(tmp_path / "copy")
    again = load_policy(tmp_path / "copy")
    assert again.described.tasks.names[-1] == "new" and again.described.tasks.all[-1].group == "new"
    assert np.array_equal(acts(copy, "new"), acts(again, "new"))


@pytest.mark.parametrize(
    ("reference", "name", "signs", "said"),
    [
        ("go9", "new", None, "reference=go9: the model knows no"),
        ("arm", "leg", None, "knows the task 'leg' already"),
        ("arm", "new", (SIGNS[0], SIGNS[1][:2]), "7 observed numbers and 3 actions, the new task 7 and 2"),
    ],
)
def test_what_cannot_be_copied_is_refused(policy, reference, name, signs, said):
    with pytest.raises(UserError, match=said):
        policy.with_task(name, reference=reference, key="reference", signs=signs)


def test_a_reference_is_found_by_task_group_or_robot(policy):
    copy = policy.with_task("go2_locomotion", reference="arm", key="reference")
    tasks = copy.described.tasks
    assert known_task(tasks, "go2", "reference").name == known_task(tasks, "go2_locomotion", "reference").name


def learnt(policy, steps=30):
    """A copy that has learnt to give ones, and the losses."""
    copy = policy.with_task("new", reference="arm", key="reference")
    draws = np.random.default_rng(0)
    batch = {
        "observation.state": draws.normal(size=(4, 9, 7)).astype(np.float32),
        "action": np.ones((4, 9, 3), np.float32),
        "reward": np.zeros((4, 9), np.float32),
        "step": np.tile(np.arange(9), (4, 1)),
        "task": ["new"] * 4,
    }
    names = copy.weights_of("new")
    return copy, refine(copy, lambda step: batch, names, Refinement(steps=steps, lr=3e-3), seed=3)


def test_refining_moves_the_tasks_own_weights_alone_and_repeats_bit_for_bit(policy):
    before = {name: value.copy() for name, value in policy.weights().items()}
    one, losses = learnt(policy)
    other, again = learnt(policy)
    assert losses == again and losses[-1] < 0.5 * losses[0]
    after = one.weights()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    moved_names = set(one.weights_of("new"))
    assert moved_names and all("new" in name for name in moved_names)
    assert all(np.array_equal(after[name], other.weights()[name]) for name in after)
    assert all(weight.requires_grad for weight in one.module.parameters())


def test_the_rate_warms_up_and_falls_to_nothing():
    how = Refinement(steps=1000, lr=1e-4)
    rates = [how.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-6) and max(rates) == pytest.approx(1e-4) and rates[99] == pytest.approx(1e-4)
    assert rates[-1] < 1e-9 and all(a >= b for a, b in zip(rates[99:], rates[100:]))
