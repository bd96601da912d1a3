"""`xp task=eval eval=expert`: success of a suite's scripted expert, beside experts gone wrong and one standing still.

It measures the suite: a task that its own expert does not solve, or that one with an open gripper does, says nothing of
a policy. Nothing is drawn.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xp import atomic
from xp.envs import Actor, Env, Suite, suite_of
from xp.envs.rollout import rollout
from xp.envs.suite import refuse_missing_states
from xp.errors import UserError
from xp.metrics.success import SuccessMetrics, success_metrics
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked
from xp.tasks._lib.pools import Processes, in_order, workers_of

METRICS = "metrics.json"
OUTCOMES = "episodes.jsonl"
EXPERT, NOOP = "expert", "noop"


@dataclass(frozen=True)
class Trial:
    """An episode to be run: an actor (`expert`, one of `failing_experts`, `noop`) from an initial state of a task."""

    actor: str
    task: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How a trial went."""

    actor: str
    task: str
    seed: int
    success: bool
    steps: int


@dataclass(frozen=True)
class Acting:
    """Runs trials without pictures; can be sent to another process, which makes each env once."""

    suite: Suite
    noise: float

    def __call__(self, trial: Trial) -> Outcome:
        """Run an episode."""
        env = _env(self.suite, trial.task)
        if trial.actor == NOOP:
            (episode,) = rollout(env, self.suite.noop(1), seeds=[trial.seed], chunk_steps=1)
            return Outcome(**asdict(trial), success=episode.success, steps=episode.steps)
        return Outcome(**asdict(trial), **_act(env, self._actor(env, trial), trial.seed))

    def _actor(self, env: Env, trial: Trial) -> Actor:
        if trial.actor == EXPERT:
            return self.suite.expert(env, noise=self.noise, seed=trial.seed)
        return self.suite.failing_expert(env, trial.actor)


@lru_cache(maxsize=1)
def _env(suite: Suite, task: str) -> Env:
    """The env of a task; only the last one is kept, since trials come task by task and an env may take much memory."""
    return suite.make(task, cameras={})


def _act(env: Env, actor: Actor, seed: int) -> dict[str, Any]:
    env.reset(seed)
    actor.reset(seed)
    while True:
        result = env.step(actor.act())
        if result.done:
            return {"success": result.success, "steps": env.steps}


def run(run: Run) -> None:
    """Leaves metrics.json (rates with Wilson intervals and every initial state); a resumed run repeats no episode."""
    config = run.config
    suite, asked = suite_of(config.env), config.eval
    if suite.max_expert_noise is None:
        raise UserError(f"eval=expert: the suite {suite.name} has no expert. Score a policy: eval.checkpoint=POLICY")
    if asked.noise > suite.max_expert_noise:
        raise UserError(f"eval.noise={asked.noise}: must be between 0 and {suite.max_expert_noise:g}")
    refuse_missing_states(suite, asked.first_seed, asked.episodes, ("eval.first_seed", "eval.episodes"))
    actors = (EXPERT, *suite.failing_experts, NOOP) if asked.controls else (EXPERT,)
    seeds = range(asked.first_seed, asked.first_seed + asked.episodes)
    trials = [Trial(actor, task, seed) for task in config.env.tasks for actor in actors for seed in seeds]
    outcomes = _outcomes(run, Acting(suite, asked.noise), trials)
    metrics = {
        "fps": config.env.fps,
        "noise": asked.noise,
        **suite.provenance(),
        "policies": {actor: _of_tasks([each for each in outcomes if each.actor == actor]) for actor in actors},
    }
    atomic.write_json(run.folder / METRICS, metrics)
    run.write_summary(
        {"task": "eval", "success": {k: v["all"]["success_rate"] for k, v in metrics["policies"].items()}}
    )
    _say(run, metrics["policies"])


def _outcomes(run: Run, acting: Acting, trials: Sequence[Trial]) -> list[Outcome]:
    """What came of every trial; those that an interrupted attempt has finished are read."""
    path = run.folder / OUTCOMES
    known = _finished(path)
    left = [trial for trial in trials if trial not in known]

    def leave_when_asked() -> None:
        leave_if_asked(run)

    with ExitStack() as stack, run.progress(len(trials), "evaluating", unit="episode") as bar:
        bar.advance(len(trials) - len(left))
        with path.open("a", encoding="utf-8") as notes:
            for outcome in _run(acting, left, workers_of(run.config.eval.workers), leave_when_asked, stack):
                notes.write(json.dumps(asdict(outcome)) + "\n")
                notes.flush()
                known[Trial(outcome.actor, outcome.task, outcome.seed)] = outcome
                bar.advance()
    return [known[trial] for trial in trials]


def _run(acting: Acting, trials: Sequence[Trial], workers: int, leave: Any, stack: ExitStack) -> Iterator[Outcome]:
    if workers == 1 or len(trials) < 2:
        for trial in trials:
            leave()
            yield acting(trial)
        return
    yield from in_order(stack.enter_context(Processes(workers)), acting, trials, leave)


def _finished(path: Path) -> dict[Trial, Outcome]:
    """The outcomes in the run's own notes; a line that was cut short by a kill is run again."""
    found: dict[Trial, Outcome] = {}
    if not path.exists():
        return found
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    for line in whole:
        outcome = Outcome(**json.loads(line))
        found[Trial(outcome.actor, outcome.task, outcome.seed)] = outcome
    atomic.write_text(path, "".join(whole))
    return found


def _of_tasks(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    tasks = dict.fromkeys(outcome.task for outcome in outcomes)
    by_task = {task: _metrics([outcome for outcome in outcomes if outcome.task == task]) for task in tasks}
    return {"all": _metrics(outcomes), "tasks": by_task}


def _metrics(outcomes: Sequence[Outcome]) -> SuccessMetrics:
    return success_metrics(
        np.array([outcome.success for outcome in outcomes]),
        np.array([outcome.seed for outcome in outcomes]),
        steps=np.array([outcome.steps for outcome in outcomes]),
    )


def _say(run: Run, policies: Mapping[str, Any]) -> None:
    for name, entry in policies.items():
        for task, score in {**entry["tasks"], "all tasks": entry["all"]}.items():
            interval = score["success_interval"]
            run.log(
                f"{name:12} {task:60} {score['num_success']:3}/{score['num_episodes']:<3} "
                f"{score['success_rate']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
            )
