"""A real SLURM with accounts: slurmdbd and its database as daemons of their own, for limits on what a user may submit.

Needs Debian's packages slurmdbd and mariadb-server beside those of `slurm_cluster`.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from slurm_cluster import Cluster, free_ports, lacking, wait_for

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb-admin", "sacctmgr")
DBD = """
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounts
"""


class ClusterWithAccounts(Cluster):
    """A made-up cluster that keeps accounts and enforces its limits; everybody belongs to the account `lab`."""

    def up(self) -> None:
        self._port = free_ports(1)[0]
        super().up()
        for change in (
            ("add", "account", "lab"),
            ("add", "user", "root", "account=lab"),
            ("modify", "user", "root", "set", "DefaultAccount=lab"),
        ):
            self.tell("sacctmgr", "-i", *change)

    def down(self) -> None:
        super().down()
        for name in ("slurmdbd", "mariadbd"):
            self.kill(name, signal.SIGTERM)

    def limit(self, jobs: int) -> None:
        """How many jobs a user may have in the queue, waiting and running; -1: no limit."""
        self.tell("sacctmgr", "-i", "modify", "account", "lab", "set", f"MaxSubmitJobs={jobs}")
        wait_for(lambda: f"MaxSubmitJobs={'' if jobs < 0 else jobs}" in self.tell("scontrol", "show", "assoc_mgr"))

    def _munge(self) -> None:
        super()._munge()
        self._database()
        conf = self.folder / "etc" / "slurmdbd.conf"
        conf.write_text(DBD.format(folder=self.folder, port=self._port))
        conf.chmod(0o600)
        subprocess.run(
            ["slurmdbd"], check=True, timeout=60,
            env=self.environment() | {"MYSQL_UNIX_PORT": str(self.folder / "run" / "mariadb.sock")},
        )  # fmt: skip
        wait_for(lambda: "ClusterName" not in self.tell("sacctmgr", "-n", "-i", "list", "cluster", check=False)
                 and subprocess.run(["sacctmgr", "-n", "list", "cluster"], capture_output=True, timeout=60,
                                    env=self.environment()).returncode == 0)  # fmt: skip
        self.tell("sacctmgr", "-i", "add", "cluster", "made-up", check=False)

    def _database(self) -> None:
        data, run = self.folder / "db", self.folder / "run"
        data.mkdir(exist_ok=True)
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
             "--auth-root-authentication-method=normal"],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        log = (self.folder / "log" / "mariadb.log").open("wb")
        subprocess.Popen(
            ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={run}/mariadb.sock",
             f"--pid-file={run}/mariadbd.pid", "--skip-networking", "--innodb-buffer-pool-size=64M",
             "--innodb-lock-wait-timeout=900"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        ping = ["mariadb-admin", "--no-defaults", "-S", f"{run}/mariadb.sock", "-u", "root", "ping"]
        wait_for(lambda: subprocess.run(ping, capture_output=True, timeout=60).returncode == 0, every_s=0.2)

    def _configure(self) -> None:
        super()._configure()
        text = self.conf.read_text().replace(
            "AccountingStorageType=accounting_storage/none",
            f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            f"AccountingStoragePort={self._port}\nAccountingStoragePass={self.folder}/run/munge.sock\n"
            "AccountingStorageEnforce=associations,limits,qos",
        )
        self.conf.write_text(text)


def accounts_lacking() -> str:
    """Why this machine cannot have such a cluster; empty if it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return lacking() or (
        f"not installed: {', '.join(missing)} (apt-get install slurmdbd mariadb-server)" if missing else ""
    )


if __name__ == "__main__":
    import sys

    place = Path(sys.argv[2]).absolute()
    cluster = ClusterWithAccounts(place)
    if sys.argv[1] == "up":
        cluster.up()
        print(f"export SLURM_CONF={place}/etc/slurm.conf  # process {os.getpid()}")
    else:
        cluster.down()
