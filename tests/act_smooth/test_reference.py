"""The first ACT-smooth's checkpoints load key by key and give what it computed: losses, gradients, chunks, training."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lerobot_policy_act_smooth_xp.modeling_act_smooth import ACTSmoothPolicy

CASES = ["img_rel", "env_vae_rel"]
CLOSE = 1e-6
CAMERAS = {"model.encoder_img_feat_input_proj.weight", "model.encoder_img_feat_input_proj.bias"}
"""Weights between the backbone and the tokens, which `case` feeds past them."""


@pytest.fixture(scope="module", params=CASES)
def case(request, reference):
    """A loaded policy, what it is fed, and what it shall compute.

    The camera tokens are the reference's own: they reach 259, so that convolutions of another CPU differ by 5e-4 in
    them (2e-6 of their size), which `test_camera_tokens` allows for. What follows from them is then held to 1e-6.
    """
    arrays = np.load(reference / f"{request.param}.io.npz")
    policy = ACTSmoothPolicy.from_pretrained(reference / request.param)
    policy.config.loss_reduction = "all"

    def take(prefix):
        return {name[len(prefix) :]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(prefix)}

    found = SimpleNamespace(
        name=request.param, folder=reference / request.param, policy=policy, batch=take("norm/"), train=take("train/"),
        grad=take("grad/"), infer=take("infer/"), train5=take("train5/"), plain_images=policy.model._image_tokens,
        names=json.loads((reference / f"{request.param}.state_dict.json").read_text()),
    )  # fmt: skip
    if policy.config.image_features:
        images = found.train["encoder_in"][:12]
        positions = found.train["encoder_pos"][:12, 0]
        policy.model._image_tokens = lambda batch: ([images], [positions])
    return found


@pytest.fixture
def fixed_latent(case, monkeypatch):
    if "latent_eps" in case.train:
        monkeypatch.setattr(torch, "randn_like", lambda like: case.train["latent_eps"])


def difference(a, b):
    """The largest |a - b|, in parts of b's largest value where that is above 1."""
    return (a.double() - b.double()).abs().max().item() / max(1.0, b.abs().max().item())


def test_names_and_shapes_of_the_weights_are_the_originals(case):
    state = case.policy.state_dict()
    assert {name: [list(value.shape), str(value.dtype)] for name, value in state.items()} == case.names


def test_camera_tokens(case):
    if not case.policy.config.image_features:
        assert case.policy.model._image_tokens({}) == ([], [])
        return
    tokens, positions = case.plain_images(case.batch)
    expected = case.train["encoder_in"][:12]
    assert difference(torch.cat(tokens), expected) < 4e-6
    assert difference(torch.cat(positions), case.train["encoder_pos"][:12, 0]) == 0


def test_training_computes_the_originals_losses_and_chunks(case, fixed_latent):
    case.policy.train()
    out = case.policy.predict_window(case.batch)
    assert difference(out["actions"], case.train["actions_hat"]) < CLOSE
    assert torch.equal(out["target"], case.train["targets"])
    assert torch.equal(out["target_is_pad"], case.train["target_is_pad"])
    loss, parts = case.policy(case.batch)
    assert loss.item() == pytest.approx(case.train["loss"].item(), rel=CLOSE)
    assert parts["l1_loss"] == pytest.approx(case.train["l1_loss"].item(), abs=CLOSE)
    per_delay = [value for name, value in parts.items() if name.startswith("l1_loss_d")]
    assert per_delay == pytest.approx(case.train["loss_per_d"].tolist(), abs=CLOSE)
    if "mu" in case.train:
        assert difference(out["mean"], case.train["mu"]) < CLOSE
        assert difference(out["log_variance"], case.train["log_sigma_x2"]) < CLOSE
        assert parts["kld_loss"] == pytest.approx(case.train["kld_loss"].item(), rel=CLOSE)


def test_the_packed_encoder_and_decoder_are_the_originals(case, fixed_latent, monkeypatch):
    seen = {}

    def watch(module, name):
        def hook(_module, inputs, output):
            seen[name] = (*inputs, output)

        return module.register_forward_hook(hook)

    handles = [watch(case.policy.model.encoder, "encoder"), watch(case.policy.model.decoder, "decoder")]
    case.policy.train()
    case.policy.predict_window(case.batch)
    for handle in handles:
        handle.remove()
    tokens, position, mask, out = seen["encoder"]
    assert difference(tokens, case.train["encoder_in"]) < CLOSE
    assert difference(position.expand_as(tokens), case.train["encoder_pos"]) == 0
    assert torch.equal(mask, case.train["encoder_attn_mask"])
    assert difference(out, case.train["encoder_out"]) < CLOSE
    assert difference(seen["decoder"][-1], case.train["decoder_out"]) < CLOSE


def test_gradients_are_the_originals(case, fixed_latent):
    case.policy.train()
    case.policy.zero_grad()
    case.policy(case.batch)[0].backward()
    parameters = dict(case.policy.named_parameters())
    # The first layer's gradients are sums over tokens of up to 259, where cameras are.
    tolerance = 4e-6 if case.policy.config.image_features else CLOSE
    assert {name for name, weight in parameters.items() if weight.grad is not None} | CAMERAS == set(
        case.grad
    ) | CAMERAS
    assert (set(parameters) - CAMERAS - set(case.grad)) <= {n for n in parameters if n.startswith("model.backbone.")}
    silent = {name for name, expected in case.grad.items() if not expected.abs().max() > 0}
    assert silent == ({"model.encoder_latent_input_proj.weight"} if case.name == "img_rel" else set())  # a latent of 0
    for name, expected in case.grad.items():
        gradient = parameters[name].grad
        if gradient is None:  # the projection of the camera features, which this test feeds past it
            assert name == "model.encoder_img_feat_input_proj.bias"
            continue
        assert difference(gradient, expected) < tolerance, name


def test_gradients_through_the_cameras_are_the_originals_and_the_slope_of_the_loss(reference):
    """Pictures go through the backbone here. The original saved one gradient beyond the tokens, the projection's bias.

    The others are compared with the slope of the loss along themselves, in float64 by central differences.
    """
    arrays = np.load(reference / "img_rel.io.npz")
    batch = {name[5:]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("norm/")}
    policy = ACTSmoothPolicy.from_pretrained(reference / "img_rel")
    policy.config.loss_reduction = "all"
    policy.train()
    policy(batch)[0].backward()
    parameters = dict(policy.named_parameters())
    bias = "model.encoder_img_feat_input_proj.bias"
    assert difference(parameters[bias].grad, torch.from_numpy(arrays[f"grad/{bias}"])) < 1e-5
    exact = policy.double()
    exact.zero_grad()
    whole = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    exact(whole)[0].backward()
    cameras = {n: p for n, p in exact.named_parameters() if n in CAMERAS or n.startswith("model.backbone.")}
    assert len(cameras) > 20 and all(weight.grad is not None for weight in cameras.values())
    parts = {"conv1", "layer1", "layer2", "layer3", "layer4", "encoder_img_feat_input_proj.weight"}
    for part in sorted(parts):
        chosen = {name: weight for name, weight in cameras.items() if f".{part}" in name}
        slope, norm = measured_slope(exact, whole, list(chosen.values()))
        assert norm > 1e-3
        assert slope == pytest.approx(norm, rel=1e-3), part


def measured_slope(policy, batch, weights):
    """(the loss's rise along the unit vector of these weights' gradient, by central differences; its norm)."""
    norm = torch.sqrt(sum((weight.grad**2).sum() for weight in weights)).item()
    losses = []
    with torch.no_grad():
        for step in (1e-6, -2e-6, 1e-6):
            for weight in weights:
                weight += step * weight.grad / norm
            losses.append(policy(batch)[0].item())
    return (losses[0] - losses[1]) / 2e-6, norm


def test_inference_without_the_mask_is_the_originals(case):
    case.policy.config.mask = "original"
    for key in sorted({name.split("/")[0] for name in case.infer}):
        expected = {name.split("/")[1]: value for name, value in case.infer.items() if name.startswith(f"{key}/")}
        d, past = (int(part.strip("dpast")) for part in key.split("_"))
        k, config = min(past, case.policy.config.length_prefix_past), case.policy.config
        start = config.length_prefix_past
        actions, is_pad = case.policy.build_inference_action_prefix(
            case.batch["action"][:, start : start + d], case.batch["action"][:, start - k : start]
        )
        assert torch.equal(is_pad, expected["inference_action_is_pad"]), key
        assert torch.equal(actions, expected["inference_action"].where(~is_pad[..., None], torch.zeros(()))), key
        chunk = case.policy.predict_action_chunk(
            case.batch | {"inference_action": actions, "inference_action_is_pad": is_pad}
        )
        assert difference(chunk, expected["chunk"]) < CLOSE, key
    case.policy.config.mask = "training"


def test_five_steps_of_training_are_the_originals(case):
    """AdamW 1e-3, backbone 1e-4, weight decay 1e-4, clipped at 10, seed 100 + i before each step.

    Adam divides by the gradient's size, so it lifts rounding noise to the size of a step wherever a gradient is zero
    but for noise: key biases (softmax does not see them) and units that are off for nearly all tokens; and with
    cameras, whose convolutions differ by 2e-6, the losses part (by 4e-5 at the second, 0.8 % at the fifth).
    """
    policy = ACTSmoothPolicy.from_pretrained(case.folder)
    policy.config.loss_reduction, policy.config.optimizer_lr_backbone = "all", 1e-4
    policy.train()
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-3, weight_decay=1e-4)
    losses = []
    for i in range(5):
        torch.manual_seed(100 + i)
        loss, _ = policy(case.batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    expected = case.train5["losses"].tolist()
    if policy.config.image_features:
        assert losses[0] == pytest.approx(expected[0], rel=CLOSE)
        assert losses[1] == pytest.approx(expected[1], rel=1e-4)
        assert losses == pytest.approx(expected, rel=0.02)
        return
    assert losses == pytest.approx(expected, rel=CLOSE)
    parameters = dict(policy.named_parameters())
    for name, value in case.train5.items():
        if name.startswith("param/") and not name.endswith("in_proj_bias"):
            off = (parameters[name[6:]] - value).abs()
            assert torch.quantile(off.flatten(), 0.99) < CLOSE and off.max() < 1e-3, name
