"""OmegaConf resolvers for experiment files: small, pure, never `eval`.

`best` and `needs` belong to `xp.runs`, which knows stages and runs.
"""

from typing import Any

from omegaconf import OmegaConf

READS: dict[str, tuple[str, ...]] = {"is_null": (), "not": (), "any": (), "all": (), "by_scale": ("trainer.scale",)}
"""{resolver: keys that it reads beside its arguments}; a sweep resolves these anew only where one of them differs."""


def _is_null(value: Any) -> bool:
    return value is None


def _not(value: Any) -> bool:
    return not value


def _any(*values: Any) -> bool:
    return any(values)


def _all(*values: Any) -> bool:
    return all(values)


def _by_scale(small: Any, full: Any, *, _root_: Any) -> Any:
    return full if _root_.trainer.scale == "full" else small


def register() -> None:
    """Make `${is_null:x}`, `${not:x}`, `${any:x,y}`, `${all:x,y}` and `${by_scale:small,full}` known.

    `by_scale` takes the value that fits `trainer.scale`. Repeated calls change nothing.
    """
    OmegaConf.register_new_resolver("by_scale", _by_scale, replace=True)
    for name, function in {"is_null": _is_null, "not": _not, "any": _any, "all": _all}.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
