"""``snrgate denoise PHOTO``: noise is taken out of a photo of the user's, and none is added."""

import dataclasses
import math
import shlex
import shutil
import signal
import zlib
from pathlib import Path
from typing import Annotated

import tyro

from snrgate.lab.commands.denoise import trainings
from snrgate.lab.commands.own_photo_report import as_table, own_picture, verdict
from snrgate.lab.errors import InputError
from snrgate.lab.memory import refuse_beyond_memory
from snrgate.lab.tasks.denoise import Denoise
from snrgate.lab.tasks.mixture import Mixture, middle, mixed
from snrgate.lab.tasks.picture import MIN_SIDE, Picture, read
from snrgate.lab.tasks.picture_file import (
    refuse_file,
    refuse_format,
    same_format,
    write_bytes,
    write_picture,
)
from snrgate.lab.tasks.restoration import noise_level
from snrgate.lab.tasks.tiles import Tiles, tiles
from snrgate.lab.training.figures import to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.interrupt import Stopped
from snrgate.lab.training.tile_fit import tile_fit
from snrgate.lab.training.tile_run import run_tiles, seconds_of_tile

__all__ = ["OwnPhoto", "own_photo"]

LEAST_NOISE = 0.02
"""Estimated noise below which a photo is left alone: fine texture looks the same."""
LEAST_GAIN = 1.0
"""Estimated gain in dB below which a photo is left alone."""

_SIDE = 256  # longest side of a tile, and of the middle part that is estimated
_OVERLAP = 16
_STEPS = 600
_DETAIL = 0.0375  # deviation of the frequencies of the network, in periods a pixel
_HELD_OUT = 0.1  # share of the pixels that the network never learns from
_BYTES = 400  # of memory for a pixel of a photo, at the most


@dataclasses.dataclass(frozen=True)
class OwnPhoto:
    """Take the noise out of a photo of yours."""

    photo: Annotated[Path, tyro.conf.Positional]
    """File of the photo."""
    out: Path | None = None
    """File of the result: .png, .tif, .jpg or .webp; else PHOTO-denoised.png."""
    sigma: float | None = None
    """Deviation of the noise, where you know it, with white as 1; else estimated."""
    crop: int = 0
    """Side of the middle part to denoise alone, as a quick try; 0 for all."""
    overwrite: bool = False
    """Whether results that are there already may be replaced."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        if self.sigma is not None and not 0 < self.sigma <= 1:
            raise InputError(f"sigma = {self.sigma} must be more than 0 and at most 1 (white)")
        if self.crop and self.crop < MIN_SIDE:
            raise InputError(f"crop = {self.crop} must be 0, or at least {MIN_SIDE}")

    @property
    def result(self) -> Path:
        """The file of the result."""
        return self.out or self.photo.with_name(f"{self.photo.stem}-denoised.png")

    @property
    def comparison(self) -> Path:
        """The file of the picture of before and after."""
        return self.result.with_name(f"{self.result.stem}-compare.png")


@dataclasses.dataclass(frozen=True)
class _Kept:
    """The settings on which the tiles in a folder depend."""

    sigma: float
    crop: int


def own_photo(settings: OwnPhoto) -> None:
    """Denoise, write the result and a picture of before and after, and say what was estimated.

    Args:
        settings: the photo, and where the result goes.

    Raises:
        InputError: something cannot be read, used or written.
        Stopped: SIGINT or SIGTERM came. The finished tiles are kept.
    """
    picture = _cropped(read(settings.photo), settings.crop)
    for path in (settings.result, settings.comparison):
        refuse_file(path, settings.photo, overwrite=settings.overwrite)
    refuse_format(settings.result, picture)
    height, width, channels = picture.pixels.shape
    refuse_beyond_memory(
        f"denoising {width} x {height} pixels", height * width * _BYTES, "give --crop 1024"
    )
    sigma = settings.sigma or noise_level(picture.pixels)
    kind = ("grey" if channels == 1 else "colour") + (
        ", alpha is kept" * (picture.alpha is not None)
    )
    source = "as given" if settings.sigma else "estimated"
    print(
        f"{settings.photo}: {width} x {height}, {kind}. Noise {sigma:.3f} of white ({source}), "
        f"{255 * sigma:.1f} of 255 levels."
    )
    if settings.sigma is None and sigma < LEAST_NOISE:
        as_it_is = (
            f"This is below {LEAST_NOISE}, where fine texture cannot be told from noise. Give "
            "--sigma if you know that there is noise, and how strong it is."
        )
        _write_back(settings, picture, as_it_is)
        return
    if picture.deeper:
        print("The file has 16 bits a channel. They are read as 8, and the result has 8.")
    try:
        with RunFolder(settings.result.with_name(f"{settings.result.name}.partial")) as work:
            _finish(settings, picture, sigma, _denoised(settings, picture, sigma, work))
            shutil.rmtree(work.path)
    except OSError as error:
        raise InputError(
            f"cannot write to {settings.result.parent}: {error.strerror or error}"
        ) from error
    except KeyboardInterrupt:
        kept = f"interrupted; finished tiles are kept, continue with: {_command(settings)}"
        raise Stopped(signal.SIGINT, kept) from None


def _denoised(settings: OwnPhoto, picture: Picture, sigma: float, work: RunFolder) -> Mixture:
    """Train the tiles, and mix what they have learned with what else there is."""
    pixels = picture.pixels
    layout = tiles(pixels.shape[:2], _SIDE, _OVERLAP)
    network = Denoise(optimizers=("gated",), steps=_STEPS, fourier_scale=_DETAIL * max(layout.side))
    optimizer = trainings(network)["gated"].optimizer
    fit = tile_fit(network, optimizer, (*layout.side, pixels.shape[-1]), _HELD_OUT)
    kept, fingerprint = _Kept(sigma, settings.crop), zlib.crc32(pixels.tobytes())
    if work.path.exists() and any(work.path.iterdir()):
        work.reopen(kept, fingerprint)
        print(f"Goes on with what is kept in {work.path}.")
    else:
        work.start(kept, fingerprint)
    _say_time(layout, seconds_of_tile(fit, pixels[layout.part(0)]), settings)
    learned = run_tiles(pixels, layout, fit, work, _command(settings))
    return mixed(pixels, learned, layout.held_out(fit.held_out), sigma, middle(pixels.shape, _SIDE))


def _finish(settings: OwnPhoto, picture: Picture, sigma: float, mixture: Mixture) -> None:
    """Write the result, unless it is hardly better than the photo."""
    gain = 10 * math.log10(sigma**2 / mixture.error)
    if settings.sigma is None and gain < LEAST_GAIN:
        as_it_is = f"The gain is estimated at {gain:.1f} dB, less than {LEAST_GAIN:.0f} dB."
        _write_back(settings, picture, as_it_is)
        return
    write_picture(settings.result, mixture.pixels, picture)
    figure = own_picture(picture.pixels, sigma, mixture)
    write_bytes(settings.comparison, to_png(figure))
    print(f"\n{as_table(sigma, mixture)}\n{verdict(mixture)}")
    print(f"The result is {settings.result}; {settings.comparison} shows before and after.")


def _write_back(settings: OwnPhoto, picture: Picture, why: str) -> None:
    """Write the photo as it is: the same bytes where the format is the same."""
    if settings.crop == 0 and same_format(settings.result, settings.photo):
        write_bytes(settings.result, settings.photo.read_bytes())
    else:
        write_picture(settings.result, picture.pixels, picture)
    print(f"The photo is written back as it is, to {settings.result}. {why}")


def _cropped(picture: Picture, side: int) -> Picture:
    if side == 0:
        return picture
    part = middle(picture.pixels.shape, side)
    alpha = None if picture.alpha is None else picture.alpha[part]
    return picture._replace(pixels=picture.pixels[part], alpha=alpha)


def _command(settings: OwnPhoto) -> str:
    """The command that goes on, which is the same as the one that began."""
    words = ["snrgate", "denoise", str(settings.photo), "--out", str(settings.result)]
    words += ["--sigma", str(settings.sigma)] * (settings.sigma is not None)
    words += ["--crop", str(settings.crop)] * (settings.crop > 0)
    words += ["--overwrite"] * settings.overwrite
    return shlex.join(words)


def _say_time(layout: Tiles, seconds: float, settings: OwnPhoto) -> None:
    """The expected time, before the training starts."""
    count, (height, width) = len(layout.corners), layout.side
    total = count * seconds
    if total < 90:
        time = f"{math.ceil(total)} s"
    else:
        time = f"{total / 60:.0f} minutes" if total < 5400 else f"{total / 3600:.1f} hours"
    what = f"{count} tiles of {width} x {height}" if count > 1 else "One tile"
    advice = ""
    if total > 300:
        advice = " --crop 256 tries the middle first. Ctrl-C loses nothing."
    print(f"{what}: about {time} of training on this machine.{advice}", flush=True)
