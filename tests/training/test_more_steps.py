"""More steps for a finished training: the schedule that the added steps follow, and the weights they end in."""

import math
from itertools import combinations

import pytest
from safetensors.numpy import load_file
from torch_fakes import torch_trainable
from training_fakes import LR, TinyBatches, final_weights, run_in, same_bytes, tiny_trainable, trainer

from xp.config.more_steps import extensions_in, read_extensions
from xp.errors import UserError
from xp.runs import RunInterrupted
from xp.training import train_any
from xp.training.schedules import make_schedule

COSINE = {"schedule": "cosine", "peak": 0.2, "warmup_steps": 2, "end_factor": 0.1}


def rates(lr, steps, *extensions):
    schedule = make_schedule(lr | {"extensions": [{"steps": at, "extend": how} for at, how in extensions]}, steps)
    return [schedule(step) for step in range(steps)]


def by_hand(step, total):
    """A warm-up of two steps to 0.2, then half a cosine to 0.02 at `total`."""
    return 0.1 * step if step < 2 else 0.02 + 0.18 * (1 + math.cos(math.pi * (step - 2) / (total - 2))) / 2


@pytest.mark.parametrize(
    ("extend", "added"),
    [
        ("hold", [0.02] * 4),
        ("restart", [by_hand(step, 4) for step in range(4)]),
        ("stretch", [by_hand(step, 10) for step in range(6, 10)]),
    ],
)
def test_the_added_steps_of_a_cosine_have_the_rates_of_the_formula(extend, added):
    assert rates(COSINE, 10, (6, extend)) == pytest.approx([*(by_hand(step, 6) for step in range(6)), *added])


def test_a_linear_decay_that_is_extended_twice():
    lr = {"schedule": "linear_decay", "peak": 1.0, "warmup_steps": 0, "end_factor": 0.5}
    added = rates(lr, 12, (4, "restart"), (8, "stretch"))
    expected = [*(1 - 0.5 * s / 4 for s in range(4)), *(1 - 0.5 * s / 4 for s in range(4))]
    assert added == pytest.approx([*expected, *(1 - 0.5 * s / 8 for s in range(4, 8))])  # counted from the restart
    assert rates(lr, 12, (4, "restart"), (8, "hold")) == pytest.approx([*expected, *[0.5] * 4])


def test_a_schedule_without_an_end_is_the_same_in_one_go_and_extended():
    for name, warmup in (("constant", 0), ("linear_warmup", 8)):
        lr = {"schedule": name, "peak": 0.3, "warmup_steps": warmup, "end_factor": 1.0}
        assert rates(lr, 10, (3, "stretch"), (6, "stretch")) == rates(lr, 10)


@pytest.mark.parametrize("given", ["hold", [3], [{"steps": 3}], [{"steps": 9, "extend": "hold"}],
                                   [{"steps": 4, "extend": "hold"}, {"steps": 4, "extend": "hold"}],
                                   [{"steps": 4, "extend": "grow"}], {"steps": 4, "extend": "hold"}])  # fmt: skip
def test_what_is_no_list_of_extensions_is_refused(given):
    with pytest.raises(UserError, match=r"lr\.extensions=.*below trainer\.steps=9.*lr\.extensions=\[\]"):
        read_extensions(given, 9)


def config(steps, lr=COSINE, **more):
    return {"trainer": {"steps": steps}, "lr": {**lr, **more}}


def asked(old, new, **facts):
    return extensions_in("RUN", old, new, **{"is_done": True, "checkpoints": [3, 6], **facts})


def test_what_is_written_for_more_steps():
    assert asked(config(6), config(10, extend="hold")) == [{"steps": 6, "extend": "hold"}]
    assert asked(config(6, LR), config(10, LR)) == [{"steps": 6, "extend": "stretch"}]
    assert asked(config(6), config(6)) == [] == asked(config(6), config(10), is_done=False)
    once = [{"steps": 3, "extend": "restart"}]
    assert asked(config(6, extensions=once), config(9, extend="stretch")) == [*once, {"steps": 6, "extend": "stretch"}]
    assert asked(config(6, extensions=once), config(6), is_done=False) == once  # the same command goes on
    assert asked(config(6, extensions=once), config(6, extend="restart")) == once


ONCE = config(6, LR, extensions=[{"steps": 3, "extend": "restart"}])
REFUSED = {
    "a schedule with an end": (config(6), config(10), {}, r"lr\.extend=hold .*lr\.extend=restart .*lr\.extend=stretch"),
    "once restarted": (ONCE, config(10, LR), {}, r"it was extended before.*lr\.extend=hold"),
    "fewer": (config(6), config(4), {}, r"trainer\.steps=4 is fewer.*hydra\.run\.dir=FOLDER"),
    "no more": (config(6), config(6, extend="hold"), {}, r"lr\.extend=hold: RUN is done.*trainer\.steps=12"),
    "another way": (ONCE, config(6, LR, extend="hold"), {"is_done": False}, r"restart at step 3.*lr\.extend=restart"),
    "not done": (config(6), config(9, extend="hold"), {"is_done": False}, r"RUN is not done"),
    "no checkpoint": (config(6), config(9, extend="hold"), {"checkpoints": [3]}, r"no checkpoint of step 6.*FOLDER"),
    "rate 0": (config(6, COSINE | {"end_factor": 0.0}), config(9, extend="hold"), {}, r"has rate 0.*restart"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    old, new, facts, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        asked(old, new, **facts)


@pytest.fixture(params=[tiny_trainable, torch_trainable], ids=["jax", "torch"])
def train(request, tmp_path):
    """Train in a folder; the final weights. Validated every four steps, best at step 6."""

    def run(name, steps, lr=LR, stop_after=None):
        options = trainer(steps=steps, val_every=4)
        training = run_in(tmp_path / name, stop_after=stop_after)
        train_any(training, request.param(), TinyBatches(), trainer=options, lr=lr, seed=0,
                  validate=lambda policy, step: {"val_loss": abs(step - 6.0)})  # fmt: skip
        return final_weights(tmp_path / name)

    return run


def test_six_steps_and_then_four_are_ten_in_one_go(train, tmp_path):
    whole = train("whole", 10)
    train("run", 6)
    assert same_bytes(train("run", 10, LR | {"extensions": [{"steps": 6, "extend": "stretch"}]}), whole)
    rows = run_in(tmp_path / "run").validation_log.rows()
    assert [row["step"] for row in rows] == [4, 6, 8, 10]
    best, checkpoint = (load_file(tmp_path / "run" / place / "policy.safetensors") for place in
                        ("best", "checkpoints/checkpoint-6"))  # fmt: skip
    assert same_bytes(best, checkpoint)  # the validation at the end of the six counts


def test_a_run_that_is_stopped_in_its_added_steps_ends_in_the_same_weights(train, tmp_path):
    ends = []
    for extend in ("hold", "restart", "stretch"):
        lr = COSINE | {"extensions": [{"steps": 6, "extend": extend}]}
        train(extend, 6, COSINE)
        with pytest.raises(RunInterrupted):
            train(extend, 12, lr, stop_after=2)
        ends.append(train(extend, 12, lr))
        assert same_bytes(ends[-1], train(f"{extend}_in_one_go", 12, lr))
    assert not any(same_bytes(one, other) for one, other in combinations(ends, 2))
