"""A large picture in overlapping tiles of one size, and back without seams."""

import math
from typing import NamedTuple

import numpy as np

__all__ = ["Tiles", "tiles"]


class Tiles(NamedTuple):
    """Tiles that cover a picture.

    Attributes:
        shape: (height, width) of the picture.
        side: (height, width) of every tile.
        corners: (top, left) of each tile.
    """

    shape: tuple[int, int]
    side: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    def part(self, number: int) -> tuple[slice, slice]:
        """The rows and columns of one tile."""
        (top, left), (height, width) = self.corners[number], self.side
        return slice(top, top + height), slice(left, left + width)

    def joined(self, pictures: list[np.ndarray]) -> np.ndarray:
        """The picture of which these are the tiles, each blended into the next.

        Args:
            pictures: (height, width, channels) of a tile, for every tile.
        """
        total = np.zeros((*self.shape, pictures[0].shape[-1]), np.float32)
        weights = np.zeros((*self.shape, 1), np.float32)
        rows, columns = (_tent(n) for n in self.side)
        weight = (rows[:, None] * columns)[..., None]
        for number, picture in enumerate(pictures):
            total[self.part(number)] += weight * picture
            weights[self.part(number)] += weight
        return total / weights

    def held_out(self, of_tile: np.ndarray) -> np.ndarray:
        """Whether no tile has learned from a pixel.

        Args:
            of_tile: whether a tile has not learned from its pixels, (height, width).
        """
        whole = np.ones(self.shape, bool)
        for number in range(len(self.corners)):
            whole[self.part(number)] &= of_tile
        return whole


def tiles(shape: tuple[int, int], side: int, overlap: int) -> Tiles:
    """As few tiles as cover a picture, spread evenly.

    Args:
        shape: (height, width) of the picture.
        side: longest side of a tile, more than twice the overlap.
        overlap: least number of pixels that neighbours share.

    Example:
        >>> from snrgate.lab.tasks.tiles import tiles
        >>> tiles((100, 30), 60, 10).corners
        ((0, 0), (45, 0))
    """
    counts = [max(1, math.ceil((n - overlap) / (side - overlap))) for n in shape]
    # The smallest side with which that many tiles overlap as much as asked.
    height, width = (
        math.ceil((n + (count - 1) * overlap) / count)
        for n, count in zip(shape, counts, strict=True)
    )
    rows, columns = (
        np.linspace(0, n - length, count).astype(int).tolist()
        for n, length, count in zip(shape, (height, width), counts, strict=True)
    )
    corners = tuple((top, left) for top in rows for left in columns)
    return Tiles(shape, (height, width), corners)


def _tent(length: int) -> np.ndarray:
    """Weights that fall towards both ends of a tile."""
    near = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1))
    return near.astype(np.float32) / near.max()
