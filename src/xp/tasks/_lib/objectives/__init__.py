"""What a merge is judged by: a policy's loss on a dumped validation set, or its success in the simulated suite."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from xp.errors import UserError, did_you_mean, join_names
from xp.shell import override

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.data.dumps import Dump
    from xp.merging.objective import Objective
    from xp.models.policy import Policy

KINDS = ("loss", "success")


def make_objective(config: "DictConfig", first_checkpoint: str | Path) -> "Objective":
    """The objective that `merge.objective` names, for checkpoints of the same model as `first_checkpoint`.

    `loss` is the policy's training objective on the validation set `merge.validation`, with that file's fixed draws; it
    has a gradient. `success` is the share of failed closed-loop episodes in `env.tasks`; it has none.

    Raises:
        UserError: no validation set, or one that does not fit the policy or has episodes that it was trained on.
    """
    from xp.tasks._lib.loading import load

    kind = str(OmegaConf.select(config, "merge.objective") or "loss")
    if kind not in KINDS:
        raise UserError(f"merge.objective={kind}: allowed are {join_names(KINDS)}{did_you_mean(kind, KINDS)}")
    path = OmegaConf.select(config, "merge.validation")
    if kind == "loss" and path is None:
        raise UserError(
            "merge.validation is not given: on which held-out windows shall the weights be chosen? Make a set with "
            f"xp task=dump {override('dump.checkpoint', first_checkpoint)} dump.output=val.safetensors ; then give "
            "merge.validation=val.safetensors. Or choose by success in simulation: merge.objective=success"
        )
    policy = load(config, str(first_checkpoint))
    if kind == "success":
        from xp.tasks._lib.objectives.success import Success

        return Success.of(config, policy, str(first_checkpoint))
    checkpoints = OmegaConf.select(config, "merge.checkpoints") or [first_checkpoint]
    return policy_loss(policy, path, [str(first_checkpoint), *map(str, checkpoints)], "merge.validation")


def policy_loss(policy: "Policy", path: str | Path, checkpoints: list[str], given: str) -> Any:
    """The loss of `policy` (loaded from the first of `checkpoints`) on the validation set at `path`.

    Raises:
        UserError: the set does not fit the policy, or one of the checkpoints was trained on its episodes.
    """
    from xp.data.dumps import open_dump
    from xp.training import frameworks

    dump = open_dump(path)
    dump.refuse_unfit(policy.spec, checkpoints[0])
    for checkpoint in dict.fromkeys(checkpoints):
        refuse_seen(dump, checkpoint, given)
    return frameworks.policy_loss(policy, dump)


def refuse_seen(dump: "Dump", checkpoint: str, given: str) -> None:
    """Refuse a validation set with episodes that a checkpoint was trained on, unless it was dumped to have them.

    Raises:
        UserError: naming the episodes and how to make another set.
    """
    from xp.data import Split
    from xp.tasks._lib.data_source import SPLIT, own_folder, refuse_trained_on, training_data

    folder = own_folder(checkpoint)
    trained = training_data(folder)
    if dump.about.get("part") == "train" or not trained or trained["fingerprint"] != dump.about.get("fingerprint"):
        return
    episodes = tuple(int(episode) for episode in dump.about["episodes"])
    refuse_trained_on(episodes, Split.load(folder / SPLIT), folder, f"{given}={dump.path}")
