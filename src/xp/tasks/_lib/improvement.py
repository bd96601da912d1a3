"""The steps of `xp task=loop`; what each leaves is a function of the files before it and of the run's seed."""

import csv
import io
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xp import atomic
from xp.data import Windows, open_dataset
from xp.data.array_dataset import ArrayDataset
from xp.data.attempts import DrawnWindows, by_attempt, returns
from xp.data.writer import rewarding_format
from xp.envs.batch import Attempt, BatchActor, BatchEnv, BatchSuite, attempts, batch_suite
from xp.envs.exploring import Search
from xp.envs.suite import suite_of
from xp.errors import UserError
from xp.improve.selection import attempt_weights
from xp.metrics.intervals import Sums, bootstrap, paired_difference
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked
from xp.tasks._lib.attempting import ReturnMetrics, in_context, made_by, return_metrics
from xp.tasks._lib.loop_videos import film

if TYPE_CHECKING:
    from xp.models.policy import InContextPolicy

RETURNS, EVALUATIONS, MODELS, INITIAL = "returns.csv", "evaluations.json", "models", "initial"
RANDOM_STEPS = 1000
"""Steps of random actions whose observations give the statistics, as the published script takes them."""
COLLECTED_FROM = 10**8
"""The first initial state that attempts are collected from: far from all that are evaluated."""
HELD_OUT = ("held_out_initial", "held_out_final")
"""Evaluations of the first and of the chosen policy from further initial states. By those of the loops a policy was
chosen, so its return from them is too high."""
STATES_APART = 1000
"""Initial states between those of one run's seed and those of the next."""


@dataclass
class Improvement:
    """One run of the loop: the policy as it is now, and what every evaluation said."""

    run: Run
    suite: BatchSuite
    policy: "InContextPolicy"
    evaluations: dict[str, ReturnMetrics]
    """By `loop_NN` (`loop_00` is the policy before any loop), `expert` and those of `HELD_OUT`; in evaluations.json."""

    @classmethod
    def begin(cls, run: Run) -> "Improvement":
        """Prepare the policy, save it as models/initial, and evaluate it and the expert."""
        from xp.tasks._lib.loading import load

        suite = batch_suite(suite_of(run.config.env), "task=loop")
        if len(run.config.env.tasks) != 1:
            raise UserError(
                f"env.tasks={list(run.config.env.tasks)}: task=loop improves at one task. Give one of them."
            )
        place = run.folder / MODELS / INITIAL
        source = str(place) if place.exists() else run.config.pretrained_path
        policy = in_context(load(run.config, source), source, "pretrained_path")
        noted = run.folder / EVALUATIONS
        known = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
        self = cls(run, suite, policy, dict(known))
        if not place.exists():
            self.policy = self._prepared(policy)
            self._save(INITIAL)
        self.evaluate(0)
        if suite.max_expert_noise is not None and "expert" not in self.evaluations:
            self._note("expert", self._score(suite.batch_expert, forgets=False))
        return self

    @property
    def text(self) -> str:
        """The task as the policy knows it."""
        return self.suite.tasks[self.task]

    @property
    def task(self) -> str:
        """The suite's task."""
        return str(self.run.config.env.tasks[0])

    @property
    def loop(self) -> Any:
        """The section."""
        return self.run.config.loop

    @property
    def _first_state(self) -> int:
        """The first of the initial states that every policy is evaluated from."""
        return self.loop.first_seed + STATES_APART * self.run.config.seed

    def collect(self, number: int) -> None:
        """Leave the attempts of loop `number` (from 1) as the dataset loop_NN (from 00)."""
        root = self.run.folder / f"loop_{number - 1:02}"
        if root.exists():
            return
        self.policy = self._load(self.run.folder / MODELS / self._from(number))
        made = self._attempts(number)
        with rewarding_format(None).create(
            root,
            fps=self.run.config.env.fps,
            cameras={},
            state_names=self.suite.state_names,
            action_names=self.suite.action_names,
            robot_type=self.suite.robot_type,
        ) as writer:
            for each in made:
                writer.add_episode(self.text, {}, each.state, each.action, reward=each.reward, truncated=not each.ended)
        scores = return_metrics(made)
        self.run.log(
            f"loop {number}: {len(made)} attempts, return {scores['mean_return']:.2f} on average, "
            f"{max(scores['returns']):.2f} at best, {scores['mean_length']:.0f} steps"
        )

    def learn(self, number: int) -> None:
        """Learn from the chosen attempts; leaves models/loop_NN."""
        from xp.improve.refine import Refinement, refine

        place = self.run.folder / MODELS / f"loop_{number:02}"
        if place.exists():
            self.policy = self._load(place)
            return
        self.policy = self._load(self.run.folder / MODELS / self._from(number))
        batches = self._batches(number)
        how = Refinement(steps=self.loop.finetune_steps_per_loop, lr=self.loop.lr)
        with self.run.progress(how.steps, f"loop {number}: learning") as bar:

            def on_step(step: int, loss: float) -> None:
                leave_if_asked(self.run)
                bar.advance(loss=loss)

            seed = self.run.config.seed * 10**6 + number * 10**4
            losses = refine(self.policy, batches.at, self.policy.weights_of(self.text), how, seed=seed, on_step=on_step)
        self.run.log(f"loop {number}: loss {losses[0]:.4f} -> {np.mean(losses[-20:]):.4f}")
        self._save(f"loop_{number:02}")

    def evaluate(self, number: int) -> None:
        """Film and score the policy from the fixed initial states, without noise; one that got worse is noted."""
        name = f"loop_{number:02}"
        film(self.run, self.suite, self.task, self._actor, name, first=self._first_state)
        if name not in self.evaluations:
            self._note(name, self._score(self._actor, forgets=True))

    def has_stopped(self, number: int) -> bool:
        """Whether `loop.patience` loops have brought nothing better."""
        patience = self.loop.patience
        best = self._best(number + 1)
        if patience is None or number - best < patience:
            return False
        self.run.log(f"No better evaluation in {patience} loops since loop {best}: the loop ends.")
        return True

    def finish(self) -> None:
        """Write summary.json and the figure; the policy that the run ends with is final/."""
        from xp.tasks._lib.improvement_figures import draw

        chosen = self._last()
        self.policy = self._load(self.run.folder / MODELS / chosen)
        with atomic.folder(self.run.folder / "final") as folder:
            self.policy.save(folder)
        draw(self.run.folder / "figures", self.evaluations)
        gain = self._held_out_gain(chosen)
        expert = self.evaluations.get("expert")
        self.run.write_summary(
            {
                "task": "loop",
                "loop": self.loop.name,
                "robot": self.text,
                "final": chosen,
                "returns": {name: entry["mean_return"] for name, entry in self.evaluations.items()},
                "held_out": {name: self.evaluations[name]["mean_return"] for name in HELD_OUT},
                "gain": gain,
                "expert_return": None if expert is None else expert["mean_return"],
            }
        )
        low = "" if gain["low"] is None else f" [{gain['low']:.2f}, {gain['high']:.2f}]"
        self.run.log(
            f"{self.loop.name}: {gain['value']:+.2f}{low} over the policy before any loop, by {chosen}, from initial "
            "states that nothing was chosen by"
        )

    def _prepared(self, policy: "InContextPolicy") -> "InContextPolicy":
        observation, action = self.suite.signs
        signs = (observation, action) if self.loop.turn_signs else ([1.0] * len(observation), [1.0] * len(action))
        observed = self._random_observations() if self.loop.statistics == "random" else None
        return policy.with_task(
            self.text, reference=self.loop.reference_robot, key="loop.reference_robot", signs=signs, observed=observed
        )

    def _random_observations(self) -> np.ndarray:
        """Observations [steps, S] of random actions: half a Gaussian, clipped to -1..1."""
        draws, seen = np.random.default_rng([self.run.config.seed, 5]), []
        with closing(self.suite.make_batch(self.task, 1)) as env:
            observation, seed = env.reset([self.run.config.seed]), self.run.config.seed
            for _ in range(RANDOM_STEPS):
                seen.append(observation[0])
                stepped = env.step(np.clip(0.5 * draws.standard_normal((1, env.action_dim)), -1, 1))
                seed += 1
                observation = env.reset([seed]) if stepped.ended[0] else stepped.observation
        return np.stack(seen)

    def _attempts(self, number: int) -> list[Attempt]:
        """The attempts of a loop in the order of their seeds."""
        loop, config = self.loop, self.run.config
        wanted = loop.episodes_per_loop
        first = COLLECTED_FROM + (config.seed * 100 + number) * 10**4
        count = min(loop.envs, wanted)
        plan = [list(range(first + row, first + wanted, count)) for row in range(count)]
        passed = (number - 1) / max(loop.num_improvement_loops - 1, 1)
        factor = 1 + (loop.noise_last - 1) * passed
        noise = Search(count, config.seed, shift=factor * loop.noise_shift, step=factor * loop.noise_step)
        found: dict[int, Attempt] = {}
        with (
            closing(self.suite.make_batch(self.task, count, threads=loop.threads)) as env,
            self.run.progress(wanted, f"loop {number}: collecting", unit="attempt") as bar,
        ):
            steps = loop.max_steps_per_episode
            forgets = not loop.across_attempts
            for made in attempts(env, self._actor(env), plan, noise=noise, forgets=forgets, max_steps=steps):
                found[made.seed] = made
                bar.advance()
                leave_if_asked(self.run)
        return [found[seed] for seed in sorted(found)]

    def _actor(self, env: BatchEnv) -> BatchActor:
        return self.policy.acting_in([self.text] * env.count, context=self.loop.context_len)

    def _held_out_gain(self, chosen: str) -> Any:
        """Return of the chosen policy minus that of the one before any loop, from states that chose nothing."""
        for name, model in zip(HELD_OUT, (INITIAL, chosen), strict=True):
            if name not in self.evaluations:
                self.policy = self._load(self.run.folder / MODELS / model)
                self._note(name, self._score(self._actor, forgets=True, held_out=True))
        before, after = (self.evaluations[name]["returns"] for name in HELD_OUT)
        return paired_difference(_sums(after), _sums(before))

    def _score(self, actor: Any, *, forgets: bool, held_out: bool = False) -> ReturnMetrics:
        loop = self.loop
        first = self._first_state + (loop.eval_episodes if held_out else 0)
        made = made_by(
            self.run,
            self.suite,
            self.task,
            actor,
            range(first, first + loop.eval_episodes),
            envs=loop.eval_episodes,
            threads=loop.threads,
            max_steps=loop.max_steps_per_episode,
            forgets=forgets,
        )
        return return_metrics(made)

    def _batches(self, number: int) -> DrawnWindows:
        """Windows of the attempts that loop `number` learns from."""
        loop, spec = self.loop, self.policy.spec
        numbers = range(number) if loop.replay else [number - 1]
        datasets = [self._dataset(self.run.folder / f"loop_{each:02}") for each in numbers]
        parts = [each if loop.across_attempts else by_attempt(each) for each in datasets]
        scores = np.concatenate([returns(part) for part in parts])
        weights = attempt_weights(scores, loop.select, share=loop.share, temperature=loop.temperature)
        ends = np.cumsum([part.episodes.num for part in parts])
        kept = (
            f"{int((weights > 0).sum())} of {len(weights)} episodes, return {np.average(scores, weights=weights):.2f}"
        )
        shortest = min(int(part.episodes.lengths.max()) for part in parts)
        note = "" if shortest > spec.history else f"; none is longer than the context ({spec.history - 1} steps)"
        self.run.log(f"loop {number}: learning from {kept}{note}")
        before, ahead = spec.window
        windows = []
        for part, weight in zip(parts, np.split(weights, ends[:-1]), strict=True):
            chosen = np.flatnonzero(weight > 0).tolist()
            if chosen:
                shaped = Windows(part, {}, chosen, history=spec.history, horizon=ahead, before=before)
                windows.append((shaped, weight[chosen]))
        return DrawnWindows(windows, batch_size=loop.batch_size, seed=self.run.config.seed * 1000 + number)

    def _dataset(self, root: Path) -> ArrayDataset:
        opened = open_dataset(root)
        assert isinstance(opened, ArrayDataset), "trajectories are in memory"
        return opened

    def _from(self, number: int) -> str:
        """The model that loop `number` begins with: the newest, or where it is rolled back to the best so far."""
        newest, best = number - 1, self._best(number)
        if not self.loop.roll_back or best == newest or not self._is_worse(best, newest):
            return _model(newest)
        self.run.log(f"loop {number}: back to loop {best}, whose evaluation was better")
        return _model(best)

    def _last(self) -> str:
        """The model that the run ends with: the newest, or where it is rolled back the best by its evaluation."""
        count = sum(name.startswith("loop_") for name in self.evaluations)
        return _model(self._best(count) if self.loop.roll_back else count - 1)

    def _best(self, count: int) -> int:
        """Which of the policies of loops 0 .. count - 1 has the best evaluation; of equals the first."""
        return max(range(count), key=lambda each: (self._mean(each), -each))

    def _is_worse(self, best: int, newest: int) -> bool:
        """Whether the newest policy's returns are below the best one's by more than chance."""
        difference = self._gain(best, newest)
        return difference["high"] is not None and difference["high"] < 0

    def _gain(self, first: int, second: int) -> Any:
        """Return of one loop's policy minus that of another, from the same initial states, with its interval."""
        one, other = (self.evaluations[f"loop_{each:02}"]["returns"] for each in (second, first))
        return paired_difference(_sums(one), _sums(other))

    def _mean(self, number: int) -> float:
        return self.evaluations[f"loop_{number:02}"]["mean_return"]

    def _load(self, place: Path) -> "InContextPolicy":
        from xp.tasks._lib.loading import load

        return in_context(load(self.run.config, str(place)), str(place), "pretrained_path")

    def _save(self, name: str) -> None:
        with atomic.folder(self.run.folder / MODELS / name) as folder:
            self.policy.save(folder)

    def _note(self, name: str, scores: ReturnMetrics) -> None:
        """Keep an evaluation, and say it."""
        self.evaluations[name] = scores
        atomic.write_json(self.run.folder / EVALUATIONS, self.evaluations)
        atomic.write_text(self.run.folder / RETURNS, _table(self.evaluations))
        interval = scores["return_interval"]
        self.run.log(
            f"{name}: return {scores['mean_return']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}], "
            f"{scores['mean_length']:.0f} steps, from {scores['num_attempts']} initial states"
        )


def _model(number: int) -> str:
    """The name below models/ of what loop `number` left; 0 is the policy before any."""
    return INITIAL if number == 0 else f"loop_{number:02}"


def _sums(values: list[float]) -> Sums:
    number = len(values)
    return Sums(episodes=np.arange(number), sums=np.array(values), counts=np.ones(number), windows=number)


def _table(evaluations: dict[str, ReturnMetrics]) -> str:
    """returns.csv: a line an evaluation; `control` is the policy before any loop, whose returns repeat."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("policy", "mean_return", "low", "high", "mean_length", "length_low", "length_high", "attempts"))
    control = {"control": evaluations["loop_00"]} if "loop_00" in evaluations else {}
    for name, entry in {**evaluations, **control}.items():
        lengths = bootstrap(_sums([float(each) for each in entry["lengths"]]))
        ends = entry["return_interval"]
        numbers = (
            entry["mean_return"],
            ends["low"],
            ends["high"],
            entry["mean_length"],
            lengths["low"],
            lengths["high"],
        )
        rows.writerow((name, *numbers, entry["num_attempts"]))
    return text.getvalue()
