"""ACT-smooth here and as its author published it: folders of each opened by the other, and how far the answers differ.

python benchmarks/first_act_smooth.py PYTHON, where PYTHON is of an environment with LeRobot 0.6.1 and
lerobot_policy_act_smooth 0.1.0 (`uv pip install lerobot[dataset,training]==0.6.1 lerobot_policy_act_smooth==0.1.0`).
"""

import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.processor import PolicyProcessorPipeline

FIRST = "lerobot_policy_act_smooth"
PLUGIN = FIRST if importlib.util.find_spec(FIRST) else f"{FIRST}_xp"
WIDTH, PAST, FUTURE = 6, 4, 2


def made(folder, *, relative):
    """Save a small policy of the plugin that this environment has."""
    package = importlib.import_module(f"{PLUGIN}.configuration_act_smooth")
    own = {} if PLUGIN == FIRST else {"mask": "original"}
    camera = PolicyFeature(FeatureType.VISUAL, (3, 64, 64))
    config = package.ACTSmoothConfig(
        input_features={
            "observation.images.a": camera, "observation.state": PolicyFeature(FeatureType.STATE, (WIDTH,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (WIDTH,))},
        chunk_size=10, n_action_steps=10, length_prefix_past=PAST, length_prefix_future=FUTURE, dim_model=32, n_heads=4,
        dim_feedforward=64, n_encoder_layers=2, use_vae=False, pretrained_backbone_weights=None, device="cpu",
        push_to_hub=False, use_action_relative=relative, **own,
    )  # fmt: skip
    torch.manual_seed(1)
    stats = {
        key: {"mean": torch.full((WIDTH,), 2.0), "std": torch.full((WIDTH,), 3.0)}
        for key in ("action", "observation.state")
    }
    stats["observation.images.a"] = {"mean": torch.full((3, 1, 1), 0.4), "std": torch.full((3, 1, 1), 0.2)}
    policy = importlib.import_module(f"{PLUGIN}.modeling_act_smooth").ACTSmoothPolicy(config, dataset_stats=stats)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    policy.save_pretrained(folder)
    make = importlib.import_module(f"{PLUGIN}.processor_act_smooth").make_act_smooth_pre_post_processors
    for processor in make(config, dataset_stats=stats):
        processor.save_pretrained(folder)


def answers(folder):
    """The chunks that this environment's plugin gives for fixed observations and prefixes, in dataset units."""
    policy = importlib.import_module(f"{PLUGIN}.modeling_act_smooth").ACTSmoothPolicy.from_pretrained(folder).eval()
    before = PolicyProcessorPipeline.from_pretrained(folder, config_filename="policy_preprocessor.json")
    steps = [step for step in before.steps if type(step).__name__ == "NormalizerProcessorStep"]
    draw = torch.Generator().manual_seed(2)
    batch = {
        "observation.images.a": torch.rand(2, 3, 64, 64, generator=draw),
        "observation.state": torch.randn(2, WIDTH, generator=draw),
    }
    normal = before(dict(batch))
    normal["observation.images"] = [normal["observation.images.a"]]
    found = []
    for known in range(1, FUTURE + 1):
        prefix = torch.randn(2, PAST + FUTURE, WIDTH, generator=draw)
        is_pad = torch.arange(PAST + FUTURE)[None].expand(2, -1) >= PAST + known
        asked = normal | {"inference_action": prefix, "inference_action_is_pad": is_pad}
        with torch.no_grad():
            found.append(policy.predict_action_chunk(asked))
    assert steps, "the preprocessor normalises"
    return torch.stack(found)


def main():
    """Both directions, with and without the first plugin's relative actions."""
    if sys.argv[1] == "made":
        made(Path(sys.argv[2]), relative=sys.argv[3] == "True")
    elif sys.argv[1] == "answers":
        print(json.dumps(answers(Path(sys.argv[2])).tolist()))
    else:
        for relative in (False, True):
            for maker in (sys.argv[1], sys.executable):
                folder = Path(tempfile.mkdtemp()) / "policy"
                _run(maker, "made", folder, relative)
                one, two = (
                    torch.tensor(json.loads(_run(p, "answers", folder).splitlines()[-1]))
                    for p in (sys.argv[1], sys.executable)
                )
                who = "published" if maker == sys.argv[1] else "this plugin"
                differ, largest = float((one - two).abs().max()), float(two.abs().max())
                print(f"made by {who}, use_action_relative={relative}: differ by {differ:.2e} of {largest:.2f}")


def _run(python, *words):
    done = subprocess.run([python, __file__, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} {words}:\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
