"""The section `augment`: what is refused, and what each message says to type."""

import pytest
from omegaconf import OmegaConf

from xp.config import compose
from xp.config.augmentation import OPERATIONS, assign_views, read_views
from xp.errors import UserError

HUE = "augment.views.others.operations.hue"
MISTAKES = {
    "unknown operation": ([f"{HUE}.type=huee"], [f"{HUE}.type='huee'", "did you mean 'hue'", "sharpness"]),
    "no operation": ([f"~{HUE}.type"], [f"{HUE}.type=null", "there is no such operation"]),
    "unknown option": ([f"+{HUE}.turns=[0,0]"], [f"'{HUE}.turns'", "did you mean 'turn'"]),
    "missing option": ([f"~{HUE}.turn"], [f"{HUE}.turn is missing"]),
    "low above high": ([f"{HUE}.turn=[0.1,-0.1]"], ["above the second", f"{HUE}.turn=[-0.1,0.1]"]),
    "not finite": ([f"{HUE}.turn=[-.inf,0.1]"], [f"{HUE}.turn", "not a finite number"]),
    "no number": ([f"{HUE}.turn=[a,b]"], [f"{HUE}.turn", "not a finite number"]),
    "out of bounds": ([f"{HUE}.turn=[-0.6,0.1]"], ["at least -0.5 and at most 0.5", f"{HUE}.turn=[-0.05,0.05]"]),
    "one number": ([f"{HUE}.turn=0.1"], [f"{HUE}.turn=0.1", "[low, high]"]),
    "a crop of nothing": (["augment.views.others.operations.crop.scale=[0,1]"], ["above 0 and at most 1"]),
    "negative factor": (["augment.views.others.operations.contrast.factor=[-1,1]"], ["at least 0"]),
    "negative weight": ([f"+{HUE}.weight=-1"], [f"{HUE}.weight=-1", "at least 0"]),
    "subset 0": (["augment.views.others.subset=0"], ["augment.views.others.subset=0", "at least 1"]),
    "subset a word": (["augment.views.others.subset=three"], ["augment.views.others.subset='three'"]),
    "optional maybe": (["augment.views.others.optional=maybe"], ["true or false"]),
    "unknown key of a view": (["+augment.views.others.order=[hue]"], ["'augment.views.others.order'", "random_order"]),
    "no patterns": (["augment.views.others.cameras=[]"], ["list of names or patterns"]),
    "patterns as text": (["augment.views.others.cameras=top"], ["list of names or patterns"]),
    "a view that is text": (["augment.views.others=hue"], ["expected a mapping"]),
    "unknown preset": (["augment=octoo"], ["octoo", "octo"]),
}


def refusal(overrides: list[str]) -> str:
    preset = [] if any(each.startswith("augment=") for each in overrides) else ["augment=octo"]
    with pytest.raises(UserError) as refused:
        config = compose([*preset, *overrides])
        read_views(OmegaConf.to_container(config.augment.views))
    return str(refused.value)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_what_to_type(name):
    overrides, wanted = MISTAKES[name]
    message = refusal(overrides)
    assert all(each in message for each in wanted), message


@pytest.mark.parametrize("name", ["octo", "openvla", "pi0", "lerobot"])
@pytest.mark.parametrize("camera", ["top", "left_wrist", "observation"])
def test_every_preset_takes_any_camera(name, camera):
    views = read_views(OmegaConf.to_container(compose([f"augment={name}"]).augment.views))
    assert assign_views(views, [camera], "here")[camera].operations


def test_a_pattern_that_fits_no_camera_is_refused_with_those_there_are():
    views = read_views({"side": {"cameras": ["top", "sied*"], "operations": {}}})
    with pytest.raises(UserError, match=r"augment\.views\.side\.cameras: 'sied\*' fits no camera of the set; its"):
        assign_views(views, ["top", "side"], "the set")


def test_an_augmentation_that_changes_no_camera_is_refused():
    views = read_views({"wrist": {"cameras": ["*wrist*"], "optional": True, "operations": {"h": hue()}}})
    with pytest.raises(UserError, match=r"augment changes no picture: the set has the cameras top.*Type augment=none"):
        assign_views(views, ["top"], "the set")
    with pytest.raises(UserError, match="changes no picture"):
        assign_views(views, [], "the set")
    assert assign_views(read_views({}), [], "the set") == {}


def test_the_first_view_that_fits_takes_a_camera():
    views = read_views({
        "wrist": {"cameras": ["*WRIST*"], "operations": {"h": hue()}},
        "all": {"cameras": ["*"], "operations": {"b": {"type": "brightness", "factor": [1, 1]}}},
    })  # fmt: skip
    found = assign_views(views, ["left_wrist", "top"], "the set")
    assert {camera: view.name for camera, view in found.items()} == {"left_wrist": "wrist", "top": "all"}


def test_an_operation_without_weight_is_never_drawn():
    (view,) = read_views({"all": {"cameras": ["*"], "subset": 3, "operations": {
        "a": {**hue(), "weight": 0}, "b": hue(), "c": {"type": "crop", "size": 0.9},
    }}})  # fmt: skip
    assert [each.name for each in view.operations] == ["b", "c"] and view.subset == 2


def test_options_left_out_are_those_that_change_nothing_or_always_happen():
    (view,) = read_views({"all": {"cameras": ["*"], "operations": {
        "a": {"type": "affine"}, "j": {"type": "hsv_jitter", "hue": 0.1},
    }}})  # fmt: skip
    affine, jitter = view.operations
    assert affine.options == {"degrees": (0, 0), "translate": (0, 0), "scale": (1, 1), "shear": (0, 0)}
    assert jitter.options == {"brightness": (0, 0), "contrast": (0, 0), "hue": (0.1, 0.1), "probability": (1, 1)}


@pytest.mark.parametrize(
    ("views", "wanted"),
    [(["hue"], "augment=none"), ({"all": {"cameras": ["*"], "operations": ["hue"]}}, "augment.views.all.operations")],
)
def test_what_is_no_mapping_is_refused(views, wanted):
    with pytest.raises(UserError, match=f"expected a mapping.*|{wanted}") as refused:
        read_views(views)
    assert wanted in str(refused.value)


def test_operations_are_documented(checkout):
    text = (checkout / "docs" / "models.md").read_text()
    assert all(f"`{name}`" in text for name in OPERATIONS)


def hue() -> dict:
    return {"type": "hue", "turn": [-0.1, 0.1]}
