"""`data.mix` as typed: what is refused before anything is opened, and what a run's identity makes of it."""

import math

import pytest

from xp.config.hub_keys import hub_values
from xp.config.identity_keys import result_config
from xp.config.mixture import mixed_cameras, read_mix
from xp.errors import UserError
from xp.nested import dotted

A, B = {"root": "A", "weight": 0.7}, {"root": "B", "weight": 0.3}


def identity_of(mix):
    return result_config({"task": {"name": "train"}, "data": {"root": None, "mix": mix, "fps": None}})


def test_members_come_by_name_and_those_of_weight_0_not_at_all():
    found = read_mix({"b": B, "none": {"root": "C", "weight": 0}, "a": A})
    assert [(each.name, each.root, each.weight) for each in found] == [("a", "A", 0.7), ("b", "B", 0.3)]


def test_weight_0_is_no_part_of_the_identity_nor_is_the_order():
    assert identity_of({"a": A, "none": {"root": "C", "weight": 0}, "b": B}) == identity_of({"b": B, "a": A})
    assert identity_of({"a": A, "b": B}) != identity_of({"a": A, "b": {**B, "weight": 0.4}})


def test_a_run_of_one_dataset_has_the_identity_that_it_had_before_there_were_mixtures():
    before = result_config({"task": {"name": "train"}, "data": {"root": "A"}})
    assert result_config({"task": {"name": "train"}, "data": {"root": "A", "mix": None, "fps": None}}) == before


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ({}, "expected datasets by name"),
        ([A], "expected datasets by name"),
        ({"a": None}, "expected the keys of a dataset"),
        ({"a b": A}, "is no name for a dataset"),
        ({"../a": A}, "is no name for a dataset"),
        ({"a": {"weight": 1.0}}, "which folder"),
        ({"arm": A, "army": {"weight": 1.0}}, "did you mean 'arm'"),
        ({"a": {**A, "wieght": 1}}, "did you mean 'weight'"),
        ({"a": {**A, "weight": -1}}, "0 or more"),
        ({"a": {**A, "weight": math.nan}}, "finite"),
        ({"a": {**A, "weight": math.inf}}, "finite"),
        ({"a": {**A, "weight": "much"}}, "finite"),
        ({"a": {**A, "weight": True}}, "finite"),
        ({"a": {**A, "weight": 0}, "b": {**B, "weight": 0}}, "All weights of data.mix are 0"),
        ({"a": {**A, "cameras": ["top"]}}, "camera of the mixture"),
        ({"a": {**A, "resample": "summ"}}, "did you mean 'sum'"),
        ({"a": {**A, "val_fraction": 2}}, "from 0 to 0.9"),
        ({"a": {**A, "task_weights": {"push": -2}}}, "0 or more"),
        ({"a": {**A, "episode_weights": {"first": 0}}}, "expected a number, counted from 0"),
        ({"a": {**A, "tasks": "push"}}, "expected a list"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_key(mix, said):
    with pytest.raises(UserError, match=said):
        read_mix(mix)


OWN = {"a": ("top", "wrist"), "b": ("front",)}


def test_cameras_of_a_mixture_are_those_of_the_maps():
    members = read_mix({"a": A, "b": {**B, "cameras": {"top": "front", "wrist": None}}})
    assert mixed_cameras(members, OWN) == ("top", "wrist")


@pytest.mark.parametrize(
    ("cameras", "said"),
    [({"top": "frnt"}, "did you mean 'front'"), ({"top": "front", "wirst": None}, "did you mean 'wrist'")],
)
def test_a_map_of_cameras_that_names_nothing_is_refused(cameras, said):
    members = read_mix({"a": A, "b": {**B, "cameras": cameras}})
    with pytest.raises(UserError, match=said):
        mixed_cameras(members, OWN)


def test_a_dataset_of_a_hub_is_told_by_root_or_by_repo_id():
    by_root, by_id = {"root": "hf://org/a@v2"}, {"repo_id": "org/a", "revision": "v2"}
    (one,), (other,) = read_mix({"a": {"root": "hf://datasets/org/a@v2"}}), read_mix({"a": by_id})
    assert one == other
    for entry in (by_root, by_id):
        (value,) = hub_values(dotted({"data.mix": {"a.b": entry}}))
        assert value.path == ("data", "mix", "a.b", "root") and value.address.revision == "v2"
    plain = {"root": "A", "repo_id": None, "revision": None}
    assert identity_of({"a": plain}) == identity_of({"a": {"root": "A"}})


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"repo_id": "org/a", "root": "A"}, "both name the dataset"),
        ({"root": "A", "revision": "v2"}, "data.mix.a.repo_id=ORG/NAME"),
        ({"repo_id": "org/a@v2"}, "data.mix.a.revision=REVISION"),
        ({"repo_id": "a"}, "data.mix.a.repo_id"),
    ],
)
def test_two_datasets_in_one_entry_or_a_wrong_id_are_refused(entry, said):
    with pytest.raises(UserError, match=said):
        read_mix({"a": entry})
