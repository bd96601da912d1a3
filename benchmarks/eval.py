"""Closed-loop evaluation: steps a second with one worker and with N, beside the bare simulation and the policy alone.

    python benchmarks/eval.py                                       # every installed suite
    python benchmarks/eval.py --suites arm --workers 2 --episodes 32

The policy is an octo_tiny_l1 of fresh weights that looks through the suite's default cameras at --size pixels: it costs
what a trained one costs. Its episodes end at --steps, solved or not. *Bare simulation* is one env that executes as many
steps, looking as often as the policy does; *policy* is as many full batches as the queries fill. CPU seconds of all
processes decide, since wall time on a shared machine does not: `CPU / sum` is what evaluation costs over both (target:
at most 1.25), and `speed-up by CPU` is what N workers reach on free cores, where the busiest process or the number of
cores is the limit (target with two on two cores: at least 1.7). Starting workers and compiling is left out.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from omegaconf import OmegaConf

from xp import plugins
from xp.config.schema import SUITES
from xp.envs import Suite, suite_named
from xp.envs.evaluate import evaluate, first_queries
from xp.envs.maker import EnvMaker
from xp.envs.pool import Asked, EnvPool
from xp.errors import UserError
from xp.models.acting import BatchedPolicy, Query
from xp.models.policy import DataSpec, JaxPolicy
from xp.models.trainable import JaxTrainable
from xp.runs.execution import threads
from xp.tasks._lib.recorders import BATCH, policy_pool

HORIZON = 8


def main() -> None:
    """Print a row for each suite and number of workers."""
    threads.settle()
    options = _arguments()
    print(threads.line())
    print(
        f"{'suite':10} {'workers':>7} {'steps/s':>8} {'CPU ms/step':>11} {'bare ms':>8} {'policy ms':>9} "
        f"{'CPU / sum':>9} {'speed-up':>8} {'by CPU':>7}"
    )
    for name in options.suites or sorted(plugins.entries(SUITES)):
        try:
            suite = suite_named(name, {"max_steps": options.steps})
            _measure(suite, options)
        except UserError as error:
            print(f"{name:10} {error}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+")
    parser.add_argument("--workers", type=int, default=threads.cores())
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40, help="of an episode")
    parser.add_argument("--chunk", type=int, default=4, help="actions executed for each query")
    parser.add_argument("--size", type=int, default=64, help="pixels of a camera's side")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=3, help="the least of so many counts: others can only add")
    return parser.parse_args()


def _measure(suite: Suite, options: argparse.Namespace) -> None:
    cameras = dict.fromkeys(suite.default_cameras, (options.size, options.size))
    envs = EnvMaker(suite, tuple(cameras.items()), environment_state=False)
    policy = _policy(suite, envs)
    answer = BatchedPolicy(policy, seed=0, batch=options.batch)
    found: dict[int, tuple[float, float, float, int]] = {}
    bare = alone = np.inf
    for _ in range(options.repeats):
        for workers in dict.fromkeys((1, options.workers)):
            now = _evaluated(envs, policy, answer, workers, options)
            found[workers] = min(found.get(workers, now), now)
        bare = min(bare, _bare(envs, options))
        alone = min(alone, _asked(envs, answer, options))
    for workers, (cpu, wall, busiest, steps) in found.items():
        one = found[1]
        reached = one[0] / max(busiest, cpu / threads.cores()) if workers > 1 else 1.0
        total = bare + alone
        print(
            f"{suite.name:10} {workers:>7} {steps / wall:8.1f} {cpu / steps * 1e3:11.2f} {bare * 1e3:8.2f} "
            f"{alone * 1e3:9.2f} {cpu / steps / total:9.2f} {one[1] / wall:8.2f} {reached:7.2f}",
            flush=True,
        )


def _policy(suite: Suite, envs: EnvMaker) -> JaxPolicy:
    """A small network of fresh weights, its actions within the suite's ranges."""
    from xp.config import compose
    from xp.models import build

    env = envs.make(next(iter(suite.tasks)))
    size = list(next(iter(dict(envs.cameras).values())))
    asked = ["model=octo_tiny_l1", *(f"model.cameras.{slot}.size={size}" for slot in ("primary", "wrist"))]
    model = cast("dict[str, Any]", OmegaConf.to_container(compose(asked).model, resolve=True))
    low, high = np.asarray(env.action_low, np.float32), np.asarray(env.action_high, np.float32)
    low, high = np.maximum(low, -10), np.minimum(high, 10)
    seen = np.asarray(env.reset(_state(suite, 0))["observation.state"], np.float32)
    spec = DataSpec(
        cameras={name: (*sides, 3) for name, sides in envs.cameras},
        action_dim=len(low),
        state_dim=len(seen),
        fps=env.fps,
        tasks=list(suite.tasks.values()),
    )
    statistics: Any = {"action": _ranges(low, high), "proprio": _ranges(seen - 1, seen + 1)}
    trainable = build(model, data=spec, statistics=statistics, horizon=HORIZON, seed=0, pretrained_path=None)
    assert isinstance(trainable, JaxTrainable)
    return cast("JaxPolicy", trainable.policy(trainable.weights))


def _ranges(low: np.ndarray, high: np.ndarray) -> dict[str, np.ndarray]:
    deviation = np.maximum((high - low) / 4, 1e-3)
    mask = np.ones(len(low), bool)
    return {"mean": (low + high) / 2, "std": deviation, "min": low, "max": high, "p01": low, "p99": high, "mask": mask}


def _state(suite: Suite, number: int) -> int:
    return number % (suite.num_initial_states or 1_000_000)


def _episodes(envs: EnvMaker, options: argparse.Namespace) -> list[Asked]:
    task = next(iter(envs.suite.tasks))
    return [Asked(task, _state(envs.suite, number)) for number in range(options.episodes)]


def _evaluated(
    envs: EnvMaker, policy: JaxPolicy, answer: BatchedPolicy, workers: int, options: argparse.Namespace
) -> tuple[float, float, float, int]:
    """CPU seconds of all processes, wall seconds, CPU seconds of the busiest process, and steps."""
    asked = _episodes(envs, options)
    pool = policy_pool(
        envs,
        policy,
        steps=options.chunk,
        execution="receding",
        delay=0,
        workers=workers,
        batch=options.batch,
        episodes=len(asked),
    )
    with closing(pool):
        answer(first_queries(pool, asked[: pool.places]))  # workers are there, envs are made, programs are compiled
        pids = [os.getpid(), *_worker_pids(pool)]
        before, wall = [_cpu(pid) for pid in pids], time.perf_counter()
        steps = sum(result.steps for result in evaluate(pool, asked, answer))
        wall, used = time.perf_counter() - wall, [_cpu(pid) - was for pid, was in zip(pids, before)]
    return sum(used), wall, max(used), steps


def _worker_pids(pool: EnvPool) -> list[int]:
    return [worker.process.pid for worker in getattr(pool, "_workers", [])]


def _cpu(pid: int) -> float:
    """CPU seconds of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _bare(envs: EnvMaker, options: argparse.Namespace) -> float:
    """CPU seconds a step of one env that is looked at once a chunk."""
    env, steps = envs.make(next(iter(envs.suite.tasks))), 0
    middle = (np.maximum(env.action_low, -10) + np.minimum(env.action_high, 10)) / 2
    spread = np.minimum(env.action_high, 10) - middle
    draw = np.random.default_rng(0)
    start = time.process_time()
    for number in range(max(2, options.episodes // 4)):
        seen, done = env.reset(_state(envs.suite, number)), False
        while not done:
            if env.steps % options.chunk == 0:
                dict(seen)
                action = middle + spread * draw.uniform(-1, 1, len(middle))
            result = env.step(action)
            seen, done, steps = result.observation, result.done, steps + 1
    return (time.process_time() - start) / steps


def _asked(envs: EnvMaker, answer: BatchedPolicy, options: argparse.Namespace) -> float:
    """CPU seconds a step of the policy: a full batch answers so many queries, each good for a chunk of steps."""
    pool = policy_pool(
        envs, answer.policy, steps=options.chunk, execution="receding", delay=0, workers=1, batch=options.batch,
        episodes=options.batch,
    )  # fmt: skip
    queries: list[Query] = [*first_queries(pool, _episodes(envs, options)[: options.batch])]
    return _seconds(lambda: answer(queries), 10) / (len(queries) * options.chunk)


def _seconds(what: Callable[[], object], times: int) -> float:
    what()
    start = time.process_time()
    for _ in range(times):
        what()
    return (time.process_time() - start) / times


if __name__ == "__main__":
    main()
