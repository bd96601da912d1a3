"""The episodes and checkpoints of an offline replay, and the checks of what a user gave for them."""

from pathlib import Path
from typing import TYPE_CHECKING

from xp.checkpoints.run_layout import checkpoint_steps
from xp.data import Dataset
from xp.errors import UserError
from xp.metrics.replay import Execution, first_query, is_long_enough
from xp.tasks._lib.data_source import DataSource, held_out, own_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.models.policy import PolicySpec
    from xp.runs import Run


def chosen_episodes(config: "DictConfig", source: DataSource) -> tuple[int, ...]:
    """The episodes of eval.indices_episode, else those held out of training.

    Raises:
        UserError: an episode that the dataset does not have, or nothing is held out.
    """
    given = config.eval.indices_episode
    if given is None:
        return held_out(source, config.eval.episodes)
    count = source.dataset.episodes.num
    wrong = [int(episode) for episode in given if not 0 <= episode < count]
    if wrong:
        raise UserError(
            f"eval.indices_episode names episode {wrong[0]}; the dataset {source.dataset.root} has {count} episodes. "
            f"Give numbers from 0 to {count - 1}, or leave it out for the episodes held out of training."
        )
    return tuple(dict.fromkeys(int(episode) for episode in given))


def checkpoints_of(config: "DictConfig") -> list[tuple[str, str]]:
    """(label, path) of the policies to replay: what eval.checkpoint names, then a run's newest earlier checkpoints."""
    path = str(config.eval.checkpoint)
    steps = sorted(checkpoint_steps(path), reverse=True)
    if path != str(own_folder(path)) or not steps:
        return [("policy", path)]
    earlier = steps[1:] if (Path(path) / "final").is_dir() else steps  # the newest holds the weights of final/
    return [("final", path), *((f"step {step}", f"{path}@{step}") for step in earlier[: config.eval.checkpoints - 1])]


def check_policy(config: "DictConfig", spec: "PolicySpec", path: str) -> None:
    """Refuse numbers of actions that do not fit each other.

    Raises:
        UserError: more executed than predicted, a prefix longer than the chunk, or a delay that leaves nothing of it.
    """
    steps, delay, jitter = config.chunk_size.steps, config.eval.delay, config.eval.jitter
    if steps > spec.horizon:
        raise UserError(
            f"chunk_size.steps={steps} exceeds the horizon {spec.horizon} that {path} was trained on. Give "
            f"chunk_size.steps=1..{spec.horizon}"
        )
    if spec.prefix_future > spec.horizon:
        raise UserError(
            f"{path} takes a prefix of {spec.prefix_future} committed actions and predicts {spec.horizon}: a prefix "
            "longer than the chunk is never covered by the chunk before it. Train with a longer chunk or a shorter "
            "prefix."
        )
    if "delayed" in config.eval.modes and delay + jitter >= spec.horizon:
        raise UserError(
            f"eval.delay={delay} and eval.jitter={jitter}: an answer may arrive after its last action, for {path} "
            f"predicts {spec.horizon}. Give delays that sum to at most {spec.horizon - 1}, or leave the mode out: "
            "eval.modes=[ground_truth,self_chained]"
        )


def long_enough(
    run: "Run", dataset: Dataset, episodes: tuple[int, ...], executions: dict[str, Execution], horizon: int
) -> tuple[int, ...]:
    """The episodes that take at least one chunk in every mode; shorter ones are named in the log.

    Raises:
        UserError: none is long enough.
    """
    lengths = {episode: int(dataset.episodes.lengths[episode]) for episode in episodes}
    kept = tuple(
        episode
        for episode, length in lengths.items()
        if all(is_long_enough(length, execution, horizon) for execution in executions.values())
    )
    execution = max(executions.values(), key=lambda each: each.prefix_len)
    need = first_query(execution) + execution.prefix_len + horizon + 1
    if not kept:
        raise UserError(
            f"The chunk is longer than every episode: {first_query(execution)} frames before it, a prefix of "
            f"{execution.prefix_len} and {horizon} predicted actions need episodes of {need} frames; those asked for "
            f"have {min(lengths.values())} to {max(lengths.values())}. Give longer episodes (eval.indices_episode, "
            "eval.data_root), or a policy with a shorter chunk."
        )
    short = [episode for episode in episodes if episode not in kept]
    if short:
        run.log(f"Left out, shorter than {need} frames: episodes {', '.join(map(str, short))}.")
    return kept
