"""Open hostile folders, each in a forked child of a process that has imported everything, under limits and watched.

Reads cases as lines of JSON from standard input: {"name", "way", "folder", "second"}; writes one line of outcome for
each: {"name", "outcome", "said", "seconds", "did"}. `outcome` is refused (one UserError), opened, error (a traceback),
killed (a signal) or hung. `did` lists what no opening may do: start a program, reach a host, signal a process, look up
a pickled class.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path

ROOM = 2 << 30
SECONDS = 30
_WATCHED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.kill", "os.killpg", "os.fork")
_REACHING = ("socket.connect", "socket.getaddrinfo", "socket.bind", "pickle.find_class")


def dataset(folder: Path, second: Path) -> None:
    from xp.data import open_dataset, open_frames

    found = open_dataset(folder)
    open_frames(found, dict.fromkeys(found.cameras, (32, 32)), cache_dir=second, cache_gb=0.5)


def policy(folder: Path, second: Path) -> None:
    from xp.models import load_policy

    load_policy(folder, device="cpu")


def merge(folder: Path, second: Path) -> None:
    from xp.merging import merge

    merge([folder, folder], "average", output=second / "merged")


def npz(folder: Path, second: Path) -> None:
    from xp.foreign.npz import read_npz
    from xp.foreign.paths import member

    read_npz(member(folder, "episode_0.npz", "an episode"), "an episode")


def network(folder: Path, second: Path) -> None:
    """A family of one network, as a package from outside brings it."""
    import torch

    from xp.models.family import LoadRequest
    from xp.models.network_family import Number, TorchFamily

    class Hostile(TorchFamily):
        name = "hostile"
        options = {"width": Number(4, low=1, high=1_000_000, whole=True)}

        def network(self, options, spec):
            return torch.nn.Linear(spec.state_dim, options["width"])

    if Hostile().owns(folder):
        Hostile().load(LoadRequest(folder, device="cpu"))


def _looked(task: str, folder: Path) -> None:
    """A task that looks at runs, as the command line starts it once its words are composed."""
    from omegaconf import OmegaConf

    from xp.__main__ import run_read_only
    from xp.config import check

    config = _composed[task].copy()
    OmegaConf.update(config, f"{task}.folder", str(folder))
    check(config)
    run_read_only(config)


_composed: dict = {}


def status(folder: Path, second: Path) -> None:
    _looked("status", folder)


def report(folder: Path, second: Path) -> None:
    _looked("report", folder)


def cancel(folder: Path, second: Path) -> None:
    _looked("cancel", folder)


def told_dataset(folder: Path, second: Path) -> None:
    """A dataset whose rate `data.read` says."""
    from xp.data import open_dataset

    open_dataset(folder, read={"fps": 10})


def told_frames(folder: Path, second: Path) -> None:
    """The same, with all of its frames."""
    from xp.data import open_dataset

    opened = open_dataset(folder, read={"fps": 10})
    for camera, size in opened.cameras.items():
        for _ in opened.read_frames(camera, size[:2], opened.choose_decoder(camera)):
            pass


WAYS = {
    function.__name__: function
    for function in (dataset, told_dataset, told_frames, policy, npz, network, merge, status, report, cancel)
}


def warm() -> None:
    """Import what the ways import, without starting threads."""
    import av.video.reformatter  # noqa: F401
    import h5py  # noqa: F401 - asks `uname` what processor this is
    import pyarrow.parquet  # noqa: F401
    import torch

    import xp.__main__  # noqa: F401
    import xp.checkpoints.open  # noqa: F401
    import xp.data.cache  # noqa: F401
    import xp.data.lerobot.frames  # noqa: F401
    import xp.foreign.npz  # noqa: F401
    import xp.merging  # noqa: F401
    import xp.models.lerobot.build  # noqa: F401
    import xp.models.network_family.torch_policy  # noqa: F401
    import xp.models.octo.build  # noqa: F401
    import xp.models.openvla.build  # noqa: F401
    from xp.config.compose import compose
    from xp.models.lerobot.catalog import policy_class

    for task in ("status", "report", "cancel"):
        _composed[task] = compose([f"task={task}"])
        importlib.import_module(f"xp.tasks.{task}")
    torch.set_num_threads(1)
    policy_class("act")


def opened(case: dict, write: int) -> None:
    """The child: limits, the watch, the way; the outcome goes into the pipe."""
    did: list[str] = []
    known = {os.getpid()}

    def watch(event: str, arguments: tuple) -> None:
        if event in _WATCHED or event in _REACHING:
            if event == "os.kill" and arguments[1] == 0 and arguments[0] in known:
                return
            if (
                event == "subprocess.Popen"
                and arguments[0] == sys.executable
                and case["folder"] not in str(arguments[1])
            ):
                return  # xp's own look at whether a library loads, or at a pattern under a time limit
            did.append(f"{event} {arguments!r}"[:300])
            if event in ("os.kill", "os.killpg") or event.startswith("socket"):
                raise PermissionError(f"watched: {event}")

    start = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (start + ROOM, start + ROOM))
    sys.addaudithook(watch)
    began, said, outcome = time.monotonic(), io.StringIO(), "opened"
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            WAYS[case["way"]](Path(case["folder"]), Path(case["second"]))
    except BaseException as error:  # noqa: BLE001 - whatever comes is the finding
        from xp.errors import UserError

        outcome = "refused" if isinstance(error, UserError) else "error"
        said.write(str(error) if outcome == "refused" else traceback.format_exc())
    line = {"outcome": outcome, "said": said.getvalue()[-4000:], "seconds": time.monotonic() - began, "did": did}
    os.write(write, json.dumps(line).encode()[:60_000])


def one(case: dict) -> dict:
    """Fork, wait, kill what hangs."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1):
                os.dup2(null, number)
            opened(case, write)
        finally:
            os._exit(0)
    os.close(write)
    began, data = time.monotonic(), b""
    while time.monotonic() - began < SECONDS:
        ready, _, _ = select.select([read], [], [], 1)
        if ready:
            piece = os.read(read, 65_536)
            data += piece
            if not piece or data.endswith(b"}"):
                break
    os.close(read)
    if not data and time.monotonic() - began >= SECONDS:
        os.killpg(pid, signal.SIGKILL)
    _, code = os.waitpid(pid, 0)
    if data:
        return json.loads(data)
    hung = time.monotonic() - began >= SECONDS
    return {"outcome": "hung" if hung else "killed", "said": f"status {code}", "seconds": 0.0, "did": []}


def main() -> None:
    warm()
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps({"name": case["name"], **one(case)}), flush=True)


if __name__ == "__main__":
    main()
