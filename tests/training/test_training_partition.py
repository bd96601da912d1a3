"""Which weights are trained."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.errors import UserError
from xp.models.tree import flatten, unflatten
from xp.training.partition import split

WEIGHTS = flatten(
    {
        "octo_transformer": {
            "BlockTransformer_0": {"encoderblock_0": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}},
            "task_tokenizers_language": {"hf_model": {"shared": {"embedding": np.ones((4, 2))}}},
        },
        "heads_action": {"mean_proj": {"kernel": np.ones((3, 1))}},
    }
)


def test_without_patterns_everything_is_trained():
    partition = split(WEIGHTS)
    assert not partition.frozen
    assert partition.describe() == "20 weights in 4 arrays are trained"


def test_patterns_cross_slashes_and_counts_are_said():
    partition = split(WEIGHTS, freeze=["*BlockTransformer_0/*"], model_frozen=["*hf_model*"])
    assert sorted(partition.trained) == ["heads_action/mean_proj/kernel"]
    assert partition.describe() == "3 weights in 1 array are trained, 17 in 3 arrays are frozen"


def test_the_pattern_that_octos_script_silently_ignored_is_refused_with_the_right_one():
    with pytest.raises(UserError) as caught:
        split(WEIGHTS, freeze=["BlockTransformer_0"])
    assert "'*BlockTransformer_0*' matches 2 of them" in str(caught.value)
    assert "trainer.freeze" in str(caught.value)


def test_a_misspelt_pattern_is_refused_with_close_names():
    with pytest.raises(UserError) as caught:
        split(WEIGHTS, freeze=["*BlockTransfromer_0*"])
    assert "'*BlockTransformer_0*' (2 weights)" in str(caught.value)
    assert "heads_action, octo_transformer" in str(caught.value)


def test_one_good_pattern_does_not_excuse_a_bad_one():
    with pytest.raises(UserError, match=r"'\*nothing\*'"):
        split(WEIGHTS, freeze=["heads_action/*", "*nothing*"])


def test_matching_minds_case():
    with pytest.raises(UserError):
        split(WEIGHTS, freeze=["*blocktransformer_0*"])


def test_a_models_own_pattern_that_matches_nothing_is_an_error_too():
    with pytest.raises(UserError, match="the model's own"):
        split(WEIGHTS, model_frozen=["*t5*"])


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match="nothing is left to train"):
        split(WEIGHTS, freeze=["*"])


PRESETS = {"none": (), "head_only": ("octo_transformer/*",), "language": ("*task_tokenizers_language*", "*nothing*")}


def test_a_preset_stands_for_its_patterns_all_of_which_must_match():
    assert sorted(split(WEIGHTS, freeze=["head_only"], presets=PRESETS).trained) == ["heads_action/mean_proj/kernel"]
    assert not split(WEIGHTS, freeze=["none"], presets=PRESETS).frozen
    with pytest.raises(UserError, match=r"'\*nothing\*'"):
        split(WEIGHTS, freeze=["language"], presets=PRESETS)


NAMES = st.text("abc_", min_size=1, max_size=4)


@given(
    st.recursive(
        st.builds(np.zeros, st.integers(0, 2)), lambda inner: st.dictionaries(NAMES, inner, min_size=1), max_leaves=12
    ).filter(lambda tree: isinstance(tree, dict))
)
def test_flattening_then_unflattening_gives_the_same_tree(tree):
    def plain(node):
        return {key: plain(value) for key, value in node.items()} if isinstance(node, dict) else node.shape

    assert plain(unflatten(flatten(tree))) == plain(tree)
