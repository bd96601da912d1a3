"""What collecting attempts costs: steps of an env per CPU second, physics alone and with a policy.

    python benchmarks/collect.py [--envs 64] [--steps 100] [--contexts 256 1024 2048] [--threads 1 2] [--recomputed 3]
    python benchmarks/collect.py --contexts        # the physics alone

Four ratios. *Physics*: xp's simulation (observations, rewards, falls) beside `mujoco.rollout` on the same states and
targets in one call a control step, in short rounds that alternate, the median of their ratios; at least 0.9 is wanted.
*Cached*: a Vintix policy of the quadruped fork's size in
many envs with kept keys and values, beside one env whose whole context is computed anew at each step, as the fork acts;
at least 20. *Sum*: acting with the policy beside the CPU time of physics and of the policy alone; at most 1.25.
*Threads*: steps a second (wall time) with so many threads, of the physics alone and of physics and policy at each
context, in rounds that alternate. The context is full from the first measured step on.
Weights are random: only time is measured.
"""

import argparse
import os
import time
from collections.abc import Callable

import numpy as np

from xp.config.compose import compose
from xp.envs.batch import batch_suite
from xp.envs.quadruped.simulation import Simulation
from xp.envs.suite import suite_of

ROUND = 10
"""Steps of one kind before the other has its turn: a busy machine slows both."""


def cpu(function: Callable[[], object], times: int) -> float:
    """CPU seconds of one call."""
    function()
    start = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - start) / times


def wall(function: Callable[[], object], times: int) -> float:
    """Seconds of one call."""
    function()
    start = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times


def standing(envs: int, threads: int = 1) -> Simulation:
    """Robots that have come to stand."""
    env = batch_suite(suite_of(compose(["env=go2"]).env), "").make_batch("walk", envs, threads=threads)
    assert isinstance(env, Simulation)
    env.reset(range(envs))
    for _ in range(50):
        env.step(np.zeros((envs, 12)))
    return env


def physics(envs: int, steps: int) -> float:
    """Says what physics costs; gives the CPU seconds of a step of all envs."""
    env, nothing = standing(envs), np.zeros((envs, 12))
    targets = np.tile(np.array(env.settings.robot.default_pose), (envs, env._substeps, 1))
    states = env._states.copy()
    rounds = max(3, steps // ROUND)
    bare, own = np.array(
        [
            (
                cpu(lambda: env._physics.rollout(env.model, env._threads, states, targets), ROUND),
                cpu(lambda: env.step(nothing), ROUND),
            )
            for _ in range(rounds)
        ]
    ).T
    print(
        f"physics: xp {envs / np.median(own):,.0f} steps per CPU second, mujoco.rollout {envs / np.median(bare):,.0f}: "
        f"ratio {np.median(bare / own):.2f} ({(bare / own).min():.2f} to {(bare / own).max():.2f} in {rounds} rounds)"
    )
    own = float(np.median(own))
    return own


def scaling(what: str, step_with: Callable[[int], Callable[[], object]], envs: int, threads: list[int]) -> None:
    """Says how many steps a second so many threads make; `step_with(threads)` gives a step of all envs."""
    steps = {count: step_with(count) for count in threads}
    rounds = [[wall(step, ROUND) for step in steps.values()] for _ in range(3)]
    for count, seconds in zip(threads, np.median(rounds, axis=0), strict=True):
        times = np.median([each[0] / each[threads.index(count)] for each in rounds])
        print(
            f"threads: {what}, {count}: {envs / seconds:,.0f} steps a second, {times:.2f} times those of {threads[0]} "
            f"(load {os.getloadavg()[0]:.1f})"
        )


def physics_with(envs: int) -> Callable[[int], Callable[[], object]]:
    """Steps of the physics alone, by threads."""
    nothing = np.zeros((envs, 12))

    def step_with(threads: int) -> Callable[[], object]:
        env = standing(envs, threads)
        return lambda: env.step(nothing)

    return step_with


def acting_with(envs: int, context: int) -> Callable[[int], Callable[[], object]]:
    """Steps with a policy whose context is full, by threads of both."""
    import torch

    policy, reward, going = policy_of(context), np.zeros(envs), np.zeros(envs, bool)

    def step_with(threads: int) -> Callable[[], object]:
        env, actor = standing(envs, threads), policy.acting_in(["go2"] * envs)
        actor._seen = context
        seen = {"now": env.observations()}

        def step() -> None:
            torch.set_num_threads(threads)
            seen["now"] = env.step(actor.act(seen["now"], reward, going)[:, :12] * 0).observation

        return step

    return step_with


def policy_of(context: int):
    """A policy of the fork's size with random weights."""
    from xp.models import build
    from xp.models.policy import DataSpec

    section = {
        "family": "vintix", "origin": "fork", "context_len": context, "observation_emb_dim": 127,
        "action_emb_dim": 127, "transformer_depth": 3, "intermediate_size": 128,
    }  # fmt: skip
    rows = np.random.default_rng(0).normal(size=(50, 33))
    moments = {key: {"mean": rows[:, :n].mean(0), "std": rows[:, :n].std(0), "mask": np.ones(n, bool)} for key, n in
               (("proprio", 33), ("action", 12))}  # fmt: skip
    data = DataSpec(cameras={}, state_dim=33, action_dim=12, fps=50, tasks=("go2",))
    statistics = {**moments, "num_transitions": 50}
    return build(section, data=data, statistics=statistics, horizon=1, seed=0).policy(None)  # pyright: ignore[reportArgumentType]


def acting(envs: int, context: int, recomputed: int, of_physics: float) -> None:
    """Says what acting costs at a context."""
    policy, draws = policy_of(context), np.random.default_rng(0)
    state, reward, going = draws.normal(size=(envs, 33)).astype(np.float32), np.zeros(envs), np.zeros(envs, bool)
    cached = policy.acting_in(["go2"] * envs)
    cached._seen = context
    alone = cpu(lambda: cached.act(state, reward, going), 10)
    env = standing(envs)
    seen = {"now": env.observations()}

    def step() -> None:
        seen["now"] = env.step(cached.act(seen["now"], reward, going)[:, :12] * 0).observation

    together = cpu(step, 10)
    exact = policy.acting_in(["go2"], mode="exact")
    exact._seen = context
    one = cpu(lambda: exact.act(state[:1], reward[:1], going[:1]), recomputed)
    print(
        f"context {context}: {envs} envs cached {envs / together:,.0f} steps per CPU second, one env computed anew "
        f"{1 / (one + of_physics / envs):,.1f}: ratio {envs / together * (one + of_physics / envs):,.0f}; "
        f"of the sum of physics and policy {together / (alone + of_physics):.2f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--contexts", type=int, nargs="*", default=[256, 1024, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--recomputed", type=int, default=3)
    asked = parser.parse_args()
    of_physics = physics(asked.envs, asked.steps)
    scaling("physics", physics_with(asked.envs), asked.envs, asked.threads)
    for context in asked.contexts:
        import torch

        torch.set_num_threads(1)
        acting(asked.envs, context, asked.recomputed, of_physics)
        scaling(f"context {context}", acting_with(asked.envs, context), asked.envs, asked.threads)


if __name__ == "__main__":
    main()
