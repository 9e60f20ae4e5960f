"""Denoising one photo by a coordinate network, as a task of the study."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float, PyTree
from snrgate.lab.tasks.denoise import Denoise, Network, make_task, noisy_photo, psnr
from snrgate.lab.tasks.task import Task

__all__ = ["Photo", "high_frequency_power", "radial_power"]


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo of scikit-image with noise on every pixel; see :class:`snrgate.lab.tasks.denoise`."""

    image: str = "camera"
    """Name of a photo of scikit-image, or a picture file."""
    size: int = 96
    """Longer side in pixels."""
    noise: float = 0.2
    """Standard deviation of the Gaussian noise, in units of white."""
    photons: float = 0.0
    """Number of photons that make white, for additional shot noise; 0 for no shot noise."""
    network: Network = "fourier"
    """Kind of network: random Fourier features and relu (fourier), or sines (siren)."""

    def make(self, seed: int) -> Task:
        """The task.

        Args:
            seed: of the noise and the initial weights.

        Returns:
            A task measured by ``psnr`` against the photo without noise, in dB.
            ``high_frequency`` is the :func:`high_frequency_power` of the error of the picture.
        """
        settings = Denoise(
            image=self.image,
            size=self.size,
            noise=self.noise,
            photons=self.photons,
            network=self.network,
            seed=seed,
        )
        photo = noisy_photo(settings)
        task = make_task(settings, photo)
        clean = jnp.asarray(photo.clean)

        @jax.jit
        def evaluate(params: PyTree) -> dict[str, Array]:
            pixels = task.predict(params)
            return {
                "psnr": psnr(pixels, clean),
                "high_frequency": high_frequency_power(pixels - clean),
            }

        return Task(task.params, task.groups, evaluate, "psnr", True, task.data)


def high_frequency_power(
    residual: Float[Array, "height width channels"],
) -> Float[Array, ""]:
    """Mean square of the part of a picture beyond half the Nyquist frequency.

    Args:
        residual: a difference of two pictures.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.lab.tasks.photo import high_frequency_power
        >>> stripes = jnp.tile(jnp.array([1.0, -1.0]), (8, 4))[..., None]
        >>> print(f"{high_frequency_power(stripes):.2f} {high_frequency_power(stripes + 9):.2f}")
        1.00 1.00
    """
    power, radius = _spectrum(residual)
    return jnp.sum(power * (radius > 0.25)[..., None]) / residual.size


def radial_power(
    residual: Float[Array, "height width channels"], rings: int = 24
) -> tuple[Float[Array, " rings"], Float[Array, " rings"]]:
    """The spectrum of a picture by the distance from frequency zero.

    Args:
        residual: a difference of two pictures.
        rings: number of rings of equal width up to the Nyquist frequency. The last ring also
            holds the corners beyond it.

    Returns:
        The middle of every ring in periods a pixel, and the mean power in the ring. For white
        noise the mean power is its variance in every ring.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.lab.tasks.photo import radial_power
        >>> stripes = jnp.tile(jnp.array([1.0, -1.0]), (8, 4))[..., None]
        >>> frequencies, power = radial_power(stripes, rings=2)
        >>> print(frequencies, power > 0)
        [0.125 0.375] [False  True]
    """
    power, radius = _spectrum(residual)
    ring = np.minimum((2 * radius * rings).astype(int), rings - 1).ravel()
    sums = jnp.zeros(rings).at[ring].add(jnp.mean(power, axis=-1).ravel())
    middles = (jnp.arange(rings) + 0.5) / (2 * rings)
    return middles, sums / np.maximum(np.bincount(ring, minlength=rings), 1)


def _spectrum(residual: Array) -> tuple[Array, np.ndarray]:
    """The power at every frequency, and the size of the frequency in periods a pixel."""
    height, width, _ = residual.shape
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    return jnp.abs(jnp.fft.fft2(residual, axes=(0, 1), norm="ortho")) ** 2, radius
