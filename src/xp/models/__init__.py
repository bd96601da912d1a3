"""Models: the contracts in `policy`, one package a family, and the way in: `build`, `load_policy`, `camera_sizes`."""

from xp.models.families import build, camera_sizes, load_policy

__all__ = ["build", "camera_sizes", "load_policy"]
