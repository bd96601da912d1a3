"""One stored picture as an RGB frame: what LeRobot reads of it, or one clear error.

Size and kind are compared before anything is decoded. Read are 8-bit pictures: RGB, grey, palettes, with or without
transparency (which is dropped), CMYK. Grey values of 16 or 32 bits are a depth map or a raw sensor; as RGB they would
be 255 nearly everywhere, so they are refused. A turned picture (EXIF) is turned back, as LeRobot does.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import ImageOps

from xp.errors import UserError
from xp.foreign.paths import member
from xp.foreign.picture import bytes_of, decode, read_header
from xp.foreign.text import printable

Cell = bytes | str | Mapping[str, bytes | str | None] | None
"""A stored picture: its bytes, the name of its file beside the data, or both by `bytes` and `path`."""

_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_ORIENTATION = 0x0112


def picture_reader(
    root: Path, path: Path, camera: str, stored: tuple[int, int], resized: Callable[[np.ndarray], np.ndarray]
) -> Callable[[tuple[int, Cell]], np.ndarray]:
    """A function from (row, cell of the parquet file `path`) to a frame [h, w, 3] uint8.

    Args:
        root: the dataset; a cell may name a file in it.
        path: the parquet file, for messages.
        camera: its name, for messages.
        stored: height and width as announced.
        resized: what is done with a frame of that size.

    Raises:
        UserError: the cell is empty, damaged, of another size, no 8-bit picture, or names a file outside of `root`.
    """

    def read(numbered: tuple[int, Cell]) -> np.ndarray:
        row, cell = numbered
        where = f"The picture of camera '{camera}' in row {row} of {path}"
        source = _source(root, cell, where)
        image = decode(source, where, _coded_size(source, where, stored))
        if image.mode not in _MODES:
            raise _no_colours(image.mode, where)
        try:
            turned = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION) else image
            frame = np.asarray(turned if turned.mode == "RGB" else turned.convert("RGB"))
        except Exception as error:  # noqa: BLE001 - EXIF is parsed by many hands, with any error on a damaged one
            raise UserError(
                f"{where} cannot be decoded ({printable(error) or type(error).__name__}). Copy the file again "
                "from where the dataset came from, or record the dataset again."
            ) from error
        check_size(path, camera, frame.shape[:2], stored, row=row)
        return resized(frame)

    return read


def _source(root: Path, cell: Cell, where: str) -> bytes:
    """The bytes of a cell, or of the file beside the data that it names."""
    content, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, None)
    if isinstance(content, bytes) and content:
        return content
    name = content if isinstance(content, str) else name
    if not isinstance(name, str) or not name:
        raise UserError(f"{where} is missing (null). Copy the dataset again, or record it again.")
    return bytes_of(member(root, name, where), where)


def _coded_size(data: bytes, where: str, stored: tuple[int, int]) -> tuple[int, int]:
    """The height and width to expect in the file: those announced, or exchanged where the camera was turned."""
    header = read_header(data, where)
    turned = (stored[1], stored[0])
    return turned if (header.height, header.width) == turned else stored


def _no_colours(mode: str, where: str) -> UserError:
    return UserError(
        f"{where} is no 8-bit picture (Pillow's mode {mode}, such as depth in 16 bits): as colours it would be "
        'white nearly everywhere. Where the camera gives depth, say so in meta/info.json: "info": {"is_depth_map": '
        "true} at that feature leaves it out; or choose other cameras in the model's cameras."
    )


def check_size(
    path: Path, camera: str, found: tuple[int, ...], announced: tuple[int, int], *, row: int | None = None
) -> None:
    """Refuse frames of another height and width than announced; `row` is the one of a single picture."""
    if tuple(found) != tuple(announced):
        where = f"{path}" if row is None else f"row {row} of {path}"
        raise UserError(
            f"Camera '{camera}' has frames of {found[0]}x{found[1]} in {where}, but meta/info.json says "
            f"{announced[0]}x{announced[1]} (height x width). Correct `shape` in meta/info.json, or record again."
        )
