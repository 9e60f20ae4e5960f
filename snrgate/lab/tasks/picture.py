"""Read pictures of any kind as floats in [0, 1], and write pictures of the same kind."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import skimage.data
import skimage.transform
from PIL import Image, ImageOps

from snrgate.lab.errors import InputError
from snrgate.lab.memory import refuse_beyond_memory

__all__ = ["MIN_SIDE", "PHOTOS", "Picture", "encode", "load", "read", "shrink"]

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
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_BYTES = 48  # of memory for a pixel while a picture is read


class Picture(NamedTuple):
    """A picture as numbers, with what its file says beside them.

    Attributes:
        pixels: float32 in [0, 1], shape (height, width, channels), with 1 or 3 channels.
        levels: value that 1.0 stands for in the file, 255 or 65535.
        alpha: opacity in [0, 1], shape (height, width, 1); ``None`` where the file has none.
        beside: colour profile and Exif of the file, as keywords of Pillow's ``save``.
        deeper: whether the file has 16 bits a channel, of which Pillow reads 8.
    """

    pixels: np.ndarray
    levels: int
    alpha: np.ndarray | None = None
    beside: Mapping[str, bytes] = MappingProxyType({})
    deeper: bool = False


def load(image: str) -> Picture:
    """Read a picture by the name of a shipped photo, or from a file.

    As :func:`read`, but without alpha: a transparent part is laid on white.

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
        return Picture((values / 255).astype(np.float32), 255)
    picture = read(Path(image), f"give a file, or one of {', '.join(PHOTOS)}")
    if picture.alpha is None:
        return picture
    on_white = picture.pixels * picture.alpha + (1 - picture.alpha)
    return picture._replace(pixels=on_white, alpha=None)


def read(path: Path, instead: str = "give the path of a picture") -> Picture:
    """Read a picture file.

    Grey stays grey. Palettes, CMYK and the like become RGB. The picture is turned as the camera's
    orientation mark says. The first of several frames counts. Grey keeps 16 bits; Pillow reads
    colour with 8 bits.

    Args:
        path: the file. What it holds decides the format, whatever its name ends in.
        instead: what to do where there is no such file, for the error.

    Raises:
        InputError: there is no such file, it is no picture, it does not fit into memory, or it is
            smaller than :data:`MIN_SIDE`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns that a big picture may be an attack, but the user chose this file.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                _refuse_size(path, *file.size)
                file.load()
                return _convert(file, path)
    except FileNotFoundError:
        raise InputError(f"there is no image {path}; {instead}") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"image {path} is too large: {error}") from error
    # The decoders of Pillow raise many kinds of errors on a broken file.
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError) as error:
        reason = getattr(error, "strerror", None) or "not a picture that Pillow can read"
        raise InputError(f"image {path} cannot be read: {reason}") from error


def _refuse_size(path: Path, width: int, height: int) -> None:
    """Refuse a picture by what its header says, before its pixels are read."""
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"image {path} is {width} x {height}; it needs at least {MIN_SIDE} pixels a side"
        )
    refuse_beyond_memory(
        f"image {path} of {width} x {height}", width * height * _BYTES, "give a smaller one"
    )


def _convert(file: Image.Image, path: Path) -> Picture:
    upright = ImageOps.exif_transpose(file)
    if file.mode in _DEEP_GREY:
        values = np.asarray(upright).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"image {path} has values outside 0 to 65535; save it with 16 bits")
        grey = (values / 65535).astype(np.float32)[..., None]
        return Picture(grey, 65535, None, _beside(upright))
    if file.mode == "F":
        values = np.asarray(upright, np.float32)
        if not (values.min() >= 0 and values.max() <= 1):
            raise InputError(f"image {path} has float values outside [0, 1]; scale it first")
        return Picture(values[..., None], 65535, None, _beside(upright))
    grey = file.mode in ("1", "L", "LA", "La")
    transparent = file.mode in _WITH_ALPHA or "transparency" in file.info
    rgba = np.asarray(upright.convert("RGBA"), np.float32) / 255
    pixels, alpha = rgba[..., : 1 if grey else 3], rgba[..., 3:]
    return Picture(
        pixels, 255, alpha if transparent else None, _beside(upright), _has_16_bits(file, path)
    )


def _beside(upright: Image.Image) -> dict[str, bytes]:
    """The colour profile and the Exif of a picture that has been turned upright.

    The profile of CMYK does not belong to the RGB that becomes of it.
    """
    found = {"exif": upright.getexif().tobytes() if upright.getexif() else b""}
    if upright.mode not in ("CMYK", "LAB", "YCbCr"):
        found["icc_profile"] = upright.info.get("icc_profile") or b""
    return {name: value for name, value in found.items() if value}


def _has_16_bits(file: Image.Image, path: Path) -> bool:
    """Whether a colour picture has more bits than the 8 that Pillow reads."""
    if file.format == "PNG":
        with path.open("rb") as stream:
            return stream.read(25)[24] == 16  # the bit depth, in the header of every PNG
    bits = getattr(file, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    return max(bits, default=8) > 8


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


def encode(pixels: np.ndarray, levels: int, alpha: np.ndarray | None = None) -> Image.Image:
    """A Pillow image with the range of values of the file that was read.

    Args:
        pixels: (height, width, channels), clipped to [0, 1].
        levels: 255, or 65535 for grey.
        alpha: opacity, (height, width, 1), where there are 255 levels.

    Example:
        >>> import numpy as np
        >>> from snrgate.lab.tasks.picture import encode
        >>> encode(np.full((2, 2, 1), 0.5), 65535).getpixel((0, 0))
        32768
    """
    joined = pixels if alpha is None else np.concatenate((pixels, alpha), -1)
    values = np.rint(np.clip(joined, 0, 1) * levels).astype(
        np.uint8 if levels == 255 else np.uint16
    )
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
