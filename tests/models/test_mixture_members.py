"""Datasets of a mixture in a model: rows in units of their own, and dimensions that are not there count in no loss."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.data.statistics import describe
from xp.errors import UserError
from xp.models.lerobot.members import TO_BE_CHOSEN, Members, padded_dimensions_left_out, write_members
from xp.models.members import MemberNormals, member_asked_for, members_of
from xp.models.normal import Normal, normal_of


def normal(width, seed):
    values = np.random.default_rng(seed).normal(seed, 1 + seed, (20, width)).astype(np.float32)
    return normal_of({"action": describe(values)}, "action")


NORMALS = [normal(2, 0), normal(4, 3), Normal(*(np.zeros(0, np.float32),) * 2, np.zeros(0, bool))]
MEMBERS = MemberNormals.of(NORMALS, 4)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=30)
def test_each_row_is_normalised_as_its_own_dataset_alone_would(whose, seed):
    index = np.asarray(whose)
    values = np.random.default_rng(seed).normal(0, 5, (len(index), 3, 4)).astype(np.float32)
    values *= MEMBERS.there(index)[:, None]
    found = MEMBERS.normalize(values, index)
    for row, member in enumerate(whose):
        width = len(NORMALS[member].mean)
        np.testing.assert_array_equal(found[row, :, :width], NORMALS[member].normalize(values[row, :, :width]))
        np.testing.assert_array_equal(found[row, :, width:], 0)


def test_a_batch_says_whose_it_is_or_is_refused_with_the_names():
    assert member_asked_for({}, ("a", "b")) is None
    assert member_asked_for({"member_index": np.array([1, 1])}, ("a", "b")) == "b"
    with pytest.raises(UserError, match="a, b"):
        member_asked_for({"member_index": np.array([0, 1])}, ("a", "b"))
    with pytest.raises(UserError, match="none was chosen"):
        members_of({}, ("a", "b"))


@pytest.mark.parametrize("loss", [torch.nn.functional.l1_loss, torch.nn.functional.mse_loss])
def test_dimensions_that_a_dataset_lacks_count_in_no_loss_and_get_no_gradient(loss):
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn((2, 3, 4), generator=generator, requires_grad=True)
    target = torch.randn((2, 3, 4), generator=generator)
    is_pad = torch.tensor([[False, False, True, True], [False, False, False, False]])
    with padded_dimensions_left_out(is_pad, "act"):
        value = loss(predicted, target, reduction="none").mean()
    real = (~is_pad)[:, None].expand(2, 3, 4)
    torch.testing.assert_close(value, loss(predicted, target, reduction="none")[real].mean())
    (gradient,) = torch.autograd.grad(value, predicted)
    assert (gradient[~real] == 0).all() and (gradient[real] != 0).all()


def test_a_policy_whose_loss_cannot_be_masked_is_refused():
    with (
        pytest.raises(UserError, match="computes its loss in a way"),
        padded_dimensions_left_out(torch.tensor([[False, True]]), "vqbet"),
    ):
        torch.nn.functional.mse_loss(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))


def test_a_folder_of_a_mixture_has_a_step_that_no_lerobot_knows(tmp_path):
    (tmp_path / "policy_preprocessor.json").write_text(json.dumps({"name": "x", "steps": []}))
    entry = {"action": describe(np.eye(2, dtype=np.float32)), "proprio": describe(np.zeros((1, 0), np.float32))}
    write_members(tmp_path, Members(("a",), {"a": entry}, {"a": {}}, MEMBERS, MEMBERS, {}))
    (step,) = json.loads((tmp_path / "policy_preprocessor.json").read_text())["steps"]
    assert step == {"registry_name": TO_BE_CHOSEN, "config": {"datasets": ["a"]}}
    assert json.loads((tmp_path / "dataset_statistics.json").read_text())["a"]["action"]["mean"] == [0.5, 0.5]
