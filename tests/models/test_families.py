"""A family is one object, found by its entry point: built, loaded, recognised and refused through it alone."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from xp.config.model_families import learner, refuse_mixture
from xp.errors import UserError
from xp.models import build, camera_sizes, load_policy
from xp.models import families as known
from xp.models.family import Family
from xp.models.policy import DataSpec, DataTransforms, PolicySpec
from xp.models.trainable import Trainable

DATA = DataSpec(cameras={"top": (8, 8, 3)}, action_dim=2, state_dim=2, fps=10.0)
SPEC = PolicySpec(horizon=4, action_dim=2, state_dim=2, cameras={})


class Loaded:
    """A policy that is a note of what it was loaded with, and is never asked for more."""

    framework, camera_slots = "torch", {}

    def __init__(self, *asked):
        self.asked, self.spec = asked, SPEC

    def never(self, *_, **__):
        raise AssertionError

    predict = predict_distribution = loss = prepare = with_weights = weights = save = never


@dataclass(frozen=True, kw_only=True)
class Built(Trainable):
    """A trainable that is a note of what it was built with."""

    framework = "torch"
    width: int
    given: dict


class ToyFamily(Family):
    """Models that are notes of what they were asked for."""

    name = "toy"
    framework = "torch"
    folder_layout = "toy.txt (a toy)"
    load_options = {"colour": "the toy's"}

    def build(self, request):
        given = {**vars(request)}
        width = given.pop("model_cfg")["width"]
        return Built(spec=SPEC, prepare=dict, policy=Loaded, width=width, given=given)

    def load(self, request):
        return Loaded(request.folder, request.step, request.device, request.camera_map, request.options)

    def owns(self, folder):
        return (folder / "toy.txt").is_file()

    def camera_sizes(self, model_cfg, cameras, pretrained=None):
        return {name: (4, 4) if pretrained is None else (2, 2) for name in cameras}

    def trained_fps(self, folder):
        return float((folder / "toy.txt").read_text())

    def check(self, model_cfg, transforms):
        if model_cfg["width"] < 1:
            raise UserError(f"model.width={model_cfg['width']}: expected 1 or more.")


class CopyFamily(ToyFamily):
    """Another that takes the same folders for its own."""

    name = "copy"


TOY, COPY = ToyFamily(), CopyFamily()


@pytest.fixture
def declare(offer):
    """Declare families of this module as an installed package does."""

    def declared(*names):
        offer(known.GROUP, **{name.lower(): f"{__name__}:{name}" for name in names})

    return declared


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.txt").write_text("12.5")
    return folder


def made(width=3, pretrained_path=None, **transforms):
    return build(
        {"family": "toy", "width": width},
        data=DATA,
        statistics={},
        horizon=4,
        seed=7,
        pretrained_path=pretrained_path,
        transforms=DataTransforms(**transforms),
    )


def test_a_declared_family_builds_and_checks_its_options(declare, saved):
    declare("TOY")
    built = made(pretrained_path=str(saved), obs_dropout=0.5)
    given = built.given
    assert (built.width, given["horizon"], given["seed"]) == (3, 4, 7)
    assert given["pretrained"] == (saved, None) and given["transforms"].obs_dropout == 0.5
    with pytest.raises(UserError, match="model.width=0: expected 1 or more"):
        made(width=0)


def test_a_declared_family_loads_its_folders_and_those_of_runs(declare, saved, tmp_path):
    declare("TOY")
    policy = load_policy(saved, device="cpu", colour="red", unnorm_key=None)
    assert policy.asked == (saved, None, "cpu", {}, {"colour": "red"})
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    saved.rename(run / "checkpoints" / "checkpoint-5")
    assert known.find_policy(f"{run}@5") == (TOY, run / "checkpoints" / "checkpoint-5", None)
    assert known.family_of(run) == "toy" and known.trained_fps(run) == 12.5


def test_a_declared_family_says_its_camera_sizes(declare, saved):
    declare("TOY")
    assert camera_sizes({"family": "toy"}, DATA.cameras) == {"top": (4, 4)}
    assert camera_sizes({"family": "toy"}, DATA.cameras, str(saved)) == {"top": (2, 2)}


def test_an_unknown_family_error_names_the_installed_ones_and_the_models_there_are(declare):
    declare("TOY")
    with pytest.raises(
        UserError, match="model.family=toi: allowed are .*octo.*toy.*did you mean 'toy'.*octo_tiny"
    ) as e:
        camera_sizes({"family": "toi"}, DATA.cameras)
    models = str(e.value).partition("model=")[2].partition(";")[0].split(", ")
    folder = Path(__file__).parents[2] / "conf/model"
    assert models == sorted(place.stem for place in folder.glob("*.yaml"))


def test_a_folder_of_two_families_is_an_error_that_names_both(declare, saved):
    declare("TOY", "COPY")
    with pytest.raises(UserError, match="of the families toy, copy at once"):
        load_policy(saved)


def test_a_model_starts_from_a_policy_of_its_own_family_only(declare, saved):
    declare("TOY")
    words = f"pretrained_path={saved}: a policy of the family toy, while model.family=octo"
    with pytest.raises(UserError, match=words):
        camera_sizes({"family": "octo", "cameras": {}}, DATA.cameras, str(saved))
    with pytest.raises(UserError, match=words):
        build({"family": "octo"}, data=DATA, statistics={}, horizon=4, seed=0, pretrained_path=str(saved))


def test_a_policy_of_a_family_that_is_not_installed_says_which(tmp_path):
    run = tmp_path / "run" / "final"
    run.mkdir(parents=True)
    (run / "xp_policy.json").write_text('{"family": "octopus"}')
    for folder in (run, run.parent):
        with pytest.raises(UserError, match="of the family octopus, which no installed package brings.*mean 'octo'"):
            load_policy(folder)


def test_options_of_another_family_are_refused_by_the_folders_own(declare, saved):
    declare("TOY")
    with pytest.raises(UserError, match="color=red: .*family toy.*did you mean 'colour'.*its own are colour"):
        load_policy(saved, color="red")
    with pytest.raises(UserError, match="mask=original: .*family toy"):
        load_policy(saved, mask="original")


def test_relative_actions_are_refused_where_a_family_has_none_and_models_that_can_are_named(declare):
    declare("TOY")
    with pytest.raises(UserError, match="action_space=relative: models of the family toy .*model=act, ") as caught:
        made(action_space="relative")
    assert "octo" not in str(caught.value)


def test_mixtures_are_refused_where_a_family_has_none_and_models_that_can_are_named(declare):
    declare("TOY")
    with pytest.raises(UserError, match="data.mix: models of the family toy learn from one dataset.*model=act, "):
        refuse_mixture(learner("toy"))


def test_what_was_looked_for_names_the_folders_of_every_installed_family(declare, tmp_path):
    declare("TOY")
    with pytest.raises(UserError, match="looked for STEP/.*for config.json .*for toy.txt .a toy. and for final/"):
        load_policy(tmp_path)


def test_the_families_of_xp_are_declared_and_their_objects_import_no_framework():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, family in known.installed().items():
        if type(family).__module__.startswith("xp."):
            assert f'{name} = "{type(family).__module__}:FAMILY"' in text and family.name == name
    heavy = ("torch", "jax", "flax", "lerobot", "lightning", "mujoco")
    code = (
        "import sys; from xp.models.families import installed; installed(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"[]\n"
