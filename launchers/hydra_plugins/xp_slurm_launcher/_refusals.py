"""What sbatch says when it does not take a job: no room now, never, or only not at this moment; in words for people."""

import re

from hydra_plugins.xp_slurm_launcher._commands import Answer, call
from hydra_plugins.xp_slurm_launcher._resources import Resources
from xp.errors import UserError, did_you_mean, join_names

_NO_ROOM = re.compile(
    r"\w*(?:Max|Grp)Submit\w*Limit|temporarily unable to accept|resource temporarily unavailable|MaxJobCount",
    re.IGNORECASE,
)
HOPELESS = (
    "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "AccountNotAllowed",
    "QOSNotAllowed", "InvalidAccount", "InvalidQOS", "QOSTimeLimit", "AssociationTimeLimit",
)  # fmt: skip
"""Reasons to wait that no passing of time removes."""
_REASON = re.compile(r"\b(?:Assoc|QOS|Partition|Max|Job)\w*Limit\w*", re.IGNORECASE)
_GENERIC = re.compile(r"job submit limit", re.IGNORECASE)


class NoRoom(UserError):  # noqa: N818 - a state of affairs
    """SLURM takes no more jobs of this user for now; the message is its limit's name."""


def no_room(answer: Answer) -> str:
    """The limit on jobs in the queue that a refusal names (`AssocMaxSubmitJobLimit`); empty if it names none.

    SLURM's general sentence names three kinds of limit at once, so it counts only where no particular one is told.
    """
    named = _NO_ROOM.search(answer.err)
    if named:
        return named.group(0)
    return "job submit limit" if _GENERIC.search(answer.err) and not _REASON.search(answer.err) else ""


def refusal(answer: Answer, asked: Resources) -> UserError:
    """The error for a request that SLURM refused."""
    words = answer.told
    if "partition" in words.lower() and "invalid partition" in words.lower():
        known = _partitions()
        return UserError(
            f"SLURM has no partition '{asked.partition}'{did_you_mean(str(asked.partition), known)}. Partitions here: "
            f"{join_names(known)}. Choose one with hydra.launcher.partition=NAME."
        )
    if re.search(r"node configuration|more processors|memory specification|node count", words, re.IGNORECASE):
        return UserError(
            f"No node of this cluster can give a job what is asked ({asked.text()}): {words}. Nodes here: {_nodes()}. "
            "Ask for less, or name another partition: hydra.launcher.gpus=, cpus=, mem_gb=, partition="
        )
    if re.search(r"invalid account|invalid qos|account/partition|association", words, re.IGNORECASE):
        return UserError(
            f"SLURM refuses account={asked.account}, qos={asked.qos}: {words}. See yours with: sacctmgr show assoc "
            "user=$USER format=account,partition,qos ; give them as hydra.launcher.account=NAME hydra.launcher.qos=NAME"
        )
    return UserError(
        f"SLURM refuses the job ({asked.text()}): {words}. The launcher's settings: hydra.launcher.KEY=VALUE"
    )


def standstill() -> str:
    """Why nodes do not take jobs now, as `sinfo -R` tells it; empty if they do."""
    rows = call("sinfo", "-h", "-R", "-o", "%N %T (%E)").out.split("\n")
    return "; ".join(" ".join(row.split()) for row in rows[:4] if row.strip())


def _partitions() -> list[str]:
    return [name.rstrip("*") for name in call("sinfo", "-h", "-a", "-o", "%P").out.split()]


def _nodes() -> str:
    rows = dict.fromkeys(
        call("sinfo", "-h", "-a", "-o", "%D x %c CPUs, %m MB, gres %G (partition %R)").out.splitlines()
    )
    return "; ".join(list(rows)[:6]) or "none"
