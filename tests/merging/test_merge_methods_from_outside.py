"""A merge method that another package brings: found by its entry point, checked by its own table, merged like any."""

import subprocess
import sys

import numpy as np
import pytest
from merging_made_up import made_arrays, read_arrays, tree_state, write_torch

from xp.config import check, compose
from xp.config.merge_methods import GROUP, merge_method_names
from xp.errors import UserError
from xp.merging import Linear, MergeMethod, Number, merge, weight_table
from xp.merging.methods import METHODS


def faded(config, inputs):
    """The first checkpoint counts `share`, the others the rest in equal parts."""
    share, others = config.options["share"], inputs.count - 1
    weights = [share, *[(1 - share) / others] * others]
    return Linear(inputs.units, weight_table(weights, inputs.units, inputs.count, normalize=False))


FADED = MergeMethod(name="faded", rule=faded, options={"share": Number(0.75, 0, 1)})


@pytest.fixture
def installed(offer, monkeypatch):
    """The entry point of a package with the method `faded`."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    offer(GROUP, faded=f"{__name__}:FADED")


def test_every_built_in_method_is_an_entry_point_with_a_group_option():
    from xp.config import conf_folder

    assert set(METHODS) <= set(merge_method_names())
    assert {path.stem for path in (conf_folder() / "merge_method").glob("*.yaml")} == {*METHODS, "none"}


@pytest.mark.parametrize("name", [*METHODS])
def test_the_defaults_in_the_group_are_those_of_the_method(name):
    section = compose([f"merge_method={name}"]).merge_method
    assert {**section} == {"name": name, **{key: option.default for key, option in METHODS[name].options.items()}}


def test_a_method_from_outside_merges(installed, tmp_path):
    one, two = made_arrays(0), made_arrays(1)
    paths = [write_torch(tmp_path / "a", one), write_torch(tmp_path / "b", two)]
    merge(paths, "faded", output=tmp_path / "default")
    merge(paths, "faded", output=tmp_path / "half", share=0.5)
    for name, array in read_arrays(tmp_path / "default").items():
        np.testing.assert_allclose(array, 0.75 * one[name] + 0.25 * two[name], atol=1e-6)
    for name, array in read_arrays(tmp_path / "half").items():
        np.testing.assert_allclose(array, (one[name] + two[name]) / 2, atol=1e-6)


def test_its_bad_options_are_refused_with_its_bounds(installed, tmp_path):
    paths = [write_torch(tmp_path / name, made_arrays(k)) for k, name in enumerate("ab")]
    before = tree_state(tmp_path)
    with pytest.raises(UserError, match=r"merge_method.share=1.5: must be at least 0 and at most 1.*share=0.75"):
        merge(paths, "faded", output=tmp_path / "out", share=1.5)
    with pytest.raises(UserError, match="merge_method=faded has no option 'shar'.*share"):
        merge(paths, "faded", output=tmp_path / "out", shar=0.5)
    with pytest.raises(UserError, match="merge_method=fadet: allowed are .*faded.*did you mean 'faded'"):
        merge(paths, "fadet", output=tmp_path / "out")
    assert tree_state(tmp_path) == before


def test_its_keys_and_bounds_hold_in_a_configuration(installed):
    own = ["~merge_method", "+merge_method.name=faded"]
    check(compose([*own, "+merge_method.share=0.5"]), complete=False)
    with pytest.raises(UserError, match="merge_method.share=1.5: must be between 0 and 1"):
        check(compose([*own, "+merge_method.share=1.5"]), complete=False)
    with pytest.raises(UserError, match="merge_method.shar"):
        check(compose([*own, "+merge_method.shar=0.5"]), complete=False)


def test_a_table_of_options_is_read_without_numpy():
    code = (
        "import sys; from xp.config.schema import SECTIONS; SECTIONS['merge_method']['ties']; "
        "print([m for m in ('numpy', 'torch', 'jax', 'tensorstore') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
