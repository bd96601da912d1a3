"""Which options of sbatch a user may add, and which values may stand in a batch script.

A batch script is lines of text: a value that holds a line break would be another line of it, and an option that changes
how many processes a job is, or where it writes, would break what the launcher relies on. Both are refused by name.
"""

import math
import re
from collections.abc import Mapping
from typing import Literal

from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.text import printable, shown

OWN_KEYS = {
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint",
    "gpus-per-node": "gpus", "cpus-per-task": "cpus", "array-parallelism": "max_running", "timeout-min": "time_min",
    "additional-parameters": "extra", "signal-delay-s": "warn_s",
}  # fmt: skip
"""{an option of sbatch, or submitit's name of one: the key of the launcher that sets it}."""

_ONE_PROCESS = "a job is one process on one node; several devices of one node are hydra.launcher.gpus=N"
_OURS = "the launcher sets it itself, to find the job again"
_FORBIDDEN = {
    **dict.fromkeys(
        ("nodes", "ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-socket",
         "tasks-per-node", "spread-job", "use-min-nodes", "overcommit", "nodefile"), _ONE_PROCESS),
    **dict.fromkeys(
        ("job-name", "output", "error", "input", "open-mode", "parsable", "test-only", "ignore-pbs", "quiet", "verbose",
         "help", "usage", "version"), _OURS),
    "array": "jobs of one stage are an array already; how many run at the same time is hydra.launcher.max_running=N",
    "dependency": "the launcher sets it from the stages' needs",
    "kill-on-invalid-dep": "a job whose needs failed must not wait for ever",
    "wrap": "the launcher writes the job's script; shell lines before the job are hydra.launcher.setup=[LINE]",
    "wait": "hydra.launcher.detach=false waits for the jobs",
    "wait-all-nodes": _ONE_PROCESS,
    "signal": "the seconds before the time limit are hydra.launcher.warn_s=SECONDS",
    "requeue": "the launcher sets it: interrupted jobs go on",
    "no-requeue": "how often is hydra.launcher.max_requeues=N and hydra.launcher.retries=N",
    "chdir": "jobs run where the command was typed, else relative paths would mean other places",
    "export": "jobs need the environment of the command; variables go into hydra.launcher.setup=[export NAME=VALUE]",
    "export-file": "variables go into hydra.launcher.setup=[export NAME=VALUE]",
    "get-user-env": "shell lines before the job are hydra.launcher.setup=[LINE]",
    "clusters": "log in to the cluster that is to run the jobs",
    "uid": "jobs belong to whoever submits them",
    "gid": "jobs belong to whoever submits them",
    "chroot": "jobs run in the system that they were submitted from",
    "wckey": "it is not supported",
}  # fmt: skip
_FREE = (
    "account", "acctg-freq", "batch", "bb", "bbf", "begin", "cluster-constraint", "comment", "constraint", "container",
    "contiguous", "core-spec", "cores-per-socket", "cpu-freq", "cpus-per-gpu", "deadline", "delay-boot", "distribution",
    "exclude", "exclusive", "extra-node-info", "gpu-bind", "gpu-freq", "gpus", "gpus-per-socket", "gpus-per-task",
    "gres", "gres-flags", "hint", "hold", "licenses", "mail-type", "mail-user", "mcs-label", "mem", "mem-bind",
    "mem-per-cpu", "mem-per-gpu", "mincpus", "network", "nice", "no-kill", "nodelist", "oversubscribe", "power",
    "prefer", "priority", "profile", "propagate", "qos", "reboot", "reservation", "sockets-per-node", "switches",
    "thread-spec", "threads-per-core", "time", "time-min", "tmp", "tres-per-task", "x11",
)  # fmt: skip
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+|[a-z][a-z0-9]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]")


def one_line(value: object, where: str) -> str:
    """A value as text that may stand in a line of a batch script.

    Raises:
        UserError: it is nested, not finite, or holds a line break or another control character.
    """
    if isinstance(value, Mapping | list | tuple | set) or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(f"{where}={shown(value)}: expected one word or number, as sbatch takes it.")
    text = str(value)
    if _CONTROL.search(text):
        raise UserError(
            f"{where}={shown(text)}: a value for SLURM is one line without control characters; this one would become "
            "another line of the batch script. Shell lines before the job are hydra.launcher.setup=[LINE, LINE]."
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}={shown(text)}: this is not text that a file can hold.") from None
    return text


def name_of(value: object, where: str) -> str:
    """A name (partition, account, qos, constraint) as text: one line, not empty, not an option itself.

    Raises:
        UserError: it is none.
    """
    text = one_line(value, where)
    if isinstance(value, bool) or not text.strip() or text.startswith("-"):
        raise UserError(f"{where}={shown(value)}: expected a name, as `sinfo` and `sacctmgr show assoc` list them.")
    return text


def extra_options(given: Mapping[str, object], where: str) -> dict[str, str | Literal[True]]:
    """The user's further options of sbatch, {option without --: value; True for one without a value}, checked.

    Raises:
        UserError: an option that breaks what the launcher relies on, an abbreviated one, or a value of several lines.
    """
    found: dict[str, str | Literal[True]] = {}
    for key, value in given.items():
        option = str(key).replace("_", "-")
        if value is None or value is False:
            continue
        _check_name(option, str(key), value, where)
        if option in found:
            raise UserError(f"{where} gives --{option} twice. Give it once.")
        found[option] = True if value is True else one_line(value, f"{where}.{printable(key)}")
    return found


def _check_name(option: str, key: str, value: object, where: str) -> None:
    if option in ("nodes", "ntasks", "ntasks-per-node") and str(value) == "1":
        return
    if option in _FORBIDDEN:
        raise UserError(f"{where}.{key}={shown(value)}: --{option} is not for users here: {_FORBIDDEN[option]}.")
    if option in OWN_KEYS:
        raise UserError(f"{where}.{key}: this is hydra.launcher.{OWN_KEYS[option]}={shown(value)}.")
    if option in _FREE:
        return
    longer = [known for known in (*_FORBIDDEN, *_FREE) if known.startswith(option)]
    if longer or not _NAME.fullmatch(option):
        known = [*_FREE, *_FORBIDDEN]
        raise UserError(
            f"{where}.{printable(key)}: options of sbatch are written out in full, without the --"
            f"{did_you_mean(option, known) if not longer else f' ({join_names(longer[:5])})'}. See: man sbatch"
        )


def setup_lines(given: object, where: str) -> tuple[str, ...]:
    """Shell lines before a job, as the user wrote them.

    Raises:
        UserError: not lines of text.
    """
    lines = (given,) if isinstance(given, str) else given or ()
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"{where}={shown(given)}: expected a list of shell lines: 'hydra.launcher.setup=[LINE, LINE]'")
    for line in lines:
        if "\0" in line:
            raise UserError(f"{where}: {shown(line)} holds a character that no shell takes. Type the line again.")
    return tuple(lines)


def count(value: object, low: int, where: str, *, optional: bool = False) -> int | None:
    """A whole number of at least `low`; None too if it is optional.

    Raises:
        UserError: it is none.
    """
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 2**31 - 2:
        raise UserError(f"{where}={shown(value)}: expected a whole number of at least {low}{', or null' * optional}.")
    return value
