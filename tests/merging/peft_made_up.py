"""Tiny models with PEFT adapters that peft itself made and saved, and what peft's own merge gives."""

import json

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from xp.checkpoints.open import open_checkpoint


class Zoo(nn.Module):
    """A layer of each kind that PEFT adapts, square and not."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.wide = nn.Linear(4, 6)
        self.square = nn.Linear(4, 4)
        self.layers = nn.ModuleList(nn.ModuleDict({"proj": nn.Linear(4, 4), "up": nn.Linear(4, 5)}) for _ in range(3))
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(3, 4, 2), nn.Conv2d(3, 4, (2, 3)), nn.Conv3d(2, 3, 2)
        self.point = nn.Conv2d(3, 4, 1)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.square(x))


class Turned(nn.Module):
    """Layers that lie [in, out], as GPT-2 has them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.turned, self.turned_square = Conv1D(6, 4), Conv1D(4, 4)

    def forward(self, x):
        return self.turned(self.turned_square(self.embed(x)))


class Mixed(Turned):
    """Both kinds, with a square one of each that nothing but the module tells."""

    def __init__(self):
        super().__init__()
        self.wide, self.square = nn.Linear(4, 6), nn.Linear(4, 4)


def base_of(make, folder, dtype=torch.float32, config=None, leave=()):
    """A base checkpoint of a freshly drawn model; `leave` are names that are tied to others, and not stored."""
    torch.manual_seed(0)
    model = make().to(dtype)
    folder.mkdir(parents=True)
    shared = {name: value.clone() for name, value in model.state_dict().items() if name not in leave}
    save_file(shared, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {}))
    return model


def adapter_of(make, folder, base, seed=1, dtype=torch.float32, change=None, **options):
    """A trained adapter (its weights are drawn), saved by peft, that names `base`."""
    torch.manual_seed(0)
    model = get_peft_model(make().to(dtype), LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    model.save_pretrained(folder)
    content = json.loads((folder / "adapter_config.json").read_text())
    content |= {"base_model_name_or_path": str(base), **(change or {})}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return folder


def merged_by_peft(make, folder, dtype=torch.float32, exact=False):
    """{name: array} of `merge_and_unload`; `exact`, or a `dtype` of float64, makes the sums in float64."""
    torch.manual_seed(0)
    stored = torch.float32 if dtype == torch.float64 else dtype
    model = PeftModel.from_pretrained(make().to(stored), folder)
    if exact or dtype == torch.float64:
        model = model.double()
    merged = model.merge_and_unload()
    return {name: value.detach().double().numpy() for name, value in merged.state_dict().items()}


def merged_by_xp(folder, base=None):
    """{name: array} as a merge reads the adapter, in ranges that cut rows."""
    reader = open_checkpoint(folder, base=base).reader
    found = {}
    for name, leaf in reader.leaves.items():
        edges = sorted({0, leaf.size // 3, leaf.size // 2, leaf.size})
        parts = [np.array(reader.read(name, start, stop)) for start, stop in zip(edges, edges[1:])]
        found[name] = np.concatenate(parts).reshape(leaf.shape) if parts else np.zeros(leaf.shape)
    return found


def agree(got, wanted, relative=1e-6):
    """Whether arrays are the same up to `relative` of the largest value around."""
    assert got.keys() <= wanted.keys()
    for name, array in got.items():
        scale = max(np.abs(wanted[name]).max(initial=0.0), 1.0)
        np.testing.assert_allclose(array.astype(np.float64), wanted[name], rtol=0, atol=relative * scale, err_msg=name)
