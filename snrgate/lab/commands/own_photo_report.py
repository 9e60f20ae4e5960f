"""The report of a user's photo: a table of estimates, and before, after and what was removed."""

import math

import numpy as np
from matplotlib.figure import Figure

from snrgate.lab.commands.photo_report import Panel, show, table
from snrgate.lab.tasks.mixture import Mixture, middle

__all__ = ["as_table", "own_picture", "verdict"]

_SHOWN = 512  # pixels of a side; of a larger photo the middle is shown
_SPREAD = 3  # standard deviations of the noise from grey to black


def as_table(sigma: float, mixture: Mixture) -> str:
    """The estimated PSNR of the photo, of the result and of every method, as a markdown table.

    Args:
        sigma: standard deviation of the noise.
        mixture: the result.
    """
    best_first = sorted(mixture.errors, key=mixture.errors.__getitem__)
    errors = {"the photo": sigma**2, "the result": mixture.error}
    errors |= {_said(name): mixture.errors[name] for name in best_first}
    lines = [(name, f"{_psnr(error):.1f}") for name, error in errors.items()]
    return table([("picture", "PSNR, estimated (dB)"), *lines])


def verdict(mixture: Mixture) -> str:
    """What the network was good for, in a sentence.

    Args:
        mixture: the result.
    """
    best = _said(mixture.best)
    more = _psnr(mixture.error) - _psnr(mixture.errors[mixture.best])
    network = _psnr(mixture.errors["network and wavelets"])
    behind = _psnr(mixture.errors[mixture.best]) - network
    compared = (
        f"By the estimate {best} alone is {behind:.1f} dB better than the network with wavelets."
        if behind > 0
        else f"By the estimate the network with wavelets is {-behind:.1f} dB better than {best}."
    )
    if mixture.share < 0.005:
        return f"{compared} The result is {best} alone: the network adds nothing here."
    return (
        f"{compared} The result is a mean of the two, the network's share {mixture.share:.0%}: "
        f"{more:.1f} dB more than {best} alone."
    )


def own_picture(pixels: np.ndarray, sigma: float, mixture: Mixture) -> Figure:
    """Before, after and what was removed, side by side.

    Args:
        pixels: the photo, (height, width, channels).
        sigma: standard deviation of the noise.
        mixture: the result.
    """
    part = middle(pixels.shape, _SHOWN)
    before, after = pixels[part], np.clip(mixture.pixels[part], 0, 1)
    removed = 0.5 + (before - after) / (2 * _SPREAD * sigma)
    height, width, _ = before.shape
    where = "" if (height, width) == pixels.shape[:2] else f", the middle {width} x {height}"
    shown = [
        Panel(before, f"before{where}\nnoise {sigma:.3f}, {_psnr(sigma**2):.1f} dB"),
        Panel(after, f"after\n{_psnr(mixture.error):.1f} dB (estimated)"),
        Panel(removed, f"removed\n(grey is nothing, black and white {_SPREAD} x the noise)"),
    ]
    figure = Figure(
        figsize=(12.4, 3.9 * min(max(height / width, 0.3), 2) + 1.1), layout="constrained"
    )
    for axes, panel in zip(figure.subplots(1, 3), shown, strict=True):
        show(axes, panel)
    best = _psnr(mixture.errors[mixture.best])
    figure.suptitle(
        f"Estimated: {_psnr(mixture.error):.1f} dB; {_said(mixture.best)} alone {best:.1f} dB, the "
        f"network with wavelets {_psnr(mixture.errors['network and wavelets']):.1f} dB",
        fontsize=11,
    )
    return figure


def _said(name: str) -> str:
    return name if name.startswith("network") else f"scikit-image's {name}"


def _psnr(error: float) -> float:
    return -10 * math.log10(error)
