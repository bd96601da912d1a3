"""Every option of the model trains, saves, loads and predicts: one row a combination."""

import jax
import numpy as np
import pytest
from octo_made_up import DATA, STATISTICS, made_batch, model_cfg

from xp.errors import UserError
from xp.models import build, load_policy
from xp.models.tree import flatten

KEYPOINTS = {"type": "keypoints", "features": [8, 8], "strides": [4, 1]}
ROWS = {
    "gaussian, convolutions, goal images": {"stem": {"type": "small16"}, "goal_images": True},
    "gaussian, mean pooling, window of two, repeated task": {
        "head": {"pooling": "mean"},
        "history": 2,
        "repeat_task_tokens": True,
    },
    "gaussian, keypoints, a token a number": {
        "stem": {**KEYPOINTS, "kernels": [8, 3]},
        "proprio": "numbers",
    },
    "teleop": {"head": {"type": "teleop"}},
    "diffusion, no language": {"head": {"type": "diffusion", "pooling": "mean"}, "language": {"encoder": None}},
    "l1, frozen words": {"head": {"type": "l1"}, "language": {"trainable": False}},
    "discrete": {"head": {"type": "discrete", "vocab_size": 16}},
    "unet": {"head": {"type": "unet", "down_features": [8, 16], "time_features": 8, "timesteps": 5}},
    "mse, no state, two readouts": {"head": {"type": "mse"}, "proprio": False, "readouts": 2},
}


def made(cfg=None, *, horizon=2, seed=0, pretrained_path=None):
    return build(
        cfg or model_cfg(),
        data=DATA,
        statistics=STATISTICS,
        horizon=horizon,
        seed=seed,
        pretrained_path=pretrained_path,
    )


def descended(trainable, inputs, *, rate=0.02, steps=3):
    """Loss before and after a few gradient steps (normalised, so that the rate fits every head), and the weights."""
    key = jax.random.key(0)
    step = jax.jit(jax.value_and_grad(lambda weights: trainable.loss(weights, inputs, key, False)[0]))
    weights, first, value = trainable.weights, None, None
    for _ in range(steps):
        value, gradient = step(weights)
        first = value if first is None else first
        norm = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient)) ** 0.5
        weights = jax.tree.map(lambda leaf, g, scale=rate / norm: leaf - scale * g, weights, gradient)
    return float(first), float(step(weights)[0]), weights


@pytest.mark.parametrize("row", ROWS)
def test_an_option_trains_saves_loads_and_predicts(row, tmp_path):
    cfg = model_cfg(**ROWS[row])
    trainable = made(cfg)
    batch = made_batch(history=cfg["history"])
    before, after, weights = descended(trainable, trainable.prepare(batch))
    assert np.isfinite(before) and after < before
    policy = trainable.policy(weights)
    policy.save(tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")
    assert loaded.spec == policy.spec == trainable.spec
    ours, theirs = policy.weights(), loaded.weights()
    assert set(ours) == set(theirs) and all(np.array_equal(ours[path], theirs[path]) for path in ours)
    actions = loaded.predict(batch, seed=3)
    assert actions.shape == (4, 2, 3) and actions.dtype == np.float32
    if row not in ("diffusion, no language", "unet"):  # whose losses draw their noise for the padded batch
        assert loaded.loss(batch)["loss"] == pytest.approx(after, rel=1e-4)


@pytest.fixture(scope="module")
def trainable():
    return made()


@pytest.fixture(scope="module")
def policy(trainable):
    return trainable.policy(trainable.weights)


def test_a_loaded_policy_predicts_the_same_bits(policy, tmp_path):
    policy.save(tmp_path / "saved")
    loaded, batch = load_policy(tmp_path / "saved"), made_batch()
    assert np.array_equal(loaded.predict(batch), policy.predict(batch))
    assert loaded.loss(batch) == policy.loss(batch)


def test_one_seed_gives_one_set_of_weights_and_another_seed_another(trainable):
    same, other = flatten(made().weights), flatten(made(seed=1).weights)
    ours = flatten(trainable.weights)
    assert all(np.array_equal(ours[path], same[path]) for path in ours)
    kernel = next(path for path in ours if path.endswith("kernel"))
    assert not np.array_equal(ours[kernel], other[kernel])


def test_predictions_do_not_depend_on_the_batch_around_a_row(policy):
    batch = made_batch(5)
    alone = {key: value[4:] for key, value in batch.items()}
    together = policy.predict(batch)
    np.testing.assert_allclose(policy.predict(alone)[0], together[4], atol=1e-5)
    assert policy.predict(made_batch(40)).shape == (40, 2, 3)


def test_the_gaussian_head_predicts_its_mean_and_draws_when_asked(policy):
    batch = made_batch()
    density = policy.predict_distribution(batch)
    assert density.mean.shape == (4, 2, 3) and density.scale_tril.shape == (4, 3, 3)
    np.testing.assert_allclose(policy.predict(batch, seed=1), density.mean, atol=1e-5)
    draws = policy.predict(batch, seed=1, sample_shape=500)
    assert draws.shape == (500, 4, 2, 3)
    deviation = np.linalg.norm(density.scale_tril, axis=-1)
    np.testing.assert_allclose(draws.std(axis=0), np.repeat(deviation[:, None], 2, axis=1), rtol=0.2)
    cold = policy.predict(batch, temperature=0.0)
    np.testing.assert_allclose(cold, density.mean, atol=1e-5)


def test_any_number_of_samples_takes_one_pass_through_the_transformer(policy):
    inputs = {path: leaf for path, leaf in policy.assembly.prepare(made_batch(8)).items() if not path.startswith("act")}
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(8))
    options = {"argmax": False, "embodiment_action_dim": None}

    def flops(samples):
        program = policy.assembly.network.predict_rows.lower(
            policy._weights, inputs, keys, np.float32(1.0), sample_shape=samples, **options
        )
        return program.cost_analysis()["flops"]

    assert flops((64,)) < 1.5 * flops(())


def test_actions_come_back_in_dataset_units(policy):
    normalized = policy.predict(made_batch(), normalized=True)
    mean, std = np.array([0.1, -2.0]), np.array([0.5, 3.0])
    expected = np.concatenate([normalized[..., :2] * std + mean, normalized[..., 2:]], axis=-1)
    np.testing.assert_allclose(policy.predict(made_batch()), expected, atol=1e-5)


def test_a_loss_counts_only_the_rows_it_was_given(policy):
    batch = made_batch(3)
    parts = [policy.loss({key: value[i : i + 1] for key, value in batch.items()})["loss"] for i in range(3)]
    steps = [int((~batch["action_is_pad"][i]).sum()) for i in range(3)]
    assert policy.loss(batch)["loss"] == pytest.approx(np.average(parts, weights=steps), rel=1e-4)


def test_a_dropped_observation_hides_the_state(policy):
    batch = made_batch()
    other = {**batch, "observation.state": batch["observation.state"] + 5.0}
    assert not np.allclose(policy.predict(batch), policy.predict(other))
    hidden = np.ones(4, dtype=bool)
    dropped = [policy.predict({**b, "observation_is_dropped": hidden}) for b in (batch, other)]
    assert np.array_equal(*dropped) and not np.allclose(dropped[0], policy.predict(batch))


def test_a_missing_camera_is_masked_and_not_seen_as_black(policy):
    batch = made_batch()
    without = {key: value for key, value in batch.items() if key != "observation.images.wrist"}
    black = {**batch, "observation.images.wrist": np.zeros_like(batch["observation.images.wrist"])}
    noise_but_padded = {**batch, "observation.images.wrist_is_pad": np.ones((4, 1), dtype=bool)}
    assert not np.allclose(policy.predict(without), policy.predict(black))
    np.testing.assert_allclose(policy.predict(without), policy.predict(noise_but_padded), atol=1e-6)


def test_what_is_seen_and_said_changes_the_action(policy):
    batch = made_batch()
    image = {**batch, "observation.images.top": 255 - batch["observation.images.top"]}
    text = {**batch, "task": ["open the drawer"] * 4}
    assert not np.allclose(policy.predict(batch), policy.predict(image))
    assert not np.allclose(policy.predict(batch), policy.predict(text))


def test_images_of_another_size_are_resized(policy):
    batch = made_batch()
    large = np.kron(batch["observation.images.top"], np.ones((1, 1, 2, 2, 1), np.uint8))
    assert policy.predict({**batch, "observation.images.top": large}).shape == (4, 2, 3)


def test_half_precision_weights_compute_in_half_precision_and_stay_close(trainable):
    inputs, key = trainable.prepare(made_batch()), jax.random.key(0)
    halved = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, jax.numpy.bfloat16), trainable.weights)
    loss = jax.jit(lambda weights: trainable.loss(weights, inputs, key, False)[0])
    products = [line for line in loss.lower(halved).as_text().splitlines() if "dot_general" in line]
    assert products and all("bf16" in line for line in products if "3x3" not in line)
    assert float(loss(halved)) == pytest.approx(float(loss(trainable.weights)), rel=0.05)


def test_a_new_horizon_keeps_the_trunk_and_reports_every_weight(trainable, tmp_path):
    trainable.policy(trainable.weights).save(tmp_path / "trunk")
    longer = made(horizon=5, seed=9, pretrained_path=str(tmp_path / "trunk"))
    report = longer.load_report
    assert set(report.initialised) == {"heads_action/mean_proj/kernel", "heads_action/mean_proj/bias"}
    assert set(report.dropped) == set(report.initialised)
    ours, theirs = flatten(trainable.weights), flatten(longer.weights)
    assert set(report.loaded) | set(report.initialised) == set(theirs)
    assert all(np.array_equal(ours[path], theirs[path]) for path in report.loaded)
    other_head = made(model_cfg(head={"type": "mse"}), pretrained_path=str(tmp_path / "trunk"))
    assert "heads_action/scale_proj/kernel" in other_head.load_report.dropped
    assert other_head.load_report.source == str(tmp_path / "trunk")


def test_computing_layers_again_gives_the_same_gradient_and_takes_less_memory():
    cfg = model_cfg(layers=4)
    plain, again = made(cfg), made({**cfg, "remat": True})
    inputs, key = plain.prepare(made_batch(32)), jax.random.key(0)
    steps = [jax.jit(jax.grad(lambda w, t=t: t.loss(w, inputs, key, True)[0])).lower(t.weights) for t in (plain, again)]
    compiled = [step.compile() for step in steps]
    one, other = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(step(plain.weights))]) for step in compiled)
    assert np.linalg.norm(one - other) < 1e-4 * np.linalg.norm(one)
    before, after = (step.memory_analysis().temp_size_in_bytes for step in compiled)
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ("preset", "trained"), [("head_only", "heads_action/"), ("transformer", "octo_transformer/obs")]
)
def test_a_freeze_preset_freezes_real_weights_and_leaves_the_head(trainable, preset, trained):
    from xp.training.partition import split

    partition = split(flatten(trainable.weights), freeze=[preset], presets=trainable.freeze_presets)
    assert all("BlockTransformer_0" not in path for path in partition.trained)
    assert any(path.startswith(trained) for path in partition.trained)
    assert any(path.startswith("heads_action/") for path in partition.trained)


def test_the_language_preset_needs_a_model_with_language(trainable):
    from xp.training.partition import split

    frozen = split(flatten(trainable.weights), freeze=["language"], presets=trainable.freeze_presets).frozen
    assert {path.split("/")[1] for path in frozen} == {
        "task_tokenizers_language",
        "task_language_projection",
        "task_language_pos_embedding",
    }
    mute = {key: value for key, value in flatten(trainable.weights).items() if key not in frozen}
    with pytest.raises(UserError, match="matches none"):
        split(mute, freeze=["language"], presets=trainable.freeze_presets)


def test_a_trunk_of_another_size_is_refused(trainable, tmp_path):
    trainable.policy(trainable.weights).save(tmp_path / "trunk")
    with pytest.raises(UserError, match="transformer in .* has other sizes"):
        made(model_cfg(embed_dim=16), pretrained_path=str(tmp_path / "trunk"))


@pytest.mark.parametrize(
    ("changes", "horizon", "message"),
    [
        ({"head": {"type": "gausian"}}, 2, "did you mean 'gaussian'"),
        ({"head": {"pooling": "max"}}, 2, "allowed are map and mean"),
        ({"head": {"min_sd": 0.1}}, 2, "did you mean 'min_std'"),
        ({"head": {"type": "discrete", "token_per": "step"}}, 2, "model.head.token_per='step'"),
        ({"head": {"type": "discrete", "pooling": "mean"}}, 2, "model.readouts=6"),
        ({"stem": {"type": "resnet"}}, 2, "model.stem.type=resnet"),
        ({"stem": {"type": "small16", "features": [8, 8]}}, 2, "a small16 stem has 4 layers"),
        (
            {"stem": {**KEYPOINTS, "kernels": [4]}},
            2,
            r"model.stem.kernels=\[4\] with strides=\[4, 1\].*kernels=\[4, 3\]",
        ),
        ({"stem": {**KEYPOINTS, "kernels": [3, 3]}}, 2, "no smaller than it, so that every pixel is seen"),
        ({"proprio": "yes"}, 2, "model.proprio=yes"),
        ({"language": {"encoder": "word"}}, 2, "did you mean 'words'"),
        ({"family": "octopus"}, 2, "did you mean 'octo'"),
        ({"history": 9}, 2, "model.max_history=9"),
        ({}, 0, "horizon.train=0"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(changes, horizon, message):
    with pytest.raises(UserError, match=message):
        made(model_cfg(**changes), horizon=horizon)
