"""Jobs told from an earlier one are what composing, resolving and checking each in full gives."""

import json

import app
import pytest
from hydra.types import RunMode
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._experiment import plan_experiment, read_command_line
from hydra_plugins.xp_staged_sweeper._jobs import Alike, Jobs
from hydra_plugins.xp_staged_sweeper._sweep import xp_rules
from hydra_plugins.xp_staged_sweeper._template import NotAlikeError, Template, overlapping
from xp.config import open_hydra
from xp.config.override_text import text
from xp.errors import UserError
from xp.runs.execution.run_once import compose_job, identified, place_of
from xp.runs.jobs import stage_references
from xp.runs.jobs.frozen import Need


def composer_of(hydra):
    stage_references.register()
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    return Composer(hydra.config_loader, master)


@pytest.fixture(scope="module")
def ours():
    """xp's own configurations."""
    return composer_of(open_hydra())


@pytest.fixture(scope="module")
def small():
    """Those of the test program, which have no fixed shape."""
    return composer_of(app.open_hydra())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    return folder


def in_full(composer, rules, overrides, folder, **fields):
    """What a job is: Hydra composes it, everything in it is checked and resolved; or the error."""
    config = composer.compose(overrides)
    with open_dict(config):
        config.pop("stages", None)
    try:
        rules.check(config)
        return compose_job(config, folder, overrides=overrides, result_config=rules.result_config, **fields)
    except (UserError, Exception) as error:  # noqa: BLE001 - any error counts, they are compared
        return f"{type(error).__name__}: {error}"


def told(jobs, rules, overrides, swept, folder, **fields):
    composed = jobs.compose("stage", overrides, swept)
    try:
        composed.check()
        with stage_references.resolving(place_of(folder, fields.get("needs", ()))):
            config = composed.resolve()
        return identified(config, folder, overrides=overrides, result_config=rules.result_config, **fields), composed
    except (UserError, Exception) as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}", composed


def same(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    text_of = [json.dumps([job.config, job.identity, job.uses, job.overrides]) for job in (one, other)]
    return text_of[0] == text_of[1]  # types and the order of keys too


rates = st.sampled_from([1e-4, 3e-4, 0.0, -1.0, 1, "fast", None, True])
counts = st.sampled_from([1, 2, 3, 7, 32, 0, -1, 2.5, "many", None])
SWEPT = {
    "seed": st.sampled_from([0, 1, 2, -1, 2.0, "x", None, True]),
    "lr.peak": rates,
    "model.lr_peak": rates,
    "trainer.steps": counts,
    "trainer.batch_size": counts,
    "trainer.accumulate": counts,
    "trainer.devices": st.sampled_from([1, 2, "auto", "none"]),
    "experiment.scale": st.sampled_from(["small", "full", "huge"]),
    "trainer.precision": st.sampled_from(["float32", "bfloat16", "half"]),
    "horizon.train": counts,
    "obs_dropout.rate": st.sampled_from([0.0, 0.5, 1.5]),
    "data.val_fraction": st.sampled_from([0.1, 0.2, 0.99]),
    "data.root": st.sampled_from(["a", "b", "missing", None]),
    "data.name": st.sampled_from(["arm", "x"]),
    "paths.outputs": st.sampled_from(["a", "out"]),
    "task.name": st.sampled_from(["train", "collect", "nothing"]),
    "eval.name": st.sampled_from(["closed_loop", "offline_replay"]),
}
FIXED = st.lists(
    st.sampled_from([
        "model=act_smooth_scaled", "lr=constant", "horizon=h8", "obs_dropout=p10", "data.root=${paths.outputs}",
        "trainer.val_every=${trainer.steps}", "trainer.log_every=${by_scale:1,100}", "lr.warmup_steps=${.peak}",
        "+note='${seed}-${lr.peak}'", "+whole=${trainer}", "+mine=${run:here}", "+old=${oc.select:seed,3}",
        "++model.extra.deep='${oc.env:HOME}'", "pretrained_path=${run:}", "horizon.predict=16", "data.tasks=[x]",
    ]),
    unique_by=lambda line: line.partition("=")[0], max_size=4,
)  # fmt: skip


told_apart: set[bool] = set()


@settings(deadline=None, max_examples=15)
@given(st.data(), FIXED)
def test_a_job_told_from_another_is_the_job_composed_checked_and_resolved_in_full(ours, place, data, fixed):
    keys = data.draw(st.lists(st.sampled_from(sorted(SWEPT)), unique=True, min_size=1, max_size=3))
    good = {"seed": 0, "lr.peak": 1e-4, "data.root": "a", "task.name": "train", "experiment.scale": "small"}
    rules = xp_rules()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        jobs = Jobs(ours, rules)
        rows = data.draw(st.lists(st.fixed_dictionaries({key: SWEPT[key] for key in keys}), min_size=2, max_size=5))
        rows = [{key: good.get(key, row[key]) for key, row in zip(keys, [rows[0]] * len(keys))}] * 2 + rows + rows[:1]
        for number, row in enumerate(rows):
            lines = ["data.root=a"] if not any("data.root" in each for each in [*fixed, *keys]) else []
            overrides = [*lines, *fixed, *(f"{key}={text(value)}" for key, value in row.items())]
            assume(len({line.lstrip("+").partition("=")[0] for line in overrides}) == len(overrides))
            folder = place / f"job{number}"
            got, composed = told(jobs, rules, overrides, set(keys), folder)
            assert same(got, in_full(ours, rules, overrides, folder)), (overrides, got)
            told_apart.add(isinstance(composed, Alike))


scalars = st.sampled_from([0, 1, -2, 1.5, 1e300, True, None, "a", "x/y", "null", "${seed}", "a b", "1", "", "???"])


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(scalars, scalars), min_size=3, max_size=6), st.booleans())
def test_places_needs_and_late_values_are_told_for_each_job(small, tmp_path_factory, rows, plus):
    folder = tmp_path_factory.mktemp("exp")
    rules = app.rules()
    jobs = Jobs(small, rules)
    sign = "++" if plus else ""
    fixed = ["+experiment=chain", "+near=${needs:train}", "+all=${needs_all:train}", "work.text=${run:out}",
             "+late='${best:train,loss}'", "+deep={one: '${work.text}', two: ['${seed}', '${near}']}"]  # fmt: skip
    for number, (seed, words) in enumerate(rows):
        overrides = [*fixed, f"seed={text(seed)}", f"{sign}start_from={text(words)}"]
        needs = (Need(folder=folder / f"n{number}", stage="train", identity=f"i{number % 2}"),)
        place = folder / f"job{number}"
        got, _ = told(jobs, rules, overrides, {"seed", "start_from"}, place, needs=needs)
        assert same(got, in_full(small, rules, overrides, place, needs=needs)), overrides


def test_the_comparison_above_has_seen_jobs_of_both_kinds():
    assert told_apart == {True, False}


def test_most_jobs_of_a_sweep_are_told_and_not_composed(ours, place, monkeypatch):
    monkeypatch.chdir(place)
    composed, real = [], Composer.compose
    monkeypatch.setattr(Composer, "compose", lambda self, lines: composed.append(lines) or real(self, lines))
    line = ["data.root=a", "model=act,octo_tiny", "lr.peak=1e-4,3e-4", "seed=range(0,50)"]
    jobs = plan_experiment(ours, None, read_command_line(ours, line)[1], xp_rules()).jobs
    assert len(jobs) == 200 and len(composed) <= 8
    assert len({(job.job.config["model"]["name"], job.job.config["lr"]["peak"]) for job in jobs}) == 4
    assert [planned.job.config["seed"] for planned in jobs[:50]] == list(range(50))


def test_a_mistake_in_any_job_of_a_large_sweep_names_that_job(ours, place, monkeypatch):
    monkeypatch.chdir(place)
    line = ["data.root=a", "seed=range(0,40)", "trainer.accumulate=1,2", "trainer.batch_size=8,7"]
    with pytest.raises(UserError, match=r"job seed_0-trainer.accumulate_2-trainer.batch_size_7: .*does not divide"):
        plan_experiment(ours, None, read_command_line(ours, line)[1], xp_rules())


def test_a_template_holds_plain_values_only():
    config = OmegaConf.create({"a": {"b": 1, "c": "${a.b}"}, "d": [1], "e": "${oc.select:a.b}", "f": "${x}-${a}"})
    with pytest.raises(NotAlikeError):
        Template(config, ["a.c"], {}, named=config)
    with pytest.raises(NotAlikeError):
        Template(config, ["d"], {}, named=config)
    assert Template(config, ["a.b"], {}, named=config).changing == ["a.b", "a.c", "e", "f"]
    assert Template(config, ["a.b"], {"oc.select": ("z",)}, named=config).changing == ["a.b", "a.c", "f"]


def test_keys_inside_one_another_are_found():
    assert overlapping(["a", "a.b.c", "ab", "d.e", "d.e.f"]) == {"a", "a.b.c", "d.e", "d.e.f"}


def test_jobs_share_what_does_not_differ(ours, place, monkeypatch):
    monkeypatch.chdir(place)
    line = ["data.root=a", "seed=range(0,9)"]
    jobs = plan_experiment(ours, None, read_command_line(ours, line)[1], xp_rules()).jobs
    assert len({id(planned.job.config["model"]) for planned in jobs[2:]}) == 1
