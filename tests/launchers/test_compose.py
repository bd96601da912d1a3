"""The quick way of composing gives what Hydra gives."""

import app
import pytest
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._values import flat, quick_value, safe_name
from xp.config.override_text import text

groups = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["small", "big"]),
        "lr": st.sampled_from(["cosine", "constant"]),
        "task": st.sampled_from(["count", "collect", "report"]),
        "+experiment": st.sampled_from(["chain", "best", "zipped"]),
    },
)
letters = st.characters(codec="utf-8", exclude_characters="\x00\r\n$\\", exclude_categories=["Cs", "Cc"])
tricky = st.sampled_from(["null", "1e3", "${seed}", "a'b", 'c"d', "[x]", "{y}", "x=y", "a,b", "x:y", "${run:o}"])
words = st.text(letters, max_size=12) | tricky
numbers = st.integers(-1000, 10**9) | st.floats(allow_nan=False)
scalars = st.none() | st.booleans() | numbers | words
values = scalars | st.lists(scalars, max_size=3)
settings_of_values = st.fixed_dictionaries(
    {},
    optional={
        "seed": numbers,
        "lr.peak": scalars,
        "work.text": words,
        "start_from": values,
        "model.width": values,
        "+model.extra.deep": values,
        "++work.steps": scalars,
        "model.cameras.top.size": values,
    },
)


@pytest.fixture(scope="module")
def hydra():
    return app.open_hydra()


@pytest.fixture(scope="module")
def composer(hydra):
    from xp.runs.jobs import stage_references

    stage_references.register()
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    return Composer(hydra.config_loader, master)


@settings(deadline=None, max_examples=15)
@given(chosen=groups, given_values=settings_of_values)
def test_composing_quickly_is_composing(hydra, composer, chosen, given_values):
    overrides = [f"{key}={value}" for key, value in chosen.items()]
    overrides += [f"{key}={text(value)}" for key, value in given_values.items()]
    whole = hydra.config_loader.load_configuration("config", overrides, run_mode=RunMode.RUN)
    slow = OmegaConf.to_container(whole, resolve=False)
    slow.pop("hydra")
    quick = composer.compose(overrides)
    assert OmegaConf.to_container(quick, resolve=False) == slow
    assert list(quick) == list(slow)


@settings(deadline=None, max_examples=50)
@given(values)
def test_a_value_written_as_an_override_is_read_back_as_it_was(composer, value):
    (parsed,) = composer.parse([f"key={text(value)}"])
    got = parsed.value()
    assert got == value and type(got) is type(value)


def test_composing_one_job_does_not_leak_into_the_next(composer):
    before = OmegaConf.to_container(composer.compose(["model=big"]))
    composer.compose(["model=big", "+model.extra=1", "seed=9"])
    assert OmegaConf.to_container(composer.compose(["model=big"])) == before


def test_each_file_is_read_once_whatever_is_chosen(hydra, monkeypatch):
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    read, real = [], FileConfigSource.load_config

    def load_config(source, config_path):
        read.append(config_path)
        return real(source, config_path)

    monkeypatch.setattr(FileConfigSource, "load_config", load_config)
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    fresh = Composer(hydra.config_loader, master)
    read.clear()
    for task in ("count", "collect", "report"):
        assert fresh.compose(["model=big", f"task={task}"]).task.name == task
    assert "model/big" in read and len(read) == len(set(read))


def test_a_search_path_on_the_command_line_is_searched(hydra, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tall.yaml").write_text("height: 7\n")
    place = [f"hydra.searchpath=[file://{tmp_path}]"]
    master = hydra.compose_config("config", place, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    fresh = Composer(hydra.config_loader, master)
    assert "height" not in fresh.compose(["model=big"]).model
    assert fresh.compose(["model=tall"]).model.height == 7


def test_an_unknown_key_is_an_error_as_in_hydra(composer):
    with pytest.raises(ConfigCompositionException, match="Could not override 'lr.peek'"):
        composer.compose(["model=big", "lr.peek=1"])


def test_nested_settings_become_dotted_keys():
    assert flat({"a": {"b": {"c": 1, "d": [1, "x y"]}, "e": {}}, "f.g": None}) == {
        "a.b.c": "1", "a.b.d": "[1,'x y']", "a.e": "{}", "f.g": "null",
    }  # fmt: skip


@given(st.text(min_size=1, max_size=300))
def test_names_are_safe_short_and_told_apart(name):
    safe = safe_name(name)
    assert 0 < len(safe) <= 100 and "/" not in safe and not safe.startswith(".")
    assert safe_name("x" * 150 + name) != safe_name("x" * 150 + name + "y")


def test_a_plain_number_or_word_is_read_as_hydra_reads_it(composer):
    @settings(deadline=None, max_examples=300)
    @given(st.from_regex(r"[-+]?[0-9._eE+-]{1,6}|[A-Za-z_][A-Za-z0-9_./-]{0,5}|[0-9a-z]{1,4}", fullmatch=True) | words)
    def compare(written):
        quick, value = quick_value(written)
        if quick:
            (parsed,) = composer.parse([f"key={written}"])
            got = parsed.value()
            assert not parsed.is_sweep_override() and got == value and type(got) is type(value)

    compare()
    assert [quick_value(text) for text in ("1", "-2.5e-3", "null", "TRUE", "a/b.c", "[1]", "nan")] == [
        (True, 1), (True, -2.5e-3), (True, None), (True, True), (True, "a/b.c"), (False, None), (False, None),
    ]  # fmt: skip
