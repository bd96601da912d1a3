"""HDF5 files from outside: groups of plain numeric arrays in the file itself, in memory that its size explains.

HDF5 can name other files (external links, virtual datasets, external storage), run code of plug-ins (filters) and
announce arrays that it does not store. None of that is followed: each link must be a hard one, each array contiguous or
in chunks, without filters, and stored.
"""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xp.errors import UserError
from xp.foreign.bounds import allowance
from xp.foreign.paths import RefusedError, opened
from xp.foreign.text import printable

if TYPE_CHECKING:
    import h5py

MOST_GROUPS = 1_000_000
_AGAIN = "Copy the file again from where it came from, or record it again."
_PLAIN = "biuf"
"""Kinds of numpy types: truth values, whole numbers and floats."""


def read_groups(
    path: str | Path, what: str, *, is_wanted: Callable[[str], bool], arrays: Collection[str], within: str = ""
) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of an HDF5 file's groups: {group: {name: array}}, groups in the order of their names.

    Args:
        path: the file.
        what: what it is, for the message: "a history of trajectories".
        is_wanted: of each name, whether it is opened; it may raise. Others are passed over unopened.
        arrays: names of arrays to read, where a group has them ("obs/state": in a group inside); all else in a group is
            passed over unopened.
        within: the group at the top that the groups stand in; "": at the top themselves.

    Raises:
        MissingError: the file is not there.
        RefusedError: it is no HDF5 file, damaged, would take more memory than its size explains, or what is wanted is
            no group or plain array of its own: a soft or external link, a virtual dataset, one that is stored in
            another file, filtered (compressed), not stored, or of another type than numbers and truth values.
    """

    def read(reader: "_Reader", file: "h5py.File") -> dict[str, dict[str, np.ndarray]]:
        return reader.groups(reader.inner(file, within) if within else file, is_wanted, arrays)

    return _read(path, what, read)


def read_text(path: str | Path, what: str, within: str, attribute: str) -> str | None:
    """A text that a group at the top of an HDF5 file has as an attribute; None where it has none of that name.

    Raises:
        MissingError: the file is not there.
        RefusedError: as of `read_groups`; or the attribute is no text.
    """
    return _read(path, what, lambda reader, file: reader.text(reader.inner(file, within), attribute))


def _read[T](path: str | Path, what: str, read: "Callable[[_Reader, h5py.File], T]") -> T:
    import h5py

    name = printable(path)
    with opened(path, what) as handle:
        size = handle.seek(0, 2)
        handle.seek(0)
        try:
            with h5py.File(handle, "r") as file:
                return read(_Reader(name, what, size), file)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - h5py raises many kinds, all of which mean a damaged file
            raise RefusedError(
                f"{name} cannot be read as {what}, an HDF5 file ({type(error).__name__}: {printable(error, 200)}). "
                f"{_AGAIN}"
            ) from error


class _Reader:
    """Reads one file; keeps count of the bytes that were taken."""

    def __init__(self, name: str, what: str, size: int):
        self.name, self.what, self.size, self.taken = name, what, size, 0

    def inner(self, outer: "h5py.Group", key: str) -> "h5py.Group":
        """A group of that name in another, which it must have."""
        import h5py

        if key not in outer.keys():  # noqa: SIM118 - `in group` follows links
            raise self._refusal("", f"has no group '{key}'", "one")
        self._check_link(outer, key, key)
        group = outer[key]
        if not isinstance(group, h5py.Group):
            raise self._refusal(key, "is no group", "a group")
        return group

    def text(self, group: "h5py.Group", attribute: str) -> str | None:
        """An attribute that is a text."""
        if attribute not in group.attrs:
            return None
        value = group.attrs[attribute]
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise self._refusal(f"{group.name}@{attribute}", f"holds {type(value).__name__}", "a text")
        return text

    def groups(
        self, file: "h5py.Group", is_wanted: Callable[[str], bool], arrays: Collection[str]
    ) -> dict[str, dict[str, np.ndarray]]:
        import h5py

        if len(file) > MOST_GROUPS:
            raise self._refusal("", f"has {len(file):,} entries", f"at most {MOST_GROUPS:,}")
        found: dict[str, dict[str, np.ndarray]] = {}
        for key in filter(is_wanted, list(file)):
            self._check_link(file, key, key)
            group = file[key]
            if not isinstance(group, h5py.Group):
                raise self._refusal(key, "is no group", "a group of arrays")
            read = {name: self._array_at(group, key, name) for name in arrays}
            found[key] = {name: array for name, array in read.items() if array is not None}
        return found

    def _array_at(self, group: "h5py.Group", outer: str, name: str) -> np.ndarray | None:
        """The array `name`, in a group inside where it has a "/"; None where there is none."""
        first, _, rest = name.partition("/")
        if first not in group.keys():  # noqa: SIM118 - `in group` follows links
            return None
        if not rest:
            return self._array(group, outer, name)
        return self._array_at(self.inner(group, first), f"{outer}/{first}", rest)

    def _array(self, group: "h5py.Group", outer: str, key: str) -> np.ndarray:
        import h5py

        where = f"{outer}/{key}"
        self._check_link(group, key, where)
        data = group[key]
        if not isinstance(data, h5py.Dataset):
            raise self._refusal(where, "is no array", "an array")
        filters = data.id.get_create_plist().get_nfilters()
        shape, dtype = data.shape, data.dtype
        if data.is_virtual or data.external:
            raise self._refusal(where, "lies in other files", "numbers in the file itself")
        if filters:
            raise self._refusal(
                where, f"is stored through {filters} filter(s)", "numbers as they are (h5repack -f NONE OLD NEW)"
            )
        if shape is None or dtype.kind not in _PLAIN or dtype.itemsize > 8:
            raise self._refusal(where, f"holds {printable(dtype, 80)}", "numbers or truth values of at most 8 bytes")
        wanted, stored = math.prod(shape) * dtype.itemsize, data.id.get_storage_size()
        self.taken += wanted
        if stored < wanted or wanted > self.size:
            raise self._refusal(
                where, f"announces {wanted:,} bytes and stores {min(stored, self.size):,}", "an array that is stored"
            )
        if self.taken > allowance(self.size):
            raise self._refusal(where, f"brings the file to {self.taken:,} bytes", f"{allowance(self.size):,} at most")
        return np.asarray(data[()])

    def _check_link(self, group: "h5py.Group", key: str, where: str) -> None:
        import h5py

        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise self._refusal(where, "is a link to something else", "an object of the file's own")

    def _refusal(self, where: str, what: str, expected: str) -> RefusedError:
        place = f"{self.name}: {printable(where, 120)}" if where else self.name
        return RefusedError(f"{place} {what}: expected {expected}, in {self.what}. {_AGAIN}")
