"""The decisions of the SLURM launcher that need no SLURM."""

import signal
from pathlib import Path

import pytest

from hydra_plugins.xp_slurm_launcher import _state
from hydra_plugins.xp_slurm_launcher._arrays import Array, arrays, dependency
from hydra_plugins.xp_slurm_launcher._commands import Answer, SlurmUnavailable
from hydra_plugins.xp_slurm_launcher._post_job import Why, reason, verdict
from hydra_plugins.xp_slurm_launcher._protocol import Heard
from hydra_plugins.xp_slurm_launcher._resources import Resources, resources_of
from hydra_plugins.xp_slurm_launcher._script import batch_script
from xp.errors import UserError
from xp.runs.executors.protocol import JobState, Submission
from xp.runs.jobs.frozen import Job, Need, freeze
from xp.runs.records.record import Record

ORDER = {"max_requeues": 2, "retries": 1}
CODE = 128 + signal.SIGUSR2


def job(name: str, *needs: str, always: bool = False, handle: str = "") -> Submission:
    folders = tuple(Path("/e") / need for need in needs)
    return Submission(folder=Path("/e") / name, needs=folders, always=always, handle=handle)


def test_jobs_share_an_array_exactly_if_they_need_the_same_jobs():
    jobs = [job("a"), job("b"), job("p", "a"), job("q", "a"), job("r", "b"), job("end", "a", "b", always=True)]
    groups = arrays(jobs, lambda each: Resources())
    assert [[each.folder.name for each in group.jobs] for group in groups] == [["a", "b"], ["p", "q"], ["r"], ["end"]]
    handles = {Path("/e/a"): "7_0", Path("/e/b"): "7_1"}
    assert [dependency(group, handles, {"7": 2}) for group in groups] == [
        None, "afterok:7_0", "afterok:7_1", "afterany:7",
    ]  # fmt: skip


def test_an_array_is_no_larger_than_the_cluster_allows_and_adopted_jobs_are_not_submitted():
    jobs = [job(str(number)) for number in range(7)] + [job("x", handle="3")]
    assert [len(group.jobs) for group in arrays(jobs, lambda each: Resources(), largest=3)] == [3, 3, 1]
    more = [job("x", handle="3"), job("y", "x")]
    (group,) = arrays(more, lambda each: Resources())
    assert dependency(group, {Path("/e/x"): "3"}, {}) == "afterok:3" and group.handles("9") == ["9"]


def test_resources_of_a_stage_come_from_launcher_then_experiment_then_launcher_for_the_stage():
    base = Resources().with_({"gpus": 1, "cpus": 4, "extra": {"exclude": "n7"}}, "hydra.launcher")
    made = resources_of(
        "train", base, {"gpus": 2, "cpus": 8, "tags": ["big"]}, {"train": {"gpus": 4}, "other": {"gpus": 9}}
    )
    assert (made.gpus, made.cpus, made.extra) == (4, 8, {"exclude": "n7"})
    with pytest.raises(UserError, match=r"stages.train.resources.cpu: .*did you mean 'cpus'"):
        resources_of("train", base, {"cpu": 1}, {})


def test_the_script_asks_for_what_was_wanted_and_for_nothing_else(tmp_path):
    asked = Resources().with_(
        {
            "gpus": "a100:2",
            "cpus": 3,
            "mem_gb": 1.5,
            "time_min": 50,
            "extra": {"exclusive": True},
            "setup": ["module load x"],
        },
        "",
    )
    options = {"name": "xp-x", "dependency": "afterok:1", "warn_s": 60, "max_running": None, "python": None}
    text = batch_script(Array((job("a"), job("b")), asked), tmp_path / "o.json", **options)
    for line in (
        "--gpus-per-node=a100:2", "--cpus-per-task=3", "--mem=1536MB", "--time=50", "--exclusive", "--array=0-1%2",
        "--dependency=afterok:1", "--signal=USR2@60", "--requeue", "--kill-on-invalid-dep=yes", "--job-name=xp-x",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert text.index("module load x") < text.index("srun") and "wckey" not in text
    bare = batch_script(Array((job("a"),), Resources()), tmp_path / "o.json", **{**options, "dependency": None})
    assert "--time" not in bare and "--array" not in bare and "--dependency" not in bare and "--mem" not in bare


def record(path: Path, **fields) -> Record:
    return Record(path / "record.json", {"state": "pending", **fields})


def test_why_a_job_left_is_told_by_slurms_own_word(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    left, dead = record(tmp_path, interrupted=True), record(tmp_path, state="running")
    running = {"JobState": "RUNNING", "Restarts": "0"}
    assert reason(left, CODE, running) is Why.TIME
    assert reason(left, 143, {"JobState": "COMPLETING", "Restarts": "1"}) is Why.PREEMPTED
    assert (
        reason(left, 143, {"JobState": "PREEMPTED", "Restarts": "0", "PreemptTime": "2026-01-01T00:00:00"})
        is Why.PREEMPTED
    )
    assert reason(left, 143, {"JobState": "COMPLETING", "Restarts": "0"}) is Why.CANCELLED
    assert reason(dead, 137, {"JobState": "COMPLETING", "Restarts": "0", "Reason": "TimeLimit"}) is Why.TIME
    assert reason(dead, 137, running) is Why.DIED and reason(record(tmp_path), 1, running) is Why.FAILED


def test_a_job_is_queued_again_only_while_that_can_help():
    def told(why, requeues, step, output=""):
        return verdict(why, ORDER, [{"reason": str(w), "step": s} for w, s in requeues], step, CODE, output) or ""

    assert told(Why.TIME, [], 5) == "" == told(Why.TIME, [(Why.TIME, 5)], 9) == told(Why.PREEMPTED, [], 5)
    assert "No step was made between two time limits" in told(Why.TIME, [(Why.TIME, 5)], 5)
    assert "reached 3 times (hydra.launcher.max_requeues=2)" in told(Why.TIME, [(Why.TIME, 1), (Why.TIME, 2)], 3)
    assert told(Why.DIED, [(Why.PREEMPTED, 5)], 5) == ""
    assert "was killed (SIGUSR2)" in told(Why.DIED, [(Why.DIED, 5)], 5)
    assert "hydra.launcher.mem_gb" in told(Why.DIED, [], 5, "slurmstepd: error: Exceeded job memory limit")


def test_states_come_from_the_controller_and_from_sacct_only_what_that_does_not_know(monkeypatch):
    accounts = Answer(
        0, "5_0|COMPLETED|None|n1|xp-a\n5_1|RUNNING||n2|xp-a\n6|CANCELLED by 0|None|None assigned|xp-b\n", ""
    )
    queue = Answer(
        0,
        "5|1|COMPLETING|n2|None|xp-a\n7|N/A|PENDING|n/a|Resources|xp-c\n"
        "8|N/A|PENDING|n/a|DependencyNeverSatisfied|xp|d\n",
        "",
    )
    asked = []

    def call(program, *arguments, **_):
        asked.append(program)
        return accounts if program == "sacct" else queue

    monkeypatch.setattr(_state, "call", call)
    monkeypatch.setattr(_state.shutil, "which", lambda name: name)
    watcher = _state.Watcher()
    seen = watcher.look(["5_0", "5_1", "6", "7", "8", "9"])
    assert {handle: each.state for handle, each in seen.items()} == {
        "5_0": JobState.DONE, "5_1": JobState.RUNNING, "6": JobState.INTERRUPTED, "7": JobState.WAITING,
        "8": JobState.BLOCKED,
    }  # fmt: skip
    assert seen["7"].remark == "Resources" and seen["6"].remark == "cancelled by root" and seen["8"].name == "xp|d"
    assert asked == ["squeue", "sacct"]
    accounts = Answer(1, "", "Slurm accounting storage is disabled")
    assert "5_0" not in watcher.look(["5_0"]) and watcher.look(["7"])["7"].state is JobState.WAITING
    assert asked == ["squeue", "sacct", "squeue", "sacct", "squeue"]


def test_a_requeued_job_that_accounting_still_calls_ended_is_open(monkeypatch):
    stale = Answer(0, "7|NODE_FAIL|None|n1|xp-c\n", "")
    queue = Answer(0, "7|N/A|PENDING|n/a|BeginTime|xp-c\n", "")
    monkeypatch.setattr(_state, "call", lambda program, *_, **__: stale if program == "sacct" else queue)
    assert _state.Watcher().look(["7"])["7"].heard is Heard.OPEN


@pytest.mark.parametrize(
    ("code", "error", "known"),
    [
        (1, "slurm_load_jobs error: Invalid job id specified", True),
        (1, "slurm_load_jobs error: Unspecified error", False),
    ],
)
def test_an_error_of_squeue_is_silence_unless_it_says_that_it_knows_no_such_job(monkeypatch, code, error, known):
    none = Answer(1, "", "accounting storage is disabled")
    monkeypatch.setattr(
        _state, "call", lambda program, *_, **__: none if program == "sacct" else Answer(code, "", error)
    )
    if known:
        assert _state.Watcher().look(["7"]) == {}
    else:
        with pytest.raises(SlurmUnavailable):
            _state.Watcher().look(["7"])


def test_a_job_of_another_name_under_the_same_number_is_not_the_one_that_was_submitted():
    seen = _state.Seen("RUNNING", name="somebody-elses")
    assert _state.heard(seen, "xp-a-12345678") is Heard.UNKNOWN and _state.heard(seen) is Heard.OPEN
    assert _state.heard(_state.Seen("A_NEW_WORD"), "") is Heard.OPEN and _state.heard(None, "") is Heard.UNKNOWN


@pytest.mark.parametrize(
    ("state", "always", "missing"), [("done", False, ""), ("pending", False, "need"), ("failed", True, "")]
)
def test_a_job_whose_need_slurm_has_forgotten_starts_only_if_that_is_done(tmp_path, state, always, missing):
    from hydra_plugins.xp_slurm_launcher._job import lacking

    need = Job(folder=tmp_path / "need", config={"task": {"name": "x"}}, identity="1")
    freeze(need)
    Record(need.folder / "record.json").update(state=state)
    needs = (Need(folder=need.folder, stage="s", identity="1"),)
    freeze(Job(folder=tmp_path / "job", config={"task": {"name": "x"}}, identity="2", needs=needs, always=always))
    assert lacking(tmp_path / "job", limit_s=0.0) == missing
