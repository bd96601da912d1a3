"""What users of LeRobot policies get wrong, and what they are told: one paragraph with what to type, which works."""

import importlib
import json
import re
import shutil
import sys

import pytest

from xp.__main__ import main
from xp.models import load_policy
from xp.models.lerobot import catalog

pytestmark = pytest.mark.slow
SIZE = 32
SHORT = [
    "task=train", "trainer.steps=1", "trainer.batch_size=2", "trainer.val_every=null", "trainer.accelerator=cpu",
    "horizon.train=4", "model.dim_model=32", "model.dim_feedforward=32",
]  # fmt: skip
ACT = [*SHORT, "model=act_tiny", f"model.image_size=[{SIZE},{SIZE}]"]
SMOOTH = [*SHORT, "model=act_smooth", "model.n_heads=4", f"model.image_size=[{SIZE},{SIZE}]"]


@pytest.fixture
def xp_here(cache, tmp_path, monkeypatch, capsys):
    """xp in this process and an empty folder; gives what it said as one paragraph, or in all if it went well."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=2):
        with pytest.raises(SystemExit) as ended:
            main([f"paths.cache={cache}", "hydra.run.dir=run", *map(str, arguments)])
        said = capsys.readouterr()
        assert ended.value.code == code, said.err[-3000:]
        if code == 0:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            return said.out
        lines = [line for line in said.err.splitlines() if line.startswith("xp: ")]
        assert len(lines) == 1 and "Traceback" not in said.err, said.err[-3000:]
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return lines[0]

    return run


@pytest.fixture(scope="module")
def dataset(arm):
    from xp.data import open_dataset

    return open_dataset(arm)


def policy_of(dataset, folder, cameras):
    """A LeRobot policy of the arm's dimensions whose cameras have other names, saved as xp saves it."""
    from xp.data import compute_statistics
    from xp.models import build
    from xp.models.policy import DataSpec

    model = {
        "name": "act", "family": "lerobot", "type": "act", "dim_model": 32, "n_heads": 2, "dim_feedforward": 32,
        "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "pretrained_backbone_weights": None,
    }  # fmt: skip
    data = DataSpec(cameras=cameras, action_dim=6, state_dim=6, fps=10.0, tasks=tuple(dataset.tasks))
    made = build(model, data=data, statistics=compute_statistics(dataset, [0, 1]), horizon=4, seed=0)
    made.policy(None).save(folder)
    return folder


@pytest.fixture(scope="module")
def foreign(dataset, tmp_path_factory):
    """A policy folder as LeRobot alone writes it: cameras `front` and `hand`, nothing of xp's."""
    sizes = {"front": (SIZE, SIZE, 3), "hand": (SIZE, SIZE, 3)}
    folder = policy_of(dataset, tmp_path_factory.mktemp("foreign") / "pretrained_model", sizes)
    (folder / "xp.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            [*ACT, "horizon.train=2000"],
            r"A training window reaches 2000 actions ahead; the longest training episode of .* has \d+ steps.*"
            r"Type for instance horizon.train=\d+",
        ),
        (
            [*SMOOTH, "model.length_prefix_future=5"],
            r"do not fit: act_smooth: the prefix \(length_prefix_past=\d+, length_prefix_future=5\) is longer than the "
            r"chunk.*chunk_size=4.*An option NAME is typed model.NAME=VALUE, chunk_size is horizon.train",
        ),
        (
            [*SMOOTH, "model.length_prefix_past=1", "model.length_prefix_future=0"],
            r"length_prefix_future=0 must be 1 or more.*Give 1, or take the type act",
        ),
    ],
    ids=["chunk longer than every episode", "prefix longer than the chunk", "no committed action"],
)
def test_lengths_that_cannot_be(xp_here, arm, command, told):
    said = xp_here(*command, f"data.root={arm}")
    assert re.search(told, said), said


def test_a_dataset_of_another_rate(xp_here, arm, dataset, tmp_path):
    own = policy_of(dataset, tmp_path / "own", {"oblique": (SIZE, SIZE, 3), "wrist": (SIZE, SIZE, 3)})
    slow = shutil.copytree(arm, tmp_path / "slow")
    info = json.loads((slow / "meta/info.json").read_text())
    (slow / "meta/info.json").write_text(json.dumps({**info, "fps": 5}))
    train = ["task=train", "model=lerobot", *SHORT[1:6], f"pretrained_path={own}", f"data.root={slow}"]
    assert "10 steps per second, the dataset has 5" in (said := xp_here(*train)) and "allow_fps_change=true" in said
    predict = ["task=predict", f"predict.checkpoint={own}", "predict.num_trajectories=1"]
    said = xp_here(*predict, f"predict.data_root={slow}")
    assert (
        "trained at 10 frames per second" in said
        and "Give a dataset of 10" in said
        and "predict.data_root=FOLDER" in said
    )
    said = xp_here("task=eval", f"eval.checkpoint={own}", "env.fps=30")
    assert "trained at 10 frames per second; the simulation (env.fps) has 30" in said and "Type env.fps=10" in said


def commands(foreign, arm):
    """{key that maps cameras: the command that needs it}"""
    return {
        "model.cameras": ["task=train", "model=lerobot", *SHORT[1:6], f"pretrained_path={foreign}", f"data.root={arm}"],
        "predict.camera_map": [
            "task=predict", f"predict.checkpoint={foreign}", f"predict.data_root={arm}", "predict.num_trajectories=1",
        ],
        "replay eval.camera_map": [
            "task=eval", "eval=offline_replay", f"eval.checkpoint={foreign}", f"eval.data_root={arm}",
            "eval.episodes=1",
            "eval.figures=0", "eval.modes=[ground_truth]", "eval.bootstrap=10", "eval.allow_blind=true",
        ],
        "closed eval.camera_map": [
            "task=eval", f"eval.checkpoint={foreign}", "env.tasks=[push_red]", "env.max_steps=3", "eval.episodes=1",
            "eval.videos=0", "eval.controls=false", "eval.allow_blind=true",
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    "which", ["model.cameras", "predict.camera_map", "replay eval.camera_map", "closed eval.camera_map"]
)
def test_cameras_of_other_names_are_said_with_the_map_which_then_works(xp_here, foreign, arm, which):
    command, key = commands(foreign, arm)[which], which.split()[-1]
    said = xp_here(*command)
    assert said.startswith("xp: The policy's cameras are front, hand; ")
    assert re.search("(has|are) (top, )?oblique, wrist", said), said
    override = re.search(r"'([a-z_.]+=\{front: \w+, hand: \w+\})'", said)
    assert override and override[1].startswith(key + "=")
    xp_here(*command, override[1], code=0)
    said = xp_here(*command, f"{key}={{frnt: oblique}}")
    assert "front, hand" in said


MAP = "{front: oblique, hand: wrist}"


def test_a_search_over_policies_whose_cameras_have_other_names(xp_here, foreign, arm, tmp_path):
    dump = ["task=dump", f"dump.checkpoint={foreign}", f"data.root={arm}", "dump.samples=6", "dump.draws=1"]
    said = xp_here(*dump)
    assert "The policy's cameras are front, hand; the dataset" in said and f"'dump.camera_map={MAP}'" in said
    windows = tmp_path / "val.safetensors"
    xp_here(*dump, f"dump.output={windows}", f"dump.camera_map={MAP}", code=0)

    merge = ["task=merge", f"merge.checkpoints=[{foreign},{foreign}]", "merge_method=inverse_loss"]
    line = [*merge, f"merge.validation={windows}", f"merge.output={tmp_path / 'merged'}"]
    said = xp_here(*line)
    assert f"the validation set {windows} has oblique, wrist" in said and f"'merge.camera_map={MAP}'" in said
    xp_here(*line, f"merge.camera_map={MAP}", code=0)
    assert set(load_policy(tmp_path / "merged").spec.cameras) == {"front", "hand"}

    told = ["task=predict", f"predict.checkpoint={foreign}", f"predict.data_root={arm}", "predict.num_trajectories=1"]
    xp_here(*told, "predict.bootstrap=10", f"predict.camera_map={MAP}", f"predict.validation={windows}", code=0)


def test_a_policy_with_cameras_of_other_names_records_episodes(xp_here, foreign, tmp_path):
    line = [
        "task=collect", f"collect.policy={foreign}", f"data.root={tmp_path / 'data'}", "collect.episodes=1",
        "env.tasks=[push_red]", "env.max_steps=3", "collect.keep_failures=true",
    ]  # fmt: skip
    assert "Say which feeds which" in (said := xp_here(*line)) and f"'collect.camera_map={MAP}'" in said
    xp_here(*line, f"collect.camera_map={MAP}", code=0)


@pytest.mark.parametrize(
    "line",
    [
        ["task=collect", "data.root=new", "collect.camera_map={front: oblique}"],
        ["task=collect", "data.root=new", "collect.load_options={horizon: 4}"],
        [*ACT, "task=dump", "dump.unnorm_key=arm"],
    ],
)
def test_how_a_policy_is_loaded_is_refused_where_none_is(xp_here, arm, line):
    said = xp_here(*line, f"data.root={arm}") if "task=dump" in line else xp_here(*line)
    assert "says how a policy is loaded, and" in said and "Name a policy (" in said


def test_a_map_that_is_none(xp_here, foreign, arm):
    said = xp_here(*commands(foreign, arm)["predict.camera_map"], "predict.camera_map=[oblique]")
    assert "predict.camera_map=['oblique']: give {the policy's camera: the camera that feeds it}" in said


def test_a_plugin_that_fails_to_import(xp_here, arm, tmp_path, monkeypatch):
    place = tmp_path / "site"
    info = place / "lerobot_policy_broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot_policy_broken\nVersion: 1.0\n")
    (place / "lerobot_policy_broken.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(place))
    catalog._registry.cache_clear()
    try:
        said = xp_here(*SHORT[:6], "model=lerobot", "model.type=broken", f"data.root={arm}")
    finally:
        catalog._registry.cache_clear()
    assert "there is no such policy type" in said and "Mend or reinstall the plugin" in said
    assert "lerobot_policy_broken (ModuleNotFoundError: No module named 'a_package_that_nobody_has')" in said


@pytest.fixture
def without_act_smooth(monkeypatch):
    """The plugin cannot be imported, though an earlier test of this process has; afterwards it is there again.

    A submodule that was imported is found without its package being asked for, so each of them is hidden.
    """
    catalog.config_class("act_smooth")
    importlib.import_module(f"{catalog.ACT_SMOOTH}.pipelines")
    for name in [name for name in sys.modules if name.partition(".")[0] == catalog.ACT_SMOOTH]:
        monkeypatch.setitem(sys.modules, name, None)
    catalog._registry.cache_clear()
    yield
    catalog._registry.cache_clear()


@pytest.mark.usefixtures("without_act_smooth")
def test_the_plugin_of_processor_steps_is_missing(xp_here, arm):
    said = xp_here(*ACT, "obs_dropout=p10", f"data.root={arm}")
    assert "lerobot_policy_act_smooth_xp, which cannot be imported" in said and "obs_dropout=none" in said
