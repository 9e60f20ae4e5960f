"""Read pictures of any kind as floats in [0, 1], and write pictures of the same kind."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage.data
import skimage.transform
from PIL import Image, ImageOps

from snrgate.lab.errors import InputError

__all__ = ["MIN_SIDE", "PHOTOS", "Picture", "encode", "load", "shrink"]

MIN_SIDE = 16
"""Least number of pixels on the shorter side: a smaller picture teaches nothing."""

PHOTOS = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "moon",
    "page",
    "retina",
    "rocket",
    "text",
)
"""Names of the pictures that come with scikit-image."""

_DEEP_GREY = ("I", "I;16", "I;16L", "I;16B")


class Picture(NamedTuple):
    """A picture as numbers.

    Attributes:
        pixels: float32 in [0, 1], shape (height, width, channels), with 1 or 3 channels.
        levels: value that 1.0 stands for in the file, 255 or 65535.
    """

    pixels: np.ndarray
    levels: int


def load(image: str) -> Picture:
    """Read a picture by the name of a shipped photo, or from a file.

    Grey stays grey. Palettes, CMYK and the like become RGB. A transparent part is laid on white.
    The picture is turned as the camera's orientation mark says. The first of several frames
    counts. Grey keeps 16 bits; Pillow reads colour with 8 bits.

    Args:
        image: a name of :data:`PHOTOS`, or a path. A name of a photo wins over a file.

    Raises:
        InputError: there is no such file, it is no picture, or the picture is smaller than
            :data:`MIN_SIDE`.

    Example:
        >>> from snrgate.lab.tasks.picture import load
        >>> load("coins").pixels.shape
        (303, 384, 1)
    """
    if image in PHOTOS:
        values = getattr(skimage.data, image)()
        values = np.asarray(values)[..., None] if values.ndim == 2 else np.asarray(values)
        picture = Picture((values / 255).astype(np.float32), 255)
    else:
        picture = _read(Path(image))
    height, width, _ = picture.pixels.shape
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"image {image} is {width} x {height}; it needs at least {MIN_SIDE} pixels a side"
        )
    return picture


def _read(path: Path) -> Picture:
    try:
        with warnings.catch_warnings():
            # Pillow warns that a big picture may be an attack, but the user chose this file.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                file.load()
                return _convert(ImageOps.exif_transpose(file), path)
    except FileNotFoundError:
        raise InputError(
            f"there is no image {path}; give a file, or one of {', '.join(PHOTOS)}"
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"image {path} is too large: {error}") from error
    # The decoders of Pillow raise many kinds of errors on a broken file.
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError) as error:
        reason = getattr(error, "strerror", None) or "not a picture that Pillow can read"
        raise InputError(f"image {path} cannot be read: {reason}") from error


def _convert(file: Image.Image, path: Path) -> Picture:
    if file.mode in _DEEP_GREY:
        values = np.asarray(file).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"image {path} has values outside 0 to 65535; save it with 16 bits")
        return Picture((values / 65535).astype(np.float32)[..., None], 65535)
    if file.mode == "F":
        values = np.asarray(file, np.float32)
        if not (values.min() >= 0 and values.max() <= 1):
            raise InputError(f"image {path} has float values outside [0, 1]; scale it first")
        return Picture(values[..., None], 65535)
    grey = file.mode in ("1", "L", "LA", "La")
    rgba = np.asarray(file.convert("RGBA"), np.float32) / 255
    alpha = rgba[..., 3:]
    pixels = rgba[..., : 1 if grey else 3] * alpha + (1 - alpha)
    return Picture(pixels.astype(np.float32), 255)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """The picture, shrunk so that its longer side is at most ``size`` pixels.

    It is smoothed before it is sampled.

    Args:
        pixels: (height, width, channels).
        size: pixels; 0 keeps the picture as it is. The shorter side keeps at least
            :data:`MIN_SIDE` pixels.

    Example:
        >>> import numpy as np
        >>> from snrgate.lab.tasks.picture import shrink
        >>> shrink(np.zeros((200, 100, 1), np.float32), 50).shape
        (50, 25, 1)
    """
    height, width, channels = pixels.shape
    longest = max(height, width)
    if size == 0 or longest <= size:
        return pixels
    shape = tuple(max(MIN_SIDE, round(n * size / longest)) for n in (height, width))
    small = skimage.transform.resize(pixels, (*shape, channels), anti_aliasing=True)
    return np.clip(small, 0, 1).astype(np.float32)


def encode(pixels: np.ndarray, levels: int) -> Image.Image:
    """A Pillow image with the range of values of the file that was read.

    Args:
        pixels: (height, width, channels), clipped to [0, 1].
        levels: 255, or 65535 for grey.

    Example:
        >>> import numpy as np
        >>> from snrgate.lab.tasks.picture import encode
        >>> encode(np.full((2, 2, 1), 0.5), 65535).getpixel((0, 0))
        32768
    """
    values = np.rint(np.clip(pixels, 0, 1) * levels).astype(
        np.uint8 if levels == 255 else np.uint16
    )
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
