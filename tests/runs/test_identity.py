import copy

from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from xp.atomic import write_json
from xp.config.identity_keys import IDENTITY_KEYS_BY_TASK, TRANSIENT
from xp.config.identity_keys import result_config as result_config_of
from xp.nested import dotted
from xp.runs.jobs.identity import (
    IDENTITY_SCHEMA,
    SELF,
    canonical,
    differing_keys,
    identity,
    missing,
    referenced_runs,
)

words = st.sampled_from(["seed", "lr", "peak", "steps", "name", "a", "b"])
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "1", "/a/b"])
values = leaves | st.lists(leaves, max_size=2)
inner = st.dictionaries(words, values, max_size=3)
configs = st.dictionaries(words, values | inner | st.dictionaries(words, inner, max_size=2), max_size=4)


def shuffled(node, draw):
    if not isinstance(node, dict):
        return node
    keys = list(node)
    draw.shuffle(keys)
    return {key: shuffled(node[key], draw) for key in keys}


@given(configs, st.randoms())
def test_key_order_does_not_change_identity(config, draw):
    assert identity(shuffled(config, draw)) == identity(config)


@given(configs, st.data())
def test_any_changed_value_changes_identity_and_is_named(config, data):
    flat = dotted(config)
    if not flat:
        return
    key = data.draw(st.sampled_from(sorted(flat)))
    other = data.draw(values.filter(lambda value: canonical({"k": value}) != canonical({"k": flat[key]}) or
                                    repr(canonical({"k": value})) != repr(canonical({"k": flat[key]}))))  # fmt: skip
    changed = {**flat, key: other}
    assert identity(changed) != identity(flat)
    assert [difference.key for difference in differing_keys(flat, changed)] == [key]


@given(configs, configs)
def test_differing_keys_are_empty_exactly_for_one_identity(one, other):
    assert (differing_keys(one, other) == []) == (identity(one) == identity(other))


@given(configs)
def test_whole_numbers_are_one_number_however_they_are_written(config):
    flat = dotted(config)
    as_floats = {
        key: float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else value
        for key, value in flat.items()
    }
    assert identity(as_floats) == identity(flat)


def test_kinds_of_values_stay_apart():
    kinds = [{"a": value} for value in (1, True, "1", None, "null", 0, False, "", [1], [[1]], 0.1, "0.1", 1.5)]
    assert len({identity(kind) for kind in kinds}) == len(kinds)
    assert identity({"a": [1, 2]}) != identity({"a": [2, 1]})
    assert identity({"a": {"b": 1}}) == identity({"a.b": 1})


def a_config():
    return {
        "seed": 0,
        "task": {"name": "train"},
        "pretrained_path": None,
        "model": {"name": "m", "heads": {"action": {"kind": "gaussian", "log_std": 0.5}}},
        "horizon": {"train": 4, "predict": 4},
        "lr": {"peak": 1e-4, "schedule": "cosine"},
        "obs_dropout": {"rate": 0.0},
        "loop": {"name": "once"},
        "data": {"root": "d", "val_fraction": 0.2, "cache_gb": 5, "decoder": "auto"},
        "trainer": {"steps": 10, "log_every": 5, "ema_decay": None, "checkpoint_every": 3, "batch_size": 8},
        "logger": {"csv": True},
        "paths": {"outputs": "outputs"},
    }


@given(st.sampled_from(TRANSIENT + ("paths.outputs", "logger.csv", "experiment.name", "hydra.job.num")), leaves)
def test_transient_keys_anywhere_do_not_change_identity_whatever_they_hold(key, value):
    config = a_config()
    changed = copy.deepcopy(config)
    node = changed
    *parents, last = key.split(".")
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    assert identity(result_config_of(changed)) == identity(result_config_of(config))


@given(st.randoms())
def test_every_key_of_the_result_config_changes_identity_also_behind_transient_siblings(draw):
    config = a_config()
    config["trainer"] = {"log_every": 5, **config["trainer"]}  # a transient key before its siblings
    flat = result_config_of(config)
    assert any(key.startswith("trainer.") for key in flat) and "model.heads.action.log_std" in flat
    key = draw.choice(sorted(flat))
    changed = copy.deepcopy(config)
    node = changed
    *parents, last = key.split(".")
    for part in parents:
        node = node[part]
    node[last] = "collect" if key == "task.name" else "something else"
    assert identity(result_config_of(changed)) != identity(result_config_of(config))


def test_a_default_written_out_is_the_same_run():
    defaults = OmegaConf.create(a_config())
    explicit = OmegaConf.merge(defaults, OmegaConf.from_dotlist(["lr.peak=0.0001", "trainer.steps=10", "seed=0"]))
    one, other = (result_config_of(OmegaConf.to_container(config, resolve=True)) for config in (defaults, explicit))
    assert identity(one) == identity(other)


def test_every_task_has_a_result_config():
    for task in IDENTITY_KEYS_BY_TASK:
        assert result_config_of({**a_config(), "task": {"name": task}})["task.name"] == task


def test_a_needed_run_counts_by_its_identity_not_by_its_place(tmp_path):
    config = {"pretrained_path": "/a/pretrain/final", "others": ["/a/pretrain", "/a/pretraining/final"]}
    moved = {"pretrained_path": "/b/other/final", "others": ["/b/other", "/a/pretraining/final"]}
    first = identity(config, {"/a/pretrain": "1" * 64})
    assert identity(moved, {"/b/other": "1" * 64}) == first
    assert identity(config, {"/a/pretrain": "2" * 64}) != first
    assert canonical(config, {"/a/pretrain": "id"})["others"] == ["run:id", "/a/pretraining/final"]


def test_the_own_folder_counts_as_self_wherever_it_is():
    one = identity({"data.root": "/a/collect/dataset"}, {"/a/collect": SELF})
    assert identity({"data.root": "/b/c/dataset"}, {"/b/c": SELF}) == one


def test_a_name_is_no_path_where_the_runs_folder_is_called_so(tmp_path, monkeypatch):
    config, places = {"model": {"name": "act"}}, {str(tmp_path / "here" / "act"): SELF}
    found = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.add(identity(config, places))
    assert len(found) == 1 and canonical(config, places) == {"model.name": "act"}


def test_needed_runs_count_even_where_no_path_names_them():
    assert identity({"a": 1}, {"/x": "1" * 64}) != identity({"a": 1}) != identity({"a": 1}, {"/x": "2" * 64})


def test_runs_are_found_behind_paths(tmp_path):
    write_json(tmp_path / "run" / "record.json", {"identity": "abc", "state": "done"})
    result_config = {
        "predict.checkpoint": str(tmp_path / "run" / "final"),
        "list": [str(tmp_path / "elsewhere")],
        "n": 3,
    }
    assert referenced_runs(result_config) == {str(tmp_path / "run"): "abc"}


def test_a_key_that_one_side_lacks_is_shown_as_missing():
    (difference,) = differing_keys({"a": 1, "b": {"c": None}}, {"a": 1.0})
    assert difference.key == "b.c" and difference.other is missing
    assert str(difference) == "b.c: null -> (not there)"


def test_identity_is_the_same_in_every_version_of_the_code_with_one_schema():
    """Folders of finished runs are recognised by it; a change of the canonical form must raise IDENTITY_SCHEMA."""
    known = identity({"lr.peak": 1e-4, "steps": 3, "name": "a", "on": True, "none": None}, {"/x": "0" * 64})
    assert IDENTITY_SCHEMA == 1
    assert known == "1bad730c413856f5dbe39d3b25ed3f47cd9d9ca7df805cea3d037bbc9b157373"
