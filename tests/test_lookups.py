"""Rows of a table that are looked up in any way: the factored moments are those of vmap of grad."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.lax import GatherDimensionNumbers, GatherScatterMode
from test_factored import check, draw, models_broadcast  # noqa: F401

import snrgate

EXAMPLES, TOKENS, WIDTH = 3, 4, 3
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
MODES = {
    "clip": lambda t, i: jnp.take(t, i, axis=0, mode="clip"),
    "fill": lambda t, i: jnp.take(t, i, axis=0, mode="fill", fill_value=0),
    "wrap": lambda t, i: jnp.take(t, i, axis=0, mode="wrap"),
    "at promise": lambda t, i: t.at[jnp.clip(i, 0)].get(mode="promise_in_bounds"),
    "at drop, no wrap": lambda t, i: t.at[i].get(
        mode="drop", fill_value=0, wrap_negative_indices=False
    ),
    "indexed": lambda t, i: t[i],
    "flax": lambda t, i: nn.Embed(*t.shape, dtype=t.dtype).apply({"params": {"embedding": t}}, i),
}


def ids_of(dtype, rows, inside=False):
    """Ids in and out of the table: its ends, those of the type, and negative ones."""
    info = np.iinfo(dtype)
    edges = [0, 1, rows - 1, rows - 1, rows, rows + 1, -1, -rows, -rows - 1, info.min, info.max]
    low, high = (0, rows - 1) if inside else (info.min, info.max)
    chosen = [i for i in edges if max(low, info.min) <= i <= min(high, info.max)]
    ids = np.resize(np.array(chosen, object), (EXAMPLES, TOKENS))
    return ids.astype(dtype)


def nonlinear(x):
    return jnp.sum(jnp.sin(jnp.where(jnp.isfinite(x), x, 0) * np.arange(1.0, 1 + x.shape[-1])))


@pytest.mark.parametrize(
    ("dtype", "rows"),
    [
        *((dtype, rows) for dtype in INTEGERS[:2] for rows in (5, 128, 256, 300)),
        *((dtype, 300) for dtype in INTEGERS[2:]),
    ],
)
def test_ids_of_every_integer_type(dtype, rows):
    """All modes in one loss: one compilation a type and size."""
    with jax.enable_x64(True):
        # JAX itself refuses these where the type of the ids cannot hold the number of rows.
        refused = ("wrap", "indexed", "at promise") if rows > np.iinfo(dtype).max else ()
        modes = {name: read for name, read in MODES.items() if name not in refused}
        tables = {name: jnp.asarray(draw(i, (rows, WIDTH))) for i, name in enumerate(modes)}
        inside = ids_of(dtype, rows, inside=True)
        ids = {name: ids_of(dtype, rows) for name in modes} | {"at promise": inside}

        def loss(params, example):
            return sum(nonlinear(read(params[n], example[n])) for n, read in modes.items())

        # The emitter of the other tests writes past the end of a table where ids have 8 bits.
        check(loss, tables, ids, options={"xla_cpu_use_fusion_emitters": True})
        example = jax.tree.map(lambda x: jnp.asarray(x[0]), ids)
        for line in snrgate.explain_moments(loss, tables, example, block="parameter").splitlines()[
            1:
        ]:
            assert "lookup" in line, line


@st.composite
def gathers(draw_from):
    """Dimension numbers of look-ups in a table, what they need, and where tokens lie."""
    rows, width, tokens = draw_from(st.sampled_from([(4, 3, 3), (3, 3, 3), (5, 2, 4)]))
    axis = draw_from(st.integers(0, 1))  # of the table
    collapsed = draw_from(st.booleans())
    sizes = (1, width) if axis == 0 else (rows, 1)
    if draw_from(st.booleans()):  # a window that is a part of a row
        sizes = tuple(max(1, n - 1) for n in sizes)
    batch = draw_from(st.integers(1, 2))
    offsets = 1 if collapsed else 2
    dims = draw_from(
        st.lists(
            st.integers(0, batch + offsets - 1), min_size=offsets, max_size=offsets, unique=True
        )
    )
    numbers = GatherDimensionNumbers(
        offset_dims=tuple(sorted(dims)),
        collapsed_slice_dims=(axis,) if collapsed else (),
        start_index_map=(axis,),
    )
    mode = draw_from(st.sampled_from(["clip", "fill", "promise_in_bounds"]))
    return (rows, width), (tokens,) * batch, numbers, sizes, mode


OFFSET_FIRST = GatherDimensionNumbers((0,), (0,), (0,))


@hypothesis.settings(deadline=None, max_examples=15, derandomize=True)
@hypothesis.given(gathers(), st.sampled_from(["parameter", "tensor"]))
@hypothesis.example(((4, 3), (3,), OFFSET_FIRST, (1, 3), "clip"), "parameter")
def test_any_gather_of_one_axis(gather, block):
    shape, tokens, numbers, sizes, mode = gather
    high = min(shape) if mode == "promise_in_bounds" else max(shape) + 1
    low = 0 if mode == "promise_in_bounds" else -1
    ids = np.random.default_rng(0).integers(low, high, (EXAMPLES, *tokens, 1))

    def loss(table, ids):
        x = jax.lax.gather(
            table, ids, numbers, sizes, mode=GatherScatterMode.from_any(mode), fill_value=0
        )
        return jnp.sum(jnp.sin(x * (1.0 + np.arange(x.size).reshape(x.shape))))

    check(loss, draw(1, shape), ids, block)


def test_a_gather_with_batching_dimensions():
    """Every token has a table of its own: a row of what is one matrix."""
    numbers = GatherDimensionNumbers((), (1,), (1,), (0,), (0,))

    def loss(table, ids):
        return jnp.sum(jnp.sin(jax.lax.gather(table, ids, numbers, (1, 1)) * jnp.arange(1.0, 5)))

    check(loss, draw(2, (4, 4)), np.random.default_rng(1).integers(0, 4, (EXAMPLES, 4, 1)))
