"""What a denoising run came to, as numbers and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from snrgate.lab.tasks.denoise import NoisyPhoto, psnr

__all__ = ["LABELS", "as_markdown", "summarise"]

LABELS = {"adamw": "AdamW", "gated": "gated AdamW"}


def summarise(photo: NoisyPhoto, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first and last numbers of a run.

    Args:
        photo: the photo with and without noise.
        rows: the metrics.

    Returns:
        For each optimizer its last row and, where there is a clean photo, its best one; and the
        PSNR of the two pictures that need no training, the noisy one and its mean colour.
    """
    optimizers = {}
    for name in LABELS:
        if own := [row for row in rows if row["optimizer"] == name]:
            optimizers[name] = {"last": own[-1]}
            if photo.clean is not None:
                optimizers[name]["best"] = max(own, key=lambda row: row["psnr"])
    summary: dict[str, Any] = {"optimizers": optimizers}
    if photo.clean is not None:
        flat = jnp.broadcast_to(photo.noisy.mean((0, 1), keepdims=True), photo.clean.shape)
        summary["noisy_psnr"] = float(psnr(photo.noisy, photo.clean))
        summary["mean_psnr"] = float(psnr(flat, photo.clean))
    return summary


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The summary as a markdown table.

    Example:
        >>> from snrgate.lab.training.report import as_markdown
        >>> last = {"step": 9, "loss": 0.5}
        >>> print(as_markdown({"optimizers": {"adamw": {"last": last}}}), end="")
        | picture          | step | training loss |
        |:-----------------|-----:|--------------:|
        | AdamW, last step |    9 |        0.5000 |
    """
    if "noisy_psnr" not in summary:
        header = ("picture", "step", "training loss")
        lines = [
            (f"{LABELS[name]}, last step", str(row["last"]["step"]), f"{row['last']['loss']:.4f}")
            for name, row in summary["optimizers"].items()
        ]
        return _table([header, *lines])
    lines = [
        ("picture", "step", "PSNR (dB)"),
        ("the noisy photo", "", f"{summary['noisy_psnr']:.2f}"),
        ("its mean colour", "", f"{summary['mean_psnr']:.2f}"),
    ]
    for name, row in summary["optimizers"].items():
        for which, text in (("best", "best step*"), ("last", "last step")):
            value = row[which]
            lines.append((f"{LABELS[name]}, {text}", str(value["step"]), f"{value['psnr']:.2f}"))
    return _table(lines) + "\n\\* chosen with the clean photo, which nobody has in earnest.\n"


def _table(lines: Sequence[tuple[str, str, str]]) -> str:
    first, second, third = (max(map(len, column)) for column in zip(*lines, strict=True))
    header, *rows = (f"| {a:<{first}} | {b:>{second}} | {c:>{third}} |" for a, b, c in lines)
    rule = f"|:{'-' * (first + 1)}|{'-' * (second + 1)}:|{'-' * (third + 1)}:|"
    return "\n".join([header, rule, *rows]) + "\n"
