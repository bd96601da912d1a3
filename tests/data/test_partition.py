"""Subsets by episode: disjoint, complete, balanced over tasks, and a function of the seed alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.data.episode_partition import by_task, partition
from xp.data.splits import hold_out
from xp.errors import UserError

TASKS = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(
    lambda counts: by_task([f"task {t}" for t, n in enumerate(counts) for _ in range(n)], range(sum(counts)))
)


@given(groups=TASKS, num=st.integers(2, 6), seed=st.integers(0, 9))
def test_subsets_are_disjoint_complete_and_balanced_over_tasks(groups, num, seed):
    everything = sorted(e for episodes in groups.values() for e in episodes)
    if num > len(everything):
        with pytest.raises(UserError, match=f"split.split_num={num} is more than the {len(everything)}"):
            partition(groups, num, seed)
        return
    subsets = partition(groups, num, seed)
    assert sorted(e for subset in subsets for e in subset) == everything
    sizes = [len(subset) for subset in subsets]
    assert max(sizes) - min(sizes) <= 1
    for episodes in groups.values():
        shares = [len(set(subset) & set(episodes)) for subset in subsets]
        assert max(shares) - min(shares) <= 1


def test_the_seed_decides_and_nothing_else():
    groups = by_task(["a"] * 20, range(20))
    assert partition(groups, 4, 42) == partition(groups, 4, 42)
    assert partition(groups, 4, 42) != partition(groups, 4, 43)


@given(groups=TASKS, small=st.floats(0.05, 0.4), more=st.floats(0.05, 0.4))
def test_a_larger_share_holds_out_a_superset(groups, small, more):
    assert set(hold_out(groups, small, 7)[1]) <= set(hold_out(groups, small + more, 7)[1])
