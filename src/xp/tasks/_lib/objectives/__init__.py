"""The objectives of a merge: a policy's loss on a dumped validation set, or its success in the simulated suite."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from omegaconf import OmegaConf

from xp.errors import UserError, did_you_mean, join_names
from xp.shell import override

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from xp.data.dumps import Dump
    from xp.merging.objective import Objective
    from xp.metrics.intervals import Sums
    from xp.models.policy import Policy

KINDS = ("loss", "success")


@runtime_checkable
class EpisodicLoss(Protocol):
    """An `xp.merging.objective.Objective` that also knows the loss of each episode."""

    name: str

    def loss(self, weights: "Mapping[str, np.ndarray]") -> float:
        """The loss of these weights over the whole validation set."""
        ...

    def loss_and_gradient(self, weights: "Mapping[str, np.ndarray]") -> "tuple[float, Mapping[str, np.ndarray]]":
        """The same loss, and its gradient with respect to each float weight."""
        ...

    def by_episode(self, weights: "Mapping[str, np.ndarray]") -> "Sums":
        """Sums of the loss over the action values of each episode, and their counts."""
        ...


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
            "merge.validation is not given: the weights are chosen on a set of held-out windows. Make a set with "
            f"xp task=dump {override('dump.checkpoint', first_checkpoint)} dump.output=val.safetensors ; then give "
            "merge.validation=val.safetensors. Or choose by success in simulation: merge.objective=success"
        )
    policy = load(config, str(first_checkpoint), OmegaConf.select(config, "merge"))
    if kind == "success":
        from xp.tasks._lib.objectives.success import Success

        return Success.of(config, policy, str(first_checkpoint))
    checkpoints = OmegaConf.select(config, "merge.checkpoints") or [first_checkpoint]
    return policy_loss(policy, path, [str(first_checkpoint), *map(str, checkpoints)], "merge")


def policy_loss(policy: "Policy", path: str | Path, checkpoints: list[str], section: str) -> EpisodicLoss:
    """The loss of `policy` (loaded from the first of `checkpoints`) on the validation set at `path`.

    `section` is the one with the keys `validation` and `camera_map`, for messages.

    Raises:
        UserError: the set does not fit the policy, or one of the checkpoints was trained on its episodes.
    """
    from xp.data.dumps import open_dump
    from xp.tasks._lib.loading import fit_cameras
    from xp.training import frameworks

    dump = open_dump(path)
    if len(dump.cameras):
        fit_cameras(policy, list(dump.cameras), f"the validation set {dump.path}", f"{section}.camera_map")
    dump.refuse_unfit(policy.spec, checkpoints[0])
    for checkpoint in dict.fromkeys(checkpoints):
        refuse_seen(dump, checkpoint, f"{section}.validation")
    loss = frameworks.policy_loss(policy, dump)
    assert isinstance(loss, EpisodicLoss)
    return loss


def refuse_seen(dump: "Dump", checkpoint: str, given: str) -> None:
    """Refuse a validation set with episodes that a checkpoint was trained on, unless it was dumped to have them.

    Raises:
        UserError: naming the episodes and how to make another set.
    """
    from xp.tasks._lib.data_source import own_folder, refuse_trained_on, trained_on

    folder = own_folder(checkpoint)
    if dump.about.get("part") == "train":
        return
    for trained, own in trained_on(folder):
        if trained.fingerprint == dump.about.get("fingerprint"):
            refuse_trained_on(dump.episodes, own, folder, f"{given}={dump.path}")
