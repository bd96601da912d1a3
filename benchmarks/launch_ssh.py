"""What a job costs through `hydra/launcher=ssh` beyond the job itself, and how many connections a node sees.

    .venv/bin/python benchmarks/launch_ssh.py [--jobs 200]

Two nodes in network namespaces (root; Debian: openssh-server rsync iproute2). A job does nothing but start Python,
import xp.runs and write its result; it is compared to the same program started by plain ssh over an open connection.
Times are from one job's end to the next one's at the same node: the first job carries connection, code and set-up.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "ssh"))

from ssh_nodes import Nodes, missing  # noqa: E402
from ssh_site import APP, Site  # noqa: E402

from hydra_plugins.xp_ssh_launcher._hosts import parse_host  # noqa: E402
from hydra_plugins.xp_ssh_launcher._transport import Link  # noqa: E402
from xp.runs import RunFolder  # noqa: E402


def ended(folder: Path, key: str) -> float:
    return datetime.fromisoformat(RunFolder(folder).record()[key]).timestamp()


def bare(nodes: Nodes, site: Site, times: int) -> float:
    """Seconds of one job's program run by hand on a node over an open connection: the least of several."""
    import subprocess

    link = Link(parse_host("node1"), python="python3", ssh_config=str(nodes.config))
    link.connect()
    code = next((site.folder / "multirun/sweep/.code").iterdir())
    program = "import xp.runs.execution.execute, ssh_tasks"
    remote = f"cd {site.folder} && PYTHONPATH={code}/src:{code}/launchers:{APP} {sys.executable} -c '{program}'"
    found = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([*link.shell(), *link.host.address, remote], check=True, stdin=subprocess.DEVNULL)
        found.append(time.perf_counter() - start)
    link.close()
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    number = parser.parse_args().jobs
    reason = missing()
    if reason:
        sys.exit(f"nodes cannot be made here: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the nodes are taken down then, too
    with tempfile.TemporaryDirectory(prefix="xp-bench-") as place:
        ground = Path(place) / "ground"
        nodes = Nodes(Path(place) / "nodes", ground)
        try:
            measure(nodes, Site(ground / "work", nodes), number)
        finally:
            nodes.close()


def measure(nodes: Nodes, site: Site, number: int) -> None:
    start = time.perf_counter()
    code, output = site.run(f"seed=range({number})", "work.steps=1", patience_s=3600)
    assert code == 0, output
    handed = time.perf_counter() - start
    site.wait_until_over(patience_s=3600)
    folders = sorted((site.folder / "multirun" / "sweep").glob("*seed_*"))
    assert len(folders) == number and len(site.results()) == number
    gaps, works = [], []
    for box in nodes.boxes:
        mine = [folder for folder in folders if RunFolder(folder).record()["host"] == f"xp-{box.name}"]
        times = sorted((ended(folder, "started"), ended(folder, "ended")) for folder in mine)
        gaps += [after[1] - before[1] for before, after in zip(times, times[1:])]
        works += [end - begin for begin, end in times]
    alone = bare(nodes, site, 5)
    each = statistics.median(gaps)
    low, high = statistics.quantiles(gaps, n=20)[0], statistics.quantiles(gaps, n=20)[-1]
    print(f"{number} jobs on 2 nodes, handed over and left alone after {handed:.1f} s")
    print(f"a job after the first: median {each:.2f} s from end to end (5-95%: {low:.2f}-{high:.2f}, n={len(gaps)})")
    print(f"the same program by hand over an open connection: {alone:.2f} s")
    print(f"overhead: {each - alone - statistics.median(works):.2f} s per job; ratio {each / alone:.2f}")
    print(f"connections per node: {', '.join(str(box.connections) for box in nodes.boxes)} (one is this program's own)")


if __name__ == "__main__":
    main()
