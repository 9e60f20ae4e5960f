"""The network of a photo, trained on one tile after another.

Every tile has the same shape, so that the steps are compiled once.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array
from snrgate.lab.tasks.denoise import Denoise, NoisyPhoto, make_task, scale
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.loop import TrainState, init, make_stretch
from snrgate.lab.training.optimizers import Gated

__all__ = ["TileFit", "tile_fit"]

_STRETCH = 20  # steps between two looks at the clock and at signals


class TileFit(NamedTuple):
    """The compiled training of a tile.

    Attributes:
        start: state before the first step, the same for every tile.
        steps: number of steps of a tile.
        held_out: whether a pixel of the tile is never learned from, (height, width).
        stretch: ``(state, pixels) -> state`` after some more steps on the pixels of a tile.
        picture: ``(state, pixels) -> picture`` of the network that has learned these pixels.
    """

    start: TrainState
    steps: int
    held_out: np.ndarray
    stretch: Callable[[TrainState, np.ndarray], TrainState]
    picture: Callable[[TrainState, np.ndarray], np.ndarray]

    def train(self, pixels: np.ndarray, state: TrainState) -> Iterator[TrainState]:
        """The states of a tile after every stretch, to its last step.

        Args:
            pixels: (height, width, channels) of the tile.
            state: the state to go on from.
        """
        while int(state.step) < self.steps:
            state = self.stretch(state, pixels)
            jax.block_until_ready(state)
            yield state

    def seconds(self, pixels: np.ndarray) -> float:
        """The expected time of a tile, measured on a stretch after it has been compiled."""
        jax.block_until_ready(self.stretch(self.start, pixels))
        began = time.perf_counter()
        jax.block_until_ready(self.stretch(self.start, pixels))
        return (time.perf_counter() - began) * self.steps / _STRETCH


def tile_fit(settings: Denoise, optimizer: Gated, shape: tuple[int, ...], share: float) -> TileFit:
    """Compile the training of tiles of one shape.

    Args:
        settings: settings of the network and the steps.
        optimizer: the gated optimizer.
        shape: (height, width, channels) of a tile.
        share: share of the pixels that are held out.
    """
    blank = np.zeros(shape, np.float32)  # has mean 0 and, by the rule for flat tiles, deviation 1
    whole = make_task(settings, NoisyPhoto(blank, blank, 255, (shape[0], shape[1])))
    order = np.random.default_rng(settings.seed).permutation(shape[0] * shape[1])
    seen = np.sort(order[round(share * len(order)) :])
    held_out = np.ones(shape[:2], bool)
    held_out.flat[seen] = False
    data = whole.data._replace(inputs=whole.data.inputs[seen])
    batch_size = min(settings.batch_size, len(seen))

    def task(targets: np.ndarray | Array) -> Task:
        group = data.group(targets)
        return Task(whole.params, (group,), lambda params: {}, "loss", higher_is_better=False)

    @jax.jit
    def stretch(state: TrainState, targets: Array) -> TrainState:
        tile = task(targets)
        built = optimizer.build(tile)
        steps = make_stretch(
            built.gradients, built.tx, tile.groups, batch_size=batch_size, seed=settings.seed
        )
        return steps(state, length=_STRETCH)[0]

    def learned(state: TrainState, pixels: np.ndarray) -> TrainState:
        mean, deviation = scale(pixels)
        flat = ((pixels - mean) / deviation).reshape(-1, shape[-1])[seen]
        return stretch(state, jnp.asarray(flat, jnp.float32))

    def picture(state: TrainState, pixels: np.ndarray) -> np.ndarray:
        mean, deviation = scale(pixels)
        return np.asarray(mean + deviation * whole.predict(state.params), np.float32)

    start = init(whole.params, optimizer.build(task(whole.data.targets[seen])).tx)
    return TileFit(start, settings.steps, held_out, stretch=learned, picture=picture)
