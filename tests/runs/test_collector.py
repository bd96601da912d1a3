"""The collector of cyclic garbage pauses while models are imported and built, and is as before afterwards."""

import gc
import subprocess
import sys

import pytest

from xp import collector


def test_paused_inside_and_as_before_afterwards():
    assert gc.isenabled()
    with collector.paused():
        assert not gc.isenabled()
        with collector.paused():
            pass
        assert not gc.isenabled(), "the inner pause must not end the outer one"
    assert gc.isenabled()


def test_on_again_after_an_error():
    with pytest.raises(ValueError, match="within"), collector.paused():
        raise ValueError("within")
    assert gc.isenabled()


def test_what_is_in_cycles_at_the_end_still_runs_its_finalizers_by_weakref():
    """`weakref.finalize` is what removes temporary folders: it must not depend on the last collection."""
    code = (
        "import sys, weakref\n"
        "from xp import collector\n"
        "class Held: pass\n"
        "held = Held(); held.itself = held\n"
        "weakref.finalize(held, print, 'removed')\n"
        "del held\n"
        "collector.spare_the_end()\n"
        "sys.exit(0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "removed\n"
