"""adapter_config.json of PEFT's LoRA: every field is honoured, is without effect on merged weights, or is refused.

Names and defaults are those of peft 0.21 (`LoraConfig`). A field that is not known here is refused unless it is empty:
what a later PEFT means by it cannot be guessed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xp.checkpoints.patterns import matches
from xp.errors import join_names
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import RefusedError
from xp.foreign.text import printable, shown
from xp.json_types import JSON

CONFIG = "adapter_config.json"
_NUMBER = 10**9
"""The largest magnitude of a rank or alpha."""

WITHOUT_EFFECT = {
    "peft_type", "base_model_name_or_path", "task_type", "auto_mapping", "peft_version", "inference_mode", "revision",
    "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config", "merge_weights", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "velora_config",
}  # fmt: skip
"""Fields of training or loading, and settings of initialisations that are refused, or left the base as it was."""
HONOURED = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out",
    "modules_to_save", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "trainable_token_indices", "init_lora_weights",
}  # fmt: skip
REFUSED = {
    "alora_invocation_tokens": "the adapter acts on some tokens only, so no single set of weights stands for it",
    "arrow_config": "a router chooses among adapters for each token, so no single set of weights stands for it",
    "monteclora_config": "its updates are drawn at random",
    "kasa_config": "its training cut the base's weights, which the folder does not hold",
    "use_bdlora": "its matrices are block-diagonal and stored packed",
    "use_qalora": "its update belongs to quantised weights",
    "megatron_config": "its layers are cut up as Megatron has them",
    "layer_replication": "the base's layers stand in the model more than once, each with an update of its own",
    "target_parameters": "which parameter an update belongs to is not in its name",
    "ensure_weight_tying": "one update belongs to several tied weights",
    "enable_lora": "it is of PEFT's merged linear layers, which are no longer made",
}
"""Fields that are refused where they are set, and why."""
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_KEEPS_THE_BASE = ("gaussian", "orthogonal", "eva", "mica")
Pattern = str | Sequence[str] | None


@dataclass(frozen=True)
class AdapterConfig:
    """What a LoRA's configuration says about merged weights; `modules` are those that have an update."""

    fields: Fields
    modules: tuple[str, ...]

    @cached_property
    def _keys(self) -> list[str]:
        """The names that PEFT matches: the output projection of an adapted attention goes with the attention."""
        stems = [module.removesuffix(".out_proj") for module in self.modules]
        return [stem if stem in self.modules else module for module, stem in zip(self.modules, stems)]

    @cached_property
    def ranks(self) -> dict[str, int]:
        """{module: r}."""
        return {name: int(value) for name, value in self._by_pattern("rank_pattern", "r", 8).items()}

    @cached_property
    def scales(self) -> dict[str, float]:
        """{module: alpha / r, or alpha / sqrt(r) where the ranks are stabilised}."""
        stabilised = self.flag("use_rslora")
        alphas = self._by_pattern("alpha_pattern", "lora_alpha", 8)
        return {name: alphas[name] / (math.sqrt(r) if stabilised else r) for name, r in self.ranks.items()}

    def flag(self, name: str) -> bool:
        """A field that is true or false; PEFT's default of each one here is false."""
        return bool(self.fields.flag(name, False))

    def names(self, name: str) -> tuple[str, ...]:
        """A list of names; empty where there is none."""
        return tuple(self.fields.texts(name, ()))

    def refusal(self, name: str, expected: str) -> RefusedError:
        """The error for a field."""
        return RefusedError(f"{self.fields.place(name)} is {shown(self.fields.content.get(name))}: {expected}")

    def _by_pattern(self, patterns: str, name: str, default: int) -> dict[str, float]:
        """{module: value of the first pattern that matches (peft's `get_pattern_key`), else of `name`}."""
        low = 1 if name == "r" else -_NUMBER
        read = self.fields.integer if name == "r" else self.fields.number
        if name in self.fields.content and self.fields.content[name] is None:
            raise self.fields.refusal(name, "a number")
        plain = float(read(name, default, low=low, high=_NUMBER))
        given = self.fields.object(patterns, None)
        if given is None or not given.content:
            return dict.fromkeys(self.modules, plain)
        read = given.integer if name == "r" else given.number
        values = {key: float(read(key, low=low, high=_NUMBER)) for key in given.content}
        wrapped = [(key, rf"(.*\.)?({key})$") for key in values]
        found = matches(wrapped, self._keys, self.fields.place(patterns))
        return {
            module: next(
                (values[key] for key, hits in zip(values, found) if hits[i] is not None),
                values.get(self._keys[i], plain),
            )
            for i, module in enumerate(self.modules)
        }

    def check_targets(self) -> None:
        """Refuse an update of a module that PEFT would pass over (`check_target_module_exists` of peft's tuners_utils).

        Raises:
            RefusedError: names the field and the module.
        """
        excluded = self._chosen("exclude_modules")
        targeted = self._chosen("target_modules")
        saved = [(name, rf"(^|.*\.){name}($|\..*)") for name in self.names("modules_to_save")]
        whole = matches(saved, self._keys, self.fields.place("modules_to_save"))
        for i, module in enumerate(self.modules):
            if excluded is not None and excluded[i]:
                raise self._passed_over("exclude_modules", module)
            if any(hits[i] is not None for hits in whole):
                raise self._passed_over("modules_to_save", module)
            if targeted is not None and not targeted[i]:
                raise self._passed_over("target_modules", module)
        self._check_layers()

    def _chosen(self, name: str) -> list[bool] | None:
        """For each module whether a field of names, or one regular expression, chooses it; None where it is not set."""
        value = self.fields.content.get(name)
        if value in (None, [], "") or (name == "target_modules" and value == "all-linear"):
            return None
        if isinstance(value, str):
            found = matches([(value, rf"(?:{value})\Z")], self._keys, self.fields.place(name))[0]
            return [hit is not None for hit in found]
        words = tuple(self.fields.texts(name))
        return [key in words or key.endswith(tuple(f".{word}" for word in words)) for key in self._keys]

    def _check_layers(self) -> None:
        wanted = self.fields.content.get("layers_to_transform")
        if wanted is None or wanted == []:
            return
        if isinstance(self.fields.content.get("target_modules"), str):
            raise self.refusal("layers_to_transform", "PEFT takes it only beside a list of target_modules.")
        read = self.fields.integers if isinstance(wanted, list) else self.fields.integer
        given = read("layers_to_transform")
        chosen = {given} if isinstance(given, int) else set(given)
        listed = self.fields.content.get("layers_pattern") or ()
        patterns = [listed] if isinstance(listed, str) else list(self.names("layers_pattern") if listed else ())
        wrapped = [(p, rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\.") for p in patterns]
        wrapped = wrapped or [("", r".*?\.[^.]*\.(?P<idx>\d+)\.")]
        found = matches(wrapped, self._keys, self.fields.place("layers_pattern"))
        named = set(self.names("target_modules")) if self.fields.content.get("target_modules") else set()
        for i, module in enumerate(self._keys):
            index = next((hits[i] for hits in found if hits[i] is not None), None)
            if module not in named and (index is None or len(index) > 18 or int(index) not in chosen):
                raise self._passed_over("layers_to_transform", module)

    def _passed_over(self, name: str, module: str) -> RefusedError:
        return self.refusal(
            name,
            f"by it PEFT skips {printable(module)}, for which the folder has an update. Remove one of the two.",
        )


def read_adapter_config(folder: Path) -> Fields:
    """The fields of a folder's adapter_config.json, each of which is known and can be honoured.

    Raises:
        RefusedError: no LoRA, or a field that cannot be honoured, by its name.
    """
    fields = read_fields(folder / CONFIG, "the description of a PEFT adapter", most=4_000_000)
    kind = fields.text("peft_type", "missing")
    if kind != "LORA":
        raise RefusedError(
            f"{fields.place('peft_type')} is {shown(kind)}: of PEFT's adapters LORA (with or without DoRA) can be "
            "merged here. Merge this one with PEFT itself (merge_and_unload), save the model, and give its folder."
        )
    for name, value in fields.content.items():
        if name in REFUSED and not _is_empty(value):
            raise RefusedError(
                f"{fields.place(name)} is {shown(value)}: {REFUSED[name]}. Such an adapter cannot be merged here."
            )
        if name not in WITHOUT_EFFECT | HONOURED | REFUSED.keys() and not _is_empty(value):
            raise RefusedError(
                f"{fields.place(name)} is {shown(value)}: this field of PEFT is not known here, so what it does to the "
                "weights is not. Merge with PEFT itself (merge_and_unload), or take it out if it has no effect."
            )
    fields.text("bias", "none", among=("none", "all", "lora_only"))
    _check_initialisation(fields)
    return fields


def _is_empty(value: JSON) -> bool:
    return value is None or value is False or (isinstance(value, list | Mapping | str) and not value)


def _check_initialisation(fields: Fields) -> None:
    """Some initialisations subtract what the update begins with from the base: the folder then means another base."""
    value = fields.content.get("init_lora_weights")
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in _KEEPS_THE_BASE):
        return
    if isinstance(value, str) and value.lower().startswith(_CHANGES_THE_BASE):
        raise RefusedError(
            f"{fields.place('init_lora_weights')} is {shown(value)}: that initialisation changed the base's weights, "
            "so the update does not belong to the base as it is. Write the adapter as a plain LoRA with PEFT "
            "(save_pretrained with path_initial_model_for_weight_conversion) and give that folder."
        )
    known = join_names((*_KEEPS_THE_BASE, "true", "false"))
    raise RefusedError(f"{fields.place('init_lora_weights')} is {shown(value)}: expected one of {known}.")
