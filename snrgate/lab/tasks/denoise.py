"""A photo with added noise: a coordinate MLP fitted to the noisy pixels, and to nothing else.

There is no validation set, because every pixel is noisy. A network that fits all pixels has
learned the noise. The clean photo only measures how good the fit is.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snrgate.annotations import Array, ArrayLike, Float, PyTree
from snrgate.lab.errors import InputError
from snrgate.lab.kinds import Block, Gate, Noise
from snrgate.lab.tasks.picture import MIN_SIDE, load, shrink
from snrgate.lab.tasks.task import Group, Supervised, Task, require
from snrgate.models.coordinate import CoordinateMLP
from snrgate.models.siren import Siren

__all__ = [
    "Denoise",
    "DenoiseTask",
    "NoisyPhoto",
    "as_task",
    "make_task",
    "noisy_photo",
    "psnr",
    "scale",
]

Optimizer = Literal["adamw", "gated"]
Network = Literal["fourier", "siren"]


@dataclasses.dataclass(frozen=True)
class Denoise:
    """Add noise to a photo, and learn it with AdamW and with the gated AdamW side by side."""

    image: str = "camera"
    """Name of a photo of scikit-image (camera, astronaut, coffee, ...), or a picture file."""
    size: int = 96
    """Longer side in pixels. A larger picture is shrunk to it; 0 keeps the picture as it is."""
    noise: float = 0.2
    """Standard deviation of the added noise, in units of white."""
    seed: int = 0
    """Seed of the noise, the initial weights and the batches."""
    optimizers: tuple[Optimizer, ...] = get_args(Optimizer)
    """Optimizers to train: adamw, gated, or both, on the same batches from the same weights."""
    steps: int = 4000
    """Number of training steps."""
    batch_size: int = 1024
    """Number of pixels in the batch of a step, drawn with replacement."""
    learning_rate: float = 3e-3
    """Learning rate of both optimizers."""
    b1: float = 0.9
    """Decay of the momentum."""
    b2: float = 0.999
    """Decay of the second moment."""
    weight_decay: float = 0.0
    """Weight decay, decoupled from the gradient."""
    gate: Gate = "soft"
    """Rule by which the gate opens."""
    block: Block = "unit"
    """What shares a gate: the parameters of an output unit, only one, or a whole tensor."""
    noise_estimator: Noise = "exact"
    """Source of the noise: the pixels of the batch, or the differences between steps."""
    noise_decay: float = 0.99
    """Decay of the gate's running noise."""
    signal_decay: float = 0.96
    """Decay of the gate's running signal; the default is a memory of three epochs."""
    fitted: float = 0.0
    """Share of the noise of the pixels that may be fitted; none by default, for a long run."""
    z: float = 1.0
    """Threshold of the gate, in standard deviations of what pure noise does."""
    photons: float = 0.0
    """Number of photons that make white, for additional shot noise; 0 for no shot noise."""
    network: Network = "fourier"
    """Kind of network: random Fourier features and relu (fourier), or sines (siren)."""
    width: int = 192
    """Number of units in each hidden layer."""
    depth: int = 3
    """Number of hidden layers."""
    frequencies: int = 128
    """Number of random Fourier frequencies; each gives a sine and a cosine."""
    fourier_scale: float = 3.5
    """Standard deviation of the frequencies, in periods across the picture."""
    eval_every: int = 20
    """Number of steps between evaluations in the first tenth of the run; five times it later."""
    checkpoint_every: int = 1000
    """Number of steps between checkpoints, rounded up to an evaluation."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be trained with.

        Raises:
            InputError: a setting has a value that it may not have; the error names both.
        """
        for name in ("steps", "width", "depth", "frequencies", "eval_every", "checkpoint_every"):
            require(self, **{name: (getattr(self, name) >= 1, "at least 1")})
        large = self.size == 0 or self.size >= MIN_SIDE
        require(self, size=(large, f"0, or at least {MIN_SIDE}"))
        for name in ("noise", "seed", "weight_decay", "photons"):
            require(self, **{name: (getattr(self, name) >= 0, "0 or more")})
        for name in ("learning_rate", "z", "fourier_scale"):
            require(self, **{name: (getattr(self, name) > 0, "more than 0")})
        for name in ("b1", "b2", "noise_decay", "signal_decay", "fitted"):
            require(self, **{name: (0 <= getattr(self, name) < 1, "in [0, 1)")})
        require(self, seed=(self.seed < 2**32, "less than 2**32"))
        require(self, batch_size=(self.batch_size >= 2, "at least 2"))
        kinds = {"gate": Gate, "block": Block, "noise_estimator": Noise, "network": Network}
        for name, kind in kinds.items():
            choices = get_args(kind)
            known = getattr(self, name) in choices
            require(self, **{name: (known, f"one of {', '.join(choices)}")})
        if self.noise == self.photons == 0:
            raise InputError(
                "noise = 0 adds no noise to learn from; to take the noise out of a photo of yours "
                "as it is: snrgate denoise PHOTO --out FILE"
            )
        choices, chosen = get_args(Optimizer), self.optimizers
        ok = len(chosen) > 0 and set(chosen) <= set(choices) and len(set(chosen)) == len(chosen)
        require(self, optimizers=(ok, f"some of {', '.join(choices)}, each once"))

    def make(self, seed: int) -> Task:
        """The task of :func:`as_task`.

        Args:
            seed: of the noise and the initial weights.
        """
        settings = dataclasses.replace(self, seed=seed)
        photo = noisy_photo(settings)
        return as_task(make_task(settings, photo), photo)


class NoisyPhoto(NamedTuple):
    """The noisy photo that is learned from, and the clean one that measures the result.

    Attributes:
        noisy: (height, width, channels), as the network sees it, not clipped.
        clean: the same without noise.
        levels: the value of white in the file.
        original: (height, width) before shrinking.
    """

    noisy: np.ndarray
    clean: np.ndarray
    levels: int
    original: tuple[int, int]


def noisy_photo(settings: Denoise) -> NoisyPhoto:
    """Load the picture, shrink it, and add the noise.

    Raises:
        InputError: the picture cannot be used, or has fewer pixels than a batch.
    """
    picture = load(settings.image)
    pixels = shrink(picture.pixels, settings.size)
    count = pixels.shape[0] * pixels.shape[1]
    if settings.batch_size > count:
        raise InputError(
            f"batch_size = {settings.batch_size} is more than the {count} pixels of a picture of "
            f"{pixels.shape[1]} x {pixels.shape[0]}; give a smaller batch_size or a larger size"
        )
    original = picture.pixels.shape[:2]
    rng = np.random.default_rng(settings.seed)
    noisy = pixels + settings.noise * rng.standard_normal(pixels.shape)
    if settings.photons:
        noisy += rng.poisson(settings.photons * pixels) / settings.photons - pixels
    return NoisyPhoto(noisy.astype(np.float32), pixels, picture.levels, original)


def psnr(pixels: Float[ArrayLike, "..."], clean: Float[ArrayLike, "..."]) -> Float[Array, ""]:
    r"""Peak signal-to-noise ratio in dB of a picture, clipped to [0, 1] as it is shown.

    .. math:: -10 \log_{10} \operatorname{mean} (\operatorname{clip}(x) - c)^2

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.lab.tasks.denoise import psnr
        >>> print(f"{psnr(jnp.full((2, 2), 0.6), jnp.full((2, 2), 0.5)):.2f}")
        20.00
    """
    return -10 * jnp.log10(jnp.mean(jnp.square(jnp.clip(pixels, 0, 1) - clean)))


class DenoiseTask(NamedTuple):
    """Everything that training needs, as arrays and pure functions.

    Attributes:
        params: initial parameters.
        data: positions (n, 2) and targets (n, channels), and the network at one position.
        predict: ``params -> picture``, (height, width, channels), with values as in the file,
            not clipped.
    """

    params: PyTree
    data: Supervised
    predict: Callable[[PyTree], Array]

    @property
    def groups(self) -> tuple[Group]:
        """The one group of examples, which are pixels."""
        return (self.data.group(self.data.targets),)


def scale(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and deviation by which pixels are standardised; 1 in place of a deviation of 0."""
    return float(pixels.mean()), float(pixels.std()) or 1.0


def make_task(settings: Denoise, photo: NoisyPhoto) -> DenoiseTask:
    """Put the network and the noisy pixels together.

    The network learns the pixels standardised by their mean and deviation. A dark picture, or one
    of 12 bits in a 16-bit file, is then learned like any other.
    """
    height, width, channels = photo.noisy.shape
    sizes = {"width": settings.width, "depth": settings.depth}
    rngs = nnx.Rngs(params=settings.seed)
    if settings.network == "siren":
        model = Siren(channels, **sizes, rngs=rngs)
    else:
        model = CoordinateMLP(
            channels,
            **sizes,
            frequencies=settings.frequencies,
            fourier_scale=settings.fourier_scale,
            rngs=rngs,
        )
    graph, params, frozen = nnx.split(model, nnx.Param, ...)
    mean, deviation = scale(photo.noisy)
    positions = _positions(height, width)
    targets = ((photo.noisy - mean) / deviation).reshape(-1, channels)

    def apply(params: PyTree, position: Array) -> Array:
        return nnx.merge(graph, params, frozen)(position)

    def loss(output: Array, target: Array) -> Array:
        return jnp.mean(jnp.square(output - target))

    @jax.jit
    def predict(params: PyTree) -> Array:
        # Predict in pieces, so that the activations of a large picture fit into memory.
        flat = jax.lax.map(lambda x: apply(params, x), positions, batch_size=2**14)
        return (mean + deviation * flat).reshape(height, width, channels)

    return DenoiseTask(params, Supervised(apply, loss, positions, targets), predict)


def as_task(task: DenoiseTask, photo: NoisyPhoto) -> Task:
    """The network and the noisy pixels, as a task of the common kind.

    Args:
        task: the network and the noisy pixels.
        photo: the photo that measures the network.

    Returns:
        A task measured by ``psnr`` against the clean photo, in dB.
    """
    clean = jnp.asarray(photo.clean)

    def evaluate(params: PyTree) -> dict[str, Array]:
        return {"psnr": psnr(task.predict(params), clean)}

    return Task(task.params, task.groups, evaluate, "psnr", True, task.data)


def _positions(height: int, width: int) -> np.ndarray:
    """Pixel centres. The longer side goes from -1 to 1, and the shorter one is to scale."""
    longest = max(height, width)
    rows, columns = ((2 * np.arange(n) + 1 - n) / longest for n in (height, width))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
