"""The tiles of a photo, one after the other, in a folder that loses none to an interruption."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from snrgate.lab.tasks.tiles import Tiles
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.interrupt import Stopped, deferred_interrupts, until_told
from snrgate.lab.training.loop import TrainState
from snrgate.lab.training.progress import progress_bar
from snrgate.lab.training.tile_fit import TileFit

__all__ = ["run_tiles", "seconds_of_tile"]

_STATE = "state.npz"


class _Pause(NamedTuple):
    """A look at the training of a tile; the picture is there after its last step."""

    number: int
    state: TrainState
    picture: np.ndarray | None


def seconds_of_tile(fit: TileFit, pixels: np.ndarray) -> float:
    """The expected time of a tile, measured before the training.

    Args:
        fit: the compiled training.
        pixels: of any tile.

    Raises:
        Stopped: SIGINT or SIGTERM came.
    """
    with deferred_interrupts() as interrupted:
        for seconds in until_told((fit.seconds(x) for x in [pixels]), interrupted):
            return seconds
        raise Stopped(interrupted() or 0, "stopped before the first step; nothing is written")


def run_tiles(
    photo: np.ndarray, layout: Tiles, fit: TileFit, folder: RunFolder, again: str
) -> np.ndarray:
    """What the networks of all tiles have learned, as one picture.

    Args:
        photo: (height, width, channels).
        layout: the tiles of the photo.
        fit: the compiled training of a tile.
        folder: keeps the finished tiles and, after a signal, the state of the one in work.
        again: how to go on, for the message after a signal.

    Raises:
        Stopped: SIGINT or SIGTERM came. Everything so far is kept.
        OSError: the folder cannot be written.
    """
    count = len(layout.corners)
    pictures = [
        np.load(path) for n in range(count) if (path := folder.path / _name(n)).exists()
    ]  # they are written in order
    state = _restored(folder, len(pictures), fit.start)
    paused = len(pictures), int(state.step)
    with (
        deferred_interrupts() as interrupted,
        progress_bar(count * fit.steps, paused[0] * fit.steps + paused[1]) as show,
    ):
        pauses = _pauses(photo, layout, fit, paused[0], state)
        for number, state, picture in until_told(pauses, interrupted):
            paused = number, int(state.step)
            show(number * fit.steps + paused[1], f"tile {number + 1} of {count}")
            if picture is not None:
                folder.write(_name(number), _npy(picture))
                pictures.append(picture)
        if len(pictures) < count and (signal := interrupted()):
            _keep(folder, paused[0], state)
            raise Stopped(
                signal, f"stopped at tile {paused[0] + 1} of {count}, saved; continue with: {again}"
            )
    return layout.joined(pictures)


def _pauses(
    photo: np.ndarray, layout: Tiles, fit: TileFit, first: int, state: TrainState
) -> Iterator[_Pause]:
    for number in range(first, len(layout.corners)):
        pixels = photo[layout.part(number)]
        for now in fit.train(pixels, state):
            ends = int(now.step) >= fit.steps
            yield _Pause(number, now, fit.picture(now, pixels) if ends else None)
        state = fit.start


def _name(number: int) -> str:
    return f"tile-{number:05}.npy"


def _npy(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, picture)
    return buffer.getvalue()


def _keep(folder: RunFolder, number: int, state: TrainState) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, *map(np.asarray, jax.tree.leaves(state)), number=number)
    folder.write(_STATE, buffer.getvalue())


def _restored(folder: RunFolder, number: int, start: TrainState) -> TrainState:
    """The state that was kept of a tile, or that before its first step."""
    try:
        with np.load(folder.path / _STATE) as kept:
            if int(kept["number"]) != number:
                return start
            leaves, tree = jax.tree.flatten(start)
            return jax.tree.unflatten(tree, [kept[f"arr_{i}"] for i in range(len(leaves))])
    except FileNotFoundError:
        return start
