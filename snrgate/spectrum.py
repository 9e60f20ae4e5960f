"""The evidence of a kernel, coordinate by coordinate, for a person to look at."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from snrgate import kronecker
from snrgate.annotations import Array, Float, PyTree
from snrgate.block import KRONECKER, Block
from snrgate.evidence import read
from snrgate.kernel import Kernel, View
from snrgate.trees import flatten, is_masked

__all__ = ["Spectrum", "evidence_spectra"]


class Spectrum(NamedTuple):
    """Signal and noise of one kernel by rows and by columns, in the basis that its gate took.

    All are as they were when the evidence was measured last. Their unit is the variance of one
    example's gradient times a constant. What matters are their ratios.

    Attributes:
        signal_rows: squared signal of each row coordinate, ``(m,)``.
        noise_rows: noise of each row coordinate, ``(m,)``.
        signal_columns: squared signal of each column coordinate, ``(n,)``.
        noise_columns: noise of each column coordinate, ``(n,)``.
        threshold: on signal over noise.
        own: whether the basis is that of the parameters. Otherwise it is that of the eigenvectors
            of the noise, those with the most signal over noise first.
    """

    signal_rows: Float[np.ndarray, " m"]
    noise_rows: Float[np.ndarray, " m"]
    signal_columns: Float[np.ndarray, " n"]
    noise_columns: Float[np.ndarray, " n"]
    threshold: float
    own: bool

    @property
    def ratios(self) -> Float[np.ndarray, "m n"]:
        """Signal over noise of every coordinate, as the gate compares it with the threshold."""
        sides = (
            (self.signal_rows, self.noise_rows),
            (self.signal_columns, self.noise_columns),
        )
        rows, columns = (np.divide(s, n, out=np.zeros_like(s), where=n > 0) for s, n in sides)
        total = self.signal_rows.sum() / max(self.noise_rows.sum(), np.finfo(np.float32).tiny)
        return rows[:, None] * columns[None] / (total if total > 0 else 1.0)

    def plot(self, axes: Any) -> None:
        """Draw the evidence of the rows.

        The coordinates are sorted by their noise. Points mark those that exceed the threshold.

        Args:
            axes: axes of matplotlib.
        """
        order = np.argsort(-self.noise_rows)
        signal, noise = self.signal_rows[order], self.noise_rows[order]
        place = np.arange(1, len(order) + 1)
        axes.semilogy(place, signal, label="squared signal")
        axes.semilogy(place, noise, label="noise")
        axes.semilogy(place, self.threshold * noise, "--", label="threshold")
        passes = signal > self.threshold * noise
        axes.semilogy(place[passes], signal[passes], "o", markersize=4, label="passes")
        axes.set(
            xlabel="input" if self.own else "principal component of the noise",
            ylabel="variance of one example's gradient",
        )
        axes.legend()


def evidence_spectra(
    state: optax.OptState, params: PyTree, block: Block = KRONECKER
) -> dict[str, list[Spectrum]]:
    """The evidence of every kernel, as a gate with ``block="kronecker"`` saw it last.

    Args:
        state: state of an optimizer with one gate in it.
        params: the parameters it was initialised with (only their shapes are used).
        block: the block of the gate.

    Returns:
        ``path -> spectra``, one for each kernel of a stack, and one where there is no stack.

    Raises:
        ValueError: the state holds no gate that looks at kernels.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
        >>> state = snrgate.adamw(1e-3, block="kronecker").init(params)
        >>> spectra = snrgate.diagnostics.evidence_spectra(state, params)
        >>> {path: of_kernel[0].ratios.shape for path, of_kernel in spectra.items()}
        {'dense/kernel': (2, 3)}
    """
    gate = optax.tree.get(state, "SnrGateState")
    if gate is None or (isinstance(gate.views, tuple) and gate.views == ()):
        raise ValueError(
            "the state holds no gate with block='kronecker'; pass the state of such an optimizer"
        )
    leaves = flatten(params)
    noises = leaves.match(gate.noise, "the noise of the state")
    views = leaves.match(gate.views, "the views of the state")
    kernels = [
        (read(block, path, jnp.shape(p)), noise, view)
        for path, p, noise, view in zip(leaves.paths, leaves.values, noises, views, strict=True)
        if not is_masked(noise)
    ]
    return {
        kernel.path: _spectra(kernel, noise, kernel.opened(view))
        for kernel, noise, view in kernels
        if isinstance(kernel, Kernel)
    }


def _spectra(kernel: Kernel, noise: Array, view: View) -> list[Spectrum]:
    """The spectra of one stack of kernels."""
    stack = len(kernel.stack)
    of_noise = [
        kronecker.coordinates(
            sums, None if basis is None else kronecker.straightened(basis, view.own), stack
        )
        for sums, basis in zip(kernel.unpacked(noise), kernel.bases(view), strict=True)
    ]
    # The ratios of the rows are divided by that of the whole kernel; give it back to them.
    total = jnp.sum(view.ratios.columns * of_noise[1], -1) / jnp.sum(of_noise[1], -1)
    signal = (
        view.ratios.rows * total[..., None] * of_noise[0],
        view.ratios.columns * of_noise[1],
    )
    numbers = signal[0], of_noise[0], signal[1], of_noise[1]
    rows, noise_rows, columns, noise_columns = (
        np.asarray(x).reshape(-1, x.shape[-1]) for x in numbers
    )
    thresholds, own = (np.asarray(x).reshape(-1) for x in (view.threshold, view.own))
    return [
        Spectrum(
            signal_rows=rows[i],
            noise_rows=noise_rows[i],
            signal_columns=columns[i],
            noise_columns=noise_columns[i],
            threshold=float(thresholds[i]),
            own=bool(own[i]),
        )
        for i in range(len(own))
    ]
