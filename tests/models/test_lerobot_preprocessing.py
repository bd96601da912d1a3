"""What xp does with an observation before a policy sees it travels in what it saves: LeRobot's tools do the same."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from lerobot_made_up import ACT, CAMERAS, SMOOTH, batch_for, made

from xp.errors import UserError
from xp.models import load_policy
from xp.models.observation import as_windows
from xp.models.policy import DataSpec
from xp.pictures import resize

SIZES = [(36, 48), (27, 36), (24, 24)]
"""Of cameras, for policies of 32 x 32: wider, both ways, smaller."""
ASK = """
import sys, numpy as np, torch
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
out = {}
for folder in sys.argv[2:]:
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
    before, after = make_pre_post_processors(config, pretrained_path=folder)
    arrays = np.load(folder + ".npz")
    seen = {key: torch.from_numpy(value) for key, value in arrays.items()}
    for key, value in seen.items():
        if "images" in key:  # as LeRobot's environments and robots hand over pictures
            seen[key] = value.permute(0, 3, 1, 2).float() / 255
    out[folder] = after(policy.select_action(before(seen))).numpy()
    prepared = before(seen)
    if config.type == "act":
        out[folder + "/chunk"] = after(policy.predict_action_chunk(prepared)).numpy()
np.savez(sys.argv[1], **out)
"""


def asked_through_lerobot(tmp_path, cases):
    """{folder: first action} of saved policies and one-step observations, by LeRobot in a process of its own."""
    for folder, batch in cases.items():
        keys = [key for key in batch if key.startswith("observation.images") or key == "observation.state"]
        np.savez(f"{folder}.npz", **{key: batch[key][:, -1] for key in keys})
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "out.npz"), *map(str, cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(tmp_path / "out.npz"))


def trained_on(size, model, **transforms):
    """A policy of 32 x 32, made for cameras of another size."""
    data = DataSpec(cameras=dict.fromkeys(CAMERAS, (*size, 3)), action_dim=3, state_dim=3, fps=10.0, tasks=("move",))
    return made({**model, "image_size": [32, 32]}, data=data, **transforms).policy(None)


def test_lerobots_answers_are_xps_on_cameras_of_three_sizes(tmp_path):
    """A plain policy, one with relative actions and observation dropout, and an act_smooth, on a size each."""
    relative = {"action_space": "relative", "obs_dropout": 0.5}
    cases, expected = {}, {}
    policies = (("act", ACT, {}), ("relative", ACT, relative), ("smooth", SMOOTH, {}))
    for (name, model, transforms), size in zip(policies, SIZES):
        policy = trained_on(size, model, **transforms)
        folder = tmp_path / name
        policy.save(folder)
        batch = batch_for(policy.spec, size=1, cameras=dict.fromkeys(CAMERAS, (*size, 3)))
        cases[folder] = batch = {key: value for key, value in batch.items() if not key.startswith("action")}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expected[folder] = policy.predict(batch)
            assert np.array_equal(load_policy(folder).predict(batch), expected[folder])
    found = asked_through_lerobot(tmp_path, cases)
    for folder, actions in expected.items():
        scale = np.abs(actions).max()
        assert scale > 0.1
        assert np.abs(found[str(folder)] - actions[:, 0]).max() <= 1e-6 * max(1.0, scale), folder
        if folder.name != "smooth":  # which is asked by `select_action` alone
            assert np.abs(found[f"{folder}/chunk"] - actions).max() <= 1e-6 * max(1.0, scale), folder


def test_the_step_gives_the_very_pixels_of_the_frame_cache_whatever_the_form_of_the_picture():
    from lerobot_policy_act_smooth_xp import LanczosResizeStep

    rng = np.random.default_rng(0)
    for size in (*SIZES, (32, 32), (97, 33)):
        frames = rng.integers(0, 256, (2, *size, 3), np.uint8)
        expected = np.stack([resize(frame, 32, 32) for frame in frames])
        assert np.array_equal(resize(frames, 32, 32), expected)
        step = LanczosResizeStep({"observation.images.top": [32, 32]})
        floats = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        wanted = torch.from_numpy(expected).permute(0, 3, 1, 2)
        forms = [(floats, wanted.float() / 255), ((floats * 255).round().byte(), wanted)]
        forms += [(floats[0], wanted[0].float() / 255), (floats[None], wanted[None].float() / 255)]
        for given, want in forms:
            found = step.observation({"observation.images.top": given, "observation.state": 1})
            assert torch.equal(found["observation.images.top"], want)
            assert found["observation.state"] == 1


def test_a_policy_of_the_cameras_own_size_needs_no_plugin_and_says_where_xp_alone_resizes(tmp_path):
    policy = made(ACT).policy(None)
    policy.save(tmp_path)
    steps = json.loads((tmp_path / "policy_preprocessor.json").read_text())["steps"]
    assert "lanczos_resize" not in [step["registry_name"] for step in steps]
    batch = batch_for(policy.spec, size=1, cameras=dict.fromkeys(CAMERAS, (24, 24, 3)))
    again = load_policy(tmp_path)
    with pytest.warns(UserWarning, match="24 x 24 and are resized to 32 x 32.*LeRobot's own tools would give"):
        again.predict(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.predict(batch)


def test_without_the_plugin_lerobot_refuses_a_policy_that_needs_its_resizing(tmp_path, monkeypatch):
    from lerobot.processor import ProcessorStepRegistry

    trained_on(SIZES[0], ACT).save(tmp_path)
    known = {name: step for name, step in ProcessorStepRegistry._registry.items() if name != "lanczos_resize"}
    monkeypatch.setattr(ProcessorStepRegistry, "_registry", known)
    with pytest.raises(Exception, match="lanczos_resize"):
        prepared_by_lerobot(tmp_path, {})


def test_a_camera_map_travels_to_lerobot_and_back(tmp_path):
    """In training (model.cameras), in loading (camera_map=), through saving again, and where names are exchanged."""
    made({**ACT, "cameras": {"front": "wrist", "wrist": "front"}}).policy(None).save(tmp_path / "trained")
    plain = made(ACT).policy(None)
    plain.save(tmp_path / "plain")
    load_policy(tmp_path / "plain", camera_map={"front": "top"}).save(tmp_path / "given")
    front, wrist = (batch_for(plain.spec, size=1, seed=seed)["observation.images.front"] for seed in (0, 1))
    maps = {"trained": {"front": "wrist", "wrist": "front"}, "given": {"front": "top", "wrist": "wrist"}}
    for name, fed in maps.items():
        seen = {f"observation.images.{fed['front']}": front, f"observation.images.{fed['wrist']}": wrist}
        found = prepared_by_lerobot(tmp_path / name, seen)
        for camera, pictures in (("front", front), ("wrist", wrist)):
            assert np.array_equal(found[f"observation.images.{camera}"], normalised(pictures)), (name, camera)
        policy = load_policy(tmp_path / name)
        assert policy.camera_slots == fed
        inputs = policy.assembly.preprocess(policy.assembly.prepare(as_windows(state(seen), policy.spec)))
        assert np.array_equal(inputs["observation.images.front"], normalised(front))
        policy.save(tmp_path / "again")
        for file in ("xp.json", "policy_preprocessor.json"):
            assert (tmp_path / "again" / file).read_bytes() == (tmp_path / name / file).read_bytes()


def prepared_by_lerobot(folder, seen):
    """Pictures [1, 1, h, w, 3] through a saved preprocessor, in LeRobot's hands alone."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors

    before, _ = make_pre_post_processors(PreTrainedConfig.from_pretrained(folder), pretrained_path=str(folder))
    return before({key: as_lerobot(value) for key, value in seen.items()})


def as_lerobot(pictures):
    return torch.from_numpy(pictures[:, -1]).permute(0, 3, 1, 2).float() / 255


def normalised(pictures):
    """By ImageNet's mean and deviation, with LeRobot's floor."""
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (as_lerobot(pictures) - mean) / (std + 1e-8)


def state(seen):
    return {**seen, "observation.state": np.zeros((1, 1, 3), np.float32)}


def test_cameras_that_lerobot_train_renamed_are_the_cameras_of_the_policy(tmp_path):
    made(ACT).policy(None).save(tmp_path)
    path = tmp_path / "policy_preprocessor.json"
    content = json.loads(path.read_text())
    content["steps"][0]["config"] = {"rename_map": {"observation.images.top": "observation.images.front"}}
    path.write_text(json.dumps(content))
    (tmp_path / "xp.json").unlink()
    policy = load_policy(tmp_path)
    assert policy.camera_slots == {"front": "top", "wrist": "wrist"}
    seen = batch_for(policy.spec, cameras={"top": (32, 32, 3), "wrist": (32, 32, 3)})
    assert policy.predict(seen).shape == (3, 4, 3)


def test_a_dataset_given_to_a_lerobot_policy_is_refused_by_name(tmp_path):
    made(ACT).policy(None).save(tmp_path)
    with pytest.raises(UserError, match=r"unnorm_key=bridge: .*LeRobot policy.*predict.unnorm_key=null"):
        load_policy(tmp_path, unnorm_key="bridge")


def test_fine_tuning_on_cameras_of_another_size_resizes_to_the_policys_and_says_so_in_its_folder(tmp_path):
    made(ACT).policy(None).save(tmp_path / "first")
    data = DataSpec(cameras=dict.fromkeys(CAMERAS, (24, 36, 3)), action_dim=3, state_dim=3, fps=10.0)
    second = made({"name": "lerobot", "family": "lerobot", "type": None}, data=data, pretrained=tmp_path / "first")
    second.policy(None).save(tmp_path / "second")
    steps = json.loads((tmp_path / "second" / "policy_preprocessor.json").read_text())["steps"]
    (step,) = [step for step in steps if step["registry_name"] == "lanczos_resize"]
    assert step["config"]["sizes"] == {f"observation.images.{camera}": [32, 32] for camera in CAMERAS}
