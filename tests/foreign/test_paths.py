"""A foreign folder names files inside itself, and only files."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.errors import UserError
from xp.foreign.paths import MissingError, RefusedError, inside, member, opened, regular_file


def test_a_file_and_a_link_to_a_file_are_regular(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    assert regular_file(tmp_path / "a", "a thing") == tmp_path / "a"
    assert opened(tmp_path / "link", "a thing").read() == b"x"


def test_what_is_no_file_is_refused_by_its_kind_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    for name, kind in (("pipe", "a named pipe"), ("folder", "a folder"), ("socket", "a socket")):
        for look in (regular_file, opened):
            with pytest.raises(RefusedError, match=f"{name} is {kind}: expected a file, the index"):
                look(tmp_path / name, "the index")
    with pytest.raises(RefusedError, match="a device"):
        opened("/dev/zero", "the index")


def test_a_missing_file_is_told_from_a_refused_one(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("gone")
    for name in ("gone", "file/below", "dangling"):
        with pytest.raises(MissingError, match="not there|no file"):
            regular_file(tmp_path / name, "the index")


@pytest.mark.parametrize("name", ["a\0b", "n" * 5000, "loop"])
def test_names_that_no_file_has_are_one_clear_refusal(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RefusedError):
        regular_file(tmp_path / name, "the index")


@pytest.mark.parametrize(
    "relative",
    ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "", "a\0", "x" * 256, "a/" * 600, "\ud800", None, 3, ["a"]],
)
def test_paths_that_leave_the_folder_or_name_nothing_are_refused(tmp_path, relative):
    with pytest.raises(RefusedError, match="the video"):
        inside(tmp_path, relative, "the video")


def test_a_link_that_leaves_the_folder_is_refused_and_one_within_is_not(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "folder-outside"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("x")
    (folder / "real").write_text("y")
    (folder / "up").symlink_to("..")
    (folder / "away").symlink_to(outside)
    (folder / "sub" / "within").symlink_to("../real")
    for name in ("up/folder-outside/secret", "away/secret", "away/new", "up"):
        with pytest.raises(RefusedError, match="leads out of"):
            inside(folder, name, "the video")
    assert member(folder, "sub/within", "the video").read_text() == "y"
    assert inside(folder, "not/there/yet", "the video") == folder / "not/there/yet"


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("y")
    (tmp_path / "link").symlink_to("real")
    assert member(tmp_path / "link", "a", "the video").read_text() == "y"


def test_a_snapshot_of_a_hugging_face_cache_may_link_to_its_blobs_and_nowhere_else(tmp_path):
    cached = tmp_path / "models--me--it"
    snapshot = cached / "snapshots" / "0123abc"
    (snapshot / "sub").mkdir(parents=True)
    (cached / "blobs").mkdir()
    (cached / "blobs" / "b1").write_text("weights")
    (tmp_path / "secret").write_text("s")
    (snapshot / "model.safetensors").symlink_to("../../blobs/b1")
    (snapshot / "sub" / "x").symlink_to("../../../blobs/b1")
    (snapshot / "config.json").symlink_to("../../../secret")
    assert member(snapshot, "model.safetensors", "the weights").read_text() == "weights"
    assert member(snapshot / "sub", "x", "the weights").read_text() == "weights"
    with pytest.raises(RefusedError, match="leads out of"):
        member(snapshot, "config.json", "the configuration")


def test_blobs_that_are_a_link_themselves_open_nothing(tmp_path):
    snapshot = tmp_path / "made" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (tmp_path / "made" / "blobs").symlink_to(tmp_path)
    (snapshot / "a").symlink_to("../../blobs/secret")
    with pytest.raises(RefusedError, match="leads out of"):
        member(snapshot, "a", "the weights")


@given(st.lists(st.sampled_from(["..", ".", "a", "up", "away", "~", "", "b c"]), max_size=6).map("/".join) | st.text())
def test_whatever_is_named_is_inside_or_refused(tmp_path_factory, relative):
    folder = _folder(tmp_path_factory)
    try:
        path = inside(folder, relative, "the video")
    except UserError as error:
        assert str(error).isprintable()
        return
    real = os.path.realpath(path)
    assert real == os.path.realpath(folder) or real.startswith(os.path.realpath(folder) + "/")


_made: list[Path] = []


def _folder(factory) -> Path:
    if not _made:
        root = factory.mktemp("links")
        (root / "folder" / "a").mkdir(parents=True)
        (root / "folder" / "up").symlink_to("..")
        (root / "folder" / "a" / "away").symlink_to("/")
        _made.append(root / "folder")
    return _made[0]
