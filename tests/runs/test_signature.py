"""Whose settings a folder holds."""

import stat
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xp.runs.jobs.signature import is_own, sign

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PLAIN, PLAIN)
def test_a_signature_holds_for_its_content_alone(content, other):
    signature = sign(content)
    assert is_own(content, signature)
    assert is_own(other, signature) == (other == content and repr(other) == repr(content))


def test_another_user_signs_otherwise(tmp_path, monkeypatch):
    signature = sign({"a": 1})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert not is_own({"a": 1}, signature)
    assert sign({"a": 1}) != signature


@pytest.mark.parametrize("signature", [None, "", 5, "0" * 64, ["x"]])
def test_what_is_no_signature_is_none(signature):
    sign({})
    assert not is_own({}, signature)


def test_the_key_is_the_users_alone(tmp_path):
    sign({})
    place = tmp_path / "state/xp/signing.key"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [path.name for path in place.parent.iterdir()] == ["signing.key"]


def test_without_a_place_for_a_key_nothing_is_signed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert sign({}) == "" and not is_own({}, "")


def test_processes_that_make_a_key_at_once_agree():
    code = "from xp.runs.jobs.signature import sign; print(sign({'a': 1}))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = {process.communicate()[0].strip() for process in started}
    assert len(said) == 1 and is_own({"a": 1}, said.pop())
