"""Colour operations on planes [3, N, P] float32 of 0 to 1: red, green and blue of N pictures with P pixels each.

Each takes an amount for each picture, [N, 1], changes the planes where that is cheaper, and returns planes within 0
to 1. Pure numpy; a picture's result depends on nothing but its own pixels and amounts.

Hue, saturation and value are those of A. R. Smith, "Color gamut transform pairs" (SIGGRAPH 1978): value v = max,
chroma r = max - min, saturation r / v.
"""

import numpy as np
from jaxtyping import Float32

type Planes = Float32[np.ndarray, "3 images pixels"]
type Plane = Float32[np.ndarray, "images pixels"]
type Amounts = Float32[np.ndarray, "images 1"]

_ZERO, _ONE, _TINY = np.float32(0), np.float32(1), np.float32(1e-30)
_MIDDLES, _SLOPES, _STARTS = (
    np.array(each, np.float32)[:, None, None] for each in ((3, 2, 4), (1, -1, -1), (-1, 2, 2))
)
_GREY = (np.float32(0.2989), np.float32(0.587), np.float32(0.114))
"""Luma of ITU-R BT.601 as torchvision rounds it (`rgb_to_grayscale`)."""


def clipped(planes: Planes) -> Planes:
    """The planes, cut to 0 to 1 in place."""
    return np.clip(planes, _ZERO, _ONE, out=planes)


def brightness_offset(planes: Planes, delta: Amounts) -> Planes:
    """Adds `delta`: TensorFlow's `adjust_brightness`."""
    planes += delta
    return clipped(planes)


def contrast_by_channel(planes: Planes, factor: Amounts) -> Planes:
    """Gives (x - m) factor + m, m the mean of each colour over the picture: TensorFlow's `adjust_contrast`."""
    means = planes.mean(axis=2, keepdims=True)
    planes *= factor
    planes += means * (_ONE - factor)
    return clipped(planes)


def saturation_hsv(planes: Planes, factor: Amounts) -> Planes:
    """Saturation in HSV times `factor`, at most 1: TensorFlow's `adjust_saturation`.

    With hue and value kept, each colour's distance from the value changes by the same ratio as the saturation.
    """
    value, chroma = _value_and_chroma(planes)
    most = value / np.maximum(chroma, _TINY)
    np.minimum(most, factor, out=most)
    np.subtract(value, planes, out=planes)
    planes *= most
    return np.subtract(value, planes, out=planes)


def hue(planes: Planes, turn: Amounts) -> Planes:
    """Hue turned by `turn` of the circle, saturation and value kept: `adjust_hue` of TensorFlow and torchvision."""
    value, chroma = _value_and_chroma(planes)
    return _from_hue(planes, _hue_sixths(planes, value, chroma) + np.float32(6) * turn, value, chroma)


def brightness(planes: Planes, factor: Amounts) -> Planes:
    """Multiplies by `factor`: torchvision's `adjust_brightness`."""
    planes *= factor
    return clipped(planes)


def contrast(planes: Planes, factor: Amounts) -> Planes:
    """Gives x factor + m (1 - factor), m the mean grey of the picture: torchvision's `adjust_contrast`."""
    mean = _grey(planes).mean(axis=1, keepdims=True)
    planes *= factor
    planes += mean * (_ONE - factor)
    return clipped(planes)


def saturation(planes: Planes, factor: Amounts) -> Planes:
    """Gives x factor + g (1 - factor), g the pixel's grey: torchvision's `adjust_saturation`."""
    grey = _grey(planes)
    grey *= _ONE - factor
    planes *= factor
    planes += grey
    return clipped(planes)


def sharpness(planes: Planes, factor: Amounts, height: int) -> Planes:
    """Gives x factor + b (1 - factor), b the picture blurred: torchvision's `adjust_sharpness`.

    b is the mean of the 3x3 pixels around, the middle counting five times; pixels at the border stay as they are, and
    so do pictures of fewer than three pixels on a side.
    """
    pictures = planes.reshape(3, planes.shape[1], height, -1)
    if min(pictures.shape[2:]) <= 2:
        return planes
    inside = pictures[:, :, 1:-1, 1:-1]
    across = pictures[:, :, :, :-2] + pictures[:, :, :, 1:-1]
    across += pictures[:, :, :, 2:]
    blurred = across[:, :, :-2] + across[:, :, 1:-1]
    blurred += across[:, :, 2:]
    blurred += np.float32(4) * inside
    blurred *= np.float32(1 / 13)
    blurred -= inside
    blurred *= (_ONE - factor)[:, :, None]
    inside += blurred
    return clipped(planes)


def hsv_jitter(planes: Planes, brightness: Amounts, contrast: Amounts, turn: Amounts) -> Planes:
    """The `ColorJitter` of augmax: brightness and contrast of the HSV value, then the hue.

    The value moves towards 0 or 1 by the share `brightness`; `contrast` c bends it by a curve of three straight pieces
    through (0, 0), (1/2, 1/2) and (1, 1), of slope s = tan((1 + c) pi/4) in the middle and 1/s outside. Saturation is
    kept.
    """
    value, chroma = _value_and_chroma(planes)
    sixths = _hue_sixths(planes, value, chroma) + np.float32(6) * turn
    changed = value * (_ONE - np.abs(brightness))
    changed += np.maximum(brightness, _ZERO)
    slope = np.tan((contrast + _ONE) * np.float32(np.pi / 4))
    dark = changed / slope
    bright = dark + (_ONE - _ONE / slope)
    changed -= np.float32(0.5)
    changed *= slope
    changed += np.float32(0.5)
    # The middle piece, between the two outer ones: which of those is the lower one, the slope decides.
    changed = np.minimum(np.maximum(changed, np.minimum(dark, bright)), np.maximum(dark, bright))
    chroma *= changed / np.maximum(value, _TINY)
    return _from_hue(planes, sixths, changed, chroma)


def _grey(planes: Planes) -> Plane:
    grey = planes[0] * _GREY[0]
    grey += planes[1] * _GREY[1]
    grey += planes[2] * _GREY[2]
    return grey


def _value_and_chroma(planes: Planes) -> tuple[Plane, Plane]:
    red, green, blue = planes
    value, least = np.maximum(red, green), np.minimum(red, green)
    np.maximum(value, blue, out=value)
    np.minimum(least, blue, out=least)
    return value, np.subtract(value, least, out=least)


def _hue_sixths(planes: Planes, value: Plane, chroma: Plane) -> Plane:
    """Hue in sixths of the circle, -1 to 5; 0 for greys. By factors of 0 and 1, as choosing by element is slow."""
    red, green, blue = planes
    is_red = (value == red).astype(np.float32)
    is_green = (value == green).astype(np.float32)
    is_green *= _ONE - is_red
    is_blue = _ONE - is_red
    is_blue -= is_green
    sixths = (green - blue) * is_red
    sixths += (blue - red) * is_green
    sixths += (red - green) * is_blue
    sixths /= np.maximum(chroma, _TINY)
    is_green += is_blue
    is_green += is_blue
    is_green *= np.float32(2)
    return np.add(sixths, is_green, out=sixths)


def _from_hue(planes: Planes, sixths: Plane, value: Plane, chroma: Plane) -> Planes:
    """A colour is v - r + r t(h) for the hue h in sixths, 0 to 6.

    t is cut to 0 to 1, of |h - 3| - 1 for red, 2 - |h - 2| for green and 2 - |h - 4| for blue.
    """
    turns = np.floor(sixths * np.float32(1 / 6))
    turns *= np.float32(6)
    sixths -= turns
    np.subtract(sixths, _MIDDLES, out=planes)
    np.abs(planes, out=planes)
    planes *= _SLOPES
    planes += _STARTS
    clipped(planes)
    planes *= chroma
    planes += value - chroma
    return planes
