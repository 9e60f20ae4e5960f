"""The file that a picture is written to: which formats, what each can hold, and how."""

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.picture import Picture, encode

__all__ = ["refuse_file", "refuse_format", "same_format", "write_bytes", "write_picture"]


class _Format(NamedTuple):
    """A format: its name in Pillow, the settings that lose least, and what it can hold."""

    name: str
    settings: Mapping[str, Any]
    alpha: bool
    deep: bool


_JPEG = _Format("JPEG", {"quality": 95, "subsampling": 0}, alpha=False, deep=False)
_TIFF = _Format("TIFF", {"compression": "tiff_lzw"}, alpha=True, deep=True)
_FORMATS = {
    ".png": _Format("PNG", {}, alpha=True, deep=True),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _Format("WEBP", {"lossless": True}, alpha=True, deep=False),
}


def refuse_file(path: Path, photo: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot be the result, before any work is done.

    Args:
        path: the file to write.
        photo: the file that is read, which is never replaced.
        overwrite: whether another file may be replaced.

    Raises:
        InputError: it is a folder or the photo itself, it is there already, its folder cannot be
            written, or it has an ending that no known format has.
    """
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; give a file, such as {path / f'{photo.stem}-denoised.png'}"
        )
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path} must end in one of {', '.join(_FORMATS)}; give another --out")
    if path.exists() and path.samefile(photo):
        raise InputError(f"{path} is the photo itself, which is kept as it is; give another --out")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already; give another --out, or --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to {path.parent}: {error.strerror}; give another --out"
        ) from error


def refuse_format(path: Path, picture: Picture) -> None:
    """Refuse a format that cannot hold a picture.

    Raises:
        InputError: the picture has alpha or 16 bits, and the format does not.
    """
    kind = _FORMATS[path.suffix.lower()]
    if picture.alpha is not None and not kind.alpha:
        raise InputError(
            f"{path}: {kind.name} keeps no transparency, which the photo has; give --out "
            f"{path.with_suffix('.png')}"
        )
    if picture.levels > 255 and not kind.deep:
        raise InputError(
            f"{path}: {kind.name} keeps 8 bits of the 16 that the photo has; give --out "
            f"{path.with_suffix('.png')}"
        )


def same_format(path: Path, photo: Path) -> bool:
    """Whether a copy of the photo's bytes is a file of the format that the path asks for."""
    with photo.open("rb") as file:
        head = file.read(12)
    kinds = {"PNG": b"\x89PNG", "JPEG": b"\xff\xd8", "WEBP": b"RIFF"}
    kind = _FORMATS[path.suffix.lower()].name
    starts = (b"II*\0", b"MM\0*") if kind == "TIFF" else kinds[kind]
    return head.startswith(starts)


def write_picture(path: Path, pixels: np.ndarray, picture: Picture) -> None:
    """Write pixels with the alpha, the colour profile and the Exif of a picture.

    Args:
        path: the file, whose ending decides the format.
        pixels: (height, width, channels), the height and width of the picture.
        picture: the picture that was read.

    Raises:
        OSError: the file cannot be written.
    """
    kind = _FORMATS[path.suffix.lower()]
    image = encode(pixels, picture.levels, picture.alpha)
    buffer = io.BytesIO()
    image.save(buffer, kind.name, **kind.settings, **picture.beside)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, replacing an old one only when the new one is complete.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
