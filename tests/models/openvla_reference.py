"""Arrays of OpenVLA's own code for a tiny model (transformers 4.40.1, timm 0.9.10), where they are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2] / "../shared/reference/openvla"
TINY = ROOT / "openvla_tiny"
HEADS = "4,4"
needs_reference = pytest.mark.skipif(not ROOT.is_dir(), reason="the reference arrays are not beside the checkout")


def arrays() -> dict[str, np.ndarray]:
    """All arrays by name."""
    return dict(np.load(ROOT / "openvla_tiny.io.npz"))


def real_tree() -> dict[str, tuple[int, ...]]:
    """{weight: shape} of openvla-7b."""
    tree = json.loads((ROOT / "openvla-7b.param_tree.json").read_text())
    return {name: tuple(shape) for name, shape in tree.items()}
