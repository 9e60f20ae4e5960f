"""Classical denoisers, and the error of a denoised picture without the clean one.

The error comes from Stein's identity. For noise of known deviation it says how far a result is
from the picture without noise, from how much the result moves with the noise.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import skimage.restoration

from snrgate.annotations import Float

__all__ = ["Classical", "classical", "noise_level", "stein", "wavelets"]

Pixels = Float[np.ndarray, "height width channels"]
Errors = Float[np.ndarray, "height width"]
Denoiser = Callable[[np.ndarray], np.ndarray]

_SHIFTS = 3  # of the grid of the wavelets, along each side
_WEIGHTS = (0.4, 0.6, 0.9, 1.3, 1.8, 2.5)  # of total variation, in units of the noise
_WIDTHS = (0.4, 0.6, 0.8, 1.1)  # of what counts as alike, in units of the noise
_NUDGE = 0.1  # of the noise, by which a pixel is moved to see how the result follows


class Classical(NamedTuple):
    """A method without a network on some picture.

    Attributes:
        denoise: the method with the strength that was chosen.
        pixels: its result.
        errors: estimated squared error of the result at every pixel, (height, width).
    """

    denoise: Denoiser
    pixels: np.ndarray
    errors: np.ndarray


def noise_level(pixels: Pixels) -> float:
    """Estimated standard deviation of noise that is independent from pixel to pixel.

    It is the median size of the finest wavelet coefficients, in units of that of the normal
    distribution. Fine texture counts as noise, and noise that is smooth over pixels does not.

    Args:
        pixels: a picture with values in [0, 1].

    Example:
        >>> import numpy as np
        >>> from snrgate.lab.tasks.restoration import noise_level
        >>> noise = np.random.default_rng(0).standard_normal((64, 64, 3))
        >>> print(f"{noise_level(0.5 + 0.1 * noise):.2f}")
        0.10

    Source: Donoho and Johnstone, Biometrika 81 (1994).
    """
    channels = [pixels[..., i] for i in range(pixels.shape[-1]) if np.ptp(pixels[..., i]) > 0]
    levels = [float(np.asarray(skimage.restoration.estimate_sigma(x))) for x in channels]
    return float(np.mean(levels)) if levels else 0.0


def wavelets(pixels: Pixels, sigma: float) -> np.ndarray:
    """The picture after soft thresholds on its wavelets, a mean over shifted grids.

    Args:
        pixels: a picture, or the difference of two.
        sigma: standard deviation of the noise.

    Source: Chang, Yu and Vetterli, IEEE TIP 9 (2000); Coifman and Donoho (1995) for the shifts.
    """
    colour = pixels.shape[-1] == 3
    image, axis = (pixels, -1) if colour else (pixels[..., 0], None)
    how = {"sigma": sigma, "convert2ycbcr": colour, "channel_axis": axis, "rescale_sigma": True}
    moved = skimage.restoration.cycle_spin(
        image,
        skimage.restoration.denoise_wavelet,
        _SHIFTS,
        func_kw=how,
        channel_axis=axis,
        workers=1,
    )
    return moved.reshape(pixels.shape).astype(np.float32)


def stein(
    denoise: Denoiser, pixels: Pixels, sigma: float, seed: int = 0
) -> tuple[np.ndarray, Errors]:
    r"""A result and an unbiased estimate of its squared error at every pixel.

    .. math:: (f(y) - y)^2 - \sigma^2 + 2 \sigma^2 \, \partial f(y) / \partial y

    The derivative is that along a random direction of signs, which has the right mean.

    Args:
        denoise: f, from a picture to a picture.
        pixels: y, a clean picture with Gaussian noise.
        sigma: standard deviation of the noise.
        seed: of the direction.

    Returns:
        The result, and the mean over channels of the estimate. One pixel alone says little; the
        mean over many pixels is near the mean squared error.

    Example:
        >>> import numpy as np
        >>> from snrgate.lab.tasks.restoration import stein
        >>> noisy = 0.1 * np.random.default_rng(0).standard_normal((64, 64, 1))
        >>> _, errors = stein(lambda y: 0.5 * y, noisy, 0.1)  # a quarter of the noise is left
        >>> print(f"{errors.mean() / 0.1**2:.2f}")
        0.25

    Source: Ramani, Blu and Unser, IEEE TIP 17 (2008).
    """
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), pixels.shape)
    step = _NUDGE * sigma
    result = denoise(pixels)
    moved = denoise((pixels + step * signs).astype(pixels.dtype))
    slope = signs * (moved - result) / step
    errors = np.square(result - pixels) + sigma**2 * (2 * slope - 1)
    return result, errors.mean(-1)


def classical(pixels: Pixels, sigma: float) -> dict[str, Classical]:
    """The methods of scikit-image, each with the strength of the least estimated error.

    Args:
        pixels: a noisy picture.
        sigma: standard deviation of its noise.

    Returns:
        Results by the names of the methods.
    """
    strengths = {
        "wavelets": [partial(wavelets, sigma=sigma)],
        "total variation": [partial(_total_variation, weight=sigma * c) for c in _WEIGHTS],
        "non-local means": [partial(_nonlocal_means, sigma=sigma, h=sigma * c) for c in _WIDTHS],
    }
    return {name: _least(each, pixels, sigma) for name, each in strengths.items()}


def _least(denoisers: Iterable[Denoiser], pixels: np.ndarray, sigma: float) -> Classical:
    tried = (Classical(denoise, *stein(denoise, pixels, sigma)) for denoise in denoisers)
    return min(tried, key=lambda result: result.errors.mean())


def _total_variation(pixels: np.ndarray, weight: float) -> np.ndarray:
    return skimage.restoration.denoise_tv_chambolle(pixels, weight, channel_axis=-1)


def _nonlocal_means(pixels: np.ndarray, sigma: float, h: float) -> np.ndarray:
    grey = pixels.shape[-1] == 1  # one channel must be given as none
    image, axis = (pixels[..., 0], None) if grey else (pixels, -1)
    result = skimage.restoration.denoise_nl_means(
        image, patch_size=5, patch_distance=6, h=h, sigma=sigma, channel_axis=axis
    )
    return result.reshape(pixels.shape)
