# pyright: strict
"""Recording, training, evaluating and sweeping from Python: the commands of the terminal, waited for.

Each is a process of its own, exactly what `xp OVERRIDES` starts: its threads, memory and crashes are not the
notebook's, and a kernel that is interrupted or restarted leaves a run that the same call goes on with.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from xp.errors import UserError
from xp.runs import RunFolder, State, find_runs, load_run
from xp.runs.execution.run_once import numbered

Overrides = str | Mapping[str, Any]
"""`"model=octo_tiny"`, as on the command line, or {dotted key or group: value} with values of Python."""
PROGRAM = (sys.executable, "-m", "xp")
"""What a command begins with."""
_LAST = 20
"""Lines of the output that an error repeats."""


class RunFailedError(RuntimeError):
    """A run ended with an error that is no mistake of its options; `folder` holds its log.txt and record.json."""

    def __init__(self, message: str, folder: Path):
        super().__init__(message)
        self.folder = folder


def collect(
    root: str | os.PathLike[str],
    *overrides: Overrides,
    folder: str | os.PathLike[str] | None = None,
    echo: bool = True,
) -> RunFolder:
    """`xp task=collect data.root=ROOT OVERRIDES`: record episodes of a suite, by its expert unless told otherwise.

    Args:
        root: the dataset's folder, for `xp.open_dataset`; it must not exist yet.
        overrides: as in `train`, for instance `{"env.tasks": ["push_red"], "collect.episodes": 300}`.
        folder: as in `train`.
        echo: as in `train`.

    Raises:
        UserError, RunFailedError, KeyboardInterrupt: as in `train`.
    """
    return _single(["task=collect", *_words(overrides), *_words([{"data.root": Path(root)}])], folder, echo=echo)


def train(*overrides: Overrides, folder: str | os.PathLike[str] | None = None, echo: bool = True) -> RunFolder:
    """`xp task=train OVERRIDES`, until it is done; of a run that is done already, its folder at once.

        run = xp.train({"data.root": "push_red", "model": "octo_tiny_l1", "trainer.steps": 2000}, folder="pusher")
        policy = xp.load_policy(run.path)

    Args:
        overrides: what differs from the defaults; later ones count.
        folder: the run's (`hydra.run.dir`), which the same call goes on with; None: a new one below `paths.outputs`.
        echo: print what the run prints.

    Raises:
        UserError: a mistake in the options, with what is allowed.
        RunFailedError: the run failed.
        KeyboardInterrupt: the run was interrupted, and has written a checkpoint first.
    """
    return _single(["task=train", *_words(overrides)], folder, echo=echo)


def evaluate(
    checkpoint: str | os.PathLike[str] | RunFolder,
    *overrides: Overrides,
    folder: str | os.PathLike[str] | None = None,
    echo: bool = True,
) -> RunFolder:
    """`xp task=eval eval.checkpoint=CHECKPOINT OVERRIDES`: success in the suite, in `summary()` of the run it gives.

    Args:
        checkpoint: a run, its folder, `FOLDER@STEP`, or the folder of a policy.
        overrides: as in `train`; `"eval=offline_replay"` scores on recorded episodes instead.
        folder: as in `train`.
        echo: as in `train`.

    Raises:
        UserError, RunFailedError, KeyboardInterrupt: as in `train`.
    """
    place = checkpoint.path if isinstance(checkpoint, RunFolder) else checkpoint
    return _single(["task=eval", *_words(overrides), *_words([{"eval.checkpoint": str(place)}])], folder, echo=echo)


def sweep(
    *overrides: Overrides, folder: str | os.PathLike[str] | None = None, echo: bool = True
) -> dict[str, RunFolder]:
    """`xp OVERRIDES -m`: an experiment, or every combination of the values that are swept.

        runs = xp.sweep("+experiment=multi_horizon", {"seed": [0, 1]})     # a list of a key is swept, as seed=0,1
        runs["train_h4_pred_h4"].summary()

    Args:
        overrides: as in `train`; a list or tuple in a mapping is swept over. Write a value that is itself a list as
            text: `"data.tasks=[push_red]"`.
        folder: the sweep's (`hydra.sweep.dir`); None: the experiment's own below `paths.multirun`.
        echo: as in `train`.

    Returns:
        {path of a run below the sweep's folder: the run}, those of earlier calls that are part of it among them.

    Raises:
        UserError: a mistake in the options.
        RunFailedError: a run failed; the others went on, and the same call does only what is missing.
        KeyboardInterrupt: as in `train`.
    """
    words = _words(overrides, swept=True)
    place = _absolute(_folder_of(words, "sweep") if folder is None else folder)
    _run([*words, *_words([{"hydra.sweep.dir": str(place)}]), "-m"], place, echo=echo)
    return {str(run.path.relative_to(place)): run for run in find_runs(place)}


def _single(words: list[str], folder: str | os.PathLike[str] | None, *, echo: bool) -> RunFolder:
    place = _claimed(Path(_folder_of(words, "run"))) if folder is None else _absolute(folder)
    try:
        _run([*words, *_words([{"hydra.run.dir": str(place)}])], place, echo=echo)
    finally:
        if folder is None:
            with contextlib.suppress(OSError):
                place.rmdir()  # where nothing was begun
    return load_run(place)


def _words(overrides: Iterable[Overrides], *, swept: bool = False) -> list[str]:
    """Overrides as they stand on a command line."""
    from xp.config.override_text import text

    words: list[str] = []
    for given in overrides:
        if isinstance(given, str):
            words.append(given)
            continue
        for key, value in given.items():
            many = cast(Sequence[object], value) if swept and isinstance(value, list | tuple) else [value]
            words.append(f"{key}={','.join(map(text, many))}")
    return words


def _folder_of(words: Sequence[str], kind: str) -> str:
    """Where Hydra would put a run (`run`) or a sweep (`sweep`) of these overrides."""
    from xp.config.compose import compose_with_hydra
    from xp.config.shorthand import expand_shorthand
    from xp.runs.jobs import stage_references

    stage_references.register()
    return str(compose_with_hydra(expand_shorthand(list(words)), sweep=kind == "sweep").hydra[kind].dir)


def _claimed(wanted: Path) -> Path:
    """A new folder of that name, or of the name with a number: two calls of one second never share one."""
    for place in numbered(_absolute(wanted)):
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            continue
        return place
    raise AssertionError("the names end with an error")


def _absolute(folder: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(folder))  # noqa: PTH100 - links stay as they were given


def _run(words: list[str], place: Path, *, echo: bool) -> None:
    """Run `xp WORDS` in a process of its own, and turn how it ends into an exception."""
    process = subprocess.Popen(
        [*PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace", start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []
    interrupted = False
    while True:
        try:
            _follow(process, lines, echo=echo)
            code = process.wait()
            break
        except KeyboardInterrupt:  # the process is in a session of its own: it hears of this from here alone
            interrupted = True
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    process.stdout.close()
    if interrupted and code:
        raise KeyboardInterrupt(f"interrupted; the same call goes on with {place}")
    if code:
        raise _error(code, lines, place)


def _follow(process: "subprocess.Popen[str]", lines: list[str], *, echo: bool) -> None:
    """Read what the process prints until it closes its output."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        del lines[:-_LAST]
        if echo:
            print(line, end="", flush=True)


def _error(code: int, lines: Sequence[str], place: Path) -> Exception:
    said = [number for number, line in enumerate(lines) if line.startswith("xp: ")]
    if code == UserError.exit_code and said:
        return UserError("\n".join(lines[said[-1] :]).removeprefix("xp: "))
    failed = [run.path for run in find_runs(place) if run.record().state is State.FAILED]
    which = f": {', '.join(map(str, failed[:4]))}{', ...' if len(failed) > 4 else ''}" if failed else ""
    return RunFailedError(
        f"xp ended with exit code {code}{which}; log.txt there says why. The last it printed:\n" + "\n".join(lines),
        failed[0] if len(failed) == 1 else place,
    )
