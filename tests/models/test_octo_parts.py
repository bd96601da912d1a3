"""The pieces around the network: cameras, words, inputs, initial weights, statistics."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from octo_made_up import DATA, STATISTICS, made_batch, model_cfg

from xp.errors import UserError
from xp.models import build, camera_sizes
from xp.models.normal import normal_of
from xp.models.octo.initial import initial_weights
from xp.models.octo.network.stems import expected_places
from xp.models.octo.network.t5 import relative_buckets
from xp.models.octo.network.unigram import load_unigram
from xp.models.octo.network.words import WordText, words_of
from xp.models.sensitivity import image_sensitivity


def test_the_way_in_is_light():
    code = "import sys; from xp.models import build, load_policy; print({'jax', 'flax'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"


@pytest.mark.parametrize(
    ("cameras", "expected"),
    [
        (["wrist", "top"], {"top": (32, 32), "wrist": (16, 16)}),
        (["left", "agentview", "eye_in_hand"], {"agentview": (32, 32), "eye_in_hand": (16, 16)}),
        (["left"], {"left": (32, 32)}),
        (["gripper_cam"], {"gripper_cam": (32, 32)}),
        (["hand_1", "hand_2"], {"hand_1": (16, 16), "hand_2": (32, 32)}),
    ],
)
def test_cameras_find_their_slots_by_name(cameras, expected):
    assert camera_sizes(model_cfg(), dict.fromkeys(cameras, (48, 48, 3))) == expected


def slots(**cameras):
    return model_cfg(cameras=cameras)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (slots(primary={"camera": "tpo", "size": [32, 32]}), r"dataset has top, wrist \(did you mean 'top'\?\)"),
        (slots(primary={"camera": None, "size": [33, 32]}), "multiple of 16"),
        (slots(wrist={"camera": "top", "size": [16, 16]}, primary={"camera": "top", "size": [32, 32]}), "one size"),
    ],
)
def test_a_wrong_camera_says_what_there_is(cfg, message):
    with pytest.raises(UserError, match=message):
        camera_sizes(cfg, DATA.cameras)


def test_a_dataset_without_cameras_is_refused():
    with pytest.raises(UserError, match="'primary' has no camera"):
        camera_sizes(model_cfg(), {})


def test_words_keep_their_rows_in_every_process_and_differ_from_each_other():
    ids, mask = WordText(buckets=512, hashes=2, max_length=6)("Put the red cube, please!")
    assert words_of("Put the RED cube, please!") == ["put", "the", "red", "cube", "please"]
    assert ids.tolist() == [[290, 313], [121, 437], [147, 31], [417, 412], [421, 323], [0, 0]]
    assert mask.tolist() == [1, 1, 1, 1, 1, 0] and not ids[5].any()


def test_an_instruction_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="has 3 words; the model reads 2.*model.language.max_length=3"):
        WordText(64, 2, 2)("one two three")


def write_tokenizer(folder, pieces):
    vocabulary = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], *pieces]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary}}))


def test_the_unigram_model_takes_the_most_probable_pieces(tmp_path):
    write_tokenizer(tmp_path, [["▁red", -3.0], ["▁re", -2.0], ["d", -2.5], ["▁", -1.0], ["r", -1.0], ["e", -0.5]])
    text = load_unigram(tmp_path, 8)
    assert text.encode("red") == [3]
    assert text.encode("  red   re ") == [3, 4]  # "_re" (-2.0) beats "_ r e" (-2.5)
    assert text.encode("ed") == [6, 8, 5]
    ids, mask = text("red zz red")
    assert ids.tolist() == [3, 6, 2, 3, 1, 0, 0, 0] and mask.tolist() == [1] * 5 + [0] * 3


def test_a_tokenizer_that_is_not_there_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cfg = model_cfg(language={"encoder": "t5-small", "max_length": 16})
    from xp.models.octo.network.text import LazyT5Text

    with pytest.raises(UserError, match="hf download google-t5/t5-small tokenizer.json"):
        LazyT5Text(cfg["language"]["encoder"], None, 16)("lift")
    with pytest.raises(UserError, match="no unigram tokenizer.json"):
        load_unigram(tmp_path, 16)


def test_a_keypoint_is_where_its_map_is_high():
    maps = np.zeros((1, 5, 9, 2), np.float32)
    maps[0, 4, 2, 0] = 100.0
    np.testing.assert_allclose(expected_places(jnp.asarray(maps))[0], [[-0.5, 1.0], [0.0, 0.0]], atol=1e-5)


def test_t5_buckets_are_exact_near_and_coarse_far():
    table = relative_buckets(200)
    assert table[0, :8].tolist() == [0, 17, 18, 19, 20, 21, 22, 23]
    assert table[7, :8].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert table[0, 199] == 31 and table[199, 0] == 15 and (np.diff(table[0, 1:]) >= 0).all()


@given(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3))
def test_normalising_and_back_gives_the_value_and_masked_dimensions_pass(values):
    normal = normal_of(STATISTICS, "action")
    array = np.array(values, np.float32)
    assert normal.normalize(array)[2] == array[2]
    np.testing.assert_allclose(normal.unnormalize(normal.normalize(array)), array, atol=1e-4)


@pytest.fixture(scope="module")
def windowed():
    return build(model_cfg(history=2), data=DATA, statistics=STATISTICS, horizon=3, seed=0)


def test_every_observed_step_gets_the_chunk_that_starts_there(windowed):
    batch = made_batch(2, history=2, horizon=3)
    batch["action"] = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
    batch["action_is_pad"] = np.array([[0, 0, 0, 1], [0, 0, 1, 1]], dtype=bool)
    inputs = windowed.prepare(batch)
    chunks = normal_of(STATISTICS, "action").unnormalize(inputs["action"])
    for step in range(2):
        np.testing.assert_allclose(chunks[:, step], batch["action"][:, step : step + 3], atol=1e-4)
        real = ~batch["action_is_pad"][:, step : step + 3]
        assert np.array_equal(inputs["action_pad_mask"][:, step, :, 0], real)


def test_inputs_are_numpy_and_do_not_depend_on_the_call_before(windowed):
    first = windowed.prepare(made_batch(4, history=2, horizon=3))
    windowed.prepare(made_batch(2, history=1, horizon=3, seed=5))
    again = windowed.prepare(made_batch(4, history=2, horizon=3))
    assert all(type(leaf) is np.ndarray and np.array_equal(leaf, again[path]) for path, leaf in first.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation.images.top": None, "observation.images.wrist": None}, "none of the policy's cameras"),
        ({"observation.images.top": np.zeros((4, 2, 32, 32, 3), np.float32)}, "allowed is uint8"),
        ({"observation.state": np.zeros((4, 2, 5), np.float32)}, "observation.state has shape"),
        ({"action": np.zeros((4, 2, 3), np.float32)}, "at least 4"),
    ],
)
def test_a_wrong_batch_says_what_is_wanted(windowed, change, message):
    batch = {**made_batch(4, history=2, horizon=3), **change}
    with pytest.raises(UserError, match=message):
        windowed.prepare(batch)


def test_dropping_observations_of_a_model_without_state_is_refused():
    blind = build(model_cfg(proprio=False), data=DATA, statistics=STATISTICS, horizon=2, seed=0)
    with pytest.raises(UserError, match="model.proprio=true, or obs_dropout=none"):
        blind.prepare({**made_batch(), "observation_is_dropped": np.ones(4, dtype=bool)})


def test_initial_weights_follow_the_networks_own_initialisers():
    from xp.models.octo.heads import DiffusionActionHead, GaussianActionHead
    from xp.models.octo.network.stems import SmallStem
    from xp.models.octo.network.t5 import T5Encoder, T5Sizes
    from xp.models.octo.network.tokenizers import TokenGroup
    from xp.models.octo.network.transformer import Transformer
    from xp.models.tree import flatten

    key, tokens = jax.random.key(0), jnp.zeros((1, 6, 48))
    groups = {"readout_action": TokenGroup(tokens[:, None], jnp.ones((1, 1, 6), bool))}
    ids = jnp.zeros((1, 5), jnp.int32)
    for module, arguments in (
        (
            SmallStem(16, features=(32, 32), kernel_sizes=(3, 3), strides=(2, 2), padding=(1, 1)),
            (jnp.zeros((1, 32, 32, 3)),),
        ),
        (Transformer(1, 96, 4), (tokens, jnp.ones((1, 1, 6, 6), bool), False)),
        (GaussianActionHead(action_horizon=8), (groups,)),
        (DiffusionActionHead(use_map=True), (groups,)),
        (T5Encoder(T5Sizes(300, 32, 8, 64, 1, 4)), (ids, ids)),
    ):
        own = flatten(jax.jit(lambda k, m=module, a=arguments: m.init(k, *a))(key)["params"])
        ours = initial_weights({f"x/{path}": leaf for path, leaf in own.items()}, 0)
        for path, leaf in own.items():
            drawn = ours[f"x/{path}"]
            assert drawn.shape == leaf.shape and drawn.dtype == leaf.dtype
            if leaf.size > 400:
                assert drawn.std() == pytest.approx(float(leaf.std()), rel=0.12), path
                assert abs(drawn.mean()) < 4 * drawn.std() / leaf.size**0.5 + 1e-9, path
            elif leaf.ndim == 1:
                np.testing.assert_allclose(drawn, leaf, atol=1e-5, err_msg=path)


class Deaf:
    """A policy whose actions depend on its images by a factor."""

    def __init__(self, factor):
        self.factor = factor

    def predict(self, observation, *, seed):
        seen = observation["observation.images.top"].astype(np.float32).mean()
        return np.full((1, 2, 3), 1.0 + self.factor * seen, np.float32)


def test_a_policy_that_ignores_its_images_is_refused_unless_told_otherwise():
    batches = [made_batch(1)]
    assert not image_sensitivity(Deaf(0.01), batches, where="p")["blind"]
    with pytest.raises(UserError, match="p ignores its images.*eval.allow_blind=true"):
        image_sensitivity(Deaf(0.0), batches, where="p")
    found = image_sensitivity(Deaf(0.0), batches, where="p", allow_blind=True)
    assert found == {"black": 0.0, "noise": 0.0, "blind": True}


@pytest.mark.parametrize(
    "change", [{"std": [-1.0, 1.0]}, {"mean": [float("nan"), 0.0]}, {"p01": [2, 0], "p99": [1, 0]}]
)
def test_statistics_that_cannot_be_right_are_refused_wherever_a_folder_has_them(change):
    with pytest.raises(UserError, match="'action' cannot be used.*dimension 0"):
        normal_of({"action": {"mean": [0.0, 0.0], "std": [1.0, 1.0], **change}}, "action")


def test_a_small_signal_comes_back_as_it_was():
    normal = normal_of({"action": {"mean": [0.0], "std": [3e-7]}}, "action")
    values = np.float32([[3e-7], [-1e-7]])
    np.testing.assert_allclose(normal.unnormalize(normal.normalize(values)), values, rtol=1e-5)
