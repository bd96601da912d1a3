"""Two devices learn what one learns that works through each batch in parts, and one process writes."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from training_fakes import final_weights, rows_without_time, same_bytes

from xp.config.devices import check_accumulate
from xp.errors import UserError
from xp.training.options import TrainerOptions


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    script = Path(__file__).with_name("devices_process.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return folder


slow = pytest.mark.slow
PAIRS = [
    ("ddp", "alone in 2 parts"),
    ("ddp in 2 parts", "alone in 4 parts"),
    ("ddp no clip", "alone no clip"),
    ("fsdp", "alone in 2 parts"),
    ("fsdp in 2 parts", "alone in 4 parts"),
    ("fsdp frozen", "alone frozen"),
    ("fsdp of ddp", "alone in 2 parts"),
    ("plain ddp", "plain alone"),
    ("plain fsdp", "plain alone"),
]


@slow
@pytest.mark.parametrize(("shared", "alone"), PAIRS)
def test_two_devices_learn_what_one_learns_in_as_many_parts_dropout_included(trained, shared, alone):
    found, wanted = (learned(trained / name) for name in (shared, alone))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=2e-6, err_msg=name)
    losses = [[float(row["loss"]) for row in rows(trained / name)] for name in (shared, alone)]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-5)


@slow
def test_the_parts_matter_where_there_is_dropout(trained):
    whole, parts = (learned(trained / name)["head.weight"] for name in ("alone", "alone in 2 parts"))
    assert not np.allclose(whole, parts, rtol=1e-4, atol=2e-6)


@slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_shared_run_stopped_and_resumed_ends_with_the_same_bytes(trained, strategy):
    whole, stopped = trained / strategy, trained / f"{strategy} stopped"
    assert same_bytes(final_weights(whole), final_weights(stopped))
    state = "checkpoints/checkpoint-12/training_state/state.safetensors"
    assert same_bytes(load_file(whole / state), load_file(stopped / state))
    for name in ("training_log.csv", "validation_log.csv"):
        assert rows_without_time(whole / name) == rows_without_time(stopped / name)


@slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_writes_what_one_alone_writes(trained, strategy):
    def files(name):
        return {str(path.relative_to(trained / name)) for path in (trained / name).rglob("*") if path.is_file()}

    assert files(strategy) == files("alone in 2 parts")
    shapes = [
        {name: array.shape for name, array in load_file(file).items()}
        for file in (trained / each / "checkpoints/checkpoint-12/training_state/state.safetensors"
                     for each in (strategy, "alone in 2 parts"))
    ]  # fmt: skip
    assert shapes[0] == shapes[1]
    validated = [(trained / name / "validation_log.csv") for name in (strategy, "alone in 2 parts")]
    values = [[float(row["val_loss"]) for row in csv.DictReader(path.open())] for path in validated]
    np.testing.assert_allclose(*values, rtol=1e-3)


@slow
def test_fsdp_computes_in_bfloat16_and_keeps_float32(trained):
    assert final_weights(trained / "bfloat16 fsdp")["head.weight"].dtype == np.float32


def learned(folder):
    """Weights, without batch normalisation's running statistics: of the parts one after another, or of rank 0's."""
    return {name: array for name, array in final_weights(folder).items() if not re.search("running|tracked", name)}


def rows(folder):
    return list(csv.DictReader((folder / "training_log.csv").open()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, r"trainer.devices=0 must be a whole number of at least 1, or auto"),
        ({"devices": "all"}, r"trainer.devices=all must be a whole number"),
        ({"devices": 2, "strategy": "dpp"}, r"trainer.strategy=dpp is not known \(did you mean 'ddp'\?\)"),
        ({"strategy": "fsdp"}, r"trainer.devices=1 is one. Type trainer.devices=auto"),
        ({"devices": 2, "strategy": "fsdp", "compile": True}, r"Type trainer.compile=false, or trainer.strategy=ddp"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        TrainerOptions.read({"steps": 1, **options})


def test_what_is_for_the_other_framework_says_what_this_one_has():
    with pytest.raises(UserError, match=r"trainer.devices=2 is for models in torch.*trainer.sharding=data or fsdp"):
        TrainerOptions.read({"steps": 1, "devices": 2}).refuse_torch_only()
    with pytest.raises(UserError, match=r"trainer.sharding=none trainer.devices=auto trainer.strategy=fsdp"):
        TrainerOptions.read({"steps": 1, "sharding": "fsdp"}).refuse_jax_only()


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(
        UserError, match=r"trainer.batch_size=10 is shared by 2 devices.*not a multiple of 4.*batch_size=8"
    ):
        check_accumulate(10, 2, 2)


def test_devices_are_counted_and_never_more_than_there_are(monkeypatch):
    import torch

    from xp.training.torch.distributed import count_devices, device_of

    def asked(**options):
        return TrainerOptions.read({"steps": 1, **options})

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [count_devices(asked(devices=count)) for count in (1, 3, "auto")] == [1, 3, 1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert count_devices(asked(devices="auto")) == 2 and count_devices(asked(devices="auto", accelerator="cpu")) == 1
    assert [device_of(asked(), rank) for rank in (None, 1)] == ["cuda", "cuda:1"]
    with pytest.raises(UserError, match=r"trainer.devices=3: torch sees 2 GPUs here. Type trainer.devices=2, or"):
        count_devices(asked(devices=3))


def test_weights_without_an_axis_cannot_be_spread():
    import torch

    from xp.training.torch.distributed import refuse_scalars

    module = torch.nn.Linear(2, 2)
    refuse_scalars(module)
    module.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match=r"scale is a single number. Type trainer.strategy=ddp"):
        refuse_scalars(module)
