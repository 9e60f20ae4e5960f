"""The report of a denoising run: the numbers, a table, and a figure of photos and curves."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from snrgate.lab.tasks.denoise import NoisyPhoto, psnr

__all__ = ["Panel", "as_markdown", "panels", "run_picture", "show", "summarise", "table"]

LABELS = {"adamw": "AdamW", "gated": "gated AdamW"}
_COLOURS = {"adamw": "#b4532a", "gated": "#1f5f8b"}  # apart in grey and for the colour-blind


def summarise(photo: NoisyPhoto, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first and last numbers of a run.

    Args:
        photo: the photo with and without noise.
        rows: the metrics.

    Returns:
        For each optimizer its last row and its best row. Also the PSNR of two pictures that need
        no training: the noisy one, and its mean colour.
    """
    optimizers = {}
    for name in LABELS:
        if measured := [row for row in rows if row["optimizer"] == name]:
            best = max(measured, key=lambda row: row["psnr"])
            optimizers[name] = {"last": measured[-1], "best": best}
    flat = jnp.broadcast_to(photo.noisy.mean((0, 1), keepdims=True), photo.clean.shape)
    return {
        "optimizers": optimizers,
        "noisy_psnr": float(psnr(photo.noisy, photo.clean)),
        "mean_psnr": float(psnr(flat, photo.clean)),
    }


def as_markdown(summary: Mapping[str, Any]) -> str:
    r"""The summary as a markdown table.

    Args:
        summary: of :func:`summarise`, with the PSNR of the methods of ``scikit_image`` by name.

    Example:
        >>> from snrgate.lab.commands.photo_report import as_markdown
        >>> summary = {"noisy_psnr": 14.9, "mean_psnr": 11.1, "optimizers": {}}
        >>> print(as_markdown(summary | {"scikit_image": {"wavelets": 24.5}}).split("\n\n")[0])
        | picture                 | step | PSNR (dB) |
        |:------------------------|-----:|----------:|
        | the noisy photo         |      |     14.90 |
        | its mean colour         |      |     11.10 |
        | scikit-image's wavelets |      |     24.50 |
    """
    lines = [
        ("picture", "step", "PSNR (dB)"),
        ("the noisy photo", "", f"{summary['noisy_psnr']:.2f}"),
        ("its mean colour", "", f"{summary['mean_psnr']:.2f}"),
    ]
    for name, row in summary["optimizers"].items():
        for which, text in (("best", "best step*"), ("last", "last step")):
            value = row[which]
            lines.append((f"{LABELS[name]}, {text}", str(value["step"]), f"{value['psnr']:.2f}"))
    for name, value in summary["scikit_image"].items():
        lines.append((f"scikit-image's {name}", "", f"{value:.2f}"))
    return table(lines) + "\n\\* chosen with the clean photo, which nobody has in earnest.\n"


def table(lines: Sequence[Sequence[str]]) -> str:
    """A markdown table whose first column is words, and whose others are numbers.

    Args:
        lines: the cells of the header and of every row.
    """
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    header, *rows = (
        " | ".join([f"| {a:<{first}}", *(f"{x:>{n}}" for x, n in zip(rest, others, strict=True))])
        + " |"
        for a, *rest in lines
    )
    rule = "|".join([f"|:{'-' * (first + 1)}", *(f"{'-' * (n + 1)}:" for n in others)]) + "|"
    return "\n".join([header, rule, *rows]) + "\n"


class Panel(NamedTuple):
    """One photo and the lines under it."""

    pixels: np.ndarray
    caption: str


def panels(
    photo: NoisyPhoto,
    summary: Mapping[str, Any],
    last: Mapping[str, np.ndarray],
    best: Mapping[str, np.ndarray],
) -> list[Panel]:
    """The photos of a run with their captions.

    Args:
        photo: the photo with and without noise.
        summary: of :func:`summarise`.
        last: the picture of each network after the last step.
        best: the picture of each network after the step with the best PSNR.
    """
    shown = [
        Panel(photo.clean, "clean\n(never seen in training)"),
        Panel(photo.noisy, f"noisy\n{summary['noisy_psnr']:.2f} dB"),
    ]
    for name, rows in summary["optimizers"].items():
        if name == "adamw":
            row = rows["best"]
            caption = f"AdamW, best step {row['step']}\n{row['psnr']:.2f} dB (by oracle)"
            shown.append(Panel(best[name], caption))
        row = rows["last"]
        caption = f"{LABELS[name]}, last step {row['step']}\n{row['psnr']:.2f} dB"
        shown.append(Panel(last[name], caption))
    return shown


def run_picture(
    shown: Sequence[Panel],
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> Figure:
    """The figure of a run, with the photos above the curves over the steps.

    Args:
        shown: photos, (height, width, channels) in [0, 1], with captions.
        rows: the metrics, as in the run folder.
        summary: of :func:`summarise`. A picture that needs no training is a horizontal line.

    Returns:
        The figure.
    """
    height, width, _ = shown[0].pixels.shape
    photo = 2.6 * min(max(height / width, 0.5), 2)  # inches
    across = max(2.6 * len(shown) + 0.4, 8)
    figure = Figure(figsize=(across, photo + 3.8), layout="constrained")
    rows_of_figures: Any = figure.subfigures(2, 1, height_ratios=[photo + 0.6, 3.2])
    above, below = rows_of_figures
    for axes, panel in zip(above.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        show(axes, panel)
    left, right = below.subplots(1, 2)
    _curves(left, rows, "psnr", "PSNR (dB)")
    best = max(summary["scikit_image"].values())
    for value, label, style in (
        (best, "scikit-image's best", "-."),
        (summary["noisy_psnr"], "noisy photo", ":"),
        (summary["mean_psnr"], "its mean colour", "--"),
    ):
        left.axhline(value, color="0.45", linestyle=style, linewidth=1, label=label)
    _curves(right, rows, "gate_fraction", "gate fraction")
    right.set_yscale("log")
    _plain_numbers(right.yaxis)
    handles, labels = left.get_legend_handles_labels()
    below.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def show(axes: Axes, panel: Panel) -> None:
    """Draw one photo, with its lines under it."""
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
        measured = [row for row in rows if row["optimizer"] == name]
        if measured:
            # An optimizer without a gate lets everything through.
            values = [row.get(key, 1.0) for row in measured]
            axes.plot([row["step"] for row in measured], values, color=_COLOURS[name], label=text)
    axes.set_xscale("log")  # AdamW is at its best in the first hundred steps of thousands
    _plain_numbers(axes.xaxis)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5, so that a short axis has labels too."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
