"""Many devices, the same numbers: one training, done in many ways, against one device.

    python benchmarks/equivalence.py

Every way takes the same 20 steps with the same batches; losses, moments, gates and parameters are
compared with those of one device. Writes the table ``results/devices/README.md``.
"""

import functools
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import snrgate
from snrgate.lab import launch

HERE = Path(__file__).parent
OUT = HERE.parent / "results" / "devices" / "README.md"
STEPS = 20
EXAMPLES = 24
SIZES = (8, 8, 4)
TX = {block: snrgate.adam(1e-2, block=block) for block in ("unit", "parameter")}

Carry = tuple[Any, Any]
"""Parameters and the state of the optimizer."""


class Setting(NamedTuple):
    """What all ways of one comparison share."""

    dtype: str
    block: str


SETTINGS = tuple(Setting(d, b) for d in ("float64", "float32") for b in TX)
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


class Record(NamedTuple):
    """What a step shows: the loss, the moments, and which gates are open."""

    loss: Any
    mean: Any
    sum_sq_diff: Any
    opened: Any


class Outcome(NamedTuple):
    """A whole training: the records of the steps, stacked, and the last parameters."""

    records: Record
    params: Any


def loss_fn(params: Any, example: Any) -> jax.Array:
    """Squared error of a small network."""
    x, y = example
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return jnp.sum(jnp.square(x @ last["kernel"] + last["bias"] - y))


def batch_of(step: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Some noisy examples of a fixed function, the same everywhere."""
    rng = np.random.default_rng([1, step])
    x = rng.normal(size=(EXAMPLES, SIZES[0]))
    y = np.sin(x[:, : SIZES[-1]]) + rng.normal(size=(EXAMPLES, SIZES[-1]))
    return x.astype(dtype), y.astype(dtype)


def start(setting: Setting) -> Carry:
    """The same weights everywhere, and the state that belongs to them."""
    rng = np.random.default_rng(0)
    params = [
        {
            "kernel": jnp.asarray(rng.normal(size=(m, n)) / m**0.5, setting.dtype),
            "bias": jnp.zeros(n, setting.dtype),
        }
        for m, n in itertools.pairwise(SIZES)
    ]
    return params, TX[setting.block].init(params)


def make_step(setting: Setting, **how: Any) -> Callable[..., tuple[Carry, Record]]:
    """One step of training: ``(carry, batch, weights) -> (carry, record)``."""
    grad_fn = snrgate.value_and_moments(loss_fn, block=setting.block, **how)

    def step(carry: Carry, batch: Any, weights: Any = None) -> tuple[Carry, Record]:
        params, state = carry
        loss, moments = grad_fn(params, batch, weights=weights)
        updates, state = TX[setting.block].update(
            moments.mean, state, params, **moments.extra_args()
        )
        opened = jax.tree.map(lambda u: u != 0, updates)
        record = Record(loss, moments.mean, moments.sum_sq_diff, opened)
        return (optax.apply_updates(params, updates), state), record

    return step


def train(
    step: Callable[..., tuple[Carry, Record]],
    carry: Carry,
    batches: Iterable[tuple[Any, ...]],
) -> tuple[Carry, list[Record]]:
    """Some steps, one after the other."""
    records = []
    for batch in batches:
        carry, record = step(carry, *batch)
        records.append(jax.tree.map(np.asarray, record))
    return carry, records


def outcome(carry: Carry, records: list[Record]) -> Outcome:
    """The end of a training, on the host."""
    stacked = jax.tree.map(lambda *x: np.stack(x), *records)
    return Outcome(stacked, jax.tree.map(np.asarray, carry[0]))


def _batches(setting: Setting, place: Callable[[Any], Any], steps: Any = range(STEPS)) -> Any:
    return ((place(batch_of(i, setting.dtype)),) for i in steps)


# The ways. Each takes a setting and gives an outcome.


def one_device(setting: Setting, **how: Any) -> Outcome:
    """What the others are compared with."""
    step = jax.jit(make_step(setting, **how))
    return outcome(*train(step, start(setting), _batches(setting, lambda x: x)))


def _on(mesh: jax.sharding.Mesh, tree: Any, *spec: Any) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, P(*spec)))


def sharded(setting: Setting, devices: int) -> Outcome:
    """A batch spread over a mesh, under jit."""
    mesh = jax.make_mesh((devices,), ("data",))
    batches = _batches(setting, lambda x: _on(mesh, x, "data"))
    return outcome(*train(jax.jit(make_step(setting)), _on(mesh, start(setting)), batches))


def parameters_too(setting: Setting) -> Outcome:
    """Kernels cut both ways: rows over the data axis, columns over the model axis."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit, AxisType.Auto))

    def cut(x: jax.Array) -> jax.Array:
        rows = "data" if x.ndim and x.shape[0] % 4 == 0 else None
        return _on(mesh, x, rows, "model") if x.ndim == 2 else _on(mesh, x, *[rows] * x.ndim)

    params, _ = start(setting)
    params = jax.tree.map(cut, params)
    with jax.set_mesh(mesh):
        carry = (params, TX[setting.block].init(params))
        batches = _batches(setting, lambda x: _on(mesh, x, "data"))
        return outcome(*train(jax.jit(make_step(setting)), carry, batches))


def shard_map(setting: Setting) -> Outcome:
    """Eight devices by hand."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    step = make_step(setting, axis_name="data")
    mapped = jax.shard_map(
        lambda carry, batch: step(carry, batch),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
    )
    return outcome(*train(jax.jit(mapped), start(setting), _batches(setting, lambda x: x)))


def pmap(setting: Setting) -> Outcome:
    """Eight devices in the old way."""

    def split(batch: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)

    step = jax.pmap(
        make_step(setting, axis_name="data"),
        axis_name="data",
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.devices()[:8],
    )
    return outcome(*train(step, start(setting), _batches(setting, split)))


def padded(setting: Setting) -> Outcome:
    """The batch filled up to 32 places with NaN, which is all that two of eight devices hold."""
    mesh = jax.make_mesh((8,), ("data",))
    fill = 32 - EXAMPLES

    def place(x: np.ndarray) -> jax.Array:
        return _on(mesh, np.concatenate([x, np.full((fill, x.shape[1]), np.nan, x.dtype)]), "data")

    weights = _on(mesh, np.repeat([1.0, 0.0], [EXAMPLES, fill]), "data")
    batches = ((jax.tree.map(place, batch_of(i, setting.dtype)), weights) for i in range(STEPS))
    return outcome(*train(jax.jit(make_step(setting)), _on(mesh, start(setting)), batches))


def resumed(setting: Setting) -> Outcome:
    """Half of the steps on eight devices, saved, and the other half on two."""
    step, half = jax.jit(make_step(setting)), STEPS // 2
    before, after = (jax.make_mesh((n,), ("data",), devices=jax.devices()[:n]) for n in (8, 2))
    batches = _batches(setting, lambda x: _on(before, x, "data"), range(half))
    carry, first = train(step, _on(before, start(setting)), batches)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder) / "state", carry)
        checkpointer.wait_until_finished()
        carry = checkpointer.restore(Path(folder) / "state", _on(after, start(setting)))
    batches = _batches(setting, lambda x: _on(after, x, "data"), range(half, STEPS))
    carry, second = train(step, carry, batches)
    return outcome(carry, first + second)


def processes(setting: Setting, count: int) -> Outcome:
    """Processes with a device each, every one with its own part of the data."""
    return _all_settings(count)[setting]


@functools.cache
def _all_settings(count: int) -> dict[Setting, Outcome]:
    """Start the processes once for all settings."""
    one = " --xla_force_host_platform_device_count=1"  # whatever came before
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + one}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes.npz"
        command = [sys.executable, "-m", "snrgate.lab.launch", "-n", str(count), "--"]
        settings = [tuple(setting) for setting in SETTINGS]
        run = f"import equivalence; equivalence.one_of_the_processes({str(path)!r}, {settings})"
        command += [sys.executable, "-c", run]
        done = subprocess.run(
            command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return pickle.loads(path.read_bytes())


def one_of_the_processes(path: str, settings: list[tuple[str, str]]) -> None:
    """What each of them runs; the first one writes the outcomes of all settings to ``path``."""
    launch.join()
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    sharding = NamedSharding(mesh, P("data"))
    own = EXAMPLES // jax.process_count()
    mine = slice(jax.process_index() * own, (jax.process_index() + 1) * own)

    def place(batch: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, x[mine]), batch
        )

    outcomes = {}
    for setting in itertools.starmap(Setting, settings):
        with jax.enable_x64(setting.dtype == "float64"):
            carry = _on(mesh, start(setting))
            step = jax.jit(make_step(setting))
            outcomes[setting] = outcome(*train(step, carry, _batches(setting, place)))
    if jax.process_index() == 0:
        Path(path).write_bytes(pickle.dumps(outcomes))


WAYS: dict[str, Callable[[Setting], Outcome]] = {
    "2 devices": functools.partial(sharded, devices=2),
    "4 devices": functools.partial(sharded, devices=4),
    "8 devices": functools.partial(sharded, devices=8),
    "8 devices, `shard_map`": shard_map,
    "8 devices, `pmap`": pmap,
    "4 x 2 devices, parameters cut both ways": parameters_too,
    "5 microbatches, the last one ragged": functools.partial(one_device, microbatch_size=5),
    "8 devices, padded batch": padded,
    "2 processes": functools.partial(processes, count=2),
    "4 processes": functools.partial(processes, count=4),
    "8 devices, resumed on 2": resumed,
}


class Deviation(NamedTuple):
    """The largest differences, relative to the largest number in the same array and step.

    Attributes:
        loss: of the loss.
        moments: of mean and sum of squared differences.
        params: of the parameters at the end.
        gates: how many decisions differ, of all blocks and steps.
    """

    loss: float
    moments: float
    params: float
    gates: int


def deviation(got: Outcome, wanted: Outcome) -> Deviation:
    """How far one training is from another."""

    def relative(a: np.ndarray, b: np.ndarray) -> float:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))

    def largest(a: Any, b: Any, by_step: bool = True) -> float:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        if not by_step:
            return max(relative(x, y) for x, y in pairs)
        return max(relative(*step) for x, y in pairs for step in zip(x, y, strict=True))

    ours, theirs = got.records, wanted.records
    return Deviation(
        largest(ours.loss, theirs.loss),
        largest((ours.mean, ours.sum_sq_diff), (theirs.mean, theirs.sum_sq_diff)),
        largest(got.params, wanted.params, by_step=False),
        sum(
            int(np.sum(x != y))
            for x, y in zip(
                jax.tree.leaves(ours.opened), jax.tree.leaves(theirs.opened), strict=True
            )
        ),
    )


@functools.cache
def compare(way: str, setting: Setting) -> Deviation:
    """One way against one device. Needs eight devices."""
    with jax.enable_x64(setting.dtype == "float64"):
        return deviation(WAYS[way](setting), _reference(setting))


@functools.cache
def _reference(setting: Setting) -> Outcome:
    return one_device(setting)


TEXT = """\
# Many devices, the same numbers

    python benchmarks/equivalence.py

The largest deviation from one device in {steps} steps of a small network (batch {examples}),
relative to the largest number of the same array: of the losses, of the moments in any step, of the
parameters at the end; the worse of `block="unit"` and `block="parameter"`. Last, how many of
{decisions:,} gate decisions (open or shut) differ. jax {version}, CPU.

"""


def table() -> str:
    """All ways, in Markdown."""
    kinds = [f"{name}, {dtype}" for dtype in TOLERANCE for name in ("loss", "moments", "params")]
    lines = [
        "| | " + " | ".join(kinds) + " | gates |",
        "|:--|" + "--:|" * (len(kinds) + 1),
    ]
    for way in WAYS:
        found = {s: compare(way, s) for s in SETTINGS}
        cells = [
            f"{max(getattr(d, name) for s, d in found.items() if s.dtype == dtype):.0e}"
            for dtype in TOLERANCE
            for name in ("loss", "moments", "params")
        ]
        lines.append(f"| {way} | {' | '.join(cells)} | {sum(d.gates for d in found.values())} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare every way, and write the table."""
    jax.config.update("jax_num_cpu_devices", 8)
    numbers = sum(x.size for x in jax.tree.leaves(start(SETTINGS[-1])[0]))
    text = TEXT.format(
        steps=STEPS,
        examples=EXAMPLES,
        decisions=len(SETTINGS) * STEPS * numbers,
        version=jax.__version__,
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text + table())
    print(OUT.read_text())


if __name__ == "__main__":
    main()
