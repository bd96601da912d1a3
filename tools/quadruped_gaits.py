"""Find the gait of a quadruped: `python tools/quadruped_gaits.py env=go2` prints what goes into conf/env/go2.yaml.

The cross-entropy method (Rubinstein 1999, "The cross-entropy method for combinatorial and continuous optimization"):
gaits are drawn around a mean, walk from the same initial states, and the best of them draw mean and spread towards
themselves. Everything is drawn from SEED, so the same command finds the same numbers on one machine.
"""

import sys

import numpy as np

from xp.config.compose import compose
from xp.envs.quadruped.gait import GAIT_KEYS, Trot
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


def main() -> None:
    """Search, check on new initial states, print."""
    options = {"generations": float(GENERATIONS), "smoothing": SMOOTHING, "narrowest": NARROWEST}
    told = {
        name: value for name, _, value in (each.partition("=") for each in sys.argv[1:]) if name in (*options, *FIRST)
    }
    options |= {name: float(value) for name, value in told.items() if name in options}
    smoothing = options["smoothing"]
    first = {name: float(value) for name, value in told.items() if name in FIRST}
    suite = suite_of(compose([each for each in sys.argv[1:] if each.partition("=")[0] not in told]).env)
    assert isinstance(suite, QuadrupedSuite), "give a quadruped: env=go2"
    draws = np.random.default_rng(SEED)
    mean, spread = (np.array([FIRST[key][place] for key in GAIT_KEYS]) for place in (0, 1))
    mean = np.array([first.get(key, value) for key, value in zip(GAIT_KEYS, mean, strict=True)])
    least = options["narrowest"] * spread
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
    gait = np.round(mean, 4)
    found = returns(Simulation(suite.settings, CHECKED), gait[None], list(range(10**6, 10**6 + CHECKED)), 1000)
    print(f"# {CHECKED} episodes: mean return {found.mean():.2f}, least {found.min():.2f}")
    print("gait:")
    for key, value in zip(GAIT_KEYS, gait.tolist(), strict=True):
        print(f"  {key}: {value}")


if __name__ == "__main__":
    main()
