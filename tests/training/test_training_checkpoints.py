"""Checkpoints: retention, disks that fill up, damage."""

import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file
from training_fakes import LR, MlpPolicy, TinyBatches, final_weights, initial_weights, run_in, tiny_trainable, trainer

from xp.checkpoints.arrays import CorruptFileError
from xp.checkpoints.safetensors import read_arrays, write_arrays
from xp.errors import UserError
from xp.training import checkpoints as checkpoints_module
from xp.training.checkpoints import Checkpoints
from xp.training.digest import digest_of
from xp.training.disk import room_for
from xp.training.jax.loop import train

ARRAYS = {"weights/a": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(3, np.int32)}


def save(store, step, **options):
    return store.save(step, MlpPolicy(initial_weights()), ARRAYS, {"seed": 1}, **options)


@given(
    st.dictionaries(
        st.text("abc/_0", min_size=1, max_size=8),
        hnp.arrays(st.sampled_from([np.float32, np.int32, np.bool_]), hnp.array_shapes(min_dims=0, max_side=4)),
        max_size=5,
    )
)
def test_arrays_read_back_as_written_by_us_and_by_safetensors(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("arrays") / "state.safetensors"
    stored = write_arrays(path, arrays)
    for found in (read_arrays(path, stored), load_file(path)):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            assert found[name].tobytes() == array.tobytes()


def test_the_digest_of_weights_knows_names_values_and_shapes_but_not_order():
    a, b = np.arange(4, dtype=np.float32), np.ones(2, np.float32)
    assert digest_of({"a": a, "b": b}) == digest_of({"b": b, "a": a})
    different = [{"a": b, "b": a}, {"a": a.reshape(2, 2), "b": b}, {"a": a + 1, "b": b}, {"a": a}]
    assert len({digest_of(x) for x in [{"a": a, "b": b}, *different]}) == 5


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: d[:-1] + bytes([d[-1] ^ 1])])
def test_damaged_arrays_are_never_read(tmp_path, damage):
    path = tmp_path / "state.safetensors"
    stored = write_arrays(path, ARRAYS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptFileError):
        read_arrays(path, stored)


def test_a_checkpoint_is_a_policy_folder_beside_the_state_of_training(tmp_path):
    folder = save(Checkpoints(tmp_path, 2), 7)
    assert folder == tmp_path / "checkpoints" / "checkpoint-7"
    assert load_file(folder / "policy.safetensors").keys() == {p for p in MlpPolicy(initial_weights()).weights()}
    restored = Checkpoints(tmp_path, 2).restore(print)
    assert restored is not None and restored.step == 7 and restored.meta == {"seed": 1}
    assert restored.arrays["weights/a"].tobytes() == ARRAYS["weights/a"].tobytes()


def test_the_newest_checkpoints_and_the_best_one_stay(tmp_path):
    store = Checkpoints(tmp_path, 2)
    for step in (9, 10, 100, 101):
        save(store, step, best_step=10)
    assert store.steps() == [10, 100, 101]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "checkpoint-10", "checkpoint-100", "checkpoint-101"
    ]  # fmt: skip


def test_a_truncated_policy_file_makes_a_checkpoint_damaged(tmp_path):
    store, said = Checkpoints(tmp_path, 3), []
    save(store, 1)
    newest = save(store, 2)
    (newest / "policy.safetensors").write_bytes(b"short")
    restored = store.restore(said.append)
    assert restored is not None and restored.step == 1
    assert "policy.safetensors has 5 of" in said[0]


def test_folders_left_by_a_killed_process_are_swept(tmp_path):
    store = Checkpoints(tmp_path, 2)
    save(store, 1)
    left = tmp_path / "checkpoints" / ".checkpoint-2.tmp-123-abcd"
    left.mkdir()
    store.restore(print)
    assert not left.exists() and store.steps() == [1]


def test_a_checkpoint_of_a_future_format_is_not_called_damaged(tmp_path):
    state = save(Checkpoints(tmp_path, 2), 1) / "training_state" / "state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="format 2"):
        Checkpoints(tmp_path, 2).restore(print)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_with_bytes_and_the_last_checkpoint_survives(tmp_path, monkeypatch, number):
    store = Checkpoints(tmp_path, 2)
    save(store, 1)

    def full(path, arrays):
        path.write_bytes(b"half")
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(checkpoints_module, "write_arrays", full)
    with pytest.raises(UserError) as caught:
        save(store, 2)
    assert "The disk is full: checkpoint-2 needs about" in str(caught.value)
    assert "checkpoints/checkpoint-1 is complete" in str(caught.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-1"]
    restored = store.restore(print)
    assert restored is not None and restored.step == 1


def test_nothing_is_begun_when_the_disk_cannot_hold_it(tmp_path):
    begun = []
    with pytest.raises(UserError, match="are free in"), room_for(tmp_path / "checkpoint-1", 10**18, "nothing"):
        begun.append(True)
    assert not begun


def test_other_errors_while_writing_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="denied"), room_for(tmp_path / "x", 0, ""):
        raise OSError(errno.EACCES, "denied")


LIMITED = """
    import resource, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from training_fakes import LR, TinyBatches, run_in, tiny_trainable, trainer
    from xp.errors import UserError
    from xp.training.jax.loop import train
    import xp.training.checkpoints as checkpoints
    inner, saved = checkpoints.write_arrays, 0
    def limited(path, arrays):
        global saved
        saved += 1
        if saved == 2:
            sys.dont_write_bytecode = True  # or modules are compiled into files that end there
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        return inner(path, arrays)
    checkpoints.write_arrays = limited
    model = tiny_trainable(width=64)
    try:
        train(run_in(Path(sys.argv[1])), model, TinyBatches(), validate=None, trainer=trainer(), lr=LR, seed=0)
    except UserError as error:
        print(error)
        sys.exit(2)
"""


def test_when_the_kernel_refuses_to_write_more_the_run_can_go_on_later(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(LIMITED.format(tests=str(Path(__file__).parent))))
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "The disk is full: checkpoint-10 needs about" in done.stdout
    assert "checkpoints/checkpoint-5 is complete" in done.stdout
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["checkpoint-5"]
    model = tiny_trainable(width=64)
    train(run_in(folder), model, TinyBatches(), validate=None, trainer=trainer(), lr=LR, seed=0)
    train(run_in(tmp_path / "other"), model, TinyBatches(), validate=None, trainer=trainer(), lr=LR, seed=0)
    assert final_weights(folder)["head/kernel"].tobytes() == final_weights(tmp_path / "other")["head/kernel"].tobytes()
