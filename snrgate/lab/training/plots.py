"""The picture of a run: the photos side by side, and how they came about."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from snrgate.lab.training.report import LABELS

__all__ = ["Panel", "run_picture", "to_png"]


_COLOURS = {"adamw": "#b4532a", "gated": "#1f5f8b"}  # apart in grey and for the colour-blind


class Panel(NamedTuple):
    """One photo and the lines under it."""

    pixels: np.ndarray
    caption: str


def run_picture(
    panels: Sequence[Panel],
    rows: Sequence[Mapping[str, Any]],
    levels: Mapping[str, float],
) -> Figure:
    """Photos above, curves over the steps below.

    Args:
        panels: photos, (height, width, channels) in [0, 1], with captions.
        rows: the metrics, as in the run folder.
        levels: horizontal lines in the PSNR curves, by label; only drawn where there is a PSNR.

    Returns:
        The figure.
    """
    height, width, _ = panels[0].pixels.shape
    photo = 2.6 * min(max(height / width, 0.5), 2)  # inches
    across = max(2.6 * len(panels) + 0.4, 8)
    figure = Figure(figsize=(across, photo + 3.8), layout="constrained")
    rows_of_figures: Any = figure.subfigures(2, 1, height_ratios=[photo + 0.6, 3.2])
    above, below = rows_of_figures
    for axes, panel in zip(above.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _show(axes, panel)
    left, right = below.subplots(1, 2)
    if "psnr" in rows[0]:
        _curves(left, rows, "psnr", "PSNR (dB)")
        for (label, value), style in zip(levels.items(), (":", "--"), strict=False):
            left.axhline(value, color="0.45", linestyle=style, linewidth=1, label=label)
    else:
        _curves(left, rows, "loss", "training loss")
        left.set_yscale("log")
        _plain_numbers(left.yaxis)
    _curves(right, rows, "gate_fraction", "gate fraction")
    right.set_yscale("log")
    _plain_numbers(right.yaxis)
    handles, labels = left.get_legend_handles_labels()
    below.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _show(axes: Axes, panel: Panel) -> None:
    pixels = np.clip(panel.pixels, 0, 1)
    axes.imshow(
        pixels[..., 0] if pixels.shape[-1] == 1 else pixels,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(panel.caption, fontsize=10)


def _curves(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    for name, text in LABELS.items():
        own = [row for row in rows if row["optimizer"] == name]
        if own:
            # An optimizer without a gate lets everything through.
            values = [row.get(key, 1.0) for row in own]
            axes.plot([row["step"] for row in own], values, color=_COLOURS[name], label=text)
    axes.set_xscale("log")  # AdamW is at its best in the first hundred steps of thousands
    _plain_numbers(axes.xaxis)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5, which fits however short it is."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
