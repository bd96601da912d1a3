import pytest
from data_made_up import made_up
from hypothesis import given
from hypothesis import strategies as st

from xp.data import Split, split_episodes
from xp.errors import UserError

tasks_of = st.lists(st.integers(0, 3), min_size=1, max_size=30)
fractions = st.floats(0.01, 0.9)


def dataset_of(tasks):
    # Task numbers without gaps, as LeRobot writes them.
    numbers = sorted(set(tasks))
    return made_up([1] * len(tasks), [numbers.index(t) for t in tasks])


@given(tasks_of, fractions, st.integers(0, 2**40))
def test_nothing_is_dropped_and_nothing_is_in_both(tasks, fraction, seed):
    split = split_episodes(dataset_of(tasks), val_fraction=fraction, seed=seed)
    assert sorted((*split.train, *split.val)) == list(range(len(tasks)))
    assert list(split.train) == sorted(split.train) and list(split.val) == sorted(split.val)


@given(tasks_of, fractions, st.integers(0, 99))
def test_each_task_is_split_in_proportion_and_on_both_sides(tasks, fraction, seed):
    dataset = dataset_of(tasks)
    split = split_episodes(dataset, val_fraction=fraction, seed=seed)
    for task in dataset.tasks:
        episodes = {e for e in range(len(tasks)) if dataset.episodes.tasks[e] == task}
        held = len(episodes & set(split.val))
        assert held == 0 if len(episodes) == 1 else 1 <= held <= len(episodes) - 1
        assert held in (0, 1, len(episodes) - 1) or abs(held - fraction * len(episodes)) <= 0.5


@given(tasks_of, fractions, st.integers(0, 99), st.data())
def test_what_a_task_holds_out_does_not_depend_on_the_other_tasks(tasks, fraction, seed, data):
    dataset = dataset_of(tasks)
    whole = split_episodes(dataset, val_fraction=fraction, seed=seed)
    some = data.draw(st.lists(st.sampled_from(dataset.tasks), min_size=1, unique=True))
    part = split_episodes(dataset, val_fraction=fraction, seed=seed, tasks=some)
    assert set(part.val) == {e for e in whole.val if dataset.episodes.tasks[e] in some}
    assert set(part.train) == {e for e in whole.train if dataset.episodes.tasks[e] in some}


@given(tasks_of, fractions, fractions, st.integers(0, 99))
def test_a_larger_fraction_holds_out_a_superset(tasks, one, other, seed):
    dataset = dataset_of(tasks)
    small, large = (set(split_episodes(dataset, val_fraction=f, seed=seed).val) for f in sorted((one, other)))
    assert small <= large


@given(tasks_of, st.integers(0, 99), st.data())
def test_a_number_of_validation_episodes_is_met_exactly(tasks, seed, data):
    dataset = dataset_of(tasks)
    counts = [tasks.count(t) for t in set(tasks)]
    low, high = sum(c > 1 for c in counts), sum(c - 1 for c in counts)
    number = data.draw(st.integers(low, high))
    split = split_episodes(dataset, val_fraction=0.1, seed=seed, num_val=number)
    assert len(split.val) == number and sorted((*split.train, *split.val)) == list(range(len(tasks)))
    held = {dataset.episodes.tasks[e] for e in split.val}
    assert number == 0 or held == {t for t in dataset.tasks if dataset.episodes.tasks.count(t) > 1}
    with pytest.raises(UserError, match=f"num_val={high + 1}"):
        split_episodes(dataset, val_fraction=0.1, seed=seed, num_val=high + 1)


def test_the_seed_decides():
    dataset = made_up([1] * 40)
    splits = [split_episodes(dataset, val_fraction=0.25, seed=seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_no_validation_is_possible_and_all_of_it_is_not():
    dataset = made_up([1] * 4)
    assert split_episodes(dataset, val_fraction=0, seed=0).val == ()
    for fraction in (1.0, -0.1):
        with pytest.raises(UserError, match="val_fraction"):
            split_episodes(dataset, val_fraction=fraction, seed=0)


def test_tasks_are_chosen_by_text_pattern_and_number():
    dataset = made_up([1] * 6, [0, 0, 1, 1, 2, 2])

    def chosen(**options):
        split = split_episodes(dataset, val_fraction=0.5, seed=0, **options)
        return sorted((*split.train, *split.val))

    assert chosen(tasks=["task 1"]) == chosen(tasks=[1]) == chosen(exclude_tasks=["task 0", 2]) == [2, 3]
    assert chosen(tasks=["task *"], exclude_tasks=["*1"]) == [0, 1, 4, 5]
    with pytest.raises(UserError, match="did you mean 'task 0'"):
        chosen(tasks=["tosk 0"])
    with pytest.raises(UserError, match="No episode"):
        chosen(tasks=["task 1"], exclude_tasks=[1])
    with pytest.raises(UserError, match="data.tasks names 3"):
        chosen(tasks=[3])


def test_a_manifest_comes_back_and_is_tied_to_its_dataset(tmp_path):
    dataset = made_up([1] * 8)
    split = split_episodes(dataset, val_fraction=0.25, seed=3)
    split.save(tmp_path / "split.json")
    loaded = Split.load(tmp_path / "split.json")
    assert loaded == split and loaded.about == split.about
    loaded.check(dataset)
    with pytest.raises(UserError, match="another dataset"):
        loaded.check(made_up([1] * 9))
    with pytest.raises(UserError, match="episode 7"):
        Split(loaded.train, loaded.val).check(made_up([1] * 5))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train": 1, "val": [2]}', '{"train": ["x"], "val": []}'])
def test_a_broken_manifest_is_refused(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(UserError, match="split.json"):
        Split.load(path)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [([0], "has one episode, so data.val_fraction=0.2"), ([0, 1, 2], "has one episode of each of its 3 tasks, so")],
)
def test_a_share_that_holds_out_nothing_is_refused_with_what_to_type(tasks, said):
    split = split_episodes(dataset_of(tasks), val_fraction=0.2, seed=0)
    with pytest.raises(UserError, match=f"{said}.*Type data.val_fraction=0"):
        split.check_held_out("D")
    split_episodes(dataset_of(tasks), val_fraction=0, seed=0).check_held_out("D")
    split_episodes(dataset_of([0, 0]), val_fraction=0.01, seed=0).check_held_out("D")


def test_tasks_of_which_nothing_is_held_out_are_named():
    dataset = dataset_of([0, 0, 1, 2, 2, 2])
    split = split_episodes(dataset, val_fraction=0.2, seed=0)
    alone = dataset.tasks[1]
    assert split.note() == f"4 episodes train, 2 are held out; none of 1 tasks that have one episode each ({alone!r})"
    assert split_episodes(dataset_of([0, 0]), val_fraction=0.2, seed=0).note() == "1 episodes train, 1 are held out"
