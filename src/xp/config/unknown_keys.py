"""Where a dotted key leaves a configuration, and what stands there."""

from collections.abc import Iterator, Mapping

from xp.errors import did_you_mean, join_names

RENAMED = {
    "trainer.eval_every": "trainer.val_every",
    "trainer.eval_windows": "trainer.val_windows",
    "trainer.decay": "trainer.weight_decay_params",
    "trainer.device": "trainer.accelerator",
    "trainer.scale": "experiment.scale",
    "predict.cameras": "predict.camera_map",
    "dump.cameras": "dump.camera_map",
    "merge.cameras": "merge.camera_map",
    "predict.dataset": "predict.unnorm_key",
    "eval.cameras": "eval.camera_map",
    "eval.dataset": "eval.unnorm_key",
    "model.heads_num": "model.num_heads",
}
"""{a key that was: the key it is now}. The old one does not work; whoever types it is told the new one."""


def unknown_key(given: str, known: Mapping[str, object], *, override: str = "") -> str:
    """Say where a dotted key leaves the configuration, and what stands there.

    Args:
        given: the dotted key.
        known: the configuration it was looked up in, nested.
        override: the override that named it, as typed; it tells a new key (`+`) from one to be changed.
    """
    node: object = known
    walked: list[str] = []
    for part in given.split("."):
        if not isinstance(node, Mapping) or part not in node:
            break
        node = node[part]
        walked.append(part)
    where = ".".join(walked)
    if where == given:
        return _there_already(given, node, override)
    if new := _renamed(given):
        return f"There is no key '{given}': it is called {new} now. Write {new}={override.partition('=')[2] or 'VALUE'}"
    if not isinstance(node, Mapping):
        return f"There is no key '{given}': {where} holds one value ({shown(node)}). Set it with {where}=VALUE"
    names = [str(name) for name in node if name != "hydra"]
    missing = given.split(".")[len(walked)]
    there = f"Keys {'of ' + where if where else 'and groups'}: {join_names(names)}"
    return f"There is no key '{given}'. {there}{_guess(missing, given, names, known, inside=bool(where))}"


def _renamed(given: str) -> str | None:
    """The name that an old key has now; a last word alone will do (`eval_every`) where only one key had it."""
    bare = [new for old, new in RENAMED.items() if old.rpartition(".")[2] == given]
    return RENAMED.get(given) or (bare[0] if len(bare) == 1 else None)


def shown(value: object) -> str:
    """A value as one writes it in YAML or on the command line: null, true, text in quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:120]}... ({len(text)} characters)"


def _there_already(given: str, node: object, override: str) -> str:
    value = override.partition("=")[2]
    if override.startswith("~"):
        return f"{override}: {given} is {shown(node)} and stays in the configuration. Set it with {given}=VALUE"
    if isinstance(node, Mapping) and value.startswith("{"):
        return (
            f"{override}: a mapping is merged into the one that stands there, and one of its keys is new. {given} has "
            f"{join_names(map(str, node))}. Change one with {given}.KEY=VALUE, add one with +{given}.KEY=VALUE, remove "
            f"one with ~{given}.KEY"
        )
    return f"{given} is there already: write {given}=VALUE{', without the plus' if override.startswith('+') else ''}."


def _guess(missing: str, given: str, names: list[str], known: Mapping[str, object], *, inside: bool) -> str:
    """The same last word elsewhere (`trainer.batch_size` for `batch_size`), else the name that is most like it."""
    last = given.rpartition(".")[2]
    nested = [path for path in _dotted(known) if "." in path]
    same = [path for path in nested if path.rpartition(".")[2] == last or path.replace(".", "_") == given]
    if 1 <= len(same) <= 3:
        return f" (did you mean {' or '.join(map(repr, same))}?)"
    if guess := did_you_mean(missing, names):
        return guess
    return "" if inside else did_you_mean(given, nested)


def _dotted(node: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, child in node.items():
        yield f"{prefix}{name}"
        if isinstance(child, Mapping) and name != "hydra":
            yield from _dotted(child, f"{prefix}{name}.")
