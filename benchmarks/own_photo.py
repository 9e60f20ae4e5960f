"""What `snrgate denoise PHOTO` comes to on photos with known noise.

    python benchmarks/own_photo.py

The photos are others than those on which the command was made. They are shrunk to 160 pixels and
written with 8 bits, noise and all, as a camera would. The table is ``results/denoise/own.md``.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from snrgate.lab.commands.own_photo import OwnPhoto, own_photo
from snrgate.lab.tasks.picture import encode, load, shrink
from snrgate.lab.tasks.restoration import classical, noise_level

SIDE = 160
HEADER = (
    "photo",
    "noise",
    "as given",
    "result",
    "wavelets",
    "total variation",
    "non-local means",
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The command on photos of scikit-image with added noise."""

    photos: tuple[str, ...] = ("chelsea", "coffee", "rocket", "moon", "brick", "retina")
    """Photos of scikit-image."""
    noises: tuple[float, ...] = (0.0, 0.0137, 0.05, 0.1)
    """Standard deviations of the noise."""
    seed: int = 0
    """Seed of the noise."""
    out: Path = Path("results/denoise/own.md")
    """File of the table."""


def psnr(pixels: np.ndarray, clean: np.ndarray) -> str:
    """The distance from the photo without noise in dB, or that there is none."""
    error = float(np.mean(np.square(np.clip(pixels, 0, 1) - clean)))
    return f"{-10 * np.log10(error):.1f}" if error else "same"


def row(name: str, noise: float, seed: int, folder: Path) -> list[str]:
    """One line of the table."""
    clean = np.rint(255 * shrink(load(name).pixels, SIDE)) / 255
    noisy = clean + noise * np.random.default_rng(seed).standard_normal(clean.shape)
    photo, result = folder / "photo.png", folder / "result.png"
    encode(noisy, 255).save(photo)
    own_photo(OwnPhoto(photo, result, overwrite=True))
    given, got = (np.asarray(Image.open(p)).reshape(clean.shape) / 255 for p in (photo, result))
    cells = [name, f"{noise:g}", psnr(given, clean), psnr(got, clean)]
    if np.array_equal(given, got):
        cells[-1] += ", left alone"
    others = classical(given.astype(np.float32), max(noise_level(given), 1e-3))
    return [*cells, *(psnr(others[other].pixels, clean) for other in HEADER[4:])]


def main(settings: Measured) -> None:
    """Measure, and write the table after every line."""
    lines = [HEADER, tuple([":--"] + ["--:"] * (len(HEADER) - 1))]
    for noise in reversed(settings.noises):
        for name in settings.photos:
            with tempfile.TemporaryDirectory() as folder:
                lines.append(tuple(row(name, noise, settings.seed, Path(folder))))
            print(lines[-1], flush=True)
            text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
            settings.out.write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Measured))
