"""PEFT's LoRA adapters, added to the weights that they adapt, as PEFT's `merge_and_unload` does it.

W' = W + s B A for a linear layer or a convolution, with B [out, r], A [r, in] and s = alpha / r (alpha / sqrt(r) for
rslora); the transposes for embeddings and layers stored [in, out] (peft/tuners/lora/layer.py). DoRA scales each output:
W' = m / |W + s B A| (W + s B A) (peft/tuners/lora/variants.py). Trained copies of modules, biases and rows of an
embedding take the place of the base's. Products are taken in float64 and rounded once, to the base's type.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xp.checkpoints.arrays import Leaf, Reader
from xp.checkpoints.folded import Change, Dora, Folded, Product, Replaced, Rows, Shift
from xp.checkpoints.orientation import is_transposed, orientations
from xp.checkpoints.peft_config import CONFIG, AdapterConfig, read_adapter_config
from xp.checkpoints.safetensors import open_safetensors
from xp.foreign.paths import RefusedError, regular_file
from xp.foreign.text import printable

ADAPTER = "adapter_model.safetensors"
ADDED = "added_weights.safetensors"
"""Beside an adapter that xp trained: weights that its training made whole, under their own names. They are none of the
base's, or stand for the base's of that name."""
HELD_BASE = "quantised_base.json"
"""Beside an adapter that xp trained on a base held in 4 or 8 bit: in which. On other weights it is another policy."""
_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?:"
    r"lora_(?P<linear>[AB])(?:\.(?P<one>[^.]+))?\.(?P<leaf>weight|bias)"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.(?P<two>[^.]+))?"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.(?!weight$)(?P<three>[^.]+))?(?:\.weight)?"
    r"|(?P<tokens>token_adapter\.trainable_tokens_delta)(?:\.(?P<four>[^.]+))?"
    r")"
)
_COPY = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<rest>.+)")
_FLOATS = {"float16", "bfloat16", "float32", "float64"}


@dataclass
class _Parts:
    """The arrays of an adapter's file by what they are for; values are names in the file."""

    updates: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """{module: {A, B, embedding_A, embedding_B, bias, magnitude, tokens}}."""
    copies: dict[str, str] = field(default_factory=dict)
    """{name in the base: trained copy}."""
    adapters: set[str] = field(default_factory=set)
    """Names of adapters that stand in names of arrays."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (folder / CONFIG).exists() or (folder / ADAPTER).exists()


def open_adapter(folder: Path, base: Reader) -> Reader:
    """The base's weights with the adapter folded in.

    Raises:
        RefusedError: a field of the configuration that cannot be honoured, an array that belongs to nothing, or an
            adapted weight that the base lacks or has in another shape.
        CorruptFileError: the file is no safetensors file.
    """
    fields = read_adapter_config(folder)
    file = regular_file(folder / ADAPTER, "the adapter's weights; files named .bin are pickles and are not opened")
    adapter = open_safetensors((file,))
    parts = _parts(adapter.leaves, base)
    if len(parts.adapters) > 1:
        names = ", ".join(printable(name) for name in sorted(parts.adapters))
        raise RefusedError(f"{file} holds several adapters ({names}). Save each in a folder of its own.")
    modules = tuple(m for m, found in parts.updates.items() if "A" in found or "embedding_A" in found)
    config = AdapterConfig(fields, modules)
    config.check_targets()
    fold = _Fold(file, adapter, base, config, parts)
    changes = fold.changes()
    if not changes:
        raise RefusedError(f"{file} holds no update and no trained copy of a weight: there is nothing to fold in.")
    folded = Folded(base, changes, set(), _added(folder, changes))
    folded.files = (folder, *base.files)
    return folded


def _added(folder: Path, changes: Mapping[str, Change]) -> Reader | None:
    """What lies beside the adapter, whole; None where there is nothing.

    Raises:
        RefusedError: one of them is for a weight that the adapter changes.
    """
    if not os.path.lexists(folder / ADDED):
        return None
    added = open_safetensors((regular_file(folder / ADDED, "weights beside an adapter"),))
    for name in added.leaves:
        if name in changes:
            raise RefusedError(
                f"{folder / ADDED} holds {printable(name)}, which {ADAPTER} changes: which of them is meant is not "
                "said. Take one of them out."
            )
    return added


def _parts(names: Iterable[str], base: Reader) -> _Parts:
    parts = _Parts()
    for name in names:
        plain = name.removeprefix(_PREFIX)
        found = _PART.fullmatch(plain)
        if found is None:
            target = _copied(plain, base)
            if target is not None:
                _once(parts.copies, target, name)
            continue
        module = found["module"].replace(".base_layer.", ".")
        what = found["linear"] or (found["embedding"] and f"embedding_{found['embedding']}")
        what = what or ("magnitude" if found["magnitude"] else "tokens")
        if found["leaf"] == "bias":
            what = f"{what}_bias"
        _once(parts.updates[module], what, name)
        parts.adapters |= {found[group] for group in ("one", "two", "three", "four") if found[group]}
    return parts


def _once(found: dict[str, str], key: str, name: str) -> None:
    if key in found:
        raise RefusedError(
            f"{ADAPTER}: {printable(found[key])} and {printable(name)} are for the same weight. Take one of them out."
        )
    found[key] = name


def _copied(name: str, base: Reader) -> str | None:
    """The base's weight that an array is a trained copy of; None for the untouched original beside a copy."""
    if ".original_module." in name:
        return None
    copy = _COPY.fullmatch(name)
    if copy:
        rest = copy["rest"]
        names = [f"{copy['module']}.{r}" for r in (rest, rest.partition(".")[2]) if r]
        return next((n for n in names if n in base.leaves), names[-1])
    return name.replace(".base_layer.", ".")


class _Fold:
    """What becomes of each weight of the base."""

    def __init__(self, file: Path, adapter: Reader, base: Reader, config: AdapterConfig, parts: _Parts) -> None:
        self._file, self._adapter, self._base, self._config, self._parts = file, adapter, base, config, parts

    def changes(self) -> dict[str, Change]:
        """{weight of the base: how it is read}.

        Raises:
            RefusedError: see `open_adapter`.
        """
        changes: dict[str, Change] = {}
        for target, name in self._parts.copies.items():
            changes[target] = self._copy(target, name)
        self._check_modules_to_save()
        turned = orientations(self._base, self._pairs())
        for module, found in self._parts.updates.items():
            if "tokens" in found:
                target, change = self._tokens(module, found, changes)
            else:
                target, change = self._update(module, found, changes, turned)
            changes[target] = change
            if "B_bias" in found or self._config.flag("lora_bias"):
                changes[f"{module}.bias"] = self._bias(module, found, changes)
        return changes

    def _pairs(self) -> dict[str, tuple[Leaf, Leaf, Leaf]]:
        """{weight: (its leaf, A, B)} of the updates of matrices, as far as they are complete."""
        found = {}
        for module, names in self._parts.updates.items():
            leaf = self._base.leaves.get(f"{module}.weight")
            if leaf is not None and len(leaf.shape) == 2 and {"A", "B"} <= names.keys():
                found[leaf.name] = (leaf, self._adapter.leaves[names["A"]], self._adapter.leaves[names["B"]])
        return found

    def _copy(self, target: str, name: str) -> Replaced:
        leaf, copy = self._leaf(target, name), self._adapter.leaves[name]
        if copy.shape != leaf.shape:
            raise self._refused(f"{name} {list(copy.shape)} is to replace {target} {list(leaf.shape)} of the base")
        if leaf.dtype != copy.dtype:
            self._check_floats(leaf, copy)
        module = target.rpartition(".")[0]
        if target == f"{module}.weight" and ".base_layer." not in name and module in self._parts.updates:
            raise self._refused(f"{name} and an update are both for {target}")
        return Replaced(self._adapter, name)

    def _check_modules_to_save(self) -> None:
        """PEFT wants every weight of a module that it has kept a copy of (`set_peft_model_state_dict`)."""
        for word in self._config.names("modules_to_save"):
            for name in self._base.leaves:
                inside = any(parent.endswith(word) for parent in _parents(name))
                if inside and name not in self._parts.copies:
                    raise self._config.refusal(
                        "modules_to_save", f"{ADAPTER} holds no {printable(name)}, which is of a module named there."
                    )

    def _update(
        self, module: str, found: Mapping[str, str], changes: Mapping[str, Change], turned: Mapping[str, bool]
    ) -> tuple[str, Change]:
        embedding = "embedding_A" in found or "embedding_B" in found
        keys = ("embedding_A", "embedding_B") if embedding else ("A", "B")
        others = {"magnitude"} if embedding else {"magnitude", "B_bias"}
        if not {*keys} <= found.keys() or found.keys() - {*keys} - others:
            raise self._refused(f"{sorted(map(printable, found.values()))} are not a complete update of {module}")
        a, b = (self._adapter.leaves[found[key]] for key in keys)
        target = self._target(module, a.name)
        leaf = self._leaf(target, a.name)
        self._check_floats(leaf, a, b)
        transposed = embedding or (len(leaf.shape) == 2 and is_transposed(leaf, a, b, self._config, turned))
        self._check_shapes(module, leaf, a, b, transposed=transposed)
        scale = self._config.scales[module] * (2 if self._is_output_of_attention(module) else 1)
        product = Product(self._adapter, found[keys[0]], found[keys[1]], scale, transposed, changes.get(target))
        if not self._config.flag("use_dora"):
            if "magnitude" in found:
                raise self._config.refusal("use_dora", f"{ADAPTER} has a magnitude for {printable(module)}.")
            return target, product
        return target, self._dora(module, found, leaf, product)

    def _dora(self, module: str, found: Mapping[str, str], leaf: Leaf, product: Product) -> Dora:
        if "magnitude" not in found:
            raise self._config.refusal("use_dora", f"{ADAPTER} has no lora_magnitude_vector for {printable(module)}.")
        magnitude = self._adapter.leaves[found["magnitude"]]
        outputs = leaf.shape[1] if product.transposed else leaf.shape[0]
        self._check_floats(magnitude)
        if magnitude.size != outputs:
            raise self._refused(f"{magnitude.name} {list(magnitude.shape)} should have {outputs} numbers")
        return Dora(product, self._adapter, magnitude.name)

    def _target(self, module: str, name: str) -> str:
        """The weight that a module's update is for; an attention of PyTorch keeps its projections in one."""
        attention = f"{module}.in_proj_weight"
        return attention if attention in self._base.leaves else f"{module}.weight"

    def _is_output_of_attention(self, module: str) -> bool:
        """PEFT adds the update of an attention's output projection twice, in training as in merging.

        (`MultiheadAttention.merge`: once itself, once by the projection's own `merge`.)
        """
        stem, _, last = module.rpartition(".")
        return last == "out_proj" and f"{stem}.in_proj_weight" in self._base.leaves and stem in self._parts.updates

    def _check_shapes(self, module: str, leaf: Leaf, a: Leaf, b: Leaf, *, transposed: bool) -> None:
        rank = self._config.ranks[module]
        if not a.shape or a.shape[0] != rank or len(b.shape) < 2 or b.shape[1] != rank:
            field_name = "rank_pattern" if self._config.fields.content.get("rank_pattern") else "r"
            raise self._config.refusal(
                field_name,
                f"{printable(module)} has rank {rank} by it, and A {list(a.shape)} and B {list(b.shape)}.",
            )
        outside, inside = (leaf.shape[1], leaf.shape[:1]) if transposed else (leaf.shape[0], leaf.shape[1:])
        if a.shape[1:] != inside or b.shape[0] != outside or any(size != 1 for size in b.shape[2:]):
            grouped = len(a.shape) > 2 and a.shape[2:] == inside[1:] and b.shape[0] == outside
            hint = " A convolution in groups cannot be merged; PEFT cannot either." if grouped else ""
            raise self._refused(
                f"A {list(a.shape)} and B {list(b.shape)} of {module} do not make its {list(leaf.shape)}.{hint}"
            )

    def _bias(self, module: str, found: Mapping[str, str], changes: Mapping[str, Change]) -> Shift:
        if not self._config.flag("lora_bias") or "B_bias" not in found:
            raise self._config.refusal("lora_bias", f"{ADAPTER} says otherwise of {printable(module)}.")
        name, target = found["B_bias"], f"{module}.bias"
        if target not in self._base.leaves:
            raise self._config.refusal("lora_bias", f"{printable(module)} has no bias in the base.")
        leaf = self._leaf(target, name)
        self._check_floats(leaf, self._adapter.leaves[name])
        if self._adapter.leaves[name].shape != leaf.shape:
            raise self._refused(f"{name} {list(self._adapter.leaves[name].shape)} is for {target} {list(leaf.shape)}")
        return Shift(self._adapter, name, self._config.scales[module], changes.get(target))

    def _tokens(self, module: str, found: Mapping[str, str], changes: Mapping[str, Change]) -> tuple[str, Rows]:
        name, target = found["tokens"], f"{module}.weight"
        if found.keys() != {"tokens"}:
            raise self._refused(f"{name} and an update are both for {target}")
        leaf, rows = self._leaf(target, name), self._adapter.leaves[name]
        self._check_floats(leaf, rows)
        indices = self._indices(module)
        if rows.shape != (len(indices), *leaf.shape[1:]) or len(leaf.shape) != 2:
            raise self._refused(f"{name} {list(rows.shape)} is for {len(indices)} rows of {target} {list(leaf.shape)}")
        if len(set(indices)) != len(indices) or (indices and not 0 <= min(indices) <= max(indices) < leaf.shape[0]):
            raise self._config.refusal(
                "trainable_token_indices",
                f"expected rows from 0 to {leaf.shape[0] - 1} of {printable(target)}, each once.",
            )
        return target, Rows(self._adapter, name, tuple(indices), changes.get(target))

    def _indices(self, module: str) -> list[int]:
        given = self._config.fields.content.get("trainable_token_indices")
        if isinstance(given, Mapping):
            within = self._config.fields.object("trainable_token_indices")
            words = [word for word in within.content if module.endswith(word)]
            if len(words) != 1:
                raise self._config.refusal("trainable_token_indices", f"it should name {printable(module)} once.")
            return within.integers(words[0])
        if sum("tokens" in found for found in self._parts.updates.values()) != 1:
            raise self._config.refusal("trainable_token_indices", f"{ADAPTER} has rows for several weights.")
        return self._config.fields.integers("trainable_token_indices")

    def _leaf(self, target: str, name: str) -> Leaf:
        """The base's leaf that is changed."""
        leaf = self._base.leaves.get(target)
        if leaf is None:
            tied = self._base.ties.get(target)
            reason = f"the base keeps {target} tied to {tied}" if tied else f"the base has no {target}"
            some = ", ".join(map(printable, list(self._base.leaves)[:3]))
            raise self._refused(f"{name} belongs to nothing: {reason} (it has {some}, ...)")
        return leaf

    def _check_floats(self, *leaves: Leaf) -> None:
        for leaf in leaves:
            if leaf.dtype.name not in _FLOATS:
                raise self._refused(
                    f"{leaf.name} is {leaf.dtype.name}: updates are of {', '.join(sorted(_FLOATS))} and of weights of "
                    "these types, not of quantised ones"
                )

    def _refused(self, text: str) -> RefusedError:
        return RefusedError(
            f"{self._file} cannot be folded into the base: {printable(text, 600)}. Give the checkpoint that the "
            "adapter was trained on: merge.base=FOLDER"
        )


def _parents(name: str) -> list[str]:
    """The modules around a weight: a, a.b for a.b.weight."""
    words = name.split(".")[:-1]
    return [".".join(words[: i + 1]) for i in range(len(words))]
