"""What sbatch says when it refuses a request, in words that name the request, what there is, and what to type."""

import re

from hydra_plugins.xp_slurm_launcher._commands import Answer, call
from hydra_plugins.xp_slurm_launcher._resources import Resources
from xp.errors import UserError, closest, listing


def refusal(answer: Answer, asked: Resources) -> UserError:
    """The error for a request that SLURM refused."""
    words = answer.words.replace("allocation failure: ", "").replace("Batch job submission failed: ", "")
    if "partition" in words.lower() and "invalid partition" in words.lower():
        known = _partitions()
        return UserError(
            f"SLURM has no partition '{asked.partition}'{closest(str(asked.partition), known)}. Partitions here: "
            f"{listing(known)}. Choose one with hydra.launcher.partition=NAME."
        )
    if re.search(r"node configuration|more processors|memory specification|node count", words, re.IGNORECASE):
        return UserError(
            f"No node of this cluster can give a job what is asked ({asked.text()}): {words}. Nodes here: {_nodes()}. "
            "Ask for less, or name another partition: hydra.launcher.gpus=, cpus=, mem_gb=, partition="
        )
    if re.search(r"account|qos", words, re.IGNORECASE):
        return UserError(
            f"SLURM refuses account={asked.account}, qos={asked.qos}: {words}. See yours with: sacctmgr show assoc "
            "user=$USER format=account,partition,qos ; give them as hydra.launcher.account=NAME hydra.launcher.qos=NAME"
        )
    return UserError(
        f"SLURM refuses the job ({asked.text()}): {words}. The launcher's settings: hydra.launcher.KEY=VALUE"
    )


def _partitions() -> list[str]:
    return [name.rstrip("*") for name in call("sinfo", "-h", "-a", "-o", "%P").out.split()]


def _nodes() -> str:
    rows = dict.fromkeys(
        call("sinfo", "-h", "-a", "-o", "%D x %c CPUs, %m MB, gres %G (partition %R)").out.splitlines()
    )
    return "; ".join(list(rows)[:6]) or "none"
