"""Geometric operations: maps from pixels of the result to places in the picture, and sampling there.

A map is a matrix [N, 3, 3] on (x, y, 1), in pixels with the middle of the first pixel at (0, 0). Pure numpy.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

type Maps = Float64[np.ndarray, "images 3 3"]
type Values = Float64[np.ndarray, " images"]
type Pictures = Float32[np.ndarray, "3 images height width"]


def resized_crop(scale: Values, ratio: Values, across: Values, down: Values, size: tuple[int, int]) -> Maps:
    """A box of the share `scale` of the area and the sides' ratio `ratio`, stretched over the whole picture.

    Octo's and OpenVLA's crop (dlimp's `random_resized_crop`): a side longer than the picture's is cut to it; corners
    fall on corners, as in TensorFlow's `crop_and_resize`.

    Args:
        scale: share of the area.
        ratio: width to height, where the picture's own is 1.
        across: where the box lies between the left (0) and the right (1).
        down: where it lies between the top (0) and the bottom (1).
        size: (height, width) in pixels.
    """
    wide, high = np.minimum(np.sqrt(scale * ratio), 1), np.minimum(np.sqrt(scale / ratio), 1)
    height, width = size
    shift_x, shift_y = across * (1 - wide) * (width - 1), down * (1 - high) * (height - 1)
    return _matrices(wide, 0 * wide, shift_x, 0 * wide, high, shift_y)


def crop(share: Values, across: Values, down: Values, size: tuple[int, int]) -> Maps:
    """A box of a share of each side, in whole pixels, stretched over the whole picture: augmax's RandomCrop and Resize.

    Pixels are squares here: the box's edges fall on the picture's edges.
    """
    height, width = size
    wide, high = np.floor(share * width), np.floor(share * height)
    x = _stretched(wide, width, (2 * across - 1) * (width - wide) / 2)
    y = _stretched(high, height, (2 * down - 1) * (height - high) / 2)
    return _matrices(x[0], 0 * x[0], x[1], 0 * y[0], y[0], y[1])


def rotation(degrees: Values, size: tuple[int, int]) -> Maps:
    """The picture turned counter-clockwise by `degrees` about its middle: augmax's Rotate."""
    angle = np.radians(degrees)
    none = np.zeros_like(angle)
    return _about_middle(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle), none, none, size)


def affine(
    degrees: Values, shift_x: Values, shift_y: Values, scale: Values, shear: Values, size: tuple[int, int]
) -> Maps:
    """The picture sheared, scaled, turned clockwise about its middle, then shifted: torchvision's `affine`.

    The inverse of R(degrees) scale [[1, -tan shear], [0, 1]], after the shift, which is in whole pixels.
    """
    angle, skew = np.radians(degrees), np.tan(np.radians(shear))
    cos, sin = np.cos(angle), np.sin(angle)
    d, b = cos - sin * skew, -(cos * skew + sin)
    return _about_middle(d / scale, -b / scale, -sin / scale, cos / scale, shift_x, shift_y, size)


def sample_nearest(pictures: Pictures, maps: Maps) -> Pictures:
    """The nearest pixel at each place, halves to the even one; 0 beyond the picture."""
    _, count, height, width = pictures.shape
    x, y = _places(maps, height, width)
    x, y = np.rint(x, out=x), np.rint(y, out=y)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = np.where(inside, y * width + x, height * width).astype(np.int64)
    place += (np.arange(count) * (height * width + 1))[:, None]
    with_zero = np.zeros((3, count, height * width + 1), np.float32)
    with_zero[:, :, :-1] = pictures.reshape(3, count, -1)
    return _taken(with_zero, place).reshape(pictures.shape)


def sample_bilinear(pictures: Pictures, maps: Maps) -> Pictures:
    """Weighted means of the four pixels around each place; beyond the picture all is 0."""
    _, count, height, width = pictures.shape
    x, y = _places(maps, height, width)
    left, right_share = _split(x, width)
    top, bottom_share = _split(y, height)
    bordered = np.zeros((3, count, height + 3, width + 3), np.float32)
    bordered[:, :, 1 : height + 1, 1 : width + 1] = pictures
    first = (top + 1) * (width + 3) + (left + 1)
    first += (np.arange(count) * ((height + 3) * (width + 3)))[:, None]
    upper = _mixed(_taken(bordered, first), _taken(bordered, first + 1), right_share)
    first += width + 3
    lower = _mixed(_taken(bordered, first), _taken(bordered, first + 1), right_share)
    return _mixed(upper, lower, bottom_share).reshape(pictures.shape)


def sample_upright(pictures: Pictures, maps: Maps) -> Pictures:
    """As `sample_bilinear` where rows stay rows, and faster: first between rows, then between columns."""
    _, _, height, width = pictures.shape
    x = maps[:, 0, 0, None] * np.arange(width) + maps[:, 0, 2, None]
    y = maps[:, 1, 1, None] * np.arange(height) + maps[:, 1, 2, None]
    columns = np.ascontiguousarray(_sample_rows(pictures, y).swapaxes(2, 3))
    return np.ascontiguousarray(_sample_rows(columns, x).swapaxes(2, 3))


def _sample_rows(pictures: Pictures, places: Float64[np.ndarray, "images height"]) -> Pictures:
    """Between the two rows around each place, 0 beyond the picture."""
    _, count, height, width = pictures.shape
    before, share = _split(places, height)
    rows = pictures.reshape(3, count * height, width)
    found = []
    for row, weight in ((before, 1 - share), (before + 1, share)):
        inside = (row >= 0) & (row < height)
        row = np.where(inside, row, 0) + (np.arange(count) * height)[:, None]
        taken = rows.take(row.reshape(-1), axis=1, mode="clip")
        taken *= np.where(inside, weight, np.float32(0)).reshape(-1, 1)
        found.append(taken)
    found[0] += found[1]
    return found[0].reshape(pictures.shape)


def _mixed(
    one: Float32[np.ndarray, "3 images pixels"],
    other: Float32[np.ndarray, "3 images pixels"],
    share: Float32[np.ndarray, "images pixels"],
) -> Float32[np.ndarray, "3 images pixels"]:
    """Gives one + share (other - one), in the memory of `other`."""
    other -= one
    other *= share
    other += one
    return other


def _split(
    place: Float64[np.ndarray, "*places"], length: int
) -> tuple[Int64[np.ndarray, "*places"], Float32[np.ndarray, "*places"]]:
    """The pixel before a place, from -1 (none) to `length` (none), and how far the place lies towards the next."""
    place = np.minimum(np.maximum(place, -1.0), float(length))
    before = np.floor(place)
    return before.astype(np.int64), (place - before).astype(np.float32)


def _places(
    maps: Maps, height: int, width: int
) -> tuple[Float64[np.ndarray, "images pixels"], Float64[np.ndarray, "images pixels"]]:
    x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)[:, None]
    m = maps[:, :, :, None, None]
    places = [m[:, i, 0] * x + (m[:, i, 1] * y + m[:, i, 2]) for i in (0, 1)]
    return places[0].reshape(len(maps), -1), places[1].reshape(len(maps), -1)


def _taken(
    pictures: Float32[np.ndarray, "3 images *pixels"], place: Int64[np.ndarray, "images pixels"]
) -> Float32[np.ndarray, "3 images pixels"]:
    return pictures.reshape(3, -1).take(place, axis=1, mode="clip")


def _stretched(inner: Values, outer: int, centre: Values) -> tuple[Values, Values]:
    """Factor and shift of a box `inner` pixels long, its middle `centre` off the picture's, over `outer` pixels."""
    factor, middle = inner / outer, (outer - 1) / 2
    return factor, middle + centre - factor * middle


def _about_middle(
    a: Values, b: Values, c: Values, d: Values, shift_x: Values, shift_y: Values, size: tuple[int, int]
) -> Maps:
    """(x, y) to [[a, b], [c, d]] (x - middle - shift) + middle."""
    middle_x, middle_y = (size[1] - 1) / 2, (size[0] - 1) / 2
    from_x, from_y = middle_x + shift_x, middle_y + shift_y
    return _matrices(a, b, middle_x - a * from_x - b * from_y, c, d, middle_y - c * from_x - d * from_y)


def _matrices(*rows: Values) -> Maps:
    maps = np.zeros((len(rows[0]), 3, 3))
    maps[:, :2] = np.stack(rows, axis=-1).reshape(-1, 2, 3)
    maps[:, 2, 2] = 1
    return maps
