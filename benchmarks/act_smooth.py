"""What conditioning on committed actions costs, and what packing all delays into one pass saves.

    python benchmarks/act_smooth.py            # two cameras of 96 px, batch 8, K = 4, chunk 30, default widths

Three steps (forward and backward) on the same batch: LeRobot's ACT, act_smooth for D delays packed in one pass, and the
same D delays one after the other, a pass each. Sides take turns within each round; CPU seconds of the process (all
threads) decide, since wall time on a shared machine does not.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig
from lerobot_policy_act_smooth_xp.modeling_act_smooth import ACTSmoothPolicy

CAMERAS, ACTION, CHUNK, PAST = ("top", "wrist"), 6, 30, 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delays", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=96, help="height and width of both cameras")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    act = _act(arguments)
    print(f"CPU ms per step, {len(CAMERAS)} x {arguments.size} px, batch {arguments.batch_size}, chunk {CHUNK}")
    print(f"{'D':>3} {'act':>8} {'packed':>8} {'apart':>8} {'packed/act':>18} {'packed/apart':>18}")
    for delays in arguments.delays:
        packed, apart = _smooth(arguments, delays)
        sides = {"act": act, "packed": packed, "apart": apart}
        for step in sides.values():
            step()
        rounds = [_round(sides, reverse=bool(number % 2)) for number in range(arguments.rounds)]
        times = [f"{min(r[name] for r in rounds) * 1e3:8.0f}" for name in sides]
        ratios = [_ratio([r["packed"] / r[other] for r in rounds]) for other in ("act", "apart")]
        print(f"{delays:>3} {' '.join(times)} {' '.join(ratios)}", flush=True)


def _round(sides: dict[str, Callable[[], None]], *, reverse: bool) -> dict[str, float]:
    found = {}
    for name in sorted(sides, reverse=reverse):
        start = time.process_time()
        sides[name]()
        found[name] = time.process_time() - start
    return found


def _ratio(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})".rjust(18)


def _features(size: int) -> dict[str, dict[str, PolicyFeature]]:
    inputs = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, size, size)) for name in CAMERAS}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (ACTION,))
    return {"input_features": inputs, "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}}


def _batch(policy: torch.nn.Module, arguments: argparse.Namespace) -> dict[str, torch.Tensor]:
    config = policy.config
    batch = {name: torch.randn(arguments.batch_size, *f.shape) for name, f in config.input_features.items()}
    steps = len(config.action_delta_indices)
    batch["action"] = torch.randn(arguments.batch_size, steps, ACTION)
    return batch | {"action_is_pad": torch.zeros(arguments.batch_size, steps, dtype=torch.bool)}


def _common(arguments: argparse.Namespace) -> dict[str, object]:
    return _features(arguments.size) | {
        "chunk_size": CHUNK, "n_action_steps": CHUNK, "use_vae": False, "pretrained_backbone_weights": None,
        "device": "cpu",
    }  # fmt: skip


def _act(arguments: argparse.Namespace) -> Callable[[], None]:
    policy = ACTPolicy(ACTConfig(**_common(arguments))).train()
    batch = _batch(policy, arguments)
    return lambda: policy(batch)[0].backward()


def _smooth(arguments: argparse.Namespace, delays: int) -> tuple[Callable[[], None], Callable[[], None]]:
    common = _common(arguments) | {"length_prefix_past": PAST}
    policy = ACTSmoothPolicy(ACTSmoothConfig(**common, length_prefix_future=delays)).train()
    batch = _batch(policy, arguments)
    latent = torch.zeros(arguments.batch_size, policy.config.latent_dim)
    past = batch["action"][:, :PAST], batch["action_is_pad"][:, :PAST]
    future = batch["action"][:, None, PAST : PAST + delays]

    def apart() -> None:
        for d in range(1, delays + 1):
            is_pad = (torch.arange(delays) >= d).expand(arguments.batch_size, 1, delays)
            policy.model(batch, latent, past, (future, is_pad)).abs().mean().backward()

    return lambda: policy(batch)[0].backward(), apart


if __name__ == "__main__":
    main()
