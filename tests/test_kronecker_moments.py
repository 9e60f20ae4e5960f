"""``block="kronecker"``: the sums along both sides of a kernel, against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snrgate.block import MAX_SIDE, Sides, default_sides, sides_of
from snrgate.moments.kronecker import fold, outer_sums, side_shapes, unfold

NAMED_SIDES = {
    "two axes": ("w", (3, 4), Sides((), (0,), (1,))),
    "OIHW": ("conv/weight", (64, 3, 3, 3), Sides((), (0,), (1, 2, 3))),
    "HWIO": ("conv/weight", (3, 3, 3, 64), Sides((), (0, 1, 2), (3,))),
    "heads": ("w", (8, 2, 4), Sides((), (0,), (1, 2))),
    "query": ("query/kernel", (2, 8, 9), Sides((), (0,), (1, 2))),
    "out": ("out/kernel", (2, 8, 9), Sides((), (0, 1), (2,))),
    "bias of heads": ("query/bias", (2, 8), Sides((), (0, 1), ())),
    "to one output": ("w", (5, 1), Sides((), (0,), ())),
    "from one input": ("w", (1, 5), Sides((), (1,), ())),
    "one number": ("w", (1, 1), Sides((), (), ())),
    "nothing in it": ("w", (0, 3), Sides((), (0,), (1,))),
    "vector": ("w", (5,), None),
    "scalar": ("w", (), None),
}


@pytest.mark.parametrize("name", NAMED_SIDES)
def test_sides_by_name_and_shape(name):
    path, shape, expected = NAMED_SIDES[name]
    assert default_sides(path, shape) == expected


def test_rows_hold_the_first_axis_that_is_not_of_the_stack():
    assert sides_of((1,), (3, 2), (0,)) == Sides((1,), (0,), (2, 3))
    assert sides_of((), (), (1, 0)) == Sides((), (0, 1), ())


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((2, 3, 4), Sides((1,), (0,), (2,))),
        ((2, 1, 3, 4), Sides((), (0, 3), (2,))),
        ((2, 3), Sides((0,), (1,), ())),
        ((MAX_SIDE + 1, 2), Sides((), (0,), (1,))),
    ],
)
def test_unfolding_and_the_products_of_one_array(shape, sides):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    matrix = np.asarray(unfold(jnp.asarray(x), sides))
    np.testing.assert_array_equal(fold(jnp.asarray(matrix), sides, shape), x)
    # By hand: every axis has a letter, that of the side twice.
    letters = "abcd"[: len(shape)]
    other = {"abcd"[i]: "wxyz"[i] for i in sides.rows}
    product = np.einsum(
        f"{letters},{''.join(other.get(c, c) for c in letters)}->"
        + "".join("abcd"[i] for i in sides.stack)
        + "".join("abcd"[i] for i in sides.rows)
        + "".join(other["abcd"[i]] for i in sides.rows),
        x,
        x,
    )
    m = matrix.shape[-2]
    product = product.reshape(*matrix.shape[:-2], m, m)
    sums = outer_sums(jnp.asarray(x), sides)
    assert (sums.rows.shape, sums.columns.shape) == side_shapes(shape, sides)
    if m > MAX_SIDE:
        product = np.diagonal(product, axis1=-2, axis2=-1)
    np.testing.assert_allclose(sums.rows, product, rtol=1e-5, atol=1e-6)
    columns = np.swapaxes(matrix, -1, -2) @ matrix
    np.testing.assert_allclose(sums.columns, columns, rtol=1e-5, atol=1e-5)
    # Two arrays that stand for one leaf, through any transformation of trees.
    assert jax.tree.map(lambda a: 2 * a, sums).sides == sides
