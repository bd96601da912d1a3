"""Run by the tests in a process of its own, which knows LeRobot and a folder, and nothing of xp or of this plugin.

Prints one JSON object: what `select_action` and LeRobot's real-time-chunking engine made of the policy.
"""

import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.factory import RTCInferenceConfig, create_inference_engine
from lerobot.rollout.inference.rtc import supports_rtc_inference
from lerobot.rollout.robot_wrapper import ThreadSafeRobot
from lerobot.utils.import_utils import register_third_party_plugins

STEPS, FPS, EXTRA_FRAMES = 200, 50, 1.2


def load(folder):
    """Policy and processors, by the type's name in config.json."""
    config = PreTrainedConfig.from_pretrained(folder)
    config.device = "cpu"
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    return policy, *make_pre_post_processors(
        config, folder, preprocessor_overrides={"device_processor": {"device": "cpu"}}
    )


def observe(policy, step):
    """A raw observation as a robot gives it: joints by name, images [h, w, 3] uint8."""
    random = np.random.default_rng(step)
    seen = {f"joint_{i}": float(value) for i, value in enumerate(5 + random.normal(size=3))}
    return seen | {
        name.removeprefix("observation.images."): random.integers(0, 255, (*feature.shape[1:], 3), dtype=np.uint8)
        for name, feature in policy.config.image_features.items()
    }


def features(policy):
    cameras = {
        name: {"dtype": "image", "shape": (*feature.shape[1:], 3), "names": ["height", "width", "channels"]}
        for name, feature in policy.config.image_features.items()
    }
    state = {"dtype": "float32", "shape": (3,), "names": [f"joint_{i}" for i in range(3)]}
    return {"observation.state": state} | cameras


def select(policy, preprocessor, postprocessor):
    """200 actions, one observation each."""
    from lerobot.policies.utils import prepare_observation_for_inference
    from lerobot.utils.feature_utils import build_dataset_frame

    policy.reset()
    actions = []
    for step in range(STEPS):
        frame = build_dataset_frame(features(policy), observe(policy, step), prefix="observation")
        batch = prepare_observation_for_inference(frame, torch.device("cpu"), "task", "robot")
        with torch.inference_mode():
            actions.append(postprocessor(policy.select_action(preprocessor(batch))))
    return torch.cat(actions)


def watch(policy, calls):
    """Make inference slower by `EXTRA_FRAMES` frames, and note what is asked and answered."""
    plain = policy.predict_action_chunk

    def predict(batch, inference_delay=None, prev_chunk_left_over=None):
        chunk = plain(batch, inference_delay=inference_delay, prev_chunk_left_over=prev_chunk_left_over)
        if prev_chunk_left_over is not None:
            calls.append((inference_delay, prev_chunk_left_over.clone(), chunk[0].clone()))
        time.sleep(EXTRA_FRAMES / FPS)
        return chunk

    policy.predict_action_chunk = predict


def chunk_in_real_time(policy, preprocessor, postprocessor):
    """200 actions from LeRobot's engine, whose thread predicts while the loop executes."""
    calls = []
    watch(policy, calls)
    engine = create_inference_engine(
        RTCInferenceConfig(rtc=RTCConfig(enabled=True, execution_horizon=10), queue_threshold=6),
        policy=policy, preprocessor=preprocessor, postprocessor=postprocessor,
        robot_wrapper=ThreadSafeRobot(SimpleNamespace(robot_type="robot", action_features={})),
        hw_features=features(policy), dataset_features={}, ordered_action_keys=[], task="task", fps=FPS, device="cpu",
    )  # fmt: skip
    engine.start()
    engine.reset()
    engine.resume()
    executed, end = [], time.monotonic() + 240
    while len(executed) < STEPS and time.monotonic() < end and not engine.failed:
        engine.notify_observation(observe(policy, len(executed)))
        action = engine.get_action(None)
        if action is not None:
            executed.append(action)
        time.sleep(1 / FPS)
    engine.stop()
    kept = [torch.equal(left[0], chunk[0]) for _, left, chunk in calls if left.any()]
    return {
        "failed": engine.failed, "executed": len(executed), "finite": bool(torch.stack(executed).isfinite().all()),
        "predictions": len(calls), "kept": sum(kept), "with_left_over": len(kept),
        "delays": sorted({delay for delay, _, _ in calls}),
    }  # fmt: skip


def main(folder):
    register_third_party_plugins()
    parts = load(folder)
    actions = select(*parts)
    found = {
        "type": parts[0].config.type,
        "supports_rtc": supports_rtc_inference(parts[0]),
        "actions": actions.tolist(),
    }
    print(json.dumps(found | {"engine": chunk_in_real_time(*parts), "xp": any(name == "xp" for name in sys.modules)}))


if __name__ == "__main__":
    main(sys.argv[1])
