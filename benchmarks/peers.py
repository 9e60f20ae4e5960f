"""Other libraries' ways to the sums of per-example gradients and of their squares.

Each is left out, with a line that says so, where it is not installed (``pip install
snrgate[peers]``).
"""

import functools
import importlib.util
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["backpack_times", "jax_privacy_moments"]


@functools.cache
def _installed(name: str) -> bool:
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f"{name} is not installed: left out")
    return found


def jax_privacy_moments(loss: Callable[..., Any]) -> Callable[[Any, Any], Any] | None:
    """``(params, batch) -> (sum of gradients, sum of squares)`` by jax_privacy's ``clipped_grad``.

    Nothing is clipped: the norm is infinite, and the squares are formed before it is looked at.
    """
    if not _installed("jax_privacy"):
        return None
    from jax_privacy import clipping

    return clipping.clipped_grad(
        loss,
        l2_clip_norm=jnp.inf,
        keep_batch_dim=False,
        nan_safe=False,
        pre_clipping_transform=lambda g: (g, jax.tree.map(jnp.square, g)),
    )


def backpack_times(
    sizes: tuple[int, ...], batch_size: int, seconds: float
) -> dict[str, list[float]] | None:
    """Seconds of steps of PyTorch's AdamW, without and with BackPACK's ``SumGradSquared``.

    Args:
        sizes: of the layers of a relu network for a mean squared error.
        batch_size: number of examples.
        seconds: time to spend on the calls.
    """
    if not (_installed("torch") and _installed("backpack")):
        return None
    import backpack
    import torch
    from backpack.extensions import SumGradSquared

    torch.manual_seed(0)
    layers = []
    for m, n in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(m, n), torch.nn.ReLU()]
    model = backpack.extend(torch.nn.Sequential(*layers[:-1]))
    criterion = backpack.extend(torch.nn.MSELoss())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = torch.rand(batch_size, sizes[0]), torch.rand(batch_size, sizes[-1])

    def step(*extensions: Any) -> None:
        optimizer.zero_grad()
        with backpack.backpack(*extensions):
            criterion(model(x), y).backward()
        optimizer.step()

    ways = {
        "AdamW (PyTorch)": step,
        "AdamW, squares by BackPACK (PyTorch)": lambda: step(SumGradSquared()),
    }
    times: dict[str, list[float]] = {label: [] for label in ways}
    for run in ways.values():
        run()
    began, order = time.perf_counter(), np.random.default_rng(0)
    while time.perf_counter() - began < seconds or len(times["AdamW (PyTorch)"]) < 5:
        for label in order.permutation(list(ways)):
            start = time.perf_counter()
            ways[label]()
            times[label].append(time.perf_counter() - start)
    return times
