"""`xp task=convert`: a checkpoint in another program's format, asked whether it still answers as recorded."""

from pathlib import Path
from typing import TYPE_CHECKING

from xp.errors import UserError, did_you_mean, join_names
from xp.models import recorded_answer
from xp.models.families import FoundPolicy, find_policy, installed
from xp.models.recorded_answer import Answer
from xp.runs import Run
from xp.runs.execution.progress import Progress
from xp.runs.execution.run import leave_if_asked
from xp.tasks._lib.loading import load, use_framework

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omegaconf import DictConfig

    from xp.models.converter import Converter
    from xp.models.policy import Policy

FINAL = "final"
"""Where a converted policy lies in its run's folder, unless another place is named: the run then counts as a policy."""


def run(run: Run) -> None:
    """Leaves the checkpoint in its new format, with an answer recorded beside it, and summary.json."""
    config = run.config
    asked = config.convert
    found, options = find_policy(asked.checkpoint), _options(config)
    if asked.to is None:
        difference = _check(config, found, None, options)
        run.write_summary({"task": "convert", "checkpoint": str(found.folder), "difference": difference})
        run.log(f"{found.folder} answers as recorded: its actions differ by {difference:.2g} of the largest")
        return
    converter = _converter(found)
    if asked.to not in converter.formats:
        raise UserError(
            f"convert.to={asked.to}: the formats are {join_names(converter.formats)}"
            f"{did_you_mean(asked.to, converter.formats)}. Type for instance convert.to={next(iter(converter.formats))}"
        )
    output = run.folder / FINAL if asked.output is None else Path(asked.output).expanduser()
    if output.exists() and asked.output is not None and not asked.overwrite:
        raise UserError(
            f"convert.output={output} exists already and is left as it is. Give another name, or type "
            "convert.overwrite=true."
        )
    source = converter.open(found.folder, found.step, options)
    answer = _answer(run, found, converter, options, is_chosen=source.is_chosen)
    with run.progress(source.nbytes, "converting", unit="byte") as bar:
        converter.convert(source, asked.to, output, dtype=asked.dtype, advance=lambda read: _advance(run, bar, read))
    difference = None
    if answer is not None:
        difference = _compare(config, converter, output, options, answer)
        run.log(f"it answers as before: its actions differ by {difference:.2g} of the largest")
    summary = {"from": source.format, "to": asked.to, "output": str(output), "difference": difference}
    run.write_summary({"task": "convert", "checkpoint": str(found.folder), **summary})
    run.log(f"converted: {output}")


def _advance(run: Run, bar: Progress, read: int) -> None:
    """Note that so many bytes were read, and leave if somebody asked: nothing is written then."""
    bar.advance(read)
    leave_if_asked(run)


def _options(config: "DictConfig") -> dict[str, str]:
    given = config.convert.load_options or {}
    return {str(name): str(value) for name, value in given.items() if value is not None}


def _converter(found: FoundPolicy) -> "Converter":
    offered = [family.converter for family in installed().values() if family.converter is not None]
    for converter in offered:
        if converter.converts(found.folder):
            return converter
    formats = "; ".join(f"{name} ({looks})" for each in offered for name, looks in each.formats.items())
    raise UserError(
        f"convert.checkpoint={found.folder}: a policy of the family {found.family.name}, for which nothing is "
        f"converted. Formats that are: {formats}."
    )


def _places(found: FoundPolicy) -> list[Path]:
    """Where an answer may lie: in the policy's folder, or in its step's."""
    folder = found.folder
    steps = sorted((each for each in folder.iterdir() if each.name.isdigit()), key=lambda each: int(each.name))
    chosen = [folder / str(found.step)] if found.step is not None else steps[-1:]
    return [folder, *chosen]


def _recorded(found: FoundPolicy) -> Answer | None:
    answers = (recorded_answer.read(place) for place in _places(found))
    return next((answer for answer in answers if answer is not None), None)


def _answer(
    run: Run, found: FoundPolicy, converter: "Converter", options: "Mapping[str, str]", *, is_chosen: bool
) -> Answer | None:
    """What the outcome must answer: as recorded, or as the checkpoint answers now where that is asked for.

    One dataset of a mixture (`is_chosen`) is asked now where anything is recorded: that is the answer of all of them.
    """
    config = run.config
    if config.convert.check == "none":
        return None
    answer = _recorded(found)
    if (answer is None and config.convert.check == "made") or (answer is not None and is_chosen):
        return recorded_answer.recorded(_loaded(config, found, converter, options))
    if answer is None:
        run.log(
            f"no answer is recorded beside {found.folder}, so the outcome's weights are those of the source, and "
            "what it answers was not compared: convert.check=made asks both"
        )
    return answer


def _check(
    config: "DictConfig", found: FoundPolicy, converter: "Converter | None", options: "Mapping[str, str]"
) -> float:
    answer = _recorded(found)
    if answer is None:
        raise UserError(
            f"convert.checkpoint={found.folder}: no answer is recorded beside it (looked for {recorded_answer.FILE}), "
            "so nothing can be compared. xp writes one beside what it trains and converts."
        )
    policy = _loaded(config, found, converter, options)
    return recorded_answer.compare(policy, answer, str(found.folder))


def _compare(
    config: "DictConfig", converter: "Converter", output: Path, options: "Mapping[str, str]", answer: Answer
) -> float:
    """Ask the outcome, and record its own answer beside it.

    Raises:
        UserError: it answers otherwise.
    """
    found = find_policy(output)
    kept = {name: value for name, value in options.items() if name in ("tokenizer", "vision_heads")}
    policy = _loaded(config, found, converter, kept)
    difference = recorded_answer.compare(policy, answer, str(output), is_half=config.convert.dtype == "bfloat16")
    recorded_answer.write(output, recorded_answer.recorded(policy))
    return difference


def _loaded(
    config: "DictConfig", found: FoundPolicy, converter: "Converter | None", options: "Mapping[str, str]"
) -> "Policy":
    use_framework(config, found.family)
    own = None if converter is None else converter.load(found.folder, found.step, options)
    if own is not None:
        return own
    at = str(found.folder) if found.step is None else f"{found.folder}@{found.step}"
    known = {name: value for name, value in options.items() if name in found.family.load_options}
    return load(config, at, {"load_options": known})
