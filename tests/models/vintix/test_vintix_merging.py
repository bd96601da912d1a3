"""Vintix folders as inputs of a merge: the mean of two acts as the mean weights do, others are refused."""

import json

import numpy as np
import pytest
import torch
from vintix_models import moved, new, windows

from xp.errors import UserError
from xp.merging import merge
from xp.models import load_policy
from xp.models.families import find_policy


def saved(folder, seed=1, **options):
    """A model whose weights were moved away from those that all of them begin with."""
    trainable = new(**options)
    moved(trainable.module, seed)
    trainable.policy(None).save(folder)
    return folder


def test_the_average_of_two_loads_and_acts_as_the_mean_weights_do(tmp_path):
    paths = [saved(tmp_path / f"{seed}", seed) for seed in (1, 2)]
    merge(paths, "average", output=tmp_path / "out")
    assert find_policy(tmp_path / "out").family.name == "vintix"
    merged, *tuned = (load_policy(path, device="cpu") for path in (tmp_path / "out", *paths))
    expected = {name: (one + tuned[1].weights()[name]) / 2 for name, one in tuned[0].weights().items()}
    for name, array in merged.weights().items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-7)
    assert merged.spec == tuned[0].spec and merged.described.tasks.names == tuned[0].described.tasks.names
    own = tuned[0]
    own.module.load_state_dict({name: torch.from_numpy(np.asarray(each)) for name, each in expected.items()})
    np.testing.assert_allclose(merged.predict(windows()), own.predict(windows()), atol=1e-5)
    acting = [policy.acting_in(["go1", "go2"]) for policy in (merged, own)]
    draws = np.random.default_rng(0)
    for step in range(12):  # beyond the context
        seen, reward = draws.normal(size=(2, 5)).astype(np.float32), draws.normal(size=2)
        actions = [each.act(seen, reward, np.full(2, step == 0)) for each in acting]
        assert np.isfinite(actions[0]).all()
        np.testing.assert_allclose(actions[0], actions[1], atol=1e-5)


def test_other_groups_and_statistics_are_refused_by_name(tmp_path):
    first = saved(tmp_path / "first")
    other = saved(tmp_path / "other", groups=("go1", "a1"))
    with pytest.raises(UserError, match=r"metadata.json: a1 \(only in .*other\), metadata.json: go2 \(only in .*first"):
        merge([first, other], output=tmp_path / "out")
    with pytest.raises(UserError, match="of one model"):
        merge([first, other], output=tmp_path / "out", mismatch="intersect")
    changed = saved(tmp_path / "changed")
    metadata = json.loads((changed / "metadata.json").read_text())
    metadata["go2"]["obs_mean"][0] += 1.0
    (changed / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="metadata.json: go2: obs_mean"):
        merge([first, changed], output=tmp_path / "out")
    fork = saved(tmp_path / "fork", origin="fork")
    with pytest.raises(UserError, match=r"xp_vintix.json: origin \('fork' instead of 'upstream'\)"):
        merge([first, fork], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
