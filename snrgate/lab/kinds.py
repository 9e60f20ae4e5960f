"""The names of gates, blocks and kinds of noise that the command line knows."""

from typing import Literal

__all__ = ["LATER", "Block", "Gate", "Noise"]

Gate = Literal["soft", "hard", "snr"]
Block = Literal["unit", "parameter", "tensor", "kronecker"]
Noise = Literal["exact", "streaming", "instantaneous"]

LATER = {"later": True}
"""Metadata of a setting that is younger than stored results; they have its default."""
