"""What a network has learned of a photo, mixed with the best result without a network.

The share of each is that of the least estimated error. The estimate needs no clean photo: it uses
pixels that the network never learned from.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from snrgate.annotations import Bool, Float
from snrgate.lab.tasks.restoration import classical, stein, wavelets

__all__ = ["Mixture", "middle", "mixed"]

Pixels = Float[np.ndarray, "height width channels"]

_FLOOR = 1e-3  # of the noise: an estimated error may come out negative, and none is that small


class Mixture(NamedTuple):
    """A denoised photo.

    Attributes:
        pixels: the result, (height, width, channels), not clipped.
        share: share of the network in it, from 0 to 1.
        best: name of the method that has the rest.
        errors: estimated mean squared error of every method by its name, of the network alone
            (``network``) and with wavelets of what it left (``network and wavelets``).
        error: that of the result.
    """

    pixels: np.ndarray
    share: float
    best: str
    errors: dict[str, float]
    error: float


def middle(shape: Sequence[int], side: int) -> tuple[slice, slice]:
    """The rows and columns of the middle of a picture.

    Args:
        shape: begins with height and width.
        side: number of rows and columns at the most.

    Example:
        >>> from snrgate.lab.tasks.mixture import middle
        >>> middle((10, 3), 4)
        (slice(3, 7, None), slice(0, 3, None))
    """
    starts = [max(0, (n - side) // 2) for n in shape[:2]]
    rows, columns = (slice(a, a + min(n, side)) for a, n in zip(starts, shape[:2], strict=True))
    return rows, columns


def mixed(
    pixels: Pixels,
    learned: Pixels,
    held_out: Bool[np.ndarray, "height width"],
    sigma: float,
    part: tuple[slice, slice],
) -> Mixture:
    r"""Mix the network with the best other method.

    With A and B the two results, D the mean of :math:`(A - B)^2`, and a and b their errors, the
    error of :math:`w A + (1 - w) B` is :math:`b + w (a - b - D) + w^2 D`.

    Args:
        pixels: the noisy photo.
        learned: what the network makes of it.
        held_out: pixels that the network has not learned from.
        sigma: standard deviation of the noise.
        part: rows and columns on which everything is estimated.
    """
    here = pixels[part]
    others = classical(here, sigma)
    name = min(others, key=lambda name: others[name].errors.mean())
    best = others[name]

    def with_wavelets(y: np.ndarray, f: np.ndarray) -> np.ndarray:
        return f + wavelets(y - f, sigma)

    ours, our_errors = stein(partial(with_wavelets, f=learned[part]), here, sigma)
    # What is compared on the held-out pixels differs by less than either is known.
    out = held_out[part]
    alone = np.square(learned[part] - here).mean(-1) - sigma**2
    known = float(best.errors.mean())
    gaps = {
        "network": float((alone - best.errors)[out].mean()),
        "network and wavelets": float((our_errors - best.errors)[out].mean()),
    }
    distance = float(np.square(ours - best.pixels)[out].mean())
    gap = gaps["network and wavelets"]
    share = float(np.clip((distance - gap) / (2 * distance), 0, 1)) if distance else 0.0
    error = known + share * (gap - distance) + share**2 * distance
    errors = {name: known + gap for name, gap in gaps.items()}
    errors |= {name: float(other.errors.mean()) for name, other in others.items()}
    floor = _FLOOR * sigma**2
    result = best.denoise(pixels)
    if share:
        result = share * with_wavelets(pixels, learned) + (1 - share) * result
    return Mixture(
        result.astype(np.float32),
        share,
        name,
        {name: max(error, floor) for name, error in errors.items()},
        max(error, floor),
    )
