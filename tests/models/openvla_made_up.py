"""Small OpenVLAs and data for them."""

import numpy as np

from xp.models.family import BuildRequest
from xp.models.openvla.build import build
from xp.models.policy import DataSpec, DataTransforms

CAMERAS = {"front": (40, 48, 3), "wrist": (32, 32, 3)}
TASKS = ("push the red cube to the left", "push the blue ball")
DATA = DataSpec(cameras=CAMERAS, action_dim=7, state_dim=3, fps=20.0, tasks=TASKS)
NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")
MODEL = {
    "name": "openvla_small", "family": "openvla", "lr_peak": 1e-3, "cameras": None, "image_size": [28, 28],
    "patch": 14, "dino": {"width": 16, "layers": 3, "heads": 2, "mlp": 24},
    "siglip": {"width": 16, "layers": 3, "heads": 4, "mlp": 24},
    "language": {"vocabulary": 576, "width": 32, "layers": 2, "heads": 4, "kv_heads": None, "mlp": 48},
    "tokenizer": None, "unnorm_key": "toy", "chunk_mode": "autoregressive", "head": "token", "proprio": False,
    "rotation_unit": 1.0,
}  # fmt: skip
MODES = (
    {"chunk_mode": "autoregressive"},
    {"chunk_mode": "parallel"},
    {"chunk_mode": "parallel", "head": "l1", "proprio": True, "cameras": ["front", "wrist"]},
    {"chunk_mode": "subsample"},
    {"chunk_mode": "accumulate"},
    {"chunk_mode": "oft"},
    {"chunk_mode": "oft", "head": "l1", "proprio": True, "cameras": ["front", "wrist"]},
)


def statistics(action_dim=7, state_dim=3):
    """Of a gripper of 0..1 behind six deltas, the third of which never moves."""
    low, high = np.full(action_dim, -0.5, np.float32), np.full(action_dim, 0.5, np.float32)
    low[-1], high[-1] = 0, 1
    low[2] = high[2] = 0.25
    action = {
        "mean": (low + high) / 2, "std": (high - low) / 4, "min": low, "max": high,
        "p01": np.where(low == high, low, low * np.float32(0.9)),
        "p99": np.where(low == high, high, high * np.float32(0.9)), "mask": low != high,
    }  # fmt: skip
    one = np.ones(state_dim, np.float32)
    proprio = {"mean": 0 * one, "std": one, "min": -3 * one, "max": 3 * one, "p01": -2 * one, "p99": 2 * one}
    return {"action": action, "proprio": {**proprio, "mask": one > 0}, "num_transitions": 40, "num_trajectories": 2}


def made(model=MODEL, *, horizon=4, seed=0, data=DATA, pretrained=None, **changed):
    request = BuildRequest(
        {**model, **changed}, data=data, statistics=statistics(data.action_dim, data.state_dim), horizon=horizon,
        seed=seed, pretrained=(pretrained, None) if pretrained else None, transforms=DataTransforms(action_names=NAMES),
    )  # fmt: skip
    return build(request)


def batch_for(spec, size=3, seed=0, action_dim=7):
    """Windows as `xp.data.Windows` gives them; the last sample ends with padding."""
    rng = np.random.default_rng(seed)
    images = {
        f"observation.images.{name}": rng.integers(0, 256, (size, 1, *shape), np.uint8)
        for name, shape in CAMERAS.items()
    }
    pad = np.zeros((size, spec.horizon), bool)
    pad[-1, -1] = spec.horizon > 1
    actions = rng.uniform(-0.45, 0.45, size=(size, spec.horizon, action_dim)).astype(np.float32)
    actions[..., -1] = rng.integers(0, 2, actions.shape[:-1])
    actions[..., 2] = 0.25
    return {
        **images,
        "observation.state": rng.normal(size=(size, 1, 3)).astype(np.float32),
        "observation_is_pad": np.zeros((size, 1), bool),
        "action": actions,
        "action_is_pad": pad,
        "task": [TASKS[row % 2] for row in range(size)],
        "episode_index": np.zeros(size, np.int64),
        "frame_index": np.arange(size, dtype=np.int64),
    }
