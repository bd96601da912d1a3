"""The staged sweeper with the local launcher, its real worker processes, and tasks that take no time."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xp.config import result_config
from xp.runs import RunFolder, State
from xp.runs.records.record import Record

pytestmark = pytest.mark.timeout(120)


def journal(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "journal.txt").read_text().splitlines()]


def begun(folder: Path) -> list[str]:
    return [name for word, name, *_ in journal(folder) if word == "begin"] if (folder / "journal.txt").exists() else []


def states(folder: Path) -> dict[str, str]:
    return {found.parent.name: Record(found).standing for found in sorted(folder.glob("*/record.json"))}


def test_an_experiment_runs_each_job_after_its_needs_and_not_again(xp, place):
    code, output = xp("+experiment=chain")
    assert code == 0 and output.splitlines()[-1] == "14 done"
    folder = place / "multirun" / "chain"
    order = [f"{word} {name}" for word, name, *_ in journal(folder)]
    assert len(order) == 28 and set(states(folder).values()) == {"done"}
    for name in ("horizon_1", "horizon_4", "horizon_8"):
        assert order.index("end pretrain") < order.index(f"begin {name}")
        for predict in (1, 4, 8):
            cell = f"train_{name.replace('horizon_', 'h')}_pred_h{predict}"
            assert order.index(f"end {name}") < order.index(f"begin {cell}") < order.index("begin report")
            assert RunFolder(folder / cell).config().start_from == str(folder / name)
            assert RunFolder(folder / cell).config().work.text == str(folder / cell / "out")
            assert RunFolder(folder / cell).config().model.width == 64
    assert RunFolder(folder / "pretrain").config().task.name == "collect"
    assert "stages" not in RunFolder(folder / "report").config()
    code, output = xp("+experiment=chain")
    done, look, report = output.splitlines()
    assert (code, done) == (0, "14 of 14 done, nothing to run") and len(journal(folder)) == 28
    assert look == "  look:   xp task=status status.folder=multirun/chain"
    assert report == "  report: xp task=report report.folder=multirun/chain"


def test_a_job_starts_when_its_own_needs_are_done_not_when_the_stage_is(xp, place):
    """horizon_8 cannot end before a prediction of another horizon has ended."""
    folder = place / "multirun" / "chain"
    cell = folder / "train_h1_pred_h1" / "summary.json"
    OmegaConf.register_new_resolver("only_8", lambda horizon: str(cell) if horizon == 8 else None, replace=True)
    wait = "+stages.train.set.work.wait_for='${only_8:${horizon.train}}'"
    code, _ = xp("+experiment=chain", wait, "horizon.train=8,1", "horizon.predict=1")
    assert code == 0 and set(states(folder).values()) == {"done"}
    order = [f"{word} {name}" for word, name, *_ in journal(folder)]
    assert order.index("end train_h1_pred_h1") < order.index("end horizon_8")


def test_a_dry_run_prints_the_plan_and_touches_nothing(xp, place):
    code, output = xp("+experiment=chain", "horizon.train=1,4,8,16", "hydra.sweeper.dry_run=true")
    assert code == 0 and "18 jobs: 18 to run" in output and "horizon_1" in output
    assert not (place / "multirun").exists()


def test_sweeps_of_the_test_program_leave_xps_own_rules_to_xp(xp, place):
    """Identities of xp's own sweeps came out by these tests' rules where both ran in one process."""
    from hydra_plugins.xp_staged_sweeper import _sweep

    xp("+experiment=chain", "horizon.train=1", "hydra.sweeper.dry_run=true")
    assert _sweep.xp_rules().result_config is result_config


def test_the_plan_counts_what_is_done_and_estimates_the_rest(xp, place):
    assert xp("+experiment=chain", "horizon.train=1", "horizon.predict=1")[0] == 0
    code, output = xp("+experiment=chain", "horizon.train=1,16", "horizon.predict=1", "hydra.sweeper.dry_run=true")
    assert code == 0 and "6 jobs: 3 done, 3 to run; about 0:00" in output  # pretrain, horizon_1 and its cell are done


def test_a_failed_job_blocks_what_needs_it_only_and_is_retried_on_request(xp, place):
    folder = place / "multirun" / "chain"
    fail = "+stages.train.set.work.fail='${equals:${horizon.train},4}'"
    OmegaConf.register_new_resolver("equals", lambda one, other: one == other, replace=True)
    code, output = xp("+experiment=chain", fail)
    assert code == 1
    assert "10 done, 1 failed, 3 blocked: xp +experiment=chain" in output.splitlines()[-1].replace("'", "")
    assert "hydra.sweeper.retry_failed=true -m" in output.splitlines()[-1]
    run = RunFolder(folder / "horizon_4")
    assert "ValueError: told to fail" in run.log() and "told to fail" in run.record()["traceback"]
    assert f"failed: horizon_4: told to fail (see {run.path}/log.txt)" in output
    assert "report" in begun(folder)  # always: a report of what there is
    before = begun(folder)
    code, output = xp("+experiment=chain", fail)
    assert code == 1 and begun(folder) == before and "1 failed, 3 blocked" in output
    (folder / "mended").write_text("")
    code, output = xp("+experiment=chain", fail, "hydra.sweeper.retry_failed=true")
    assert code == 0 and output.splitlines()[-1] == "14 done"
    new = begun(folder)[len(before) :]
    assert new[0] == "horizon_4" and sorted(new[1:4]) == [f"train_h4_pred_h{h}" for h in (1, 4, 8)]
    assert new[4:] == ["report"]  # overtaken by what it shows


def test_a_crash_is_named_the_worker_replaced_and_the_others_go_on(xp, place):
    OmegaConf.register_new_resolver("equals", lambda one, other: one == other, replace=True)
    code, output = xp("+experiment=zipped", "seed=1,2,3", "+stages.only.set.work.crash='${equals:${seed},2}'")
    folder = place / "multirun" / "zipped"
    assert code == 1 and "4 done, 2 failed" in output and "SIGSEGV" in output
    record = RunFolder(folder / "p0.1_h2_s2").record()
    assert record.state is State.FAILED and "SIGSEGV" in record["error"]["message"]
    assert "SIGSEGV" in RunFolder(folder / "p0.1_h2_s2").log()
    assert states(folder)["p0.1_h2_s3"] == "done"


def test_another_configuration_in_the_same_folders_is_refused_before_anything_starts(xp, place):
    assert xp("+experiment=zipped", "seed=0")[0] == 0
    before = (place / "multirun" / "zipped" / "journal.txt").read_text()
    code, output = xp("+experiment=zipped", "seed=0,1", "work.steps=5", "hydra.sweeper.retry_failed=true")
    assert code == 2 and "work.steps: 3 -> 5" in output and "hydra.sweep.dir=" in output
    assert (place / "multirun" / "zipped" / "journal.txt").read_text() == before


def test_what_was_only_frozen_by_a_refused_call_makes_way_for_another_configuration(xp, place, monkeypatch):
    from hydra_plugins.xp_local_launcher._executor import LocalExecutor
    from xp.errors import UserError

    def refuse(self, jobs):
        raise UserError("not today")

    with monkeypatch.context() as patched:
        patched.setattr(LocalExecutor, "submit", refuse)
        assert xp("+experiment=chain", "horizon.train=4")[0] == 2
    folder = place / "multirun" / "chain"
    assert set(states(folder).values()) == {"pending"}
    code, output = xp("+experiment=chain", "horizon.train=4", "horizon.predict=1", "seed=5")
    assert code == 0, output
    record = Record(folder / "horizon_4" / "record.json")
    assert record["attempts"] == 1 and RunFolder(folder / "horizon_4").config().seed == 5
    cell = Record(folder / "train_h4_pred_h1" / "record.json")
    cell.update(state=State.CANCELLED, attempts=0)  # it waited when it was cancelled
    lean = ("+experiment=chain", "horizon.train=4", "horizon.predict=1", "seed=5")
    code, output = xp(*lean, "stages.predict.set.model=small")
    assert code == 0 and RunFolder(cell.path.parent).config().model.width == 8, output
    record.update(state=State.PENDING, attempts=1)
    code, output = xp("+experiment=chain", "horizon.train=4", "horizon.predict=1")
    assert code == 2 and "holds another run" in output


def test_a_transient_key_does_not_make_another_run(xp, place):
    assert xp("+experiment=zipped", "seed=0")[0] == 0
    code, output = xp("+experiment=zipped", "seed=0", "+experiment.note=hello")
    assert code == 0 and "2 of 2 done" in output


def test_a_retrained_need_makes_its_dependents_other_runs(xp, place):
    """Needed runs count by identity: a prediction does not survive another training in the same place."""
    assert xp("+experiment=chain", "horizon.train=1", "horizon.predict=1")[0] == 0
    code, output = xp("+experiment=chain", "horizon.train=1", "horizon.predict=1", "+stages.pretrain.fix.seed=5")
    assert code == 2 and "pretrain" in output and "seed: 0 -> 5" in output


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+experiment=chain", "horizon.train=1,0"], "job horizon_0: horizon.train=0: must be at least 1"),
        (["+experiment=circle"], "in a circle"),
        (["+experiment=doubles"], "Two jobs have the name 'same'"),
        (["+experiment=best", "+stages.long.set.seed='${best:other,train_loss}'"], "does not need"),
        (["+experiment=chain", "stages.predict.set.start_from='${needs:pretrain}'"], "does not need 'pretrain'"),
        (["+experiment=chain", "+stages.report.set.start_from='${needs:predict}'"], "9 jobs of 'predict' fit it"),
        (["+experiment=chain", "experiment.skip_training=true"], "is not there. Run the stage first"),
        (["+experiment=chain", "+stages.train.when=3"], "expected true or false"),
        (["lr.peak=interval(0,1)"], "an interval cannot be enumerated"),
    ],
)
def test_mistakes_are_found_before_the_first_job_starts(xp, place, overrides, words):
    code, output = xp(*overrides)
    assert code == 2 and words in output
    assert not (place / "multirun").exists()


def test_a_late_value_is_taken_from_the_best_run_and_recorded(xp, place):
    code, _ = xp("+experiment=best")
    run = RunFolder(place / "multirun" / "best" / "long")
    assert code == 0 and run.record()["late"] == {"lr.peak": 0.2} and run.config().lr.peak == 0.2
    assert xp("+experiment=best")[1].startswith("4 of 4 done, nothing to run\n")


def test_several_experiments_are_each_expanded_and_counted(xp, place):
    code, output = xp("+experiment=zipped,params", "hydra.sweeper.dry_run=true")
    assert code == 0 and "8 jobs: 8 to run" in output
    code, output = xp("+experiment=zipped,params")
    assert code == 0 and output.splitlines()[-1] == "8 done"
    assert sorted(found.name for found in (place / "multirun").iterdir()) == ["params", "zipped"]
    assert sorted(states(place / "multirun" / "zipped")) == ["p0.1_h2_s0", "p0.1_h2_s1", "p0.2_h5_s0", "p0.2_h5_s1"]
    peaks = {
        (run.config().lr.peak, run.config().seed) for run in map(RunFolder, (place / "multirun/params").glob("[!.]*/"))
    }
    assert peaks == {(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)}


def test_the_command_line_wins_over_hydras_own_params(xp, place):
    code, output = xp("+experiment=params", "seed=7", "hydra.sweeper.dry_run=true")
    assert code == 0 and "2 jobs: 2 to run" in output


def test_a_plain_sweep_resumes_and_skips_and_keeps_other_sweeps_apart(xp, place):
    code, output = xp("lr.peak=1e-4,3e-4", "model=big")
    assert code == 0 and output.splitlines()[-1] == "2 done"
    assert sorted(states(place / "multirun" / "sweep")) == ["lr.peak_0.0001", "lr.peak_0.0003"]
    code, output = xp("lr.peak=1e-4,3e-4,1e-3", "model=big", "work.wait_for=null")
    assert code == 0 and output.splitlines()[-1] == "3 done" and len(begun(place / "multirun" / "sweep")) == 3
    for call in range(2):
        code, output = xp("lr.peak=1e-4,3e-4", "model=big", "seed=1")
        assert code == 0 and len(begun(place / "multirun" / "sweep")) == 5
        assert call or "2 names end in a hash" in output
    names = states(place / "multirun" / "sweep")
    assert len(names) == 5 and sum(name.startswith("lr.peak_0.0001-") for name in names) == 1


def test_a_plain_sweep_is_named_by_what_is_swept_and_finds_its_folders_again(xp, place):
    given = ("seed=1,2", "work.text=/data/one/x,/data/two/y", "model=big", f"++work.note={'long' * 40}", "lr=constant")
    for again in (False, True):
        code, output = xp(*given)
        assert code == 0 and len(begun(place / "multirun/sweep")) == 4, output
        assert sorted(states(place / "multirun/sweep")) == [
            "seed_1-work.text_x", "seed_1-work.text_y", "seed_2-work.text_x", "seed_2-work.text_y",
        ]  # fmt: skip
        assert not again or "look:   xp task=status status.folder=multirun/sweep" in output


def test_jobs_whose_names_would_be_one_are_told_apart_by_a_hash_whatever_their_order(xp, place):
    assert xp("work.text=/data/one/x,/data/two/x")[0] == 0
    names = sorted(states(place / "multirun/sweep"))
    assert len(names) == 2 and names[0] == "work.text_x" and names[1].startswith("work.text_x-")
    texts = [RunFolder(place / "multirun/sweep" / name).config().work.text for name in names]
    code, output = xp("work.text=/data/two/x,/data/one/x")
    assert code == 0 and "2 of 2 done" in output and texts == ["/data/one/x", "/data/two/x"]


def test_a_sweep_on_the_command_line_multiplies_every_stage_but_the_report(xp, place):
    code, output = xp("+experiment=chain", "seed=1,2", "horizon.train=4", "horizon.predict=1")
    assert code == 0 and output.splitlines()[-1] == "7 done"
    folder = place / "multirun" / "chain"
    assert sorted(states(folder)) == [
        "horizon_4-seed_1", "horizon_4-seed_2", "pretrain-seed_1", "pretrain-seed_2", "report",
        "train_h4_pred_h1-seed_1", "train_h4_pred_h1-seed_2",
    ]  # fmt: skip
    assert RunFolder(folder / "horizon_4-seed_2").config().start_from == str(folder / "pretrain-seed_2" / "final")
    needs = json.loads((folder / "report" / "job.json").read_text())["needs"]
    assert len(needs) == 2


def test_narrowing_leaves_the_stages_that_do_not_sweep_alone(xp, place):
    assert xp("+experiment=chain", "horizon.train=1", "horizon.predict=1")[0] == 0
    identity = RunFolder(place / "multirun/chain/pretrain").record()["identity"]
    assert xp("+experiment=chain", "horizon.train=8", "horizon.predict=1")[0] == 0
    assert begun(place / "multirun/chain").count("pretrain") == 1
    assert RunFolder(place / "multirun/chain/pretrain").record()["identity"] == identity


def test_a_stage_whose_when_is_false_has_no_jobs_and_is_no_need(xp, place):
    code, output = xp("+experiment=chain", "start_from=/data/policy", "horizon.train=1", "horizon.predict=1")
    folder = place / "multirun" / "chain"
    assert code == 0 and "pretrain" not in states(folder)
    assert RunFolder(folder / "horizon_1").config().start_from == "/data/policy"


def test_a_skipped_stage_is_taken_as_it_is(xp, place):
    assert xp("+experiment=chain", "horizon.train=1", "horizon.predict=1")[0] == 0
    code, output = xp("+experiment=chain", "horizon.train=1", "horizon.predict=1,4", "experiment.skip_training=true")
    assert code == 0 and begun(place / "multirun/chain").count("horizon_1") == 1
    assert states(place / "multirun/chain")["train_h1_pred_h4"] == "done"


def test_workers_are_warm_and_their_threads_do_not_depend_on_their_number(xp, place):
    assert xp("seed=range(0,6)", "hydra.launcher.n_jobs=1")[0] == 0
    assert xp("seed=range(6,12)", "hydra.launcher.n_jobs=2")[0] == 0
    lines = journal(place / "multirun" / "sweep")
    assert len({pid for _, name, pid, _ in lines if int(name.split("_")[1]) < 6}) == 1
    assert len({threads for *_, threads in lines}) == 1
    assert {int(pid) for *_, pid, _ in lines}.isdisjoint({os.getpid()})


def test_the_code_is_kept_once_per_content(xp, place):
    assert xp("seed=1,2")[0] == 0 and xp("seed=3,4")[0] == 0
    codes = [found.name for found in (place / "multirun/sweep/.code").iterdir()]
    assert codes == [RunFolder(place / "multirun/sweep/seed_1").record()["snapshot"]]
    assert (place / "multirun/sweep/.code" / codes[0] / "src/xp/runs/jobs/snapshot.py").exists()


def test_a_stock_launcher_runs_the_same_frozen_jobs_stage_by_stage(place):
    import subprocess
    import sys

    line = ["+experiment=chain", "hydra/launcher=basic", "horizon.train=1", "horizon.predict=1,4", "-m"]
    program = f"import os, app; code = app.main({line!r}); print(os.getpid(), code)"  # Hydra takes over its logging
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    folder = place / "multirun" / "chain"
    *output, last = done.stdout.splitlines()
    controller, code = map(int, last.split())
    assert code == 0 and output[-1] == "5 done"
    assert begun(folder)[:2] == ["pretrain", "horizon_1"] and begun(folder)[-1] == "report"
    assert {int(pid) for *_, pid, _ in journal(folder)} == {controller}
    assert RunFolder(folder / "horizon_1").config().start_from == str(folder / "pretrain" / "final")


def test_the_controller_imports_nothing_heavy(xp, place):
    import subprocess
    import sys

    program = (
        "import sys, app; code = app.main(['seed=1,2', '-m']);"
        "print([name for name in ('torch', 'jax', 'lightning', 'lerobot', 'numpy') if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_a_place_that_cannot_be_written_is_told_before_anything_starts(xp, place):
    (place / "taken").write_text("a file")
    code, output = xp("seed=1,2", "paths.multirun=taken")
    assert code == 2 and "cannot be written" in output and "paths.multirun=FOLDER" in output


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hydra.job.chdir=true", "jobs run where the command was typed"),
        ("+hydra.job.env_set.A=1", "NAME=VALUE xp"),
        ("hydra.run.dir=x", "hydra.sweep.dir=FOLDER"),
        ("hydra.job.num=3", "nothing reads it in a sweep"),
        ("hydra.output_subdir=null", "nothing reads it in a sweep"),
        ("+hydra.sweeper.max_batch_size=2", "hydra.launcher.n_jobs=N"),
        ("+hydra.sweeper.nonsense=2", "Its options are dry_run, retry_failed and params"),
        ("+hydra.launcher.n_job=2", "no such setting (did you mean 'n_jobs'?)"),
        ("hydra.sweep.subdir=a/b", "expected the name of one folder"),
        ("hydra.sweep.subdir=same", "Two jobs have the name 'same'"),
    ],
)
def test_a_key_of_hydra_that_would_do_nothing_is_refused_with_what_there_is_instead(xp, place, override, words):
    code, output = xp("seed=1,2", override)
    assert code == 2 and words in output, output
    assert not (place / "multirun").exists()


def test_an_experiment_refuses_a_subdir_and_takes_false_for_chdir(xp, place):
    code, output = xp("+experiment=chain", "hydra.sweep.subdir=x", "hydra.sweeper.dry_run=true")
    assert code == 2 and "named by stages.STAGE.name" in output
    assert xp("seed=1,2", "hydra.job.chdir=false", "hydra.sweeper.dry_run=true")[0] == 0


@pytest.mark.parametrize(
    ("subdir", "names"),
    [
        ("${hydra.job.num}", ["0", "1"]),
        ("s${seed}", ["s1", "s2"]),
        ("${hydra.job.override_dirname}", ["model=big,seed=1", "model=big,seed=2"]),
    ],
)
def test_hydras_subdir_names_the_jobs_of_a_plain_sweep_as_hydra_does(xp, place, subdir, names):
    code, output = xp("seed=1,2", "model=big", f"hydra.sweep.subdir={subdir}")
    assert code == 0 and sorted(states(place / "multirun/sweep")) == names, output
    assert "2 of 2 done" in xp("seed=1,2", "model=big", f"hydra.sweep.subdir={subdir}")[1]


def test_hydras_params_sweep_a_plain_sweep(xp, place):
    code, output = xp("hydra.sweeper.params={seed: '3,4'}", "hydra.sweeper.dry_run=true")
    assert code == 0 and "2 jobs: 2 to run" in output
