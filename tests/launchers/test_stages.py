"""What a stage's sweep, zip, set and fix and the command line make together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_plugins.xp_staged_sweeper._join import Joinable
from hydra_plugins.xp_staged_sweeper._stages import CommandLine, assignments, overrides_of, parse_stages
from xp.errors import UserError


def jobs(stage, line=None, swept=None):
    line = line or CommandLine()
    (parsed,) = [each for each in parse_stages(stage if "s" in stage else {"s": stage}) if each.key == "s"]
    keys = parsed.swept if swept is None else swept
    return [overrides_of(parsed, values, line, keys) for values, _ in assignments(parsed, line, keys)]


def test_a_sweep_is_the_product_of_its_lists():
    found = jobs({"sweep": {"a": [1, 2], "b.c": ["x", None]}})
    assert found == [["a=1", "b.c=x"], ["a=1", "b.c=null"], ["a=2", "b.c=x"], ["a=2", "b.c=null"]]


def test_zipped_lists_go_together_and_multiply_with_the_product():
    found = jobs({"zip": {"a": [1, 2], "b": [3, 4]}, "sweep": {"c": [0, 5]}})
    assert found == [["c=0", "a=1", "b=3"], ["c=0", "a=2", "b=4"], ["c=5", "a=1", "b=3"], ["c=5", "a=2", "b=4"]]


def test_a_list_of_sweeps_is_one_after_the_other():
    assert jobs({"sweep": [{"a": [1, 2]}, {"b": [3]}]}) == [["a=1"], ["a=2"], ["b=3"]]


def test_a_stage_without_sweep_is_one_job():
    assert jobs({"set": {"x": {"y": 1}}}) == [["x.y=1"]]


def test_cameras_of_a_stage_replace_those_that_there_are():
    """As on a command line: Hydra alone would merge them, so that an empty mapping did nothing."""
    stage = {"set": {"env": {"cameras": {}}}, "fix": {"env.kwargs": {}}}
    assert jobs(stage) == [["~env.cameras", "+env.cameras={}", "~env.kwargs", "+env.kwargs={}"]]
    assert jobs({"set": {"env": {"cameras": {"top": [8, 8]}}}}) == [["env.cameras.top=[8,8]"]]
    typed = CommandLine(single={"~env.cameras": "\0", "+env.cameras": "{top:[8,8]}"})
    assert jobs({"set": {"env.cameras.wrist": [4, 4]}}, typed) == [
        ["env.cameras.wrist=[4,4]", "~env.cameras", "+env.cameras={top:[8,8]}"]
    ]


def test_priority_is_fix_then_command_line_then_sweep_then_set_and_each_key_comes_once():
    stage = {"set": {"a": 1, "b": 1, "c": 1, "d": 1}, "sweep": {"b": [2], "c": [2]}, "fix": {"d": 4, "e": 4}}
    line = CommandLine(single={"c": "3", "d": "3", "e": "3", "a": "3"})
    assert sorted(jobs(stage, line)[0]) == ["a=3", "b=2", "c=3", "d=4", "e=4"]
    assert sorted(jobs(stage, line, swept=set())[0]) == ["a=3", "b=2", "c=3", "d=4", "e=4"]


def test_the_command_line_widens_and_narrows_a_sweep_in_the_stages_that_have_it_only():
    stage, other = {"sweep": {"h": [1, 4, 8]}}, {"set": {"x": 1}}
    wide, narrow = CommandLine(sweeps={"h": ("1", "16")}), CommandLine(single={"h": "4"})
    assert jobs(stage, wide) == [["h=1"], ["h=16"]] and jobs(stage, narrow) == [["h=4"]]
    assert jobs(other, wide, swept={"h"}) == [["x=1"]] == jobs(other, narrow, swept={"h"})


def test_a_sweep_that_no_stage_has_multiplies_every_stage_that_is_not_once():
    line = CommandLine(sweeps={"seed": ("1", "2")})
    assert jobs({"sweep": {"h": [4, 8]}}, line) == [
        ["h=4", "seed=1"], ["h=4", "seed=2"], ["h=8", "seed=1"], ["h=8", "seed=2"],
    ]  # fmt: skip
    assert jobs({"set": {"task": "report"}, "once": True}, line) == [["task=report"]]


def test_the_command_line_replaces_a_zipped_list_of_the_same_length():
    stage = {"zip": {"a": [1, 2], "b": [3, 4]}}
    assert jobs(stage, CommandLine(sweeps={"b": ("7", "8")})) == [["a=1", "b=7"], ["a=2", "b=8"]]
    assert jobs(stage, CommandLine(single={"a": "5"})) == [["a=5", "b=3"], ["a=5", "b=4"]]
    with pytest.raises(UserError, match="one value or 2"):
        jobs(stage, CommandLine(sweeps={"b": ("7", "8", "9")}))


def joined(mine, theirs):
    known = Joinable()
    known.add("job", theirs)
    return known.fitting(mine) == ["job"]


def test_jobs_join_on_the_keys_that_both_stages_sweep():
    assert joined({"h": 4, "p": 1}, {"h": 4.0, "seed": 3}) and not joined({"h": 4, "p": 1}, {"h": 8})
    assert joined({"h": 4}, {"seed": 1}) and joined({}, {"h": 1})


plain = st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from([0.0, 1.0, float("nan"), "a", "1"])
swept = st.dictionaries(st.sampled_from("abc"), plain | st.lists(plain, max_size=2))


@given(st.lists(swept, max_size=8), swept)
def test_joining_by_index_is_joining_by_looking_at_each(theirs, mine):
    """`==` on plain values, but that nothing equals a nan."""

    def same(one, other):
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(same, one, other))
        return one == other

    known = Joinable()
    for number, values in enumerate(theirs):
        known.add(number, values)
    expected = [
        number for number, values in enumerate(theirs) if all(same(mine[k], values[k]) for k in mine.keys() & values)
    ]
    assert known.fitting(mine) == expected


def test_stages_come_in_the_order_of_their_needs():
    stages = parse_stages({"report": {"needs": ["b", "a"]}, "a": {"needs": "c"}, "b": {}, "c": {}})
    assert [stage.key for stage in stages] == ["b", "c", "a", "report"]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({"a": {"neds": []}}, "did you mean 'needs'"),
        ({"a": {"needs": ["b"]}}, "'b', which is not a stage"),
        ({"pretrain": {}, "a": {"needs": ["pretran"]}}, "did you mean 'pretrain'"),
        ({"a": {"needs": ["b"]}, "b": {"needs": ["a"]}}, "in a circle"),
        ({"a": {"zip": {"x": [1, 2], "y": [1]}}}, "x has 2, y has 1"),
        ({"a": {"sweep": {"x": "1,2"}}}, "expected lists by key"),
        ({"a": 3}, "must be a mapping"),
    ],
)
def test_a_mistake_in_the_stages_is_told(stages, words):
    with pytest.raises(UserError, match=words):
        parse_stages(stages)
