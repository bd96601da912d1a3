"""States, actions, pictures and prompts become what openpi makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pi0_reference_arrays import REFERENCE, furthest, needs_reference

from xp.errors import UserError
from xp.models.pi0.inputs.prompt import discretised, hashed_words, prompts
from xp.models.pi0.io.norm_stats import NormStats, Scale, Stats, read_norm_stats, stats_of
from xp.models.transforms import RelativeActions
from xp.pictures import fitted


@pytest.fixture(scope="module")
def transforms() -> dict[str, np.ndarray]:
    needs_reference()
    with np.load(REFERENCE / "transforms.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def statistics() -> NormStats:
    needs_reference()
    return read_norm_stats(REFERENCE / "ckpt_pi05_orbax0.11.13/10/assets/tiny/robot/norm_stats.json")


@pytest.mark.parametrize("by_quantiles", [False, True])
@pytest.mark.parametrize("name", ["state", "actions"])
def test_normalising_is_openpis(transforms, statistics, name, by_quantiles):
    scale = Scale(getattr(statistics, name), by_quantiles)
    key = f"norm/{name}/q{int(by_quantiles)}"
    normal = scale.normalize(transforms[f"{key}/in"])
    np.testing.assert_allclose(normal, transforms[f"{key}/out"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scale.unnormalize(normal), transforms[f"{key}/back"], rtol=1e-6, atol=1e-6)
    padded = f"unnorm_padded/{name}/q{int(by_quantiles)}"
    found = scale.unnormalize(transforms[f"{padded}/in"])
    np.testing.assert_allclose(found, transforms[f"{padded}/out"], rtol=1e-6, atol=1e-6)


def test_statistics_are_written_as_they_were_read(statistics, tmp_path):
    statistics.write(tmp_path / "lab/arm/norm_stats.json")
    again = read_norm_stats(tmp_path / "lab/arm/norm_stats.json")
    assert again.content() == statistics.content()


def test_actions_relative_to_the_state_are_openpis(transforms):
    mask, state = transforms["delta/mask"], transforms["delta/state"]
    relative = RelativeActions(len(mask), tuple(int(i) for i in np.flatnonzero(~mask)))
    batch = {"observation.state": state[None, None], "action": transforms["delta/actions"][None]}
    found = np.asarray(relative.to_relative(batch)["action"])[0]
    np.testing.assert_allclose(found, transforms["delta/out"], atol=1e-6)
    np.testing.assert_allclose(found + relative.anchor(batch)[0], transforms["delta/abs"], atol=1e-6)


def test_levels_of_a_state_are_openpis(transforms):
    assert discretised(transforms["digitize/in"]) == transforms["digitize/out"].tolist()


@pytest.mark.parametrize("size", ["480x640", "120x160", "300x224", "64x64"])
def test_pictures_are_fitted_as_openpi_fits_them(transforms, size):
    height, width = map(int, size.split("x"))
    small = transforms[f"resize/{size}/in_seeded"]
    pictures = np.kron(small, np.ones((1, 16, 16, 1), np.uint8))[:, :height, :width]
    found = fitted(pictures, 224)[:, ::7, ::7]
    np.testing.assert_array_equal(found, transforms[f"resize/{size}/client_pil"])
    assert furthest(found, transforms[f"resize/{size}/jax_uint8"]) <= 1


def test_a_square_of_the_right_side_passes_untouched():
    picture = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), dtype=np.uint8)
    assert fitted(picture, 56) is picture


FINITE = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@given(arrays(np.float64, (3, 5), elements=FINITE), st.booleans())
def test_normalising_can_be_undone(values, by_quantiles):
    ramp = np.arange(4.0)
    scale = Scale(Stats(mean=ramp, std=ramp + 0.5, q01=ramp - 3, q99=ramp + 2), by_quantiles)
    back = scale.unnormalize(scale.normalize(values))
    np.testing.assert_allclose(back, values, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(scale.normalize(values)[:, 4], values[:, 4])  # no statistics: it passes


def test_a_dimension_that_never_changes_is_not_blown_up():
    entry = {"mean": [1.0, 2.0], "std": [0.5, 1e-9], "p01": [0.0, 2.0], "p99": [2.0, 2.0], "mask": [True, False]}
    for by_quantiles in (False, True):
        normal = Scale(stats_of(entry), by_quantiles).normalize(np.array([[1.0, 2.0], [1.5, 2.001]]))
        assert np.abs(normal).max() < 2


def test_quantiles_that_are_missing_are_asked_for_by_pi05_alone():
    ones = np.ones(3)
    statistics = NormStats(state=Stats(mean=ones, std=ones), actions=Stats(mean=ones, std=ones))
    statistics.scales(False, "FILE")
    with pytest.raises(UserError, match="FILE has no q01 and q99 of 'state'"):
        statistics.scales(True, "FILE")


def test_the_text_of_pi05_holds_the_state_and_that_of_pi0_does_not():
    seen = []

    def encode(text, begins):
        seen.append((text, begins))
        return [7] * len(text.split())

    from xp.models.pi0.inputs.prompt import Prompts

    state = np.array([[-1.0, 0.0, 0.999, -2.0, 5.0]])
    ids, there = Prompts(encode=encode, length=20, reads_state=True)([" pick_up\nthe cube "], state)
    assert seen == [("Task: pick up the cube, State: 0 128 255 -1 255;\nAction: ", True)]
    assert there.sum() == (ids == 7).sum() == 12 and not ids[~there].any()
    seen.clear()
    Prompts(encode=encode, length=20, reads_state=False)(["pick_up", "pick_up"], np.repeat(state, 2, axis=0))
    assert seen == [("pick up", True), ("\n", False)]  # once for both


def test_a_prompt_that_is_too_long_is_refused_with_its_length():
    make = prompts("words", vocabulary=600, length=8, reads_state=False)
    with pytest.raises(UserError, match="has 11 tokens; the policy reads 8.*model.prompt_length=11"):
        make(["one two three four five six seven eight nine"], None)


def test_hashed_words_are_below_the_vocabulary_and_numbers_have_ids_of_their_own():
    encode = hashed_words(400)
    numbers = [encode(str(number), False) for number in range(-1, 256)]
    assert all(len(ids) == 1 for ids in numbers)
    assert len({ids[0] for ids in numbers}) == 257
    words = encode("Pick up the cube!", True)
    assert words == [2, *encode("pick UP the cube !", False)] and max(words) < 400
    assert min(words[1:]) > max(ids[0] for ids in numbers)
    with pytest.raises(UserError, match="model.vocabulary=261"):
        hashed_words(261)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> str:
    """A SentencePiece model of 60 pieces, learned from a few sentences."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("tokenizer")
    lines = ["pick up the red cube", "put the cube on the plate", "Task: push, State: 1 2 3;", "Action: go"] * 20
    (folder / "text").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "paligemma_tokenizer"), vocab_size=60,
        hard_vocab_limit=False, model_type="bpe", bos_id=2, eos_id=1, pad_id=0, unk_id=3,
        minloglevel=2,
    )  # fmt: skip
    return str(folder)


def test_a_sentencepiece_file_is_read_and_its_size_compared(sentences):
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(model_file=f"{sentences}/paligemma_tokenizer.model")
    ids, there = prompts(sentences, vocabulary=own.vocab_size(), length=30, reads_state=False)(["the cube"], None)
    assert ids[0][there[0]].tolist() == [2, *own.encode("the cube"), *own.encode("\n")]
    with pytest.raises(UserError, match=f"has {own.vocab_size()} pieces, the policy's vocabulary 257,152"):
        prompts(sentences, vocabulary=257_152, length=30, reads_state=False)(["the cube"], None)


def test_a_tokeniser_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no tokeniser in"):
        prompts(str(tmp_path), vocabulary=9, length=9, reads_state=False)(["x"], None)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="is no SentencePiece model"):
        prompts(str(tmp_path), vocabulary=9, length=9, reads_state=False)(["x"], None)
    with pytest.raises(UserError, match="nothing says where its tokeniser is"):
        prompts(None, vocabulary=9, length=9, reads_state=False)(["x"], None)
