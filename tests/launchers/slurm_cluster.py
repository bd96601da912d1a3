"""A real SLURM on this machine: munge, one controller and several nodes as daemons of their own, all in one folder.

Needs root and Debian's packages slurm-wlm and munge; uses nothing under /etc or /run, and ports that are free.

    python tests/launchers/slurm_cluster.py up FOLDER     # prints the line that makes a shell use it
    python tests/launchers/slurm_cluster.py down FOLDER
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
CONF = """
ClusterName=made-up
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
InactiveLimit=0
MinJobAge=3600
KillWait=5
CompleteWait=0
JobRequeue=1
MaxArraySize=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
DefMemPerCPU=400
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """The daemons of one made-up cluster; each node has two cores, 4 GB and one GPU that is really /dev/null."""

    def __init__(self, folder: Path, nodes: int = 2):
        self.folder, self.nodes = folder, [f"n{number}" for number in range(1, nodes + 1)]
        self.conf = folder / "etc" / "slurm.conf"
        self._hastened: dict[str, float] = {}

    def up(self) -> None:
        for name in ("etc", "run", "state", "log", "dev", "munge", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._configure()
        self._munge()
        self._run("slurmctld", "-c")
        for node in self.nodes:
            self.start(node)
        wait_for(lambda: self.tell("sinfo", "-h", "-t", "idle", "-o", "%D") == str(len(self.nodes)))

    def down(self) -> None:
        self.tell("scancel", "--user=root", check=False)
        wait_for(lambda: not self.tell("squeue", "-h", check=False), limit_s=20)
        for name in (*self.nodes, "slurmctld", "munged"):
            self.kill(name, signal.SIGTERM)

    def start(self, node: str) -> None:
        self._run("slurmd", "-N", node)

    def restart_controller(self) -> None:
        """Start slurmctld again with all it knew."""
        self._run("slurmctld")
        wait_for(lambda: self.tell("sinfo", "-h", "-t", "idle,mix,alloc", "-o", "%D", check=False) != "")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a daemon a signal and wait until it is gone."""
        file = self.folder / "run" / f"{name}.pid"
        pid = int(file.read_text()) if file.exists() and file.read_text().strip() else 0
        if pid and alive(pid):
            os.kill(pid, number)
            wait_for(lambda: not alive(pid), limit_s=30)

    def tell(self, *command: str, check: bool = True) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=self.environment())
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def job(self, handle: str) -> dict[str, str]:
        """The fields that the controller tells of a job."""
        line = self.tell("scontrol", "show", "job", "-o", handle)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def start_now(self) -> None:
        """Let queued-again jobs start in a moment: SLURM makes them wait for two minutes.

        Not at once: within the second in which a job was queued again its new credential counts as revoked with the old
        one, and SLURM gives the job up ("Killing non-startable batch job"). Nor again before it had time to start: a
        start that is put off whenever it is due never comes.
        """
        for line in self.tell("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %S %r").splitlines():
            name, start, reason = line.split(maxsplit=2)
            late = datetime.now() + timedelta(seconds=5)
            if time.monotonic() - self._hastened.get(name, -60.0) < 20:
                continue
            if reason == "BeginTime" and (start == "N/A" or datetime.fromisoformat(start) > late):
                self._hastened[name] = time.monotonic()
                self.tell("scontrol", "update", f"JobId={name}", "StartTime=now+3", check=False)

    def _configure(self) -> None:
        ports = free_ports(len(self.nodes) + 1)
        lines = []
        for node, port in zip(self.nodes, ports[1:]):
            device = self.folder / "dev" / f"{node}_gpu0"
            if not device.exists():
                os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
            lines.append(
                f"NodeName={node} NodeHostname={host()} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000 "
                "Gres=gpu:madeup:1 State=UNKNOWN"
            )
        self.conf.write_text(CONF.format(folder=self.folder, host=host(), port=ports[0], nodes="\n".join(lines)))
        gres = [f"NodeName={node} Name=gpu Type=madeup File={self.folder}/dev/{node}_gpu0" for node in self.nodes]
        (self.folder / "etc" / "gres.conf").write_text("\n".join(gres) + "\n")
        (self.folder / "etc" / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _munge(self) -> None:
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        run, log = self.folder / "run", self.folder / "log"
        self._run(
            "munged", "--force", f"--key-file={key}", f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid",
            f"--log-file={log}/munged.log", f"--seed-file={self.folder}/munge/seed",
        )  # fmt: skip

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=self.environment())
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def host() -> str:
    return socket.gethostname().partition(".")[0]


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition, limit_s: float = 120.0, every_s: float = 0.05) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {limit_s:.0f} s in vain")
        time.sleep(every_s)


def lacking() -> str:
    """Why this machine cannot have such a cluster; empty if it can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)" if missing else ""


if __name__ == "__main__":
    verb, place = sys.argv[1], Path(sys.argv[2]).absolute()
    if verb == "up":
        Cluster(place).up()
        print(f"export SLURM_CONF={place}/etc/slurm.conf")
    else:
        Cluster(place).down()
        shutil.rmtree(place)
