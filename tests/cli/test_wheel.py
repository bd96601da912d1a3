"""The wheel holds everything: installed outside the checkout, the main job composes, plans and runs."""

import site
import subprocess
import sys
import venv
import zipfile

import pytest

SHORT = [
    "debug=fast",
    "horizon.train=1,4",
    "horizon.predict=4",
    "collect.workers=1",
    "env.cameras={oblique: [32, 32], wrist: [32, 32]}",
    "model.cameras.primary.size=[32,32]",
    "model.cameras.wrist.size=[32,32]",
    "model.embed_dim=16",
    "model.num_heads=2",
    "model.mlp_dim=32",
    "model.layers=1",
]


@pytest.fixture(scope="module")
def installed(checkout, tmp_path_factory):
    """A Python whose environment has the built wheel, and the dependencies of this one but not the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=checkout, check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=False)
    packages = next((folder / "venv/lib").glob("python3*/site-packages"))
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text(site.getsitepackages()[0] + "\n")
    return folder / "venv/bin/python"


def run(python, cwd, *arguments):
    command = [str(python), "-m", "xp", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_installed_package_is_not_the_checkout(installed, checkout, tmp_path):
    code = "import xp, hydra_plugins.xp_staged_sweeper as s; print(xp.__file__, s.__file__)"
    paths = subprocess.run([installed, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert str(checkout) not in paths


def test_the_installed_package_plans_the_main_job(installed, tmp_path):
    assert "18 jobs" in run(installed, tmp_path, "+experiment=multi_horizon", "-m", "hydra.sweeper.dry_run=true")


@pytest.mark.slow
def test_the_installed_package_runs_the_main_job(installed, tmp_path):
    output = run(installed, tmp_path, "+experiment=multi_horizon", "-m", *SHORT, "experiment.closed_loop=false")
    assert output.rstrip().endswith("report.html")
    assert len(list((tmp_path / "multirun/multi_horizon_fast").glob("train_h*_pred_h4/metrics.json"))) == 2
