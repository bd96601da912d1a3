"""The CPU threads of a loop: those of loop.threads, whatever the process has, which gets its own back."""

from types import SimpleNamespace

import pytest
import torch

from xp.models.torch_device import torch_threads
from xp.tasks import loop
from xp.tasks._lib.improvement import Improvement


def test_threads_come_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="asked to leave"), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError("asked to leave")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("number", [1, 3])
def test_a_loop_computes_in_as_many_threads_as_it_is_told(monkeypatch, number):
    seen = []
    step = SimpleNamespace(
        collect=lambda _: seen.append(torch.get_num_threads()),
        learn=lambda _: seen.append(torch.get_num_threads()),
        evaluate=lambda _: seen.append(torch.get_num_threads()),
        has_stopped=lambda _: True,
        finish=lambda: seen.append(torch.get_num_threads()),
    )
    monkeypatch.setattr(Improvement, "begin", lambda run: step)
    before = torch.get_num_threads()
    loop.run(SimpleNamespace(config=SimpleNamespace(loop=SimpleNamespace(threads=number, num_improvement_loops=2))))
    assert seen == [number] * 4
    assert torch.get_num_threads() == before
