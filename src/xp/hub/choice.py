# pyright: strict
"""Which files of a repository a run reads."""

import fnmatch
from collections.abc import Collection, Iterable, Sequence

from xp.errors import UserError, some
from xp.foreign.text import printable
from xp.hub.address import HubAddress

ABOUT_THE_REPOSITORY = (".gitattributes", ".gitignore", "README.md", "LICENSE*", "*.gif", "assets/*", "runs/*")
"""Patterns of files that are about a repository: nothing reads them."""
OTHER_WEIGHTS = (
    "*.onnx", "*.onnx_data", "onnx/*", "openvino*", "*.tflite", "tf_model.h5", "rust_model.ot", "*.gguf", "*.mlmodel",
    "*.mlpackage/*", "training_state/*", "*/training_state/*", "optimizer*", "*.ckpt.index",
)  # fmt: skip
"""Patterns of weights for programs that xp does not hand them to, and of the states of optimisers."""
_BESIDE_SAFETENSORS = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "flax_model.msgpack")
"""The same weights once more, where there are safetensors."""


def chosen_files(address: HubAddress, names: Iterable[str], patterns: Sequence[str] = ()) -> list[str]:
    """The files of a repository that are downloaded for a run.

    Of a dataset those that its format reads (`patterns`; all files where no format says so); of a policy all below the
    folder that was named, but the weights for other programs and the steps that were not asked for.

    Args:
        address: the repository, and what is meant of it.
        names: all files of the commit.
        patterns: which files a data format reads.

    Raises:
        UserError: there is none.
    """
    known = list(names)
    inside = _below(address, known)
    read = [name for name in inside if not fits(name, ABOUT_THE_REPOSITORY)]
    if patterns:
        start = f"{address.path}/" if address.path else ""
        read = [name for name in inside if fits(name.removeprefix(start), patterns)]
    elif len(read) > 1 or not address.path:
        read = _of_a_policy(address, read)
    if not read:
        raise UserError(
            f"{address}: the repository holds nothing that could be read; its files are {printable(some(known), 400)}."
        )
    return read


def _below(address: HubAddress, known: Collection[str]) -> list[str]:
    """The files that the address's path names: one file, or all in a folder."""
    if not address.path:
        return list(known)
    if address.path in known:
        return [address.path]
    found = [name for name in known if name.startswith(f"{address.path}/")]
    if not found:
        tops = sorted({f"{name.split('/')[0]}{'/' * ('/' in name)}" for name in known})
        raise UserError(
            f"{address}: there is no {printable(address.path)} in the repository at this revision; it has "
            f"{printable(some(tops), 400)}. Type {address.name}@{address.revision}/PATH with one of these."
        )
    return found


def _of_a_policy(address: HubAddress, names: list[str]) -> list[str]:
    """Without weights for other programs, weights that are there twice, and steps beside the one that is meant."""
    names = [name for name in names if not fits(name, OTHER_WEIGHTS)]
    if any(name.endswith(".safetensors") for name in names):
        names = [name for name in names if not fits(name.rsplit("/", 1)[-1], _BESIDE_SAFETENSORS)]
    start = len(address.path) + 1 if address.path else 0
    tops = {name[start:].split("/")[0] for name in names if "/" in name[start:]}
    steps = {int(top): top for top in tops if top.isdigit() and len(top) < 19}
    if not steps or (address.step is None and address.all_steps):
        return names
    if address.step is not None and address.step not in steps:
        raise UserError(
            f"{address}: there is no step {address.step} in the repository; it has {some(map(str, sorted(steps)))}."
        )
    kept = steps[max(steps) if address.step is None else address.step]
    others = set(steps.values()) - {kept}
    return [name for name in names if name[start:].split("/")[0] not in others]


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one that any of the patterns means (`fnmatch`, letters of either case told apart)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
