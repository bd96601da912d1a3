"""The check of many jobs that differ in few keys: what is alike in all of them is checked once."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from xp.config.check import check, parts_of_check
from xp.config.sections import check_keys


def check_alike(config: DictConfig, changing: Sequence[str]) -> Callable[[], None]:
    """The check of jobs that differ from one that has passed `check` in the values of a few keys, and in nothing else.

    Only what reads one of those keys is looked at again: their own types, words and bounds, and the parts
    (`parts_of_check`) that have read a section with one of them (`_Noting` sees which).

    Args:
        config: holds the job that has passed, and later the others.
        changing: dotted keys whose values, as they resolve, may differ; the keys themselves are there in every job.

    Returns:
        A function that checks what `config` holds when it is called; raises as `check` does.
    """
    sections = {key.partition(".")[0] for key in changing}
    if "task" in sections or any(f"{name}.name" in changing for name in sections):
        return lambda: check(config)
    parts: list[Callable[[DictConfig], None]] = []
    for part in parts_of_check(config.task.name):
        noting = _Noting(config)
        part(noting)
        if noting.sections_read & sections:
            parts.append(part)

    def again() -> None:
        check_keys(config, changing)
        for part in parts:
            part(config)

    return again


class _Noting(DictConfig):
    """A configuration that notes which of its sections are read."""

    def __init__(self, config: DictConfig):
        super().__init__(content=copy.deepcopy(config))
        object.__setattr__(self, "sections_read", set())

    def _get_node(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        if "sections_read" in self.__dict__:
            self.__dict__["sections_read"].add(key)
        return super()._get_node(key, *args, **kwargs)
