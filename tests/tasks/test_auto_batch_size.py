"""trainer.batch_size=auto: the search, what counts as fitting, and a run that keeps what was found."""

import json
import tempfile

import pytest
from tasks_setup import EVERY, SMALL

from xp.config import check, compose
from xp.config.batch_size import next_size
from xp.errors import UserError
from xp.runs import Record, Run, load_run
from xp.runs.records.folder import as_config
from xp.tasks._lib import batch_probe, batch_size
from xp.tasks._lib.batch_probe import Measured
from xp.tasks._lib.batch_size import SHARE, expected_host, fits
from xp.training.probe import DeviceMemory


def search(largest, unit=1, most=256):
    tried = {}
    while (size := next_size(tried, unit, most)) is not None:
        tried[size] = size <= largest
    return list(tried), max((size for size, fit in tried.items() if fit), default=None)


def test_the_search_doubles_and_then_takes_half_a_step():
    assert search(5) == ([1, 2, 4, 8, 6], 4)
    assert search(13) == ([1, 2, 4, 8, 16, 12], 12)
    assert search(1000) == ([1, 2, 4, 8, 16, 32, 64, 128, 256], 256)
    assert search(1000, most=200) == ([1, 2, 4, 8, 16, 32, 64, 128, 192], 192)
    assert search(0) == ([1], None)
    assert search(100, unit=6) == ([6, 12, 24, 48, 96, 192, 144], 96)
    assert search(1000, unit=4, most=3) == ([], None)


def test_sizes_are_multiples_of_the_unit_and_below_the_maximum():
    for unit in (1, 2, 3, 8):
        for largest in range(0, 70, 7):
            tried, found = search(largest, unit, most=64)
            assert all(size % unit == 0 and size <= 64 for size in tried)
            assert found is None or found <= largest < 2 * found + unit or found * 2 > 64


def test_every_memory_must_have_room_left():
    free = 1000
    assert fits(Measured(900, (), 50), free, shared=False)
    assert not fits(Measured(901, (), 50), free, shared=False)
    assert not fits(Measured(900, (), 50), free, shared=True)  # gradients are exchanged on the host
    assert fits(Measured(10**9, (), 0), None, shared=False)
    gpu = DeviceMemory("cuda", 850, 1000)
    assert fits(Measured(10, (gpu,), 50), free, shared=True) and SHARE == 0.9
    assert not fits(Measured(10, (gpu,), 51), free, shared=True)
    assert not fits(Measured(10, (gpu, DeviceMemory("cuda", 850, 900)), 0), free, shared=False)


def test_what_a_size_would_take_is_on_the_line_through_the_last_two():
    def entry(size, host, measured=True):
        return {"size": size, "host": host, "measured": measured}

    assert expected_host([entry(1, 100)], 2) is None
    assert expected_host([entry(1, 500), entry(2, 110), entry(4, 130)], 8) == 170
    assert expected_host([entry(2, 110), entry(4, 130), entry(8, 9999, measured=False)], 6) == 150


class FakeProber:
    """Measures as if each window took 100 bytes above 1000; a process is lost when more than `limit` are held."""

    started = 0

    def __init__(self, limit):
        self.limit, self.good = limit, True
        FakeProber.started += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ready(self):
        return 1, 100

    def measure(self, size):
        assert self.good, "a process that ran out of memory was asked again"
        held = 1000 + 100 * size
        self.good = held <= self.limit
        return Measured(held, (), 0) if self.good else None


@pytest.mark.parametrize(
    ("free", "limit", "sizes", "largest", "processes"),
    [
        (10_000, 10**6, [1, 2, 4, 8, 16, 32, 64, 96], 64, 1),  # 96 would take too much: it is not measured
        (10**9, 2000, [1, 2, 4, 8, 16, 12], 8, 2),  # the process of 16 is lost; so is that of 12, and nothing is left
        (10**9, 2300, [1, 2, 4, 8, 16, 12], 12, 2),
        (10**9, 10**6, [1, 2, 4, 8, 16, 32, 64, 96], 96, 1),  # there are 100 windows
        (1000, 10**6, [1], None, 1),
    ],
)
def test_the_search_on_a_device(monkeypatch, free, limit, sizes, largest, processes):
    monkeypatch.setattr(batch_size, "available_memory", lambda: free)
    FakeProber.started = 0
    tried = batch_size._Search(256, 1, lambda: FakeProber(limit)).result()
    assert [each["size"] for each in tried] == sizes and FakeProber.started == processes
    assert max((each["size"] for each in tried if each["fits"]), default=None) == largest
    assert all(each["fits"] <= each["measured"] for each in tried)


PROCESS = """
import os, signal
from xp.errors import UserError
from xp.tasks._lib.batch_probe import answer

class Session:
    unit, policy_bytes = 1, 8
    def measure(self, size):
        if size == 7:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if size == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return []

def task(run):
    if run.config.trainer.batch_size == 5:
        raise UserError("no such camera")
    answer(Session(), lambda size: size, windows=50)
"""


def test_the_process_that_measures_is_lost_with_its_memory_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "made_up_probe.py").write_text(PROCESS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    run = Run(tmp_path, as_config({"trainer": {}}), Record(tmp_path / "record.json", {}), echo=False)

    def prober(size):
        return batch_probe.Prober(run, "made_up_probe:task", batch_size=size, environment={})

    with prober(1) as one:
        assert one.ready() == (1, 50)
        found = one.measure(2)
        assert found is not None and found.host > 10**7 and (found.devices, found.weights) == ((), 8)
        assert one.measure(7) is None
    with prober(1) as another:
        assert another.ready() == (1, 50) and another.measure(9) is None
    with pytest.raises(UserError, match="no such camera"), prober(5) as wrong:
        wrong.ready()
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["trainer.batch_size=big"], r"expected a whole number, or auto"),
        (["trainer.batch_size=0"], r"at least 1, or auto"),
        (["trainer.batch_size=true"], r"expected a whole number, or auto"),
        (["trainer.batch_size=auto", "trainer.devices=2", "trainer.strategy=fsdp"], r"strategy=ddp"),
        (["trainer.batch_size=auto", "trainer.accumulate=8", "trainer.batch_size_max=4"], r"batch_size_max=8 or more"),
    ],
)
def test_what_is_refused_before_a_run(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        check(compose(["task=train", f"data.root={tmp_path}", *given]))


TORCH = ["model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32", "model.image_size=[32,32]",
         "trainer.val_windows=8"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", [SMALL, TORCH], ids=["jax", "torch"])
def test_a_run_finds_its_batch_size_once_and_ends_in_the_weights_of_that_size(xp, arm, model):
    command = ["task=train", f"data.root={arm}", *model, *EVERY, "lr=constant", "trainer.steps=8"]
    auto = [*command, "trainer.batch_size=auto", "trainer.batch_size_max=6"]
    said = xp(*auto, "hydra.run.dir=auto").stdout
    record = load_run(xp.cwd / "auto").record()
    (tried,) = record["batch_size"]["tried"]
    assert record["batch_size"]["size"] == 6 and [each["size"] for each in tried] == [1, 2, 4, 6]
    assert all(each["fits"] and 1e8 < each["host"] < each["host_free"] for each in tried)
    assert "trainer.batch_size=auto: 6 windows (1: " in said
    assert json.loads((xp.cwd / "auto" / "config.json").read_text())["trainer"]["batch_size"] == 6
    xp(*command, "trainer.batch_size=6", "hydra.run.dir=fixed")
    finals = [
        {path.relative_to(xp.cwd / name): path.read_bytes() for path in (xp.cwd / name / "final").rglob("*")
         if path.suffix in (".safetensors", "") and path.is_file()}
        for name in ("auto", "fixed")
    ]  # fmt: skip
    assert finals[0] == finals[1] and finals[0]
    said = xp(*auto, "trainer.steps=10", "hydra.run.dir=auto").stdout
    assert "trainer.batch_size=auto: 6 windows, as found when this run began" in said
    assert load_run(xp.cwd / "auto").record()["batch_size"] == record["batch_size"]
