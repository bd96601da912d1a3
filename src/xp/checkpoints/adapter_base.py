"""Where the base of an adapter is, and whose configuration and statistics a checkpoint made of both has.

Rule for the base: adapter_config.json is a stranger's word. The folder that it names is taken without asking only where
it lies beside the adapter's folder (or inside it), wherever links lead; any other path, and every name of a hub, has to
be given by the user. Nothing is fetched.

Rule for the sidecar files (what stands beside the weights): they come from the folder whose training made the weights.
"""

import json
from pathlib import Path

from xp.checkpoints.peft_config import CONFIG
from xp.checkpoints.sidecar import statistics_files
from xp.errors import UserError
from xp.foreign.json_file import read_fields
from xp.foreign.text import printable


def named_base(folder: Path, *, given: bool) -> Path | None:
    """The base that an adapter's configuration names, where it lies beside the adapter's folder.

    Args:
        folder: the adapter's.
        given: whether the user gives a base, so that None is an answer.

    Raises:
        UserError: the configuration names no base there, and none is given.
    """
    named = read_fields(folder / CONFIG, "the description of a PEFT adapter").text("base_model_name_or_path", "")
    around = folder.resolve().parent
    places = [Path(named)] if named.startswith("/") else [folder / named, folder.parent / named]
    for place in places if named else ():
        found = _beside(place, around, folder.resolve())
        if found is not None:
            return found
    if given:
        return None
    raise UserError(
        f"{folder} is a LoRA adapter. {_where(named)} Give the checkpoint it was trained on: merge.base=FOLDER"
    )


def _beside(place: Path, around: Path, folder: Path) -> Path | None:
    try:
        real = place.resolve()
        if not real.exists() or real in (around, folder) or not real.is_relative_to(around):
            return None
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or a ring of links
        return None
    return real


def _where(named: str) -> str:
    if not named:
        return f"Its {CONFIG} names no base."
    return (
        f"Its {CONFIG} names the base {printable(repr(named))}, which does not lie beside the adapter's folder: such a "
        "path or name is not followed unasked, and nothing is fetched from a hub."
    )


def sidecar_of(folder: Path, base: Path | None) -> tuple[Path | None, tuple[Path, ...]]:
    """Whose sidecar files count, and the folders that small files are copied from (later ones over earlier ones).

    An adapter with a configuration of its own (some trainings write one) has all its sidecar files. One without it
    takes the base's and adds what its training changed: statistics, a tokenizer.

    Args:
        folder: the adapter's.
        base: the folder of the base's sidecar files.

    Raises:
        UserError: the adapter's folder has only some of its sidecar files.
    """
    statistics, below = statistics_files(folder), statistics_files(base) if base else {}
    processors = sorted(file.name for file in folder.glob("policy_*.json"))
    if (folder / "config.json").is_file():
        missing = sorted({*_processors(base), *_states(folder, processors)} - {*processors, *_names(folder)})
        missing = missing or ([] if statistics else sorted(below))
        if missing:
            raise _incomplete(folder, missing[0])
        _same_type(folder, base)
        return folder, (folder,)
    if processors:
        raise _incomplete(folder, "config.json")
    if statistics and set(below) - set(statistics):
        raise _incomplete(folder, min(set(below) - set(statistics)))
    return folder if statistics else base, tuple(place for place in (base, folder) if place is not None)


def _processors(folder: Path | None) -> list[str]:
    return [] if folder is None else [file.name for file in folder.glob("policy_*.json")]


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def _states(folder: Path, processors: list[str]) -> list[str]:
    """The files of statistics and other state that a folder's processors name."""
    steps = [
        step
        for name in processors
        for step in read_fields(folder / name, "a policy's processor").list_of_objects("steps", [])
    ]
    return [step.text("state_file") for step in steps if "state_file" in step]


def _incomplete(folder: Path, missing: str) -> UserError:
    return UserError(
        f"{folder} has only some of the files beside its weights: {missing} is missing. The base has its own, but "
        "those are not what the adapter was trained with. Copy the folder again, whole, from where it was trained."
    )


def _same_type(folder: Path, base: Path | None) -> None:
    """Refuse an adapter of another kind of policy."""
    if base is None or not (base / "config.json").is_file():
        return
    one, other = (read_fields(place / "config.json", "a configuration") for place in (folder, base))
    for name in ("type", "model_type"):
        if name in one and name in other and one.content[name] != other.content[name]:
            raise UserError(
                f"{one.place(name)} is {printable(json.dumps(one.content[name]))}, and that of the base {base} is "
                f"{printable(json.dumps(other.content[name]))}: they are different models. Give the base that the "
                "adapter was trained on: merge.base=FOLDER"
            )
