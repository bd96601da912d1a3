"""Find the gait of a quadruped: `python tools/quadruped_gaits.py env=go2` prints what goes into conf/env/go2.yaml.

The cross-entropy method (Rubinstein 1999, "The cross-entropy method for combinatorial and continuous optimization"):
gaits are drawn around a mean, walk from the same initial states, and the best of them draw mean and spread towards
themselves. Everything is drawn from SEED, so the same command finds the same numbers on one machine.

`generations=90 sigma=0.6 steps=400` behind the robot goes on from the gait that stands in its file, by CMA-ES (Hansen
2016, "The CMA evolution strategy: a tutorial", arXiv:1604.00772), which also learns which numbers change together.
"""

import sys

import numpy as np

from xp.config.compose import compose
from xp.envs.quadruped.gait import GAIT_KEYS, Trot, gait_of, numbers_of
from xp.envs.quadruped.simulation import Simulation
from xp.envs.quadruped.suite import QuadrupedSuite
from xp.envs.suite import suite_of

SEED = 0
GENERATIONS, GAITS, BEST, STATES, STEPS = 16, 20, 5, 2, 250
"""Of the search; `generations=40` behind the robot searches longer."""
CHECKED = 20
"""Initial states of whole episodes that the gait found is scored on at the end."""
SMOOTHING = 0.7
"""Share of the old spread in the new one; `smoothing=0.85` narrows more slowly."""
NARROWEST = 0.05
"""Least spread, as a share of the first; `narrowest=0.1`."""
ADAPTED, ADAPTED_STEPS = 32, 200
"""Gaits of a generation of CMA-ES, and how many steps each walks from one initial state; `steps=400`."""
FIRST = {
    "frequency": (3.1, 0.3),
    "stride": (0.15, 0.04),
    "lift": (0.3, 0.08),
    "thigh_front": (-0.05, 0.12),
    "thigh_rear": (0.1, 0.12),
    "calf_front": (0.2, 0.15),
    "calf_rear": (0.3, 0.15),
    "push_front": (0.2, 0.12),
    "push_rear": (0.2, 0.12),
    "hip": (0.0, 0.04),
    "pitch": (0.0, 0.3),
    "pitch_rate": (0.0, 0.03),
    "roll": (0.2, 0.3),
    "roll_rate": (0.0, 0.03),
    "hip_roll": (0.4, 0.3),
    "hip_roll_rate": (0.0, 0.03),
    "yaw_rate": (0.0, 0.15),
}
"""Mean and spread of the first gaits; `calf_rear=0.1` begins with another mean."""


def returns(simulation: Simulation, gaits: np.ndarray, seeds: list[int], steps: int) -> np.ndarray:
    """Return of each gait [G, numbers] from each initial state, [G, seeds]; a fall ends it."""
    trot = Trot(np.repeat(gaits, len(seeds), axis=0), simulation.settings)
    observation = simulation.reset(seeds * len(gaits))
    total, walks = np.zeros(simulation.count), np.ones(simulation.count, bool)
    for step in range(steps):
        walked = simulation.step(trot.act(observation, np.full(simulation.count, step)))
        observation, total = walked.observation, total + walked.reward * walks
        walks &= ~walked.ended
        fallen = np.flatnonzero(walked.ended)
        if len(fallen):  # begun anew and not counted, since a robot on the ground is dear to simulate
            observation[fallen] = simulation.reset([0] * len(fallen), fallen.tolist())
    return total.reshape(len(gaits), len(seeds))


def adapted(suite: QuadrupedSuite, generations: int, sigma: float, walked: int) -> np.ndarray:
    """The gait [numbers] that CMA-ES comes to from the suite's own; `sigma` is in units of the spreads of `FIRST`.

    Names and default values are those of the tutorial (table 1), without negative weights.
    """
    gait = gait_of(suite.gait)
    assert gait is not None, "a robot with a gait to begin with"
    begin, scale = numbers_of(gait)[0], np.array([FIRST[key][1] for key in GAIT_KEYS])
    n, count, draws = len(begin), ADAPTED, np.random.default_rng(SEED)
    weights = np.log(count // 2 + 0.5) - np.log(np.arange(1, count // 2 + 1))
    weights /= weights.sum()
    mass = 1 / (weights**2).sum()
    c_sigma, c_path = (mass + 2) / (n + mass + 5), (4 + mass / n) / (n + 4 + 2 * mass / n)
    damping = 1 + c_sigma + 2 * max(0, np.sqrt((mass - 1) / (n + 1)) - 1)
    c_one = 2 / ((n + 1.3) ** 2 + mass)
    c_rank = min(1 - c_one, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
    length = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    covariance, mean, path, path_sigma = np.eye(n), np.zeros(n), np.zeros(n), np.zeros(n)
    simulation = Simulation(suite.settings, count)
    for generation in range(generations):
        values, axes = np.linalg.eigh(covariance)
        lengths = np.sqrt(np.maximum(values, 1e-20))
        steps = (draws.standard_normal((count, n)) * lengths) @ axes.T
        score = returns(simulation, begin + scale * (mean + sigma * steps), [generation], walked)[:, 0]
        best = steps[np.argsort(-score)[: count // 2]]
        moved = weights @ best
        mean = mean + sigma * moved
        whitened = axes @ ((axes.T @ moved) / lengths)
        path_sigma = (1 - c_sigma) * path_sigma + np.sqrt(c_sigma * (2 - c_sigma) * mass) * whitened
        size = np.linalg.norm(path_sigma)
        short = size / np.sqrt(1 - (1 - c_sigma) ** (2 * (generation + 1))) < (1.4 + 2 / (n + 1)) * length
        path = (1 - c_path) * path + short * np.sqrt(c_path * (2 - c_path) * mass) * moved
        one = np.outer(path, path) + (1 - short) * c_path * (2 - c_path) * covariance
        covariance = (1 - c_one - c_rank) * covariance + c_one * one + c_rank * (best.T * weights) @ best
        sigma *= np.exp(c_sigma / damping * (size / length - 1))
        print(f"# generation {generation}: best {score.max():.3f}, spread {sigma:.3f}", flush=True)
    return begin + scale * mean


def crossed(suite: QuadrupedSuite, options: dict[str, float], first: dict[str, float]) -> np.ndarray:
    """The gait [numbers] that the cross-entropy method comes to from `FIRST`, with other means where given."""
    draws = np.random.default_rng(SEED)
    mean, spread = (np.array([FIRST[key][place] for key in GAIT_KEYS]) for place in (0, 1))
    mean = np.array([first.get(key, value) for key, value in zip(GAIT_KEYS, mean, strict=True)])
    smoothing, least = options["smoothing"], options["narrowest"] * spread
    simulation = Simulation(suite.settings, GAITS * STATES)
    weights = np.log(BEST + 0.5) - np.log(np.arange(1, BEST + 1))
    weights /= weights.sum()
    for generation in range(round(options["generations"])):
        gaits = mean + spread * draws.standard_normal((GAITS, len(mean)))
        gaits[0] = mean
        seeds = [generation * STATES + place for place in range(STATES)]
        score = returns(simulation, gaits, seeds, STEPS).mean(1)
        best = gaits[np.argsort(-score)[:BEST]]
        deviation = np.sqrt(weights @ (best - mean) ** 2)
        mean, spread = weights @ best, np.maximum(smoothing * spread + (1 - smoothing) * deviation, least)
        print(f"# generation {generation}: best {score.max():.2f}, mean gait {score[0]:.2f}", flush=True)
    return mean


def main() -> None:
    """Search, check on new initial states, print."""
    options = {
        "generations": float(GENERATIONS),
        "smoothing": SMOOTHING,
        "narrowest": NARROWEST,
        "sigma": 0.0,
        "steps": ADAPTED_STEPS,
    }
    told = {
        name: value for name, _, value in (each.partition("=") for each in sys.argv[1:]) if name in (*options, *FIRST)
    }
    options |= {name: float(value) for name, value in told.items() if name in options}
    first = {name: float(value) for name, value in told.items() if name in FIRST}
    suite = suite_of(compose([each for each in sys.argv[1:] if each.partition("=")[0] not in told]).env)
    assert isinstance(suite, QuadrupedSuite), "give a quadruped: env=go2"
    mean = (
        adapted(suite, round(options["generations"]), options["sigma"], round(options["steps"]))
        if options["sigma"]
        else crossed(suite, options, first)
    )
    gait = np.round(mean, 4)
    found = returns(Simulation(suite.settings, CHECKED), gait[None], list(range(10**6, 10**6 + CHECKED)), 1000)
    print(f"# {CHECKED} episodes: mean return {found.mean():.2f}, least {found.min():.2f}")
    print("gait:")
    for key, value in zip(GAIT_KEYS, gait.tolist(), strict=True):
        print(f"  {key}: {value}")


if __name__ == "__main__":
    main()
