"""More folders from a stranger: npz files, and policies of families of one network."""

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
from hostile_folders import BASES, CASES, DEEP, Case, edit, link, packed, pipe, put
from safetensors.numpy import save_file


def npz(root: Path) -> None:
    root.mkdir()
    np.savez(root / "episode_0.npz", action=np.ones((3, 2), np.float32), state=np.zeros((3, 1), np.float32))


def network(root: Path) -> None:
    root.mkdir()
    content = {
        "family": "hostile", "options": {"width": 4}, "fps": 10.0, "horizon": 2, "action_dim": 2, "state_dim": 3,
        "environment_dim": 0, "history": 1, "language": False, "cameras": {},
    }  # fmt: skip
    (root / "xp_policy.json").write_text(json.dumps(content))
    entries = {name: {"mean": [0.0] * size, "std": [1.0] * size} for name, size in (("action", 2), ("proprio", 3))}
    (root / "dataset_statistics.json").write_text(json.dumps(entries))
    save_file({"weight": np.ones((4, 3), np.float32), "bias": np.ones(4, np.float32)}, root / "model.safetensors")


BASES |= {"npz": npz, "network": network}


def _npy(shape, data=b"", descr="'<f4'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _zip(entries, kind=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return put("episode_0.npz", file.getvalue())


def _pickled():
    file = io.BytesIO()
    np.savez(file, action=np.array([{"touch": "canary"}], dtype=object))
    return put("episode_0.npz", file.getvalue())


_NPZ = {
    "bomb": (_zip({"action.npy": b"\0" * 300_000_000}), "unpacks to 300,000,000 bytes"),
    "absurd_shape": (_zip({"action.npy": _npy("(1000000000000,)")}), "bytes for the shape"),
    "negative_shape": (_zip({"action.npy": _npy("(-1,)")}), "bytes for the shape|shape"),
    "pickle": (_pickled(), "holds object: expected numbers"),
    "structured": (_zip({"action.npy": _npy("(1,)", b"0" * 8, "[('a', '<f4'), ('b', '<f4')]")}), "expected numbers"),
    "code": (_zip({"action.npy": _npy("(__import__('os').system('touch canary'),)")}), "cannot be read"),
    "other_file": (_zip({"run.py": b"import os"}), "holds 'run.py': expected an episode, arrays alone"),
    "out": (_zip({"../../canary.npy": _npy("(1,)", b"0000"), "/etc/x": b""}), "arrays alone"),
    "no_zip": (put("episode_0.npz", b"\x80\x04cposix\nsystem\n(S'touch canary'\ntR."), "cannot be read as an episode"),
    "cut": (lambda f: (f / "episode_0.npz").write_bytes((f / "episode_0.npz").read_bytes()[:200]), "cannot be read"),
    "pipe": (pipe("episode_0.npz"), "pipe"),
    "link_out": (link("episode_0.npz", "../secret.npz"), "leads out"),
}
_HOSTILE = {
    "deep": (put("xp_policy.json", DEEP), "nested|JSON"),
    "pipe": (pipe("xp_policy.json"), "pipe"),
    "link_out": (link("xp_policy.json", "../secret.json"), "leads out"),
    "wide": (
        edit("xp_policy.json", lambda c: c["options"].update(width=10**7)),
        "xp_policy.json has options that .*at most 1e.06",
    ),
    "wide_network": (edit("xp_policy.json", lambda c: c["options"].update(width=10**6)), "another shape of bias"),
    "many_actions": (edit("xp_policy.json", lambda c: c.update(action_dim=10**9)), "action_dim is 1000000000"),
    "unknown_option": (edit("xp_policy.json", lambda c: c["options"].update(load="x")), "model.load: the family"),
    "infinite_fps": (edit("xp_policy.json", lambda c: c.update(fps=1e999)), "JSON|fps"),
    "nan_statistics": (
        edit("dataset_statistics.json", lambda c: c["action"].update(std=[float("nan")] * 2)),
        "JSON|std|NaN",
    ),
    "statistics_of_others": (
        edit("dataset_statistics.json", lambda c: c["action"].update(std=[1.0])),
        "shape|differ in length",
    ),
    "statistics_link_out": (link("dataset_statistics.json", "../secret.json"), "leads out"),
    "weights_link_out": (link("model.safetensors", "../secret.safetensors"), "leads out"),
    "absurd_weights": (
        put(
            "model.safetensors", packed({"weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}})
        ),
        "shape",
    ),
}
for _kind, _cases in (("npz", _NPZ), ("network", _HOSTILE)):
    for _name, (_change, _words) in _cases.items():
        CASES.append(Case(_kind, f"{_kind}-{_name}", _kind, _kind, _change, _words))
