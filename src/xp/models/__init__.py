"""Models: the interfaces (`policy`), one package per family, and the functions that make and load them."""

from xp.models.families import build, camera_sizes, load_policy

__all__ = ["build", "camera_sizes", "load_policy"]
