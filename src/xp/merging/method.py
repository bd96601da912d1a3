# pyright: strict
"""What a merge method is, how an installed one is found, and what is checked before anything is opened.

A method from outside is one module and one YAML file, without an edit here:

- A module with a `MergeMethod` that imports nothing heavy at its top; its `rule` makes a `MergeRule`
  (`xp.merging.merge_rules.Linear` with a `weight_table` is enough for a closed form).
- An entry point in the package's metadata that is called as the method:
  `[project.entry-points."xp.merge_methods"]`, `median = "my_package.median:MEDIAN"`.
- `my_package/conf/merge_method/median.yaml` with `name: median` and the options' defaults, and an empty
  `my_package/conf/__init__.py`. Hydra finds it by a plugin, a class in a module of the namespace package
  `hydra_plugins` (`hydra_plugins/my_package.py`, without __init__.py there):

      class MyPackage(SearchPathPlugin):  # hydra.plugins.search_path_plugin
          def manipulate_search_path(self, search_path):
              search_path.append("my_package", "pkg://my_package.conf")
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xp.config.merge_methods import GROUP, load_merge_method, merge_method_names
from xp.config.method_options import Option, checked
from xp.errors import UserError, join_names
from xp.json_types import JSON

if TYPE_CHECKING:
    from xp.checkpoints.arrays import Leaf
    from xp.merging.groups import Units
    from xp.merging.merge_rules import MergeRule
    from xp.merging.search import Evaluator, Search


@dataclass(frozen=True, kw_only=True)
class MergeInputs:
    """What a rule is made for."""

    units: "Units"
    """Parts with weights of their own."""
    count: int
    """Number of checkpoints, without the base."""
    leaves: "Mapping[str, Leaf]"
    """What will be written."""
    has_base: bool = False
    """Whether the first input is a base."""
    seed: int = 0
    """Of methods that draw."""


@dataclass(frozen=True, kw_only=True)
class MergeMethod:
    """A merge method: what it needs, what it may be told, and how its rule is made. One of `rule` and `search`.

    How many passes over the data a method needs may depend on its options, so its rule says it (`MergeRule`).
    """

    name: str
    rule: "Callable[[MethodConfig, MergeInputs], MergeRule] | None" = None
    """Makes the rule; imports numpy no earlier."""
    search: "Callable[[MethodConfig, Evaluator, Callable[[], None]], Search] | None" = None
    """Chooses mixing weights by an objective; calls its last argument after each loss."""
    gradient: bool = False
    """Whether a search needs the objective's gradient, too."""
    evaluations: "Callable[[MethodConfig, int], int]" = lambda config, count: count
    """At most how many losses a search measures."""
    base: bool = False
    """Whether it needs a base."""
    base_too: bool = False
    """Whether it takes a base and needs none."""
    weights: str = "no"
    """Whether weights "may", "must" or may not ("no") be given."""
    count: int | None = None
    """Exactly so many checkpoints; None: any number."""
    run: bool = False
    """Whether one run's folder stands for all its steps."""
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    """Its own keys, with their defaults and bounds."""
    check: Callable[[Mapping[str, JSON], int], None] = lambda options, count: None
    """Raises UserError for options (of `count` checkpoints) that do not fit each other."""


@dataclass(frozen=True)
class MethodConfig:
    """A method with everything the user said about it, checked."""

    method: MergeMethod
    weights: object
    """As given: `xp.merging.weights.weight_table` checks them. None: the method's own, or equal ones."""
    options: Mapping[str, JSON]
    """Checked, with the defaults of those that were not given."""

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.name

    def number(self, key: str) -> float:
        """An option that is one number."""
        value = self.options[key]
        assert isinstance(value, int | float), f"merge_method.{key} is no number"
        return float(value)

    def flag(self, key: str) -> bool:
        """An option that is true or false."""
        return self.options[key] is True

    def each(self, key: str, count: int) -> list[float]:
        """An option as one number for each checkpoint; none where the method has no such option."""
        return for_each(self.options, key, count)


def for_each(options: Mapping[str, JSON], key: str, count: int) -> list[float]:
    """An option as one number for each of `count` checkpoints; none where there is no such option."""
    value = options.get(key)
    if value is None:
        return []
    found = list(value) if isinstance(value, Sequence) else [value] * count
    return [each for each in found if isinstance(each, int | float)]


def method_named(name: str) -> MergeMethod:
    """An installed method.

    Raises:
        UserError: there is none of that name, or what its package offers is none.
    """
    found = load_merge_method(name)
    if not isinstance(found, MergeMethod) or found.name != name or (found.rule is None) == (found.search is None):
        raise UserError(
            f"merge_method={name}: the package that offers it through {GROUP} gives no xp.merging.MergeMethod of that "
            "name with either a rule or a search. Update the package, or take merge_method=average"
        )
    return found


def searching_methods(*, gradient: bool) -> list[str]:
    """Names of the installed methods that choose weights by losses alone, or with their gradient; cheapest first."""
    named = [method_named(name) for name in merge_method_names()]
    found = [method for method in named if method.search is not None and method.gradient == gradient]
    return [method.name for method in sorted(found, key=_default_evaluations)]


def _default_evaluations(method: MergeMethod) -> int:
    """How many losses of mixes of four checkpoints a method measures by its defaults."""
    defaults = {key: option.default for key, option in method.options.items()}
    return method.evaluations(MethodConfig(method, None, defaults), 4)


def validate_method(
    method: MergeMethod, count: int, *, has_base: bool, weights: object, options: Mapping[str, object]
) -> MethodConfig:
    """Check a method's needs before anything is opened.

    Args:
        method: which.
        count: number of checkpoints, without the base.
        has_base: whether a base is given.
        weights: what is given as weights, or None.
        options: what is given of its options.

    Raises:
        UserError: an unknown option, or what is missing or does not fit.
    """
    filled = checked(method.name, method.options, options, count)
    _check_needs(method, count, has_base, weights)
    method.check(filled, count)
    return MethodConfig(method, weights, filled)


def _check_needs(method: MergeMethod, count: int, has_base: bool, weights: object) -> None:
    name = method.name
    if method.base and not has_base:
        raise UserError(
            f"merge_method={name} works on what fine-tuning changed and needs the model it started from: "
            "merge.base=FOLDER"
        )
    if method.count is not None and count != method.count:
        raise UserError(
            f"merge_method={name} takes {method.count} checkpoint{'s' if method.count > 1 else ' and merge.base'}; "
            f"merge.checkpoints has {count}. merge_method=average, manual, karcher and others take any number."
        )
    if count < (1 if method.base or method.run or has_base else 2):  # an adapter alone, folded into its base
        raise UserError(f"merge.checkpoints has {count} entries; give two or more: merge.checkpoints=[A,B,C]")
    if weights is None and method.weights == "must":
        raise UserError(
            f"merge_method={name} needs one weight a checkpoint, for instance merge.weights={example(count)}"
        )
    if weights is not None and method.weights == "no":
        raise UserError(
            f"merge_method={name} finds its weights itself, and merge.weights is given. Leave that out, or take them "
            "as they are: merge_method=manual"
        )


def example(count: int) -> str:
    """Weights for so many checkpoints, as one types them."""
    return "[" + ",".join(["0.5", *["0.3"] * (count - 2), "0.2"][:count]) + "]"


def without_gradient(name: str) -> UserError:
    """What an objective without gradients raises from `loss_and_gradient`."""
    needing, others = searching_methods(gradient=True), searching_methods(gradient=False)
    return UserError(
        f"The objective '{name}' has no gradient, so merge_method={join_names(needing)} cannot use it. Choose a method "
        f"that asks for losses alone: merge_method={join_names(others)}; or a method that needs none: "
        "merge_method=average"
    )
