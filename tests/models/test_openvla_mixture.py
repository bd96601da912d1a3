"""An OpenVLA of a mixture: each window in units of its dataset, one entry of norm_stats for each."""

import json
from dataclasses import replace

import numpy as np
import pytest
from openvla_made_up import CAMERAS, DATA, MODEL, batch_for, made, statistics

from xp.errors import UserError
from xp.models import load_policy, recorded_answer
from xp.models.families import build
from xp.models.policy import MemberSpec

OWN = {"a": {"front": "front", "wrist": "wrist"}, "b": {"front": "top", "wrist": "hand"}}
MEMBERS = tuple(MemberSpec(name=name, action_dim=7, state_dim=3, cameras=cameras) for name, cameras in OWN.items())
MIXED = replace(DATA, members=MEMBERS)


def wider(entry):
    """Statistics of actions and states three times as large, about the same middle."""
    ends = ("min", "max", "p01", "p99")
    return {**entry, **{key: entry["mean"] + 3 * (entry[key] - entry["mean"]) for key in ends}, "std": 3 * entry["std"]}


def both():
    a = statistics()
    b = {**a, "action": wider(a["action"]), "proprio": wider(a["proprio"])}
    return {"a": a, "b": b}


def trained(**changed):
    return build(
        {**MODEL, **changed}, data=MIXED, statistics={**statistics(), "members": both()}, horizon=4, seed=0
    )  # fmt: skip


MODES = [{}, {"chunk_mode": "parallel", "head": "l1", "proprio": True, "cameras": ["front", "wrist"]}]


@pytest.mark.parametrize("mode", MODES)
def test_each_row_is_prepared_as_a_model_of_its_dataset_alone_prepares_it(mode):
    model = trained(**mode)
    batch = batch_for(model.spec, size=4)
    inputs = model.prepare({**batch, "member_index": np.array([0, 1, 1, 0])})
    for place, entry in enumerate(both().values()):
        alone = build({**MODEL, **mode}, data=DATA, statistics=entry, horizon=4, seed=0).prepare(batch)
        assert alone.keys() == inputs.keys()
        for key, value in alone.items():
            rows = [row for row, whose in enumerate([0, 1, 1, 0]) if whose == place]
            np.testing.assert_array_equal(inputs[key][rows].numpy(), value[rows].numpy(), err_msg=key)


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_policy_acts_as_the_dataset_that_is_chosen(mode, tmp_path):
    policy = trained(**mode).policy(None)
    policy.save(tmp_path / "p")
    assert policy.datasets == ("a", "b")
    assert recorded_answer.compare(load_policy(tmp_path / "p"), recorded_answer.recorded(policy), "the policy") == 0
    chosen = load_policy(tmp_path / "p", unnorm_key="b")
    assert not chosen.datasets
    assert set(chosen.spec.cameras) <= {"top", "hand"} and set(chosen.spec.cameras)
    seen = {key: value for key, value in batch_for(policy.spec).items() if not key.startswith("action")}
    renamed = dict(seen)
    for name in CAMERAS:
        renamed[f"observation.images.{OWN['b'][name]}"] = renamed.pop(f"observation.images.{name}")
    answer = chosen.predict(renamed)
    np.testing.assert_array_equal(answer, policy.predict({**seen, "member_index": np.ones(len(seen["task"]), int)}))
    chosen.save(tmp_path / "again")
    np.testing.assert_array_equal(load_policy(tmp_path / "again").predict(renamed), answer)
    with pytest.raises(UserError, match="a, b"):
        load_policy(tmp_path / "p").predict(seen)
    stats = json.loads((tmp_path / "p/config.json").read_text())["norm_stats"]
    assert set(stats) == {"a", "b"} and stats["a"]["action"]["q01"] != stats["b"]["action"]["q01"]


@pytest.mark.parametrize(
    ("member", "changed", "said"),
    [
        ({"action_dim": 6}, {}, r"several widths \(a: 6, b: 7\)"),
        ({"state_dim": 2}, MODES[1], "states of the datasets have several widths"),
        ({"cameras": {"wrist": "wrist"}}, {"cameras": ["front"]}, "data.mix.a.cameras.front=CAMERA"),
    ],
)
def test_datasets_that_do_not_fit_each_other_are_refused(member, changed, said):
    data = replace(MIXED, members=(replace(MEMBERS[0], **member), MEMBERS[1]))
    with pytest.raises(UserError, match=said):
        build({**MODEL, **changed}, data=data, statistics={**statistics(), "members": both()}, horizon=4, seed=0)


def test_a_model_of_one_dataset_is_as_before():
    notes = made().policy(None).assembly.sidecar.notes
    assert notes.unnorm_key == "toy" and not notes.members
