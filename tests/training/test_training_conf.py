"""The option files of this house build what they say."""

import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xp.config import compose
from xp.training.options import TrainerOptions
from xp.training.schedules import make_schedule

CONF = Path(__file__).parents[2] / "conf"
READ_BY_OTHERS = {"batch_size", "batch_size_max", "val_windows", "figures"}


def load(group, name):
    found = OmegaConf.load(CONF / group / f"{name}.yaml")
    bases = [load(group, base) for base in found.pop("defaults", [])]
    return OmegaConf.merge(*bases, found)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "trainer").glob("*.yaml")))
def test_every_trainer_option_is_read_and_every_key_has_a_reader(name):
    section = compose([f"trainer={name}"]).trainer
    TrainerOptions.read(section)
    known = {field.name for field in dataclasses.fields(TrainerOptions)} | READ_BY_OTHERS
    assert set(section) <= known


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "lr").glob("*.yaml")))
def test_every_lr_option_builds_the_schedule_of_its_name(name):
    section = compose([f"lr={name}"]).lr  # the peak is the model's own where the option does not name one
    assert section.schedule == {"openpi": "warmup_cosine"}.get(name, name)  # a recipe is named by its origin
    schedule = make_schedule(section, 1000)
    assert schedule(500) > 0 and schedule(section.warmup_steps) == pytest.approx(section.peak)


@pytest.mark.parametrize(("name", "rate"), [("none", 0.0), ("p10", 0.1), ("p30", 0.3), ("p50", 0.5)])
def test_observation_dropout_options_have_the_rate_of_their_name(name, rate):
    assert load("obs_dropout", name).rate == rate


def test_every_key_is_explained():
    for group in ("trainer", "lr", "obs_dropout"):
        for path in (CONF / group).glob("*.yaml"):
            lines = [line for line in path.read_text().splitlines() if ":" in line and not line.strip().startswith("#")]
            keys = [line for line in lines if line not in ("defaults:", "trainer:", "experiment:")]
            assert all("#" in line for line in keys if "schedule:" not in line), path
