"""Every option of every group composes, fits the schema, and can be typed in a shell."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xp.config import check, compose, conf_folder, result_config
from xp.config.identity_keys import IDENTITY_KEYS_BY_TASK, TRANSIENT, is_transient
from xp.config.schema import SECTIONS, TASKS
from xp.config.unknown_keys import RENAMED
from xp.errors import UserError


def options():
    folder = conf_folder()
    for path in sorted(folder.rglob("*.yaml")):
        group = path.parent.relative_to(folder).as_posix()
        if group != ".":
            yield group, path.stem


def override(group, option):
    return f"+experiment={option}" if group == "experiment" else f"{group}={option}"


@pytest.mark.parametrize(("group", "option"), list(options()))
def test_every_option_composes_and_fits_the_schema(group, option):
    check(compose([override(group, option)]), complete=False)


@pytest.mark.parametrize(("group", "option"), list(options()))
def test_no_option_name_reads_as_a_number_or_a_truth_value(group, option):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", option)
    assert option.lower() not in ("null", "true", "false", "on", "off", "yes", "no", "nan", "inf")


def test_the_groups_of_the_design_are_there():
    wanted = (
        "task model horizon chunk_size lr obs_dropout augment loop merge_method data env eval trainer logger paths "
        "debug experiment"
    )
    assert {*wanted.split(), "hydra/launcher", "hydra/sweeper"} <= {group for group, _ in options()}


def test_the_defaults_list_has_no_experiment():
    assert not re.search(r"^\s+- .*experiment", (conf_folder() / "config.yaml").read_text(), re.M)


def test_every_section_has_a_schema_or_a_family_that_owns_it():
    keys = {str(key) for key in compose([])}
    assert keys - set(SECTIONS) == {"model", "logger", "seed", "pretrained_path"}


def test_every_task_has_an_option_a_module_and_identity_keys():
    tasks = Path(__file__).parents[2] / "src/xp/tasks"
    for task in TASKS:
        assert (conf_folder() / "task" / f"{task}.yaml").is_file()
        assert (tasks / f"{task}.py").is_file()
        assert IDENTITY_KEYS_BY_TASK[task]


def test_every_transient_key_exists():
    configs = [compose([]), compose(["eval=offline_replay"]), compose(["eval=returns", "loop=self_improve"])]
    configs.append(compose(["model=openvla_tiny"]))
    missing = object()
    for key in TRANSIENT:
        assert any(OmegaConf.select(config, key, default=missing) is not missing for config in configs), key


def plain(overrides):
    return OmegaConf.to_container(compose(overrides), resolve=True)


def test_the_result_config_ignores_what_the_task_does_not_read():
    train = result_config(plain([]))
    assert result_config(plain(["predict.num_trajectories=3", "paths.cache=elsewhere", "trainer.log_every=7"])) == train
    assert result_config(plain(["lr.peak=1e-5"])) != train


def test_result_config_of_a_default_equals_that_of_the_same_value_typed():
    assert result_config(plain(["seed=0", "horizon=h4", "model=octo_tiny"])) == result_config(plain([]))


def test_transient_keys_cover_what_lies_below_them_and_nothing_beside_them():
    assert is_transient("data.cache_gb")
    assert not is_transient("data.cache_gb_more")
    assert not is_transient("data.root")


@pytest.mark.parametrize("old", RENAMED)
def test_a_key_that_was_renamed_is_refused_with_its_new_name(old):
    new = RENAMED[old]
    assert OmegaConf.select(compose([]), new, default="missing") != "missing"
    with pytest.raises(UserError, match=rf"'{old}': it is called {new} now. Write {new}=3$"):
        compose([f"{old}=3"])


def test_the_last_word_of_an_old_key_is_enough_where_it_is_the_only_one():
    with pytest.raises(UserError, match=r"'eval_every': it is called trainer\.val_every now"):
        compose(["eval_every=3"])
    with pytest.raises(UserError, match="There is no key 'cameras'. Keys and groups"):
        compose(["cameras=3"])


def test_task_names_of_the_suite_are_those_of_the_config():
    from xp.envs.arm.tasks import TASKS as SUITE

    assert list(compose([]).env.tasks) == list(SUITE)


def test_the_sentence_of_a_task_that_is_not_there_is_named_with_those_that_are(tmp_path):
    import json

    import pyarrow
    import pyarrow.parquet as parquet

    (tmp_path / "meta").mkdir()
    features = {"observation.images.top": {"dtype": "image"}}
    (tmp_path / "meta/info.json").write_text(json.dumps({"features": features}))
    table = pyarrow.table({"task_index": [0], "task": ["push the cube"]})
    parquet.write_table(table, tmp_path / "meta/tasks.parquet")
    with pytest.raises(UserError, match="push the cubes.*did you mean 'push the cube'"):
        check(compose([f"data.root={tmp_path}", "data.tasks=['push the cubes']"]))
    with pytest.raises(UserError, match="camera=side.*no such camera.*top"):
        check(compose([f"data.root={tmp_path}", "model.cameras.primary.camera=side"]))
