"""The middle of pictures, enlarged to their size: what evaluations of OpenVLA-OFT show a policy. Pure numpy."""

import numpy as np
from jaxtyping import Float32, Int, UInt8


def center_crop(
    images: UInt8[np.ndarray, "batch height width 3"], area: float
) -> UInt8[np.ndarray, "batch height width 3"]:
    """The middle of pictures, `area` of their area, at the pictures' own size.

    OpenVLA-OFT's `center_crop_image` is TensorFlow's `crop_and_resize`, whose corners fall on corners and whose values
    between pixels are bilinear, without antialiasing; then `convert_image_dtype`, which cuts off v * 255.5. In float32,
    as there.

    Args:
        images: of two pixels a side at least.
        area: the share of a picture's area, above 0 and at most 1.
    """
    up, down, rows = _places(images.shape[1], area)
    left, right, columns = _places(images.shape[2], area)
    scaled = images.astype(np.float32) * np.float32(1 / 255)
    columns, rows = columns[:, None], rows[:, None, None]
    top, bottom = (scaled[:, at][:, :, left] for at in (up, down))
    top = top + (scaled[:, up][:, :, right] - top) * columns
    bottom = bottom + (scaled[:, down][:, :, right] - bottom) * columns
    mixed = np.clip(top + (bottom - top) * rows, 0, 1)
    return np.minimum(mixed * np.float32(255.5), 255).astype(np.uint8)


def _places(
    count: int, area: float
) -> tuple[Int[np.ndarray, " {count}"], Int[np.ndarray, " {count}"], Float32[np.ndarray, " {count}"]]:
    """Of each place along a side the pixels before and behind it, and its distance from the one before."""
    share = np.minimum(np.sqrt(np.float32(area)), np.float32(1))
    first = (1 - share) / np.float32(2)
    places = first * np.float32(count - 1) + np.arange(count, dtype=np.float32) * ((first + share) - first)
    before = np.floor(places)
    return before.astype(int), np.minimum(np.ceil(places).astype(int), count - 1), places - before
