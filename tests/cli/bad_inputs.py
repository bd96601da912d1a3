"""Type what a newcomer gets wrong, and judge every answer: `bad_inputs.py XP [--only WORD] [--show] [--jobs 2]`.

XP is the executable (`.venv/bin/xp`). Works in a temporary folder that it removes. Prints `N of M clear` at the end, a
line for every input that is not clear, and exits 0 only if all are. An answer is clear if it has the expected exit code
(2), is one paragraph `xp: ...` of at most 900 characters that names what was given, shows no Python (a traceback, an
exception's name, `NoneType`, `[Errno`), took less than 10 s of processor time (and did not hang), and left nothing
behind but a run folder whose record says failed. Needs no network, no GPU, no root.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bad_input_cases
import more_bad_inputs

CASES = {**bad_input_cases.CASES, **more_bad_inputs.CASES}
CPU_S, WALL_S, LONGEST = 10.0, 120.0, 900
PYTHONIC = re.compile(
    r"Traceback|\b[A-Z]\w*(?:Error|Exception)\b(?!\.)|NoneType|\[Errno|object has no attribute|not subscriptable|"
    r"positional argument|unexpected keyword|<class '|full_key:|object_type=|Errno|unhashable|invalid literal|"
    r"Config search path|\.{4}=|=None\b|In 'config'"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("xp", help="the xp executable")
    parser.add_argument("--only", default="", help="only inputs whose name contains this")
    parser.add_argument("--show", action="store_true", help="print every message")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", help="work here and keep it")
    parser.add_argument("--after", default="", help="only inputs that stand behind this one")
    parser.add_argument("--cpu", type=float, default=CPU_S, help="seconds of processor time that an answer may take")
    parser.add_argument("--memory", type=float, default=8.0, help="GB that an input may take before it gets no more")
    parser.add_argument("--wall", type=float, default=WALL_S, help="seconds after which an input counts as hanging")
    options = parser.parse_args()
    xp = str(Path(options.xp).absolute())
    work = Path(options.keep or tempfile.mkdtemp(prefix="bad_inputs-")).absolute()
    work.mkdir(parents=True, exist_ok=True)
    try:
        places = fixtures(xp, work)
        names = list(CASES)
        names = names[names.index(options.after) + 1 :] if options.after else names
        chosen = {name: CASES[name] for name in names if options.only in name}
        with ThreadPoolExecutor(options.jobs) as pool:
            verdicts = []
            for verdict in pool.map(lambda item: judge(xp, work, places, options, *item), chosen.items()):
                verdicts.append(verdict)
                _say(*verdict, show=options.show)
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    clear = sum(not faults for _, faults, *_ in verdicts)
    print(f"{clear} of {len(verdicts)} clear")
    return 0 if clear == len(verdicts) else 1


def _say(name: str, faults: list[str], text: str, cpu: float, wall: float, code: object, *, show: bool) -> None:
    if faults:
        print(f"NOT CLEAR {name}: {'; '.join(faults)}\n    {text[:600]!r}", flush=True)
    elif show:
        print(f"ok {name} [{code}, {cpu:.1f} s cpu, {wall:.1f} s]: {text}", flush=True)


def fixtures(xp: str, work: Path) -> dict[str, str]:
    """A dataset without cameras, one of one episode with a camera, a run, a file, an empty folder, pickles."""
    base = work / "given"
    places = {name: str(base / name) for name in ("d", "c", "r", "empty", "file", "pickles", "spoilt")}
    if base.exists():
        return places
    (base / "empty").mkdir(parents=True)
    (base / "pickles").mkdir()
    (base / "file").write_text("just a text\n")
    (base / "pickles" / "pytorch_model.bin").write_bytes(b"\x80\x02]q\x00.")
    (base / "pickles" / "val.pkl").write_bytes(b"\x80\x04]\x94.")
    (base / "pickles" / "config.json").write_text("{}")
    collect = ["task=collect", "env.tasks=[push_red]", "hydra.run.dir=run_of_it"]
    plain = ["env.cameras={}", "env.environment_state=true", "collect.episodes=4"]
    _given(xp, base, [*collect, *plain, "data.root=d"])
    shutil.rmtree(base / "run_of_it")
    shutil.copytree(base / "d", base / "spoilt")
    cameras = ["env.cameras.oblique=[32,32]", "env.cameras.wrist=[32,32]"]
    _given(xp, base, [*collect, *cameras, "collect.episodes=1", "data.root=c"])
    shutil.rmtree(base / "run_of_it")
    _given(
        xp,
        base,
        [
            "data.root=" + places["d"],
            "model=act_state",
            "trainer.steps=2",
            "data.val_fraction=0.5",
            "trainer.batch_size=2",
            "horizon.train=4",
            "hydra.run.dir=r",
        ],
    )
    return places


def _given(xp: str, cwd: Path, arguments: list[str]) -> None:
    done = subprocess.run([xp, *arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bad_inputs: what all inputs need cannot be made: xp {' '.join(arguments)}\n{done.stderr[-2000:]}")


def judge(xp: str, work: Path, places: dict[str, str], limits: argparse.Namespace, name: str, case: tuple) -> tuple:
    arguments, wanted, *rest = case
    codes = rest[0] if rest else (2,)
    given = [word for each in arguments for word in _filled(each, places)]
    cwd = work / "here" / re.sub(r"\W+", "_", name)
    shutil.rmtree(cwd, ignore_errors=True)
    cwd.mkdir(parents=True)
    before = _tree(Path(places["d"]).parent)
    code, out, err, cpu, wall = _run([xp, *given], cwd, limits.wall, limits.memory)
    faults = []
    if code == "hang":
        faults.append(f"hangs: killed after {limits.wall:.0f} s")
    elif code not in codes:
        faults.append(f"exit code {code}")
    text = out + err
    if PYTHONIC.search(text):
        faults.append(f"Python in the message: {PYTHONIC.search(text)[0]}")
    lines = [line for line in err.splitlines() if line.startswith("xp: ")]
    if len(lines) != 1:
        faults.append(f"{len(lines)} paragraphs that start with 'xp: '")
    shown = lines[0] if lines else err.strip()[-LONGEST:] or out.strip()[-LONGEST:]
    if len(shown) > LONGEST + 2 * len(max(given, key=len, default="")):
        faults.append(f"{len(shown)} characters")
    pattern = _names(wanted, places)
    if not re.search(pattern, shown):
        faults.append(f"does not name {pattern!r}")
    if cpu > limits.cpu:
        faults.append(f"{cpu:.0f} s of processor time")
    faults += _left(cwd)
    changed = _tree(Path(places["d"]).parent) ^ before
    if changed:
        faults.append(f"changed what it was given: {sorted(changed)[:3]}")
    return name, faults, shown, cpu, wall, code


def _filled(word: str, places: dict[str, str]) -> list[str]:
    if word == "{small}":
        small = ("data.root={d}", "model=act_state", "trainer.steps=1", "trainer.batch_size=2", "data.val_fraction=0.5")
        return [each.format(**places) for each in small]
    return [word.format(**places)]


def _names(wanted: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        wanted = wanted.replace("{" + name + "}", re.escape(place))
    return wanted


def _run(command: list[str], cwd: Path, limit_s: float, memory_gb: float):
    began, most = time.monotonic(), int(memory_gb * 1e9)
    environment = {**os.environ, "XP_BAD_INPUTS": "1"}
    out, err = cwd.with_suffix(".out"), cwd.with_suffix(".err")
    with out.open("wb") as o, err.open("wb") as e:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                stdout=o,
                stderr=e,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (most, most)),
            )
        except ValueError:  # a null byte cannot be typed at all
            return 2, "", "xp: data.root", 0.0, 0.0
        code: int | str = "hang"
        usage = None
        while time.monotonic() - began < limit_s:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.05)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    cpu = usage.ru_utime + usage.ru_stime if usage else resource.RLIM_INFINITY
    wall = time.monotonic() - began
    texts = [path.read_text(errors="replace") for path in (out, err)]
    out.unlink()
    err.unlink()
    return code, *texts, cpu, wall


def _left(cwd: Path) -> list[str]:
    """What lies there that should not: anything but folders of runs that say that they failed, and the frame cache."""
    faults = []
    runs = [path.parent for path in cwd.rglob("record.json")]
    for run in runs:
        state = json.loads((run / "record.json").read_text()).get("state")
        if state != "failed":
            faults.append(f"left a run that is {state}: {run.relative_to(cwd)}")
        for part in ("final", "best"):
            if (run / part).exists():
                faults.append(f"left {part}/ of a failed run")
    for path in cwd.rglob("*"):
        if ".tmp-" in path.name or path.name.endswith(".partial"):
            faults.append(f"half-written: {path.relative_to(cwd)}")
        elif path.is_file() and not any(run in path.parents for run in runs) and "cache" not in str(path):
            faults.append(f"left {path.relative_to(cwd)}")
    return faults


def _tree(folder: Path) -> set[tuple[str, int]]:
    return {
        (str(path.relative_to(folder)), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and "spoilt" not in path.parts
    }


if __name__ == "__main__":
    sys.exit(main())
