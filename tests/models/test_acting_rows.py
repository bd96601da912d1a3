"""Claims about real policies: no row's place, order or company changes a bit of its answer."""

from dataclasses import dataclass

import lerobot_made_up
import numpy as np
import octo_made_up
import pytest

from xp.models import build
from xp.models.acting import BatchedPolicy

BATCH = 4


@dataclass(frozen=True)
class Asked:
    """A query as an episode asks it."""

    task: str
    seed: int
    index: int
    window: dict
    executed: np.ndarray
    planned: np.ndarray
    delay: int | None = None


def octo(head):
    config = octo_made_up.model_cfg(head={"type": head, **({"diffusion_steps": 3} if head == "diffusion" else {})})
    trainable = build(
        config, data=octo_made_up.DATA, statistics=octo_made_up.STATISTICS, horizon=2, seed=0, pretrained_path=None
    )  # pyright: ignore[reportArgumentType]
    return trainable.policy(trainable.weights), octo_made_up.made_batch(6)


def lerobot(model):
    policy = lerobot_made_up.made(model).policy(None)
    return policy, lerobot_made_up.batch_for(policy.spec, size=6)


POLICIES = {
    "octo, gaussian": lambda: octo("gaussian"),
    "octo, diffusion": lambda: octo("diffusion"),
    "act": lambda: lerobot(lerobot_made_up.ACT),
    "diffusion": lambda: lerobot(lerobot_made_up.DIFFUSION),
    "act_smooth, with a prefix": lambda: lerobot(lerobot_made_up.SMOOTH),
}


def queries(policy, batch):
    """Six queries of different episodes; for a policy with a prefix the first two are those of an episode's begin."""
    draw = np.random.default_rng(2)
    unread = ("action", "action_is_pad")
    for row in range(6):
        window = {key: value[row : row + 1] for key, value in batch.items() if key not in unread}
        index = 0 if row < 2 else row
        actions = draw.normal(size=(6, policy.spec.action_dim)).astype(np.float32)
        yield Asked("t", row, index, window, actions[: policy.spec.prefix_past], actions[3:])


@pytest.mark.parametrize("name", POLICIES)
def test_an_answer_has_the_same_bits_in_any_order_and_company(name):
    policy, batch = POLICIES[name]()
    asked = list(queries(policy, batch))
    answer = BatchedPolicy(policy, seed=5, batch=BATCH)
    settled = answer.settle(asked[:2])  # small convolutions of torch may depend on the place: then rows are asked alone
    assert answer.batch == (BATCH if settled else 1) and (settled or not name.startswith("octo"))
    alone = [answer([query])[0] for query in asked]
    assert not np.array_equal(alone[0], alone[1])
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 5, 3], [3, 3, 1]):
        together = answer([asked[number] for number in order])
        for number, chunk in zip(order, together, strict=True):
            np.testing.assert_array_equal(chunk, alone[number], err_msg=f"query {number} of {order}")


@pytest.mark.parametrize("name", ["octo, diffusion", "diffusion"])
def test_noise_is_another_at_each_query_and_the_same_at_the_same_one(name):
    policy, batch = POLICIES[name]()
    first = next(queries(policy, batch))
    answer = BatchedPolicy(policy, seed=5, batch=BATCH)
    again = BatchedPolicy(policy, seed=5, batch=BATCH)([first])[0]
    np.testing.assert_array_equal(answer([first])[0], again)
    others = [
        Asked(first.task, first.seed, first.index + 1, first.window, first.executed, first.planned),
        Asked(first.task, first.seed + 1, first.index, first.window, first.executed, first.planned),
        Asked("other", first.seed, first.index, first.window, first.executed, first.planned),
    ]
    for other in others:
        assert not np.array_equal(answer([other])[0], again)
    assert not np.array_equal(BatchedPolicy(policy, seed=6, batch=BATCH)([first])[0], again)
