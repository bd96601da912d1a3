# pyright: strict
"""More steps for a training that is done: which schedule the added steps follow is said by the user, or refused.

`lr.extend` is what a user asks for once; `lr.extensions`, written by xp, is what was done: at which ends the training
was given more steps, and how. The list is part of the configuration, so whoever resumes the run computes its schedule.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from xp.config.words import EXTENSIONS, HOLD, SCHEDULES_WITH_END, STRETCH
from xp.errors import UserError, join_names
from xp.json_types import JSON, JSONObject, section


class Extension(NamedTuple):
    """The training was done at `steps` and got more; `extend` is one of `EXTENSIONS`."""

    steps: int
    extend: str


def read_extensions(given: JSON, steps: int) -> list[Extension]:
    """The value of `lr.extensions`: ends in ascending order, all below the total `steps`.

    Raises:
        UserError: it is no such list.
    """
    found = [_extension(entry) for entry in (given if isinstance(given, Sequence) else [None])] if given else []
    ends = [entry.steps for entry in found if entry is not None]
    if len(ends) < len(found) or ends != sorted(set(ends)) or not all(0 < end < steps for end in ends):
        raise UserError(
            f"lr.extensions={given}: xp writes it when a finished training gets more steps: ends in ascending order, "
            f"all below trainer.steps={steps}, each as {{steps: 1000, extend: {' | '.join(EXTENSIONS)}}}. Type "
            "lr.extensions=[] for one schedule over all steps"
        )
    return [entry for entry in found if entry is not None]


def _extension(entry: JSON) -> Extension | None:
    if not isinstance(entry, Mapping) or set(entry) != set(Extension._fields):
        return None
    steps, extend = entry["steps"], entry["extend"]
    if not isinstance(steps, int) or isinstance(steps, bool) or extend not in EXTENSIONS:
        return None
    return Extension(steps, str(extend))


def refuse_nothing_to_extend(config: JSONObject, where: object) -> None:
    """Refuse `lr.extend` for a training that begins.

    Raises:
        UserError: what to type.
    """
    extend = section(config, "lr").get("extend")
    if extend is not None:
        raise UserError(
            f"lr.extend={extend}: there is no finished training in {where} to give more steps. Name its folder "
            "(hydra.run.dir=FOLDER, without -m), or type lr.extend=null"
        )


def extensions_in(
    folder: object, old: JSONObject, new: JSONObject, *, is_done: bool, checkpoints: Collection[int]
) -> list[JSON]:
    """`lr.extensions` of the training `new`, which differs in its number of steps, if at all, from `old` in `folder`.

    Args:
        folder: for messages.
        old: the configuration of the training that is there.
        new: the one that is asked for.
        is_done: whether the one that is there is done.
        checkpoints: steps of its checkpoints.

    Raises:
        UserError: fewer steps than are done; nothing to go on from; a schedule that ends, and no `lr.extend`.
    """
    before = read_extensions(section(old, "lr").get("extensions"), _steps(old))
    written: list[JSON] = [dict(entry._asdict()) for entry in before]
    extend, had, wanted = section(new, "lr").get("extend"), _steps(old), _steps(new)
    if is_done and wanted < had:
        raise UserError(
            f"{folder} is done with trainer.steps={had}, and trainer.steps={wanted} is fewer. Type more to go on, or "
            "train the shorter one in another folder: hydra.run.dir=FOLDER"
        )
    if wanted <= had or not is_done:
        if extend not in (None, before[-1].extend if before else None):
            raise _nothing_to_do(folder, str(extend), had, before, is_done=is_done)
        return written
    if had not in checkpoints:
        raise UserError(
            f"{folder} has no checkpoint of step {had}, where a training with trainer.steps={wanted} would go on "
            f"(it stopped early, or the checkpoint was removed). Start a new run from its weights: "
            f"pretrained_path={folder} hydra.run.dir=FOLDER"
        )
    return [*written, {"steps": had, "extend": _how(str(folder), old, new, before)}]


def _how(folder: str, old: JSONObject, new: JSONObject, before: list[Extension]) -> str:
    """What the added steps follow: as asked for, or the same schedule where it does not know of an end."""
    lr, had, wanted = section(old, "lr"), _steps(old), _steps(new)
    name, extend = str(lr.get("schedule")), section(new, "lr").get("extend")
    if extend is None and name not in SCHEDULES_WITH_END and all(entry.extend == STRETCH for entry in before):
        return STRETCH
    if extend is None:
        why = f"lr.schedule={name} ends there" if name in SCHEDULES_WITH_END else "it was extended before"
        raise UserError(
            f"{folder} is done with trainer.steps={had}. Which learning rate shall the steps up to trainer.steps="
            f"{wanted} have ({why})? Type lr.extend=hold (the rate at step {had}), lr.extend=restart (the schedule "
            f"anew over the {wanted - had} added steps, warm-up included) or lr.extend=stretch (from here on as if it "
            f"had been over {wanted} steps from the start)"
        )
    is_over = _number(lr.get("warmup_steps")) < had and not _number(lr.get("end_factor"))
    if extend == HOLD and name in SCHEDULES_WITH_END and is_over:
        raise UserError(
            f"lr.extend=hold: lr.schedule={name} with lr.end_factor=0 has rate 0 at its end, so the added steps would "
            "change nothing. Type lr.extend=restart or lr.extend=stretch"
        )
    return str(extend)


def _nothing_to_do(folder: object, extend: str, had: int, before: list[Extension], *, is_done: bool) -> UserError:
    if before:
        done = join_names([f"{entry.extend} at step {entry.steps}" for entry in before])
        return UserError(
            f"lr.extend={extend}: the steps of {folder} up to trainer.steps={had} were added by {done}, which stays. "
            f"Type lr.extend={before[-1].extend} or leave it out; lr.extend={extend} is for more steps than {had}, "
            "once these are done"
        )
    state = f"is done with trainer.steps={had}: give more" if is_done else f"is not done (trainer.steps={had}) yet"
    return UserError(f"lr.extend={extend}: {folder} {state}, e.g. trainer.steps={2 * had}, or leave lr.extend out")


def _steps(config: JSONObject) -> int:
    return int(_number(section(config, "trainer").get("steps")))


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
