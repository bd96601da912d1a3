"""One job's configuration: composed in full, or told from an earlier job that differs in plain values only."""

import copy
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, open_dict

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._template import NotAlikeError, Scalar, Template
from hydra_plugins.xp_staged_sweeper._values import quick_value
from xp.json_types import JSON
from xp.runs.execution.run_once import ResultConfig, resolved

_WITH_STAGES = "stages"
"""The section that says what an experiment's stages are; jobs have it while they are named, and then no more."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the configuration package says: the checks of one job, and the part its identity is about."""

    check: Callable[[DictConfig], None]
    result_config: ResultConfig
    is_transient: Callable[[str], bool]
    check_values: Callable[[DictConfig], None] | None = None
    """Only the part of `check` about single values: their types and bounds."""
    show: Callable[[Path], None] = lambda folder: None
    """Shows an experiment's results when it has ended."""
    check_alike: Callable[[DictConfig, Sequence[str]], Callable[[], None]] | None = None
    """Of a configuration that has passed `check`: a check of what it holds later, if only these keys may differ."""
    pure: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """{resolver that reads nothing but its arguments: further keys that it reads}."""


class Composed:
    """A job's configuration, not yet resolved."""

    def __init__(self, named: DictConfig, rules: Rules):
        self._named, self._rules = named, rules
        self._config: DictConfig | None = None

    @property
    def named(self) -> DictConfig:
        """With the `stages`, whose templates of names read the job's values; not after `config` was asked for."""
        return self._named

    @property
    def config(self) -> DictConfig:
        """Without the `stages`."""
        if self._config is None:
            self._config = self._named
            with open_dict(self._config):
                self._config.pop(_WITH_STAGES, None)
        return self._config

    @property
    def is_new(self) -> bool:
        """Whether it may hold values that no earlier job of its kind had and that were not looked at."""
        return True

    def check(self) -> None:
        """Raise a `UserError` for what is wrong with it."""
        self._rules.check(self.config)

    def resolve(self) -> dict[str, JSON]:
        """All values, at the place where the job stands (`xp.runs.jobs.stage_references.resolving`)."""
        return resolved(self.config)


@dataclass
class Kind:
    """Jobs that differ in plain values only."""

    template: Template
    check: Callable[[], None] | None = None
    """What is left to check of each; None until one of them has passed everything."""


class Alike(Composed):
    """A job told from a template. It is looked at before the next one is made."""

    def __init__(self, kind: Kind, values: Sequence[Scalar], rules: Rules):
        super().__init__(kind.template.named, rules)
        self._kind, self._values = kind, values
        kind.template.take(values)

    @property
    def config(self) -> DictConfig:
        """Without the `stages`."""
        return self._kind.template.config

    @property
    def is_new(self) -> bool:
        """Plain values tell nothing that an earlier job did not."""
        return False

    def check(self) -> None:
        """Raise a `UserError` for what is wrong with it."""
        if self._kind.check is None:
            self._rules.check(self.config)
            if self._rules.check_alike is not None:
                self._kind.check = self._rules.check_alike(self.config, self._kind.template.changing)
        else:
            self._kind.check()

    def resolve(self) -> dict[str, JSON]:
        """All values, at the place where the job stands."""
        try:
            return self._kind.template.resolved(self._values)
        except Exception:  # noqa: BLE001 - whatever it is: resolving everything tells it in the usual words
            return resolved(self.config)


class Jobs:
    """Makes the jobs of one experiment."""

    def __init__(self, composer: Composer, rules: Rules):
        self._composer, self._rules = composer, rules
        self._kinds: dict[tuple[str, ...], Kind | None] = {}
        """{stage and overrides without the swept plain values: the kind}; None while there was one such job."""

    def compose(self, stage: str, overrides: list[str], swept: Container[str]) -> Composed:
        """The configuration of a job of a stage with these overrides; `swept` are the keys that differ between jobs."""
        slots = self._composer.slots(overrides, swept)
        parts = [overrides[index].partition("=") for index in slots]
        values = [quick_value(value)[1] for _, _, value in parts]
        keys = [key.lstrip("+") for key, _, _ in parts]
        fixed = set(range(len(overrides))) - set(slots)
        name = (stage, *(line if i in fixed else line.partition("=")[0] for i, line in enumerate(overrides)))
        kind = self._kinds.get(name)
        if kind is not None:
            return Alike(kind, values, self._rules)
        named = self._composer.compose(overrides)
        if slots:
            self._kinds[name] = self._kind(named, keys) if name in self._kinds else None
        return Composed(named, self._rules)

    def _kind(self, named: DictConfig, keys: Sequence[str]) -> Kind | None:
        config = copy.deepcopy(named)
        with_stages = _WITH_STAGES in config
        with open_dict(config):
            config.pop(_WITH_STAGES, None)
        try:
            template = Template(config, keys, self._rules.pure, named=copy.deepcopy(named) if with_stages else config)
            return Kind(template)
        except NotAlikeError:
            return None
