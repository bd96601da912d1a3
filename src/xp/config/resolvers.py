"""OmegaConf resolvers for experiment files: small, pure, never `eval`.

`best` and `needs` belong to `xp.runs`, which knows stages and runs.
"""

from omegaconf import DictConfig, OmegaConf

from xp.config.schema import SUITES
from xp.errors import UserError
from xp.plugins import make_plugin

READS: dict[str, tuple[str, ...]] = {
    "is_null": (),
    "not": (),
    "any": (),
    "all": (),
    "at_most": (),
    "by_scale": ("experiment.scale",),
    "suite_tasks": (),
}
"""{resolver: keys that it reads beside its arguments}; a sweep resolves these anew only where one of them differs."""


def _is_null(value: object) -> bool:
    return value is None


def _not(value: object) -> bool:
    return not value


def _any(*values: object) -> bool:
    return any(values)


def _all(*values: object) -> bool:
    return all(values)


def _at_most(value: float, limit: float) -> bool:
    return value <= limit


def _by_scale(small: object, full: object, *, _root_: DictConfig) -> object:
    return full if _root_.experiment.scale == "full" else small


def _suite_tasks(name: str, suite: str, first: int | None = None) -> list[str]:
    try:
        made = make_plugin(SUITES, name, {"suite": suite}, key="env.name", prefix="env.")
    except UserError:
        return []  # an unknown suite: the check of the section says so, of the key that names it
    return list(made.tasks)[:first]  # pyright: ignore[reportAttributeAccessIssue] - the protocol is in a package above


def register() -> None:
    """Make the resolvers of `READS` known.

    `by_scale` takes the value that fits `experiment.scale`; `${suite_tasks:NAME,SUITE}` gives the tasks of a simulated
    suite that has an option `suite`, `${suite_tasks:NAME,SUITE,N}` the first N of them; `${at_most:A,B}` says whether
    A is at most B. Repeated calls change nothing.
    """
    OmegaConf.register_new_resolver("by_scale", _by_scale, replace=True)
    OmegaConf.register_new_resolver("suite_tasks", _suite_tasks, replace=True)
    for name, function in {"is_null": _is_null, "not": _not, "any": _any, "all": _all, "at_most": _at_most}.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
