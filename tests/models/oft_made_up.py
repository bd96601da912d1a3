"""Folders as OpenVLA-OFT's code writes them, small, and what its formulas answer: written from their description."""

import json
import shutil

import numpy as np
import torch
from openvla_made_up import made
from safetensors.numpy import load_file
from torch.nn import functional

from xp.models.policy import DataSpec

WIDTH = 32
HEADS = "2,4"
"""Attention heads of the towers of `openvla_made_up`."""
KEYS = {"libero": "libero_spatial_no_noops", "aloha": "aloha1_fold_shirt_30_demos", "other": "kitchen_demos"}
SIZES = {"libero": (7, 8), "aloha": (14, 14), "other": (7, 8)}
"""(action, state)."""


def statistics(action_dim, state_dim, seed=0):
    """Ranges of several sizes, one of which is tiny; a gripper of 0..1 behind the other actions, which stays."""
    rng = np.random.default_rng(seed)

    def entry(width):
        low, span = rng.uniform(-1, 0, width), rng.uniform(0.5, 2, width)
        span[1] = 1e-6
        high = low + span
        found = {"min": low, "q01": low + 0.1 * span, "mean": (low + high) / 2, "q99": high - 0.1 * span, "max": high}
        return {name: value.tolist() for name, value in {**found, "std": span / 4}.items()}

    action = {**entry(action_dim), "mask": [True] * (action_dim - 1) + [False]}
    return {"action": action, "proprio": entry(state_dim), "num_transitions": 40, "num_trajectories": 2}


def head_weights(action_dim, seed=1):
    """L1RegressionActionHead: a norm, a layer, two blocks of norm and layer, a norm, a layer; under DDP's names."""
    torch.manual_seed(seed)
    wide = WIDTH * action_dim
    shapes = {"model.layer_norm1": (wide,), "model.fc1": (WIDTH, wide)}
    for number in range(2):
        shapes |= {f"model.mlp_resnet_blocks.{number}.ffn.0": (WIDTH,)}
        shapes |= {f"model.mlp_resnet_blocks.{number}.ffn.1": (WIDTH, WIDTH)}
    return drawn(shapes | {"model.layer_norm2": (WIDTH,), "model.fc2": (action_dim, WIDTH)})


def projector_weights(state_dim, seed=2):
    torch.manual_seed(seed)
    return drawn({"fc1": (WIDTH, state_dim), "fc2": (WIDTH, WIDTH)})


def drawn(shapes):
    found = {}
    for name, shape in shapes.items():
        is_norm = len(shape) == 1
        found[f"module.{name}.weight"] = torch.randn(shape) / shape[-1] ** 0.5 + (1.0 if is_norm else 0.0)
        found[f"module.{name}.bias"] = 0.3 * torch.randn(shape[:1])
    return found


def data_of(robot):
    action_dim, state_dim = SIZES[robot]
    cameras = {"front": (28, 28, 3), "wrist": (28, 28, 3)}
    return DataSpec(cameras=cameras, action_dim=action_dim, state_dim=state_dim, fps=20.0, tasks=("push it",))


def oft_folder(root, robot="libero", *, step="150000", head=True, proprio=True):
    """A merged checkpoint: what save_pretrained writes, the statistics, and a file of torch for each part."""
    action_dim, state_dim = SIZES[robot]
    made(data=data_of(robot)).policy(None).save(root)
    (root / "xp.json").unlink()
    stats = {KEYS[robot]: statistics(action_dim, state_dim)}
    (root / "dataset_statistics.json").write_text(json.dumps(stats))
    config = json.loads((root / "config.json").read_text())
    base = statistics(action_dim, state_dim, seed=9)
    (root / "config.json").write_text(json.dumps({**config, "norm_stats": {"bridge_orig": base}}))
    if head:
        torch.save(head_weights(action_dim), root / f"action_head--{step}_checkpoint.pt")
    if proprio:
        torch.save(projector_weights(state_dim), root / f"proprio_projector--{step}_checkpoint.pt")
    return root


def unmerged(folder, adapter, root):
    """The same checkpoint before it is merged: the adapter alone, in a folder of its own that names no base."""
    root.mkdir()
    for name in ("dataset_statistics.json", "tokenizer.json", *(file.name for file in folder.glob("*_checkpoint.pt"))):
        shutil.copy(folder / name, root / name)
    (root / "lora_adapter").mkdir()
    shutil.copy(adapter / "adapter_model.safetensors", root / "lora_adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    config["auto_mapping"] = {"base_model_class": "OpenVLAForActionPrediction"}
    (root / "lora_adapter/adapter_config.json").write_text(json.dumps(config))
    return root


def observation(robot="libero", rows=2, cameras=("image", "wrist"), seed=3):
    rng = np.random.default_rng(seed)
    found = {f"observation.images.{name}": rng.integers(0, 256, (rows, 28, 28, 3), np.uint8) for name in cameras}
    found["observation.state"] = rng.uniform(-1.5, 1.5, (rows, SIZES[robot][1])).astype(np.float32)
    tasks = ["Push the red cube to the left", "push it", "push the blue ball", "lift it"]
    return {**found, "task": tasks[:rows]}


def cropped(picture, area=0.9):
    """The middle of a picture, corners on corners, bilinear."""
    from scipy.ndimage import map_coordinates

    side = np.sqrt(area)
    places = [(length - 1) * ((1 - side) / 2 + side * np.arange(length) / (length - 1)) for length in picture.shape[:2]]
    grid = np.meshgrid(*places, indexing="ij")
    scaled = picture.astype(np.float64) / 255
    found = np.stack([map_coordinates(scaled[..., k], grid, order=1) for k in range(3)], -1)
    return np.minimum(found * 255.5, 255).astype(np.uint8)


def pixels(picture):
    """Three channels for DINOv2, three for SigLIP."""
    scaled = torch.from_numpy(picture).permute(2, 0, 1).double() / 255
    imagenet = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))
    one = (scaled - imagenet[0][:, None, None]) / imagenet[1][:, None, None]
    return torch.cat([one, (scaled - 0.5) / 0.5]).float()[None]


def sequence_of(module, words, seen, row, *, cameras, state, crop=True):
    """[BOS, patches of each picture, the state, the words], one row."""
    embed = module.language_model.model.embed_tokens
    parts = [embed(torch.tensor([[1]]))]
    for name in cameras:
        picture = seen[f"observation.images.{name}"][row]
        parts.append(module.projector(module.vision_backbone(pixels(cropped(picture) if crop else picture))))
    if state is not None:
        parts.append(state)
    return torch.cat([*parts, embed(torch.tensor([words]))], 1)


def projected(weights, stats, values, ends=("q01", "q99")):
    """The state's token: normalised, clipped, two layers with the exact GELU."""
    low, high = (np.array(stats[name]) for name in ends)
    state = np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1)
    hidden = torch.from_numpy(state).float()[None]
    hidden = functional.linear(hidden, weights["module.fc1.weight"], weights["module.fc1.bias"])
    return functional.linear(functional.gelu(hidden), weights["module.fc2.weight"], weights["module.fc2.bias"])[None]


def read_whole(module, prompt, count, *, is_causal=False):
    """Outputs at the `count` places that tell the numbers: zeros and </s> behind the prompt, all see all."""
    end = module.language_model.model.embed_tokens(torch.tensor([[2]]))
    whole = torch.cat([prompt, torch.zeros(1, count, WIDTH), end], 1)
    length = whole.shape[1]
    mask = torch.zeros(1, 1, length, length)
    if is_causal:
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
    out = module.language_model(inputs_embeds=whole, attention_mask=mask, output_hidden_states=True, use_cache=False)
    first = prompt.shape[1] - 1
    return out.hidden_states[-1][:, first : first + count], out.logits[:, first : first + count]


def l1_head(weights, hidden, action_dim):
    """MLPResNet: [1, count, D] to [chunk, action]."""
    named = {name.removeprefix("module.model."): value for name, value in weights.items()}

    def norm(name, value):
        return functional.layer_norm(value, value.shape[-1:], named[f"{name}.weight"], named[f"{name}.bias"])

    def layer(name, value):
        return functional.linear(value, named[f"{name}.weight"], named[f"{name}.bias"])

    value = hidden.reshape(-1, action_dim * WIDTH)
    value = layer("fc1", norm("layer_norm1", value)).relu()
    for number in range(2):
        block = f"mlp_resnet_blocks.{number}.ffn"
        value = value + layer(f"{block}.1", norm(f"{block}.0", value)).relu()
    return layer("fc2", norm("layer_norm2", value))


def in_dataset_units(numbers, stats, ends=("q01", "q99")):
    low, high = (np.array(stats[name]) for name in ends)
    return np.where(stats["mask"], 0.5 * (numbers + 1) * (high - low + 1e-8) + low, numbers)


def weights_of(folder):
    return load_file(folder / "model.safetensors")
