"""Resizes pictures: rules for the frame cache and for whatever a policy is shown."""

import numpy as np
from jaxtyping import UInt8


def resize(
    images: UInt8[np.ndarray, "*lead _h _w 3"], height: int, width: int
) -> UInt8[np.ndarray, "*lead {height} {width} 3"]:
    """Resize pictures by Lanczos with antialiasing, as Octo's data loading does; those of that size pass untouched.

    PIL's LANCZOS is the kernel of `tf.image.resize(method="lanczos3", antialias=True)` in Octo's `obs_transforms`:
    sinc(x) sinc(x/3), widened when shrinking. PIL rounds and clips between its two passes; on smooth pictures that
    moves a pixel by at most one grey level, on pixel noise by more.
    """
    if images.shape[-3:-1] == (height, width):
        return images
    from PIL import Image

    def one(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))

    if images.ndim == 3:  # of the frame cache: no copy more
        return one(images)
    sized = [one(image) for image in images.reshape(-1, *images.shape[-3:])]
    return np.stack(sized).reshape(*images.shape[:-3], height, width, 3)


def fitted(images: UInt8[np.ndarray, "*lead _h _w 3"], side: int) -> UInt8[np.ndarray, "*lead {side} {side} 3"]:
    """Pictures shrunk or enlarged until they fit into a square, centred on black; a square of that side passes.

    PIL's bilinear kernel, widened when shrinking (antialiased), as openpi_client's `resize_with_pad`: within one grey
    level of `jax.image.resize`, which openpi's model uses. Plain bilinear sampling, as in the ports to torch, is off by
    up to a fifth of the range where a picture is shrunk.
    """
    height, width = images.shape[-3:-1]
    if (height, width) == (side, side):
        return images
    from PIL import Image

    ratio = max(width / side, height / side)
    rows, columns = max(int(height / ratio), 1), max(int(width / ratio), 1)
    top, left = (side - rows) // 2, (side - columns) // 2
    found = np.zeros((*images.shape[:-3], side, side, 3), np.uint8)
    flat, given = found.reshape(-1, side, side, 3), images.reshape(-1, height, width, 3)
    for room, image in zip(flat, given):
        sized = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
        room[top : top + rows, left : left + columns] = np.asarray(sized)
    return found
